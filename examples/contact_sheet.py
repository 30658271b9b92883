"""Sixteen rendered training pages on one sheet, every kind, large print to small.   python examples/contact_sheet.py"""

import argparse

from PIL import Image

from shirg.data.render import KINDS, contact_sheet, render_page

SIZES = ((16, 26), (11, 18), (8, 13), (20, 30))
"""Smallest and largest font size of a page, in pixels of its 672."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="pages.png", help="PNG file to write (default: %(default)s)")
    parser.add_argument("--width", type=int, default=1640, help="of the sheet in pixels (default: %(default)s)")
    parser.add_argument("--colours", type=int, default=96, help="of the PNG's palette (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which pages (default: %(default)s)")
    arguments = parser.parse_args()

    pages = [
        render_page(KINDS[place % len(KINDS)], 16 * arguments.seed + place, text_px=SIZES[place % len(SIZES)])
        for place in range(16)
    ]
    sheet = contact_sheet(pages, columns=4, gap=16)
    height = round(sheet.height * arguments.width / sheet.width)
    sheet = sheet.resize((arguments.width, height), Image.Resampling.LANCZOS)
    sheet = sheet.quantize(arguments.colours, dither=Image.Dither.NONE)
    sheet.save(arguments.output, optimize=True)
    print(f"{arguments.output}: {sheet.width} x {sheet.height} pixels")


if __name__ == "__main__":
    main()

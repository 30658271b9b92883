"""Sixteen training pages of all kinds, in large and in small print, on one sheet.   python examples/contact_sheet.py"""

import argparse

from PIL import Image

from shirg.data.render import KINDS, contact_sheet, render_page

PRINT = ((16, 26), (11, 18), (8, 13), (20, 30))
"""Smallest and largest font size of a page, in pixels of its 672."""
WIDTH = 1640


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="pages.png", help="PNG file to write (default: %(default)s)")
    output = parser.parse_args().output

    pages = []
    for place in range(16):
        row, column = divmod(place, 4)
        pages.append(render_page(KINDS[place % len(KINDS)], seed=place, text_px=PRINT[(row + column) % len(PRINT)]))
    sheet = contact_sheet(pages, columns=4, gap=16)
    sheet = sheet.resize((WIDTH, round(sheet.height * WIDTH / sheet.width)), Image.Resampling.LANCZOS)
    # A third of the bytes of RGB. An octree keeps the colours of charts; a median cut uses them up for shades of paper.
    sheet.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(output, optimize=True)
    print(f"{output}: {len(pages)} pages, {sheet.width} x {sheet.height} pixels")


if __name__ == "__main__":
    main()

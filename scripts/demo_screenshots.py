"""Pictures of `shirg demo` for docs/demo.md: python scripts/demo_screenshots.py http://127.0.0.1:7860 docs/images

The letter light and 1280 pixels wide, with what its answers cost, so on a quiet machine, the server's first questions asked
before; the chart's clusters dark and 390 wide, while its answer fills in. Needs playwright and a Chromium.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
QUIET += ["--disable-sync", "--disable-quic"]
PATIENCE = 240_000


def letter(page: Page) -> None:
    """The first page, answered by both paths."""
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator(".answer.lowres .text").wait_for()


def chart(page: Page) -> None:
    """The last page's clusters at 512 patches, some masks left."""
    page.get_by_role("button", name="Thumbnail 4 of 4").click()
    page.locator(".shirg-page img[alt^=Chart]").wait_for()
    page.locator("input[type=range]").first.fill("512")
    page.get_by_text("512 of 2,304 patches kept").wait_for()
    page.get_by_label("Groups").check()
    page.locator(".swatch.grouped").wait_for()
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator(".answer.shirg .tokens .kept").first.wait_for()


def main() -> int:
    """The exit code."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if len(sys.argv) != 3 or chromium is None:
        print(__doc__)
        return 2
    address, folder = sys.argv[1], Path(sys.argv[2])
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=QUIET, timeout=PATIENCE)
        for scheme, width, act in (("light", 1280, letter), ("dark", 390, chart)):
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            context.set_default_timeout(PATIENCE)
            page = context.new_page()
            page.goto(address)
            page.locator(".shirg-page img").wait_for()
            act(page)
            with Image.open(io.BytesIO(page.screenshot(full_page=True))) as shot:
                palette = shot.convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
                palette.save(folder / f"demo_{scheme}.png", optimize=True)
            context.close()
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/bin/sh
# Pictures of a rendered evaluation report for the documentation: its first screen wide and light, an example narrow and dark.
#     sh scripts/report_screenshots.sh shirg_evaluation docs/images
# Needs chromium-headless-shell (Debian's package of that name) or another headless Chromium, named by BROWSER.
set -eu
browser=${BROWSER:-chromium-headless-shell}
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
shoot() { # name, width, height, 0 for dark and 1 for light
    "$browser" --no-sandbox --disable-gpu --hide-scrollbars --virtual-time-budget=3000 --window-size="$2,$3" \
        --blink-settings=preferredColorScheme="$4" --screenshot="$work/$1.png" "file://$work/$1.html" 2>/dev/null
}
cp "$1/evaluation_report.html" "$work/report_light.html"
sed -e '/^<main>/,/^<h2>Largest losses/{/^<main>/!{/^<h2>Largest losses/!d}}' "$work/report_light.html" > "$work/report_dark.html"
shoot report_light 1280 1340 1
shoot report_dark 430 1060 0
.venv/bin/python - "$work" "$2" <<'END'
import sys
from pathlib import Path

from PIL import Image

work, target = map(Path, sys.argv[1:])
for shot in sorted(work.glob("*.png")):
    with Image.open(shot) as picture:
        picture.convert("RGB").save(target / shot.name, optimize=True)
END

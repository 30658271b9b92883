#!/bin/sh
# Tests of `shirg demo` in a real Chromium (Debian: apt install chromium). gradio wants an older pillow than the pinned set has,
# so both live in .venv-demo, which sees .venv's other packages.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh dev
site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
[ -x .venv-demo/bin/python ] || .venv/bin/python -m venv .venv-demo
own=$(.venv-demo/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
echo "$site" > "$own/shirg-base.pth"
.venv-demo/bin/python -m pip install --quiet --no-deps -r requirements/demo.txt
.venv-demo/bin/python -m pip install --quiet playwright==1.65.2
.venv-demo/bin/python -m pip install --quiet "$(grep '^setuptools==' requirements/base.txt)"  # a new venv may bring an old one
.venv-demo/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
.venv-demo/bin/python -m pytest -q -rs tests/demo tests/cli/test_demo.py "$@"

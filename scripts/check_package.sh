#!/bin/sh
# Builds sdist and wheel (the wheel from the sdist, as package indexes get it), looks into both, and installs the wheel
# into clean environments beside nothing of this checkout:   sh scripts/check_package.sh [PYTHON ...]
#   minimal: the wheel alone brings torch, numpy and Pillow; the gate and the door to official models must work there;
#   whole:   the wheel with its extra `full` at the pinned versions; `shirg doctor` and one answer of the nano.
# For every PYTHON named (python3.12, a path, ...), default: the one of .venv. Needs the network, or an index that pip knows.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh dev
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
.venv/bin/python scripts/build_package.py "$work/dist"
wheel="$(echo "$work"/dist/*.whl)"
[ $# -gt 0 ] || set -- .venv/bin/python

for python in "$@"; do
    echo "package: $("$python" --version), minimal"
    "$python" -m venv "$work/minimal"
    "$work/minimal/bin/python" -m pip install --quiet --disable-pip-version-check --constraint requirements/base.txt "$wheel"
    (cd "$work" && minimal/bin/python -I "$OLDPWD/scripts/try_install.py" minimal)
    rm -rf "$work/minimal"

    echo "package: $("$python" --version), whole"
    "$python" -m venv "$work/whole"
    "$work/whole/bin/python" -m pip install --quiet --disable-pip-version-check --constraint requirements/base.txt "$wheel[full]"
    "$work/whole/bin/python" -m pip check
    (cd "$work" && whole/bin/shirg --version && whole/bin/shirg doctor --output-dir "$work/out" \
        && whole/bin/python -I "$OLDPWD/examples/answer.py" && whole/bin/python -I "$OLDPWD/scripts/try_install.py" whole)
    rm -rf "$work/whole"
done
echo "package: passed"

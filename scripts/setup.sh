#!/bin/sh
# Makes or refreshes .venv in the project's root with the pinned set.   sh scripts/setup.sh [base|dev|docs]
# A stamp inside .venv remembers what was installed, so a second call with nothing changed returns at once.
set -eu
cd "$(dirname "$0")/.."
level="${1:-dev}"
case "$level" in base|dev|docs) ;; *) echo "setup: unknown level '$level' (base, dev or docs)" >&2; exit 2 ;; esac
venv=.venv
stamp="$venv/.shirg-$level"
wanted="$(cat requirements/*.txt pyproject.toml scripts/setup.sh | cksum)"

if [ -x "$venv/bin/python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

find_python() {  # PYTHON, if given, must do; else the first of the usual names that runs, is 3.11-3.13 and has venv
    for name in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "setup: no usable Python: need 3.11, 3.12 or 3.13 with the venv module (Debian: apt install python3-venv)." >&2
    echo "setup: name one with PYTHON=/path/to/python3.12 make demo" >&2
    exit 2
}

if ! [ -x "$venv/bin/python" ] || ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    python="$(find_python)"
    echo "setup: making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

# torch from the index that pip is configured with. Only where that wheel would bring the CUDA libraries (gigabytes) to a
# machine without an NVIDIA GPU is PyTorch's own index of CPU wheels asked too; its +cpu build then wins over the plain one.
torch="$(grep '^torch==' requirements/base.txt)"
cpu_index=""
if ! [ -e /dev/nvidiactl ] && ! command -v nvidia-smi >/dev/null 2>&1; then
    if pip install --quiet --dry-run --report - "$torch" 2>/dev/null | grep -Eq '"name": "(nvidia|cuda)-'; then
        cpu_index="--extra-index-url https://download.pytorch.org/whl/cpu"
    fi
fi
echo "setup: installing the pinned set ($level)"
# shellcheck disable=SC2086  # two words or none
pip install --quiet $cpu_index "$torch"
pip install --quiet -r "requirements/$level.txt"
# A plain path, not an import hook: a script beside a clone called shirg would import the clone as an empty namespace package.
pip install --quiet --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
echo "$wanted" > "$stamp"
[ "$level" = base ] || echo "$wanted" > "$venv/.shirg-base"
[ "$level" != docs ] || echo "$wanted" > "$venv/.shirg-dev"

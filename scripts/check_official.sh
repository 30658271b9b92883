#!/bin/sh
# `enable_shirg` in models of the official code, beside the versions that LaViDa pins and our lower bounds:
#   LAVIDA=~/LaViDa LLADA_V=~/LLaDA-V/train sh scripts/check_official.sh [pytest arguments]
# Each variable names a folder that holds a package `llava`; one of them is enough. The code itself is not fetched, packages are:
# into .venv-official, gigabytes with CUDA (PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu without). TRANSFORMERS and
# PEFT take other versions than the pinned ones. Python 3.11 or 3.12, as numpy 1.26 asks.
set -eu
cd "$(dirname "$0")/.."
if [ -z "${LAVIDA:-}${LLADA_V:-}" ]; then
    echo "check_official: set LAVIDA or LLADA_V to a folder that holds the code base's package llava" >&2
    exit 2
fi
sh scripts/setup.sh dev
venv=.venv-official
[ -x "$venv/bin/python" ] || .venv/bin/python -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install --quiet torch==2.6.0 torchvision==0.21.0 numpy==1.26.4 pillow==10.1.0 accelerate==1.6.0 einops==0.6.1 \
    "transformers==${TRANSFORMERS:-4.50.3}" "peft==${PEFT:-0.4.0}" \
    einops-exts==0.0.4 timm open_clip_torch sentencepiece requests pytest setuptools wheel ninja
pip install --quiet --no-build-isolation deepspeed==0.16.4

versions() { pip list --format=freeze | grep -v '^shirg='; }
before="$(versions)"
pip install --quiet --editable .
if [ "$before" != "$(versions)" ]; then
    echo "check_official: pip install shirg changed a package of the official environment" >&2
    exit 1
fi

case="$(mktemp -d)"
trap 'rm -rf "$case"' EXIT
.venv/bin/python -m tests.integrations.official_case "$case"
failed=0
for folder in ${LAVIDA:+"$LAVIDA"} ${LLADA_V:+"$LLADA_V"}; do
    "$venv/bin/python" -c 'import importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in ("torch", "transformers", "peft", "numpy", "pillow")))'
    echo "check_official: $folder"
    SHIRG_OFFICIAL="$(cd "$folder" && pwd)" SHIRG_OFFICIAL_CASE="$case" "$venv/bin/python" -m pytest -q -rs --noconftest \
        -p no:cacheprovider tests/integrations/test_official.py "$@" || failed=1
done
exit $failed

#!/bin/sh
# Tests that need lmms-eval, the anls package or LangChain: metrics against theirs, our models and tasks through lmms-eval's command,
# and `shirg serve` asked by lmms-eval and LangChain.
# They live in .venv-lmms, which sees .venv's packages, and are installed without the many that only other models need.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh dev
site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
[ -x .venv-lmms/bin/python ] || .venv/bin/python -m venv .venv-lmms
own=$(.venv-lmms/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
echo "$site" > "$own/shirg-base.pth"
.venv-lmms/bin/python -m pip install --quiet --no-deps lmms-eval==0.7.3 anls==0.0.2
.venv-lmms/bin/python -m pip install --quiet \
    loguru==0.7.3 sacrebleu==2.6.0 evaluate==0.4.6 pytz tenacity pytablewriter==1.2.1 zstandard "setuptools>=77" \
    python-dotenv==1.2.4 langchain-openai==1.7.4
.venv-lmms/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
.venv-lmms/bin/python -m pytest -q -rs tests/evaluation/test_metric_parity.py tests/integrations/test_lmms_eval.py tests/serve/test_other_clients.py "$@"

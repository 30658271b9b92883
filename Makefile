# `make demo` runs everything once in small, `make test` tests it. Both create .venv if it is missing.
.PHONY: demo test test-old-cpu nano check docs docs-test package style clean

# Switches off all instructions newer than AVX2; each library has its own switch.
OLD_CPU = ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2

demo:  ## environment, then prepare, train, evaluate and report on the embedded model (five minutes on two cores)
	sh scripts/setup.sh base
	.venv/bin/python shirg/run_shirg_lora_training.py

test:  ## environment, then every test
	sh scripts/setup.sh dev
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

test-old-cpu:  ## the tests and a small demo without instructions newer than AVX2 (before a release)
	sh scripts/setup.sh dev
	$(OLD_CPU) .venv/bin/python shirg/run_shirg_lora_training.py --dataset-size 80 --ocr-samples 16 --eval-samples 8 --output-dir shirg_lora_output_old_cpu
	$(OLD_CPU) OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

nano:  ## train LaViDa-nano from random weights in ./nano_work (HOURS=2, too few to read; the shipped one had nine on two cores; resumes where it was stopped)
	sh scripts/setup.sh base
	OMP_NUM_THREADS=1 .venv/bin/python -m torch.distributed.run --nproc_per_node 2 -m shirg.nano.recipe --work nano_work --hours $${HOURS:-2}

check:  ## linter, formatter and types; changes nothing
	sh scripts/setup.sh dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs:  ## the site, in ./site; a warning is an error
	sh scripts/setup.sh docs
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict

docs-test:  ## run every command of README and docs that the nano can run
	sh scripts/setup.sh dev
	.venv/bin/python -m pytest -q -m documented tests/test_documented.py

package:  ## build sdist and wheel, test them in clean environments (PYTHONS="python3.11 python3.12" for several)
	sh scripts/check_package.sh $(PYTHONS)

style:  ## linter and formatter, fixing what they can
	sh scripts/setup.sh dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean:  ## delete the environment and the output of runs
	rm -rf .venv shirg_lora_output shirg_data shirg_evaluation site

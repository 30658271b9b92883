# Two commands: `make demo` shows the whole thing, `make test` checks it. Both make .venv first if need be.
.PHONY: demo test test-old-cpu nano check docs docs-test package style clean

# A newer processor then uses no newer instructions; each library has a switch of its own.
OLD_CPU = ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2

demo:  ## environment, then prepare, train, evaluate and report on the embedded model (five minutes on two cores)
	sh scripts/setup.sh base
	.venv/bin/python shirg/run_shirg_lora_training.py

test:  ## environment, then every test
	sh scripts/setup.sh dev
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

test-old-cpu:  ## the same, and the demo in small, as on a processor with AVX2 and nothing newer (before a release)
	sh scripts/setup.sh dev
	$(OLD_CPU) .venv/bin/python shirg/run_shirg_lora_training.py --dataset-size 80 --ocr-samples 16 --eval-samples 8 --output-dir shirg_lora_output_old_cpu
	$(OLD_CPU) OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

nano:  ## make LaViDa-nano again from nothing in ./nano_work (HOURS=2 on two cores, the shipped one had nine; goes on where it was stopped)
	sh scripts/setup.sh base
	OMP_NUM_THREADS=1 .venv/bin/python -m torch.distributed.run --nproc_per_node 2 -m shirg.nano.recipe --work nano_work --hours $${HOURS:-2}

check:  ## linter, formatter and types, changing nothing
	sh scripts/setup.sh dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs:  ## the site, in ./site; a warning is an error
	sh scripts/setup.sh docs
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict

docs-test:  ## every command of README and docs that the nano can run, really run
	sh scripts/setup.sh dev
	.venv/bin/python -m pytest -q -m documented tests/test_documented.py

package:  ## sdist and wheel, tried in clean environments (PYTHONS="python3.11 python3.12" for several)
	sh scripts/check_package.sh $(PYTHONS)

style:  ## linter and formatter, mending what they can
	sh scripts/setup.sh dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean:  ## forget the environment and what runs wrote
	rm -rf .venv shirg_lora_output shirg_data shirg_evaluation site

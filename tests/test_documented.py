"""The commands of README and docs, run as they are written, page by page: `make docs-test`."""

from __future__ import annotations

import pytest

from scripts.documented import PAGES, blocks, commands, link_checkout, run

SELF = "makes or checks the environment that this test runs in"
LONG = "takes many minutes; the quick start runs the same commands on little data"
WEIGHTS = "needs weights to download"
DATA = "needs data to download"
SHARES = "a share of a run on several machines"
SERVER = "a server, which does not end"
LMMS = "needs lmms-eval; scripts/check_lmms_eval.sh runs it"

NOT_RUN = {
    "make demo": LONG,
    "make test": SELF,
    "python shirg/shirg_evaluation.py --adapter ./shirg_lora_output/checkpoints/best_model --eval-samples 100": LONG,
    "python shirg/run_shirg_lora_training.py --dataset-size 1000 --ocr-samples 200 --image-resolution 672 "
    "--enable-augmentation --lora-rank 16 --lora-alpha 32 --learning-rate 1e-4 --token-budgets 512 768 --batch-size 4 "
    "--grad-accumulation --epochs 1 --mixed-precision fp16 --eval-samples 20 --output-dir ./shirg_lora_output": LONG,
    "python shirg/shirg_lora_training.py --prepared-dir ./shirg_data --output-dir ./shirg_lora_output": LONG,
    "python shirg/shirg_evaluation.py --adapter ./shirg_lora_output/checkpoints/best_model": LONG,
    "shirg run --model path/to/lavida-llada --data-dir path/to/training-data --dataset-size 558000 --ocr-samples 50000 "
    "--token-budgets 512 768 1024 --epochs 3": WEIGHTS,
    "python shirg/run_shirg_lora_training.py --skip-training --eval-datasets ChartQA DocVQA --eval-samples 50 "
    "--eval-data-dir path/to/benchmarks": DATA,
    "hf download liuhaotian/LLaVA-Pretrain --repo-type dataset --local-dir DATA/LLaVA-Pretrain": DATA,
    "unzip -q DATA/LLaVA-Pretrain/images.zip -d DATA/LLaVA-Pretrain": DATA,
    "shirg prepare --dataset-size 558000 --ocr-samples 50000 --data-dir DATA --output-dir shirg_data": DATA,
    "shirg prepare --check shirg_data": DATA,
    "shirg prepare ... --num-shards 16 --shard-index $SLURM_ARRAY_TASK_ID": SHARES,
    "shirg prepare ...": SHARES,
    "shirg evaluate --eval-datasets ChartQA DocVQA --eval-data-dir DATA --eval-samples 50": DATA,
    "shirg evaluate": LONG,
    "shirg evaluate --variants core --eval-samples 100": LONG,
    "shirg evaluate --full --eval-samples 100": LONG,
    "shirg evaluate --variants shirg,uniform,divprune,cdpruner --token-budgets 256 512 auto": LONG,
    "shirg evaluate --adapter mixed=DIR alone=DIR": LONG,
    "shirg evaluate --adapter shirg_lora_output/checkpoints/best_model --eval-datasets ChartQA DocVQA "
    "--eval-data-dir DIR": DATA,
    "torchrun --nproc_per_node 4 shirg/shirg_evaluation.py --eval-datasets ChartQA --eval-data-dir DIR": DATA,
    "shirg evaluate --num-shards 16 --shard-index $SLURM_ARRAY_TASK_ID ...": SHARES,
    "shirg evaluate --num-shards 16 ...": SHARES,
    "python -m lmms_eval --model lavida_shirg --tasks chartqa --model_args "
    "pretrained=path/to/lavida-llada,adapter=DIR,budget=768,selector=shirg,steps=16": WEIGHTS,
    "python -m shirg.integrations.lmms_task --eval-datasets documents --eval-samples 50 --output-dir lmms_tasks": LMMS,
    "python -m lmms_eval --model lavida_shirg --model_args pretrained=nano,budget=512 --tasks shirg_documents "
    "--include_path lmms_tasks": LMMS,
    "shirg evaluate --model CHECKPOINT --relevance llm --output-dir by_llm": WEIGHTS,
    "shirg evaluate --model CHECKPOINT --relevance llm --relevance-sign -1 --output-dir by_minus_llm": WEIGHTS,
    "shirg evaluate --model CHECKPOINT --relevance siglip --text-tower google/siglip-so400m-patch14-384 "
    "--output-dir by_siglip": WEIGHTS,
    "shirg evaluate --model CHECKPOINT --relevance none --output-dir by_none": WEIGHTS,
    "shirg evaluate --model jacklishufan/lavida-dream-v1.0-instruct --eval-datasets DocVQA InfoVQA --eval-samples 1000 "
    "--variants lowres hd highres multiview-all shirg multiview divprune random --token-budgets 512 768 "
    "--relevance none --output-dir premise_dream": WEIGHTS,
    "shirg sweep --answers --pages 28 --token-budgets 256": LONG,
    "shirg train --token-budgets 512 768": LONG,
    "shirg train --token-budgets auto 768": LONG,
    "shirg train --model DIR --prepared-dir ./shirg_data --token-budgets 512 768 1024 --mixed-precision bf16 --resume": (
        WEIGHTS
    ),
    "torchrun --nproc_per_node 8 -m shirg train --model DIR ...": WEIGHTS,
    "sbatch configs/slurm/train.sbatch DIR ./shirg_data ./out": WEIGHTS,
    "shirg describe path/to/checkpoint --image-size 1240x1754 --image-resolution 896 --token-budgets 512 3000": WEIGHTS,
    "shirg assemble --language path/to/llada --tower path/to/siglip-so400m-patch14-384 --output path/to/fresh-lavida": (
        WEIGHTS
    ),
    "shirg convert mm_projector.bin mm_projector.safetensors": WEIGHTS,
    "shirg assemble --language ... --tower ... --projector mm_projector.safetensors --output ...": WEIGHTS,
    "python -m shirg.nano.recipe.score": LONG,
    "python benchmarks/nano_claim.py": "takes hours; tests/benchmarks/test_nano_claim.py runs a small one",
    "sh scripts/setup.sh base": SELF,
    ". .venv/bin/activate": SELF,
    "shirg merge --model path/to/lavida-llada shirg_lora_output/checkpoints/best_model path/to/merged": WEIGHTS,
    "python -m lmms_eval --model lavida_shirg --tasks chartqa --model_args "
    "pretrained=path/to/lavida-llada,adapter=DIR,budget=768": WEIGHTS,
    "shirg push shirg_lora_output/checkpoints/best_model OWNER/NAME --base-model OWNER/LAVIDA": "needs an account",
    "shirg train --prepared-dir shirg_data --tensorboard": LONG,
    "tensorboard --logdir shirg_lora_output/logs/tensorboard": SERVER,
    "shirg demo": SERVER,
    "shirg demo --url http://127.0.0.1:8000/v1": SERVER,
    "shirg serve": SERVER,
    "pip install 'shirg[serve]'": SELF,
    "curl http://127.0.0.1:8000/v1/chat/completions -d @body.json": SERVER,
    "curl http://127.0.0.1:8000/v1/chat/completions -d "
    '\'{"model": "nano", "messages": [{"role": "user", "content": "Hello?"}]}\'': SERVER,
    "shirg demo --model path/to/lavida --adapter shirg_lora_output/checkpoints/best_model": WEIGHTS,
}
"""Command -> why it is not run here."""

PYTHON_NOT_RUN = {
    "docs/data.md": "needs data to download; tests/data/test_docs.py runs what does not",
    "docs/integrations.md": "needs the official code base; tests/integrations/test_llava.py calls the same",
    "docs/serving.md": "needs a running server; tests/serve/test_app.py asks the same",
    "docs/weights.md": WEIGHTS,
}
"""Page -> why its Python is not run here."""


@pytest.mark.parametrize("command", NOT_RUN)
def test_what_is_not_run_is_still_documented(command):
    assert any(command in commands(page) for page in PAGES)


@pytest.mark.parametrize("page", PYTHON_NOT_RUN)
def test_pages_whose_python_is_not_run_have_some(page):
    assert any(block.kind == "python" for block in blocks(page))


@pytest.mark.documented
@pytest.mark.parametrize("page", [page for page in PAGES if set(commands(page)) - set(NOT_RUN)])
def test_page(page, tmp_path):
    link_checkout(tmp_path)
    for block in blocks(page):
        if block.kind == "python":
            parts = [] if page in PYTHON_NOT_RUN else [block.text]
        else:
            parts = [command for command in block.commands if command not in NOT_RUN]
        for part in parts:
            run(part, block.kind, tmp_path)

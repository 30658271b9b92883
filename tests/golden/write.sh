#!/bin/sh
# Writes the golden files anew, with the code that `python -m shirg` is, into the empty folder that it is started in.
# Paths are relative: none of this machine gets into a file.   sh write.sh PYTHON
set -eu
python="$1"
shirg() { "$python" -c 'import sys; sys.argv[0] = "shirg"; from shirg.cli import main; main()' "$@"; }
page="--image-resolution 448"

# shellcheck disable=SC2086  # several words
shirg prepare $page --dataset-size 4 --ocr-samples 4 --seed 3 --validation-fraction 0.25 --num-workers 1 \
    --output-dir run/data
# shellcheck disable=SC2086
shirg train $page --prepared-dir run/data --output-dir run --token-budgets 128 256 --lora-rank 2 --lora-alpha 4 \
    --batch-size 2 --epochs 2 --save-steps 4 --learning-rate 0.05 --mixed-precision no --loader-workers 0
shirg evaluate --adapter run/checkpoints/best_model --variants lowres hd shirg --token-budgets 256 --eval-samples 4 \
    --timing-repeats 1 --output-dir run/evaluation
rm -r run/checkpoints/checkpoint-6 run/evaluation/figures run/evaluation/*.md run/evaluation/*.html

"$python" - <<'EOF'
import dataclasses
import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from tests.tiny import tiny_model

# An adapter as the first versions wrote it: all of peft's options, a gate with few fields, no relevance_sign, no fit.
old = shutil.copytree("run/checkpoints/best_model", "old_adapter")
weights = load_file(old + "/adapter_model.safetensors")
save_file({name: value.bfloat16() for name, value in weights.items()}, old + "/adapter_model.safetensors")
LoraConfig(
    r=2, lora_alpha=4, lora_dropout=0.05, target_modules=["mm_projector.0", "mm_projector.2"], inference_mode=True
).save_pretrained(old)
settings = json.loads(Path(old, "shirg_settings.json").read_text())
settings = {name: settings[name] for name in ("resolution", "base_fingerprint", "base_model", "token_budgets")}
first = ("alpha", "beta", "clusters_per_budget", "max_cell", "coverage", "summary", "selector", "seed")
gate = dict(zip(first, (0.25, 0.15, 0.25, 6, True, True, "shirg", 0), strict=True))
Path(old, "shirg_settings.json").write_text(json.dumps({"gate": gate, "relevance": "none"} | settings, indent=2) + "\n")
Path(old, "README.md").unlink()

# A checkpoint in LaViDa's layout, with all of our keys in its config.json.
model = tiny_model(shirg={"answer_tokens": 4}, image_aspect_ratio="pad")
model.vision = dataclasses.replace(model.vision, relevance_sign=-1, relevance_floor=0.1, resolution=112)
model.to(torch.bfloat16).save_pretrained("checkpoint")
EOF

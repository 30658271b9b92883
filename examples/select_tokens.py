"""The gate on its own: tensors in, kept tokens out.   python examples/select_tokens.py"""

import torch

from shirg import ShirgGate

tokens = torch.randn(1, 2304, 1152)  # one page: 48x48 patches, SigLIP's width
question = torch.randn(1, 6, 1152)  # six words in the same space
pixels = torch.rand(1, 3, 672, 672) * 2 - 1

gate = ShirgGate()  # ShirgGate(GateConfig.preset("shirg-v2")) is the formula that SHIRG began with
for budget in (256, 512, 768, 1024):
    kept = gate(tokens, budget=budget, grid=(48, 48), text=question, pixels=pixels)
    print(f"budget {budget}: tokens {tuple(kept.tokens.shape)}, {kept.clusters.unique().numel()} clusters")

"""A selector of your own: the darkest patches.   python examples/own_selector.py"""

from dataclasses import replace

import torch
from torch.nn import functional

from shirg import GateConfig, Lavida
from shirg.data.render import render_page
from shirg.gate import Request, Selection, register


@register("ink")
def select_ink(request: Request) -> Selection:
    """The tokens whose patches are darkest."""
    _, rows, columns = request.grid
    grey = request.pixels.mean(2)  # [batch, views, height, width], from -1 to 1
    scores = -functional.adaptive_avg_pool2d(grey, (rows, columns)).flatten(1)  # [batch, tokens]
    indices = scores.argsort(dim=1, descending=True, stable=True)[:, : request.budget].sort(dim=1).values
    return Selection(indices, scores, clusters=torch.zeros_like(scores, dtype=torch.long))


page = render_page("pie", seed=4, text_px=(22, 30), split="heldout").image
model = Lavida.from_pretrained("nano")
for name in ("shirg", "ink", "random"):
    vision = replace(model.vision, gate=GateConfig(selector=name))
    print(f"{name}: {model.answer(page, 'What is the share of Cows?', mode='shirg', budget=512, vision=vision)}")

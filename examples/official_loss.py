"""LaViDa's own fine-tuning loss: trains the projector of the nano on one page.   python examples/official_loss.py"""

import torch
from PIL import Image, ImageDraw

from shirg import Lavida
from shirg.lavida.pretraining.batches import embed_batch, encode_for_training
from shirg.lavida.pretraining.loss import training_loss
from shirg.lavida.pretraining.samples import chat_sample, collate

page = Image.new("RGB", (500, 480), "white")
ImageDraw.Draw(page).text((60, 200), "Total 12.50", fill="black", font_size=60)
conversation = [{"from": "human", "value": "<image>\nWhat is the total?"}, {"from": "gpt", "value": "12.50"}]
model = Lavida.from_pretrained("nano").requires_grad_(False)
optimizer = torch.optim.AdamW(model.mm_projector.requires_grad_(True).parameters(), lr=1e-3)


def loss(seed: int) -> torch.Tensor:
    chance = torch.Generator().manual_seed(seed)  # for question, padding and masks
    sample = chat_sample(model.tokenizer, model.config.family, conversation, generator=chance)
    batch = collate([sample], model.tokenizer.pad_token_id, generator=chance)
    return training_loss(model, embed_batch(model, batch, encode_for_training(model, [page])), generator=chance)


before = loss(seed=0).item()
for step in range(1, 6):
    optimizer.zero_grad()
    loss(seed=step).backward()
    optimizer.step()
print(f"loss: {before:.3f} before, {loss(seed=0).item():.3f} after {step} steps")

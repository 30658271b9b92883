"""Batches of ids and images -> rows of embeddings with labels, as LaViDa's training forward builds them.

ARCH is LaViDa's llava/model/llava_arch.py, LLD its llava/model/language_model/llava_llada.py.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor, nn

from shirg.errors import UserError
from shirg.images import to_rgb
from shirg.lavida import prefix
from shirg.lavida.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from shirg.lavida.pretraining.samples import Batch
from shirg.lavida.vision import path_of

if TYPE_CHECKING:
    from shirg.lavida.model import Lavida

logger = logging.getLogger(__name__)

PADDING_SIDES = ("right", "left")


@dataclass
class Rows:
    """What the language model is trained on."""

    embeds: Tensor
    """[B, L, H], with the images' embeddings; 0 at padding."""
    labels: Tensor
    """[B, L] Long, -100 at images, padding and all other positions that are not targets."""
    attention_mask: Tensor
    """[B, L] Boolean, False at padding. LaViDa's language model does not use it: padding is attended to (LLD:240)."""
    input_ids: Tensor
    """[B, L] Long, the placeholder at every position of an image, -100 at padding."""


def end_of_text_targets(batch: Batch, eos_token_id: int) -> Batch:
    """The batch with every end-of-text id, padding included, as input and as target (LLD:131-132).

    Generation denoises a whole block at once, so the model must also predict the positions after the end of an answer.
    """
    ends = batch.input_ids == eos_token_id
    return Batch(batch.input_ids, batch.labels.masked_fill(ends, eos_token_id), batch.attention_mask | ends)


def embed_batch(model: Lavida, batch: Batch, image_embeds: Sequence[Tensor]) -> Rows:
    """The rows that LaViDa trains on, on the model's device.

    End-of-text padding is a target, images are spliced in, and length and side of the padding are those of the config.

    Args:
        batch: from `collate`.
        image_embeds: [n, H] of each image, in the order of the placeholders across the batch; see
            `encode_for_training`. Samples without a placeholder have none.

    Raises:
        UserError: if placeholders and images differ in number.
    """
    config = model.config
    moved = Batch(*(tensor.to(model.device) for tensor in (batch.input_ids, batch.labels, batch.attention_mask)))
    return splice_batch(
        model.language.embed_tokens,
        end_of_text_targets(moved, config.eos_token_id),
        image_embeds,
        image_token_index=config.image_token_index,
        max_length=config.raw.get("tokenizer_model_max_length"),
        padding_side=config.raw.get("tokenizer_padding_side") or "right",
    )


def splice_batch(
    embed_tokens: nn.Embedding,
    batch: Batch,
    image_embeds: Sequence[Tensor],
    *,
    image_token_index: int = IMAGE_TOKEN_INDEX,
    max_length: int | None = None,
    padding_side: str = "right",
) -> Rows:
    """Rows with the images spliced in: padding removed, truncated, padded to the longest (ARCH:484-603).

    Args:
        max_length: rows are truncated to it, images included.
        padding_side: "right" or "left".

    Raises:
        UserError: if placeholders and images differ in number, or for another side.
    """
    if padding_side not in PADDING_SIDES:
        raise UserError(f"padding_side={padding_side!r} is unknown; expected {' or '.join(map(repr, PADDING_SIDES))}")
    places = int(((batch.input_ids == image_token_index) & batch.attention_mask).sum())
    if places != len(image_embeds):
        raise UserError(
            f"input_ids hold {places} image placeholders ({image_token_index}) for {len(image_embeds)} images"
        )
    waiting, rows = iter(image_embeds), []
    for number, (ids, labels, real) in enumerate(zip(batch.input_ids, batch.labels, batch.attention_mask, strict=True)):
        ids, labels = ids[real], labels[real]
        at_image = ids == image_token_index
        images = [next(waiting) for _ in range(int(at_image.sum()))]
        counts = torch.ones_like(ids).masked_scatter(at_image, ids.new_tensor([len(image) for image in images]))
        labels = labels.masked_fill(at_image, IGNORE_INDEX)
        row = (
            prefix.splice(embed_tokens, ids, images, image_token_index),
            labels.repeat_interleave(counts),
            ids.repeat_interleave(counts),
        )
        if max_length is not None and len(row[0]) > max_length:
            logger.warning("row %d of the batch is truncated from %d to %d positions", number, len(row[0]), max_length)
        rows.append(tuple(part[:max_length] for part in row))
    embeds, labels, ids = zip(*rows, strict=True)
    mask = [torch.ones_like(row, dtype=torch.bool) for row in ids]
    return Rows(
        _padded(embeds, 0, padding_side),
        _padded(labels, IGNORE_INDEX, padding_side),
        _padded(mask, False, padding_side),
        _padded(ids, IGNORE_INDEX, padding_side),
    )


def encode_for_training(model: Lavida, images: Sequence[Image.Image], mode: str = "hd") -> list[Tensor]:
    """Embeddings [n, H] of each image as of `Lavida.encode_images`, but differentiable in the tower too.

    LaViDa's stages 2 and 3 train the tower; `model.tower.requires_grad_(False)` freezes it.

    Args:
        mode: "hd" as in stages 2 and 3, or "lowres", the single unpooled view of stage 1.

    Raises:
        UserError: for an unknown mode.
    """
    views, shapes = path_of(mode).views, model.view_shapes()
    upright = [to_rgb(image) for image in images]
    features = [model.encode_views(shapes.cut(image, views), image.size, views) for image in upright]
    return [model.image_embeds(one, mode) for one in features]


def _padded(rows: Sequence[Tensor], value: float, side: str) -> Tensor:
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side=side)

"""The prefix of an answer: prompts whose image placeholders are replaced by the images' embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from shirg.errors import UserError


def prompt_rows(input_ids: Tensor | Sequence[Tensor], attention_mask: Tensor | None = None) -> list[Tensor]:
    """Prompts [B, L], or a list of prompts [L_i], as a list; positions where `attention_mask` [B, L] is 0 are removed.

    Raises:
        UserError: unless there is at least one prompt, and one id in each, or for a mask that does not fit.
    """
    if isinstance(input_ids, Tensor):
        if input_ids.ndim != 2 or 0 in input_ids.shape:
            raise UserError(f"input_ids must be [batch, length], both at least 1; got shape {list(input_ids.shape)}")
        return list(input_ids) if attention_mask is None else _unpadded(input_ids, attention_mask)
    if attention_mask is not None:
        raise UserError("attention_mask: a list of prompts has no padding; leave the mask out")
    shapes = [list(row.shape) for row in input_ids]
    if not shapes or any(len(shape) != 1 or shape[0] < 1 for shape in shapes):
        raise UserError(f"input_ids must be a list of prompts [length], at least 1 of length 1; got shapes {shapes}")
    return list(input_ids)


def _unpadded(input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
    if attention_mask.shape != input_ids.shape:
        raise UserError(
            f"attention_mask: got shape {list(attention_mask.shape)}, must be that of input_ids, {list(input_ids.shape)}"
        )
    real = attention_mask.to(input_ids.device).bool()
    if not real.any(dim=1).all():
        raise UserError("attention_mask: got a row without any id, must leave at least one in every prompt")
    return [row[kept] for row, kept in zip(input_ids, real, strict=True)]


def placeholders(prompts: Sequence[Tensor], image_token_index: int, given: int, name: str = "images") -> list[int]:
    """Number of image placeholders in each prompt [L_i].

    Args:
        given: number of images for all of them.
        name: of the images in the message.

    Raises:
        UserError: if there are more or fewer images than placeholders.
    """
    counts = [int((ids == image_token_index).sum()) for ids in prompts]
    if sum(counts) != given:
        raise UserError(f"input_ids hold {sum(counts)} image placeholders ({image_token_index}) for {given} {name}")
    return counts


def splice(embed_tokens: nn.Embedding, input_ids: Tensor, images: Sequence[Tensor], image_token_index: int) -> Tensor:
    """Embeddings [P, H] of `input_ids` [L], with each placeholder replaced by its image's embeddings [n, H].

    The result has the precision of the word embeddings.

    Raises:
        UserError: if placeholders and images differ in number.
    """
    placeholders([input_ids], image_token_index, len(images))
    parts, start = [], 0
    for place, image in zip((input_ids == image_token_index).nonzero().flatten().tolist(), images, strict=True):
        parts += [embed_tokens(input_ids[start:place]), image.to(embed_tokens.weight.dtype)]
        start = place + 1
    return torch.cat([*parts, embed_tokens(input_ids[start:])])


@dataclass
class Prefix:
    """Embeddings [B, P, H] before the answers, and the length of each row; zeros after it."""

    embeds: Tensor
    lengths: Tensor
    """[B] long, on the embeddings' device."""
    ragged: bool
    """Whether the rows differ in length, so that attention needs a mask."""

    @classmethod
    def of(cls, rows: list[Tensor]) -> Prefix:
        """Pad rows [P_i, H] on the right to one batch."""
        sizes = [len(row) for row in rows]
        embeds = pad_sequence(rows, batch_first=True)
        return cls(embeds, torch.tensor(sizes, device=embeds.device), len(set(sizes)) > 1)

    def mask(self, num_answer: int) -> Tensor | None:
        """Attention mask [B, 1, 1, P + num_answer], Boolean, False at padding. None if there is no padding."""
        if not self.ragged:
            return None
        keys = torch.arange(self.embeds.shape[1] + num_answer, device=self.embeds.device)
        real = (keys < self.lengths[:, None]) | (keys >= self.embeds.shape[1])
        return real[:, None, None]

    def positions(self, num_answer: int) -> Tensor:
        """Positions [B, num_answer] of the answer, which begin at the end of each row's own prefix."""
        return self.lengths[:, None] + torch.arange(num_answer, device=self.embeds.device)

"""The KV cache of the prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass
class PrefixCache:
    """KV cache of a prefix, filled once when the prefix is encoded and read by every denoising step.

    It has the `update` of `transformers.Cache`. Keys are stored rotated; LLaDA's own cache stores them un-rotated and rotates at
    every step (LaViDa modeling_llada.py:726-737), with the same result.
    """

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    frozen: bool = False
    _buffers: dict[tuple[str, int], Tensor] = field(default_factory=dict, repr=False)
    """("keys" or "values", layer) -> those of the prefix, with space for an answer after them."""

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """All keys and values [B, kv_heads, length + L, head_dim] that layer `layer_idx` may attend to.

        Before `freeze` the new ones are stored. Afterwards they are only appended in a buffer that the layer's next call
        overwrites, so that no denoising step copies the prefix.
        """
        key = key.to(value.dtype)  # keys come out of the rotation in float32
        if self.frozen and not (key.requires_grad or value.requires_grad):
            return self._append("keys", layer_idx, key), self._append("values", layer_idx, value)
        if layer_idx < len(self.keys):
            key = torch.cat([self.keys[layer_idx], key], dim=2)
            value = torch.cat([self.values[layer_idx], value], dim=2)
        if not self.frozen:
            self.keys[layer_idx : layer_idx + 1] = [key]
            self.values[layer_idx : layer_idx + 1] = [value]
        return key, value

    def _append(self, part: str, layer: int, new: Tensor) -> Tensor:
        """Stored and new ones in one buffer [B, kv_heads, length + L, head_dim], of which the stored ones become a view."""
        stored = getattr(self, part)
        length, buffer = self.length, self._buffers.get((part, layer))
        if buffer is None or buffer.shape[2] != length + new.shape[2]:
            buffer = self._buffers[part, layer] = torch.cat([stored[layer], new], dim=2)
            stored[layer] = buffer[:, :, :length]
        else:
            buffer[:, :, length:] = new
        return buffer

    @classmethod
    def padded(cls, rows: Sequence[PrefixCache]) -> PrefixCache:
        """One cache of several rows; shorter prefixes are padded with zeros on the right."""

        def stacked(tensors: Sequence[Tensor]) -> Tensor:
            by_position = [tensor[0].transpose(0, 1) for tensor in tensors]  # [P, heads, d]
            return pad_sequence(by_position, batch_first=True).transpose(1, 2)

        layers = range(len(rows[0].keys))
        return cls(
            [stacked([row.keys[layer] for row in rows]) for layer in layers],
            [stacked([row.values[layer] for row in rows]) for layer in layers],
        )

    def freeze(self) -> PrefixCache:
        """Stop storing. Returns the cache itself."""
        self.frozen = True
        return self

    @property
    def length(self) -> int:
        """Positions stored per layer."""
        return self.keys[0].shape[2] if self.keys else 0

    @property
    def nbytes(self) -> int:
        """Bytes of the stored tensors."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

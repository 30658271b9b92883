"""The computed peak of a training step: bytes of one process, from a model's configuration alone.

This is the one number that `shirg describe --train`, the forecast of a run, docs and configs state; `TrainingMemory.needed` adds
what is not computed. Measured are the memory in use after each step (`guards.memory_in_use`) and a GPU's peak in the results.

The body is frozen, so a linear layer keeps nothing for the backward pass but its weights, which are stored in any case. Kept per
position and block, with H the hidden size, A the width of all keys (repeated to the queries' heads), I the MLP's width and
`b` the bytes of a number:

* two norms: a float32 copy of their input each, 4 H (in float32 the input itself);
* attention: queries, keys, values and the output, b (2 H + 2 A), and 4 bytes per head of log-sum-exp;
* the MLP: gate, its SiLU and the up projection, 3 b I.

Where attention takes a dense mask (no flex-attention: any device but CUDA), each block also keeps the mask as numbers,
b L^2 per row. With gradient checkpointing a block keeps its input, b H per position, and one block at a time is computed
again. Under autocast of float32 weights the residual stream is float32, and each linear layer keeps a copy of its weights. Not
counted: the feature cache, and the allocator's fragments and the CUDA context, together commonly 1 to 2 GB.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from shirg.lavida import costs
from shirg.lavida.config import LavidaConfig
from shirg.training.budgets import POOLED, Component

STORED_BITS = {8: 8.0, 4: 4.127}
"""Per weight of a quantized body, scales included: NF4 has one 8-bit scale per 64 weights, and a float32 one per 256 of those."""

TRAINED_BYTES = 16
"""Per number of the adapter: weight, gradient and AdamW's two moments in float32."""

HEAD_BYTES = 12
"""Per logit beyond the model's own: float32 copy, its log-softmax, and the gradient."""

RESERVE_BYTES = 3 * 10**9
"""On top of the computed peak: the feature cache (1 GiB), the allocator's fragments and the CUDA context."""


@dataclass(frozen=True)
class Step:
    """Parameters of a training step on which its memory depends."""

    batch_size: int = 4
    """Records per micro-batch and process."""
    prompt_tokens: int = 64
    answer_tokens: int = 32
    objective: str = "packed"
    checkpointing: bool = False
    dtype: str = "bfloat16"
    """Precision of the arithmetic, and so of activations: the name of a torch dtype."""
    weights_dtype: str | None = None
    """Precision of the frozen weights; None is that of the arithmetic, another one means autocast."""
    body_bits: int = 16
    """Of the body's linear layers, below 16 as `shirg.training.body` stores them."""
    body_shares: int = 1
    """Processes that hold a share of every block (`shirg.training.body`)."""
    question_tokens: int = 8
    """The part of the prompt that questions do not share."""
    dense_mask: bool = False
    """Attention by a mask of [L, L] numbers instead of flex-attention."""

    def rows(self, image_tokens: int) -> tuple[int, int]:
        """(rows, positions in each) that the language model gets."""
        prefix = image_tokens + self.prompt_tokens
        if self.objective == "packed":
            return self.batch_size, prefix + 2 * self.answer_tokens
        return 2 * self.batch_size, prefix + self.answer_tokens

    @property
    def read(self) -> int:
        """Positions of a row whose hidden states the loss reads: the answer's copies."""
        return (2 if self.objective == "packed" else 1) * self.answer_tokens


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one process, each part at its own peak, by what they are for."""

    weights: int
    adapter: int
    blocks: int
    """Kept by the language model's blocks for the backward pass."""
    casts: int
    """Copies of the body's weights in the precision of the arithmetic, where autocast makes them: a linear layer keeps
    its copy for the backward pass. Of a quantized body, one matrix at a time."""
    head: int
    projector: int
    working: int
    """Gradients that one block's backward pass holds, or all of one block that is computed again."""

    @property
    def total(self) -> int:
        """The computed peak. The head's part is freed before the first block's backward pass, so the larger of the two counts."""
        return sum(asdict(self).values()) - min(self.head, self.working)

    @property
    def needed(self) -> int:
        """Free memory that a device should have: the computed peak and `RESERVE_BYTES`."""
        return self.total + RESERVE_BYTES


def training_memory(config: LavidaConfig, component: Component, step: Step) -> TrainingMemory:
    """The computed peak of one process that trains `component`, by part."""
    body, block = config.body, costs.block_weights(config)
    size, stored = (getattr(torch, name).itemsize for name in (step.dtype, step.weights_dtype or step.dtype))
    stream = max(size, stored)  # the residual stream takes the wider of both
    pooled = costs.vision_shape(config, "hd")
    tokens = component.tokens(pooled.tokens)
    rows, length = step.rows(tokens)
    positions, kept = rows * length, block_bytes(config, length, size, dense_mask=step.dense_mask)
    weights = stored * sum(costs.parameters(config).values())
    casts = size * block if step.weights_dtype not in (None, step.dtype) else 0
    if step.body_bits < 16:  # a layer's matrix is dequantized while it is used, one at a time
        weights -= round(body.num_layers * block * (stored - STORED_BITS[step.body_bits] / 8))
        casts = size * body.hidden_size * body.intermediate_size
    if step.body_shares > 1:  # the block in use and the next one are gathered
        weights -= round(max(body.num_layers * (1 - 1 / step.body_shares) - 2, 0) * stored * block)
    working = positions * (3 * size * body.intermediate_size + 2 * stream * body.hidden_size)
    if step.checkpointing:
        blocks, working = body.num_layers * positions * stream * body.hidden_size, working + positions * kept
    else:
        # Of positions that the loss does not read the last block keeps what its keys and values come from: the norm's copy,
        # the keys and the values. A BlockMask leaves nothing out.
        unread = rows * (length - step.read) if step.dense_mask else 0
        blocks = body.num_layers * positions * kept - unread * (kept - (4 + 2 * size) * body.hidden_size)
        casts *= body.num_layers if step.body_bits == 16 else 1
    entering = pooled.encoded if component == POOLED else tokens  # pooling comes after the projector
    return TrainingMemory(
        weights=weights,
        adapter=TRAINED_BYTES * costs.adapter_parameters(config),
        blocks=blocks,
        casts=casts,
        head=step.batch_size * step.answer_tokens * body.vocab_size * (size + HEAD_BYTES),
        projector=step.batch_size * entering * 4 * (config.vision_hidden_size + size * config.hidden_size),
        working=working,
    )


def block_bytes(config: LavidaConfig, length: int, size: int, *, dense_mask: bool) -> int:
    """Bytes that one block keeps per position of a row of `length`, as the module's text counts them."""
    body = config.body
    width = body.hidden_size
    attention = size * 4 * width + 4 * body.num_heads
    return 8 * width + attention + 3 * size * body.intermediate_size + (size * length if dense_mask else 0)

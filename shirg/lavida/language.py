"""The masked-diffusion language model: LLaDA's and Dream's bodies from transformers' blocks.

Both bodies are decoder blocks (Llama's and Qwen2's) with bidirectional attention. Differences from transformers' causal models:
attention is never causal; masks are Boolean and optional; rotary positions are computed in float32 for all weights (as LLaDA's
`rope_full_precision`; the official Dream rounds its tables to the weights' precision); float64 is never rounded to float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, LlamaConfig, Qwen2Config
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, rotate_half
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from shirg.lavida.config import BodyConfig

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from shirg.lavida.cache import PrefixCache

INITIALIZER_STD = 0.02  # of random weights; Llama's and Qwen2's `initializer_range`


class RMSNorm(LlamaRMSNorm):
    """Llama's norm, with statistics in at least float32, so that float64 is not rounded."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * scaled.to(hidden_states.dtype)


class LladaBlock(LlamaDecoderLayer):
    """Llama's block."""

    def forward(self, hidden_states: Tensor, *others: Any, read_from: int = 0, **context: Any) -> Tensor:
        """[B, L, H] to [B, L - read_from, H]; `context` as transformers' block takes it."""
        if read_from:
            return _positions_from(self, hidden_states, read_from, **context)
        return super().forward(hidden_states, *others, **context)


class DreamBlock(Qwen2DecoderLayer):
    """Qwen2's block."""

    def forward(self, hidden_states: Tensor, *others: Any, read_from: int = 0, **context: Any) -> Tensor:
        """As `LladaBlock.forward`."""
        if read_from:
            return _positions_from(self, hidden_states, read_from, **context)
        return super().forward(hidden_states, *others, **context)


FAMILIES = {"llada": (LlamaConfig, LladaBlock), "dream": (Qwen2Config, DreamBlock)}
"""Family -> (configuration, block). Qwen2's block has biases on q, k and v, Llama's has none."""


def _positions_from(
    block: LladaBlock | DreamBlock,
    hidden: Tensor,
    read_from: int,
    *,
    attention_mask: Tensor | None,
    past_key_values: PrefixCache | None,
    position_embeddings: tuple[Tensor, Tensor],
) -> Tensor:
    """A block's output at the positions from `read_from`; before it only keys and values are computed.

    The last block's output at the prefix is not used. Skipping it saves most of one block: a fifth of LaViDa-nano's language
    model and 3 % of an 8B one.
    """
    normed, attention, (cos, sin) = block.input_layernorm(hidden), block.self_attn, position_embeddings

    def heads(projection: nn.Module, rows: Tensor) -> Tensor:
        return projection(rows).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    query = heads(attention.q_proj, normed[:, read_from:])
    key, value = heads(attention.k_proj, normed), heads(attention.v_proj, normed)
    query, key = _rotated(query, cos[:, read_from:], sin[:, read_from:]), _rotated(key, cos, sin)
    if past_key_values is not None:
        key, value = past_key_values.update(key, value, attention.layer_idx)
    if attention_mask is not None:
        attention_mask = attention_mask[:, :, read_from:]
    found, _ = _bidirectional_attention(attention, query, key, value, attention_mask, scaling=attention.scaling)
    chosen = hidden[:, read_from:] + attention.o_proj(found.flatten(2))
    return chosen + block.mlp(block.post_attention_layernorm(chosen))


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys [B, heads, L, d] rotated by the tables [B or 1, L, d] of their positions."""
    return heads * cos[:, None] + rotate_half(heads) * sin[:, None]


class LanguageModel(nn.Module):
    """Embeddings in, hidden states out; attention is bidirectional unless there is a mask."""

    def __init__(self, config: BodyConfig):
        super().__init__()
        self.config = config
        config_class, block_class = FAMILIES[config.family]
        block_config = config_class(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            vocab_size=config.vocab_size,
            rms_norm_eps=config.rms_norm_eps,
            hidden_act="silu",
            attention_dropout=0.0,
        )
        block_config._attn_implementation = ATTENTION
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_block(block_class, block_config, index) for index in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INITIALIZER_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | BlockMask | None = None,
        position_ids: Tensor | None = None,
        cache: PrefixCache | None = None,
        read_from: int = 0,
    ) -> Tensor:
        """Hidden states [B, L - read_from, H] after the final norm.

        Args:
            inputs_embeds: [B, L, H].
            attention_mask: None for no mask, Boolean [B or 1, 1, L, length + L], True where the query may attend, or a
                `BlockMask` of flex-attention.
            position_ids: [B or 1, L]; by default they begin at the length of the cache.
            cache: keys and values before those of `inputs_embeds`, which are added to it unless it is frozen.
            read_from: the first position that is returned; before it the last block computes keys and values only (with a
                `BlockMask` it computes all).
        """
        if position_ids is None:
            start = cache.length if cache is not None else 0
            position_ids = torch.arange(start, start + inputs_embeds.shape[1], device=inputs_embeds.device)[None]
        rotation = rotary_tables(position_ids, self.config.head_dim, self.config.rope_theta)
        hidden = inputs_embeds
        context = {"attention_mask": attention_mask, "past_key_values": cache, "position_embeddings": rotation}
        for layer in self.layers[:-1]:
            hidden = layer(hidden, **context)
        last = self.layers[-1]
        if isinstance(attention_mask, Tensor | None):
            hidden = last(hidden, read_from=read_from, **context)
        else:  # a BlockMask has no rows to leave out
            hidden = last(hidden, **context)[:, read_from:]
        return self.norm(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every vocabulary entry, [..., V]."""
        return self.lm_head(hidden)

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute blocks in the backward pass (train mode only): activations of one block, a third more work."""
        attributes = {  # of transformers' GradientCheckpointingLayer
            "gradient_checkpointing": enabled,
            "_gradient_checkpointing_func": partial(checkpoint, use_reentrant=False),
        }
        for layer in self.layers:
            for name, value in attributes.items():
                setattr(layer, name, value)


def rotary_tables(position_ids: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [B, L, head_dim] in float32 of rotary positions (Su et al. 2021, eq. 15; half-split layout).

    Computed in every call; `model.to(torch.bfloat16)` would round a buffer.
    """
    exponents = torch.arange(0, head_dim, 2, device=position_ids.device, dtype=torch.float32) / head_dim
    angles = position_ids[..., None].float() * (1.0 / theta**exponents)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def _bidirectional_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    **keywords: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention, never causal; queries and keys are cast from float32 to the values' precision."""
    query, key = query.to(value.dtype), key.to(value.dtype)
    if attention_mask is not None and not isinstance(attention_mask, Tensor):
        return _flex_attention(query, key, value, attention_mask, keywords["scaling"])
    keywords["is_causal"] = False
    return sdpa_attention_forward(module, query, key, value, attention_mask, **keywords)


def _flex_attention(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float) -> tuple[Tensor, None]:
    """Attention with a `BlockMask`: compiled on a GPU, which skips empty blocks; uncompiled elsewhere, which saves nothing."""
    from torch.nn.attention.flex_attention import flex_attention

    attend: Callable[..., Any] = flex_attention
    if query.is_cuda:
        attend = _compiled(flex_attention)
    groups = query.shape[1] != key.shape[1]
    out = attend(query, key, value, block_mask=mask, scale=scale, enable_gqa=groups)
    return out.transpose(1, 2).contiguous(), None


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)


ATTENTION = "shirg_bidirectional"
AttentionInterface.register(ATTENTION, _bidirectional_attention)


def _block(
    block_class: Callable[..., LladaBlock | DreamBlock], config: LlamaConfig | Qwen2Config, index: int
) -> nn.Module:
    block = block_class(config, index)
    block.self_attn.is_causal = False
    block.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
    block.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
    return block

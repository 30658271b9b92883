"""Masked-diffusion loss of an answer behind an image-and-prompt prefix.

Every answer is trained as two complementary noisy copies: what is masked in one is visible in the other, so each target
is predicted exactly once (LaViDa llava/model/language_model/llava_llada.py:165-189). The loss is the plain mean of the
cross-entropies over all targets, without the 1/t weight of the likelihood bound, as LaViDa trains
(modeling_llada.py:1517-1518).

Three layouts give the copies to the language model. P is the prefix length, N the answer length, A and B the copies:

* `packed`: one row [prefix | A | B] per record. The prefix sees itself, each copy sees the prefix and itself, and both
  copies sit at positions P .. P+N-1. This is what inference with a cached prefix computes, and the long prefix is
  encoded once.
* `prefix`: two rows [prefix | A], [prefix | B] under LaViDa's prefix-LM mask (modeling_llada.py:1339-1356). Same loss
  and gradients.
* `bidirectional`: the same two rows, everything sees everything, which is how LaViDa's released weights were trained.

Prefixes of different lengths are padded on the left, so that the answers line up; masks and positions make padding
invisible.

Letters in shapes: B records, P longest prefix, N answer positions, H hidden size, L row length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def answer_losses(
    language: nn.Module,
    prefixes: Sequence[Tensor],
    targets: Tensor,
    masked: Tensor,
    *,
    mask_token_id: int,
    objective: str = "packed",
    shift: bool = False,
) -> Tensor:
    """Cross-entropy [B, N], float32, of every target, each predicted from the copy in which it is masked.

    Args:
        language: the language model: `embed_tokens`, `forward(embeds, attention_mask, position_ids)`, `logits`.
        prefixes: one [P_i, H] per record: image and prompt embeddings.
        targets: [B, N] Long, answer tokens with their end-of-text padding.
        masked: [B, N] Boolean, True where copy A hides the target; copy B hides the others.
        mask_token_id: the token that stands at a hidden position.
        objective: "packed", "prefix" or "bidirectional".
        shift: position i-1 predicts token i, as Dream was trained (LaViDa dream/modeling_dream.py:917).
    """
    embeds, real = pad_prefixes(prefixes)
    copies = noisy_copies(language.embed_tokens, targets, masked, mask_token_id).to(embeds.dtype)
    layout = _packed_states if objective == "packed" else _two_row_states
    ends, states = layout(language, embeds, real, copies, objective)
    if shift:
        states = torch.cat([ends, states[:, :, :-1]], dim=2)
    # Only the copy that hides a target predicts it, so the head, the widest matrix of the model, sees N rows instead of
    # 2N.
    predicting = torch.where(masked[..., None], states[:, 0], states[:, 1])  # [B, N, H]
    logits = language.logits(predicting).float()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


def noisy_copies(embed_tokens: nn.Module, targets: Tensor, masked: Tensor, mask_token_id: int) -> Tensor:
    """Embeddings [B, 2, N, H] of the two complementary copies: A hides `masked`, B hides the rest."""
    hidden = torch.stack([masked, ~masked], dim=1)  # [B, 2, N]
    return embed_tokens(torch.where(hidden, mask_token_id, targets[:, None]))


def pad_prefixes(prefixes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Prefixes padded with zeros on the left to the longest: [B, P, H], and which positions are real: [B, P]
    Boolean."""
    longest = max(prefix.shape[0] for prefix in prefixes)
    rows = [F.pad(prefix, (0, 0, longest - prefix.shape[0], 0)) for prefix in prefixes]
    lengths = torch.tensor([prefix.shape[0] for prefix in prefixes], device=prefixes[0].device)
    real = torch.arange(longest, device=lengths.device)[None] >= longest - lengths[:, None]
    return torch.stack(rows), real


def positions(real: Tensor, answer_length: int, copies: int) -> Tensor:
    """Position ids [B, P + copies * N]: the prefix counts its real tokens from 0, every copy goes on where the prefix
    ends."""
    prefix = real.long().cumsum(dim=1).sub(1).clamp(min=0)
    answer = real.sum(dim=1, keepdim=True) + torch.arange(answer_length, device=real.device)
    return torch.cat([prefix, answer.repeat(1, copies)], dim=1)


def attention_mask(real: Tensor, answer_length: int, objective: str) -> Tensor:
    """Who may attend to whom: [B, 1, L, L] Boolean; L is P + 2N for "packed" and P + N for the two-row layouts.

    A padding position sees itself alone, since a softmax over nothing is NaN.
    """
    batch, prefix_length = real.shape
    copies = 2 if objective == "packed" else 1
    block = torch.arange(copies, device=real.device).repeat_interleave(answer_length) + 1
    block = torch.cat([block.new_zeros(prefix_length), block])  # 0 the prefix, then 1 (and 2) the copies
    if objective == "bidirectional":
        allowed = torch.ones(len(block), len(block), dtype=torch.bool, device=real.device)
    else:
        allowed = (block[None, :] == 0) | (block[:, None] == block[None, :])
    visible = torch.cat([real, real.new_ones(batch, copies * answer_length)], dim=1)
    itself = torch.eye(len(block), dtype=torch.bool, device=real.device)
    return ((allowed & visible[:, None, :] & visible[:, :, None]) | itself)[:, None]


def _packed_states(language: nn.Module, embeds: Tensor, real: Tensor, copies: Tensor, objective: str):
    """Hidden states at the prefix end [B, 2, 1, H] and at the answers [B, 2, N, H], from one row per record."""
    batch, _, length, width = copies.shape
    hidden = language(
        torch.cat([embeds, copies.flatten(1, 2)], dim=1),
        attention_mask=attention_mask(real, length, objective),
        position_ids=positions(real, length, copies=2),
    )
    prefix, answers = hidden.split([embeds.shape[1], 2 * length], dim=1)
    return prefix[:, None, -1:].expand(batch, 2, 1, width), answers.unflatten(1, (2, length))


def _two_row_states(language: nn.Module, embeds: Tensor, real: Tensor, copies: Tensor, objective: str):
    """Hidden states at the prefix ends [B, 2, 1, H] and at the answers [B, 2, N, H], from two rows per record."""
    length = copies.shape[2]
    twice = real.repeat_interleave(2, dim=0)
    hidden = language(
        torch.cat([embeds.repeat_interleave(2, dim=0), copies.flatten(0, 1)], dim=1),
        attention_mask=attention_mask(twice, length, objective),
        position_ids=positions(twice, length, copies=1),
    ).unflatten(0, (-1, 2))
    return hidden[:, :, -length - 1 : -length], hidden[:, :, -length:]

"""LaViDa's own training loss, over whole rows: image, prompt, answer and padding.

Every row is trained as two complementary copies: a target that is masked in one is visible in the other, so each is predicted
exactly once. The loss is the mean of the cross-entropies, without the 1/t weight of the likelihood bound
(modeling_llada.py:1517-1518). Every position attends to all others, padding included, as in training of the released weights;
with `prefix_lm` the positions before the first target attend only to each other, as in inference with a cached prefix.

`shirg.training.objective` is the same loss for prefixes and answers, with padding masked.

    sample = chat_sample(tokenizer, "llada", conversation)
    batch = collate([sample], pad_token_id=tokenizer.pad_token_id)
    rows = embed_batch(model, batch, encode_for_training(model, [image]))
    training_loss(model, rows).backward()

LLD is LaViDa's llava/model/language_model/llava_llada.py. Shapes: B rows, L their length, H hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from shirg.errors import UserError
from shirg.lavida.config import IGNORE_INDEX
from shirg.lavida.diffusion.noise import NoisyCopies, complementary_copies, draw_noise
from shirg.lavida.pretraining.batches import Rows

if TYPE_CHECKING:
    from shirg.lavida.model import Lavida


def training_loss(
    model: Lavida,
    rows: Rows,
    *,
    policy: str = "uniform",
    policy_args: dict[str, float] | None = None,
    prefix_lm: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean cross-entropy of all targets, a float32 scalar.

    Args:
        model: of family "llada" or "dream"; Dream's positions predict the next token.
        policy, policy_args: distribution of the diffusion time, see `sample_times`. LaViDa's Dream has only "uniform".
        prefix_lm: LaViDa's prefix-LM mask. No released script sets it, and LaViDa's Dream has no such option.
        generator: random generator, used on its own device; None is torch's own, on the rows' device.

    Raises:
        UserError: if no row has a target, or for a policy that `sample_times` refuses.
    """
    device = rows.embeds.device if generator is None else generator.device
    batch, length = rows.labels.shape
    drawn, _ = draw_noise(batch, length, policy, policy_args, generator, device)
    copies = noisy_rows(model, rows, drawn.to(rows.embeds.device))
    lengths = prefix_lengths(rows.labels) if prefix_lm else None
    losses = target_losses(model, row_states(model, copies, lengths), copies.labels)
    if not len(losses):
        raise UserError("rows have no target: the answers are empty, or truncated by the config's maximal length")
    return losses.mean()


def noisy_rows(model: Lavida, rows: Rows, drawn: Tensor) -> NoisyCopies:
    """Both copies of the rows, [2B, L, H]: the drawn targets masked in the first B, the others in the last B.

    Args:
        drawn: [B, L] Boolean from `draw_noise`.
    """
    language = model.language
    mask_embedding = language.embed_tokens(torch.tensor(model.config.mask_token_id, device=rows.embeds.device))
    return complementary_copies(rows.embeds, rows.labels, drawn, mask_embedding, model.config.fim_token_id)


def prefix_lengths(labels: Tensor) -> Tensor:
    """Number of positions [B] before the first target of each row of labels [B, L]; 0 without one (LLD:156)."""
    return (labels != IGNORE_INDEX).long().argmax(dim=1)


def prefix_lm_mask(lengths: Tensor, total: int) -> Tensor:
    """Attention mask [B, 1, L, L], Boolean, with the first `lengths` [B] of `total` positions as prefix.

    The prefix attends to the prefix, all others to everything (modeling_llada.py:1339-1356).
    """
    prefix = torch.arange(total, device=lengths.device) < lengths[:, None]
    return (prefix[:, None, :] | ~prefix[:, :, None])[:, None]


def row_states(model: Lavida, copies: NoisyCopies, lengths: Tensor | None = None) -> Tensor:
    """Hidden states [2B, L, H] of both copies; under the prefix-LM mask if the rows' prefix lengths [B] are given."""
    if lengths is None:
        return model.language(copies.embeds)
    return model.language(copies.embeds, prefix_lm_mask(torch.cat([lengths, lengths]), copies.embeds.shape[1]))


def target_losses(model: Lavida, hidden: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropies [T] float32 of all targets of labels [2B, L], row by row; hidden [2B, L, H].

    The head is applied to the T predicting positions only. Dream's logits are shifted: position i - 1 predicts token i
    (dream/modeling_dream.py:917), and no position predicts the first.
    """
    if model.config.family == "dream":
        hidden, labels = hidden[:, :-1], labels[:, 1:]
    targets = labels != IGNORE_INDEX
    return F.cross_entropy(model.language.logits(hidden[targets]).float(), labels[targets], reduction="none")

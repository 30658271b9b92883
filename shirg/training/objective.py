"""Masked-diffusion loss of answers after an image-and-prompt prefix.

Every answer is trained as two complementary noisy copies: what is masked in one is visible in the other, so each target
is predicted exactly once (LaViDa llava/model/language_model/llava_llada.py:165-189). The loss is the plain mean of the
cross-entropies over all targets, without the 1/t weight of the likelihood bound, as LaViDa trains
(modeling_llada.py:1517-1518).

Three objectives lay the copies A and B out in rows for the language model:

* `packed`: one row [prefix | A | B]. The prefix attends to itself, each copy to the prefix and itself, and both copies have
  the positions after the prefix. This is what inference with a cached prefix computes, and the long prefix is encoded
  once.
* `prefix`: two rows [prefix | A], [prefix | B] under LaViDa's prefix-LM mask (modeling_llada.py:1339-1356). Same loss
  and gradients.
* `bidirectional`: the same two rows with full attention, which is how LaViDa's released weights were trained.

Several questions about one image may share its prefix: [prefix | Q1 A1 B1 | Q2 A2 B2 | ...]. Then the shared prefix
does not attend to any question; without sharing, the question is a part of the prefix. See docs/training.md.

The attention mask follows from two numbers of every position: its question (0: the shared prefix) and its copy (0: prefix or
question text). A position attends to positions of question 0 or its own question whose copy is 0 or its own. Padding, on the
right, has a question number of its own.

Letters in shapes: R rows, L longest row, T answers (one per question), N answer positions, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from shirg.lavida.language import LanguageModel

PADDING = -1
"""The question number of padding."""


def answer_losses(
    language: LanguageModel,
    prefixes: Sequence[Tensor],
    targets: Tensor,
    masked: Tensor,
    *,
    mask_token_id: int,
    objective: str = "packed",
    shift: bool = False,
    questions: Sequence[Sequence[Tensor]] | None = None,
) -> Tensor:
    """Cross-entropy [T, N], float32 or better, of every target, each predicted from the copy in which it is masked.

    Args:
        prefixes: [P_i, H] each: image and prompt embeddings.
        targets: [T, N] Long, answer tokens with their end-of-text padding; one row per prefix, or per question.
        masked: [T, N] Boolean, True where copy A hides the target; copy B hides the others.
        mask_token_id: the token at a hidden position.
        objective: "packed", "prefix" or "bidirectional".
        shift: position i-1 predicts token i, as Dream was trained (LaViDa dream/modeling_dream.py:917); the first
            token is predicted from the last position before the answer.
        questions: per prefix the questions [Q, H] that follow it, as embeddings, in the order of `targets`; None puts
            one answer right after each prefix.
    """
    if questions is None:
        questions = [[prefix[:0]] for prefix in prefixes]
    copies = noisy_copies(language.embed_tokens, targets, masked, mask_token_id).to(prefixes[0].dtype)
    layout = lay_out(prefixes, questions, copies, objective)
    # On a GPU: with a block mask the last block computes all positions anyway, and reading the number would synchronise.
    read_from = 0 if layout.embeds.is_cuda else int((layout.ends if shift else layout.starts).min())
    hidden = language(
        layout.embeds,
        attention_mask=block_mask(layout) if layout.embeds.is_cuda else dense_mask(layout),
        position_ids=layout.positions,
        read_from=read_from,
    )
    # Only the copy that hides a target predicts it, so the head, the widest matrix of the model, gets N rows per
    # answer instead of 2N.
    copy = (~masked).long()  # [T, N]: 0 where A predicts
    offset = torch.arange(targets.shape[1], device=targets.device) - int(shift)
    index = torch.where(offset < 0, layout.ends.gather(1, copy), layout.starts.gather(1, copy) + offset)
    logits = language.logits(hidden[layout.rows.gather(1, copy), index - read_from])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


def noisy_copies(embed_tokens: nn.Module, targets: Tensor, masked: Tensor, mask_token_id: int) -> Tensor:
    """Embeddings [T, 2, N, H] of the two complementary copies: A hides `masked`, B hides the rest."""
    hidden = torch.stack([masked, ~masked], dim=1)  # [T, 2, N]
    return embed_tokens(torch.where(hidden, mask_token_id, targets[:, None]))


@dataclass
class Layout:
    """Rows for the language model, and the indices of the answers in them."""

    embeds: Tensor
    """[R, L, H], zeros on the right of shorter rows."""
    questions: Tensor
    """[R, L] Long: number of the question, from 1; 0 for the shared prefix."""
    copies: Tensor
    """[R, L] Long: 1 for copy A, 2 for copy B, 0 for prefix and question text."""
    positions: Tensor
    """[R, L] Long: every copy continues where its question ends, every question where the shared prefix ends."""
    rows: Tensor
    """[T, 2] Long: the row that holds copy A, copy B, of each answer."""
    starts: Tensor
    """[T, 2] Long: index in that row of the copy's first position."""
    ends: Tensor
    """[T, 2] Long: index in that row of the last position before the answer, of its question or else of the prefix."""


@dataclass
class _Row:
    """One row under construction: embeddings, and for every position its question, copy and position id."""

    parts: list[Tensor] = field(default_factory=list)
    marks: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, part: Tensor, question: int, copy: int, position: int) -> int:
        """Append `part` [n, H] with position ids from `position` on; returns the index of its first row."""
        start = len(self.marks)
        self.parts.append(part)
        self.marks += [(question, copy, position + offset) for offset in range(len(part))]
        return start


def lay_out(
    prefixes: Sequence[Tensor], questions: Sequence[Sequence[Tensor]], copies: Tensor, objective: str
) -> Layout:
    """The rows of `objective`: one per prefix when packed, otherwise one per answer and copy.

    Args:
        copies: [T, 2, N, H] from `noisy_copies`.
    """
    full_attention = objective == "bidirectional"
    rows, found = [], []  # found: per question and copy (row, start, end)
    remaining = iter(copies)
    for prefix, asked in zip(prefixes, questions, strict=True):
        for index, question in enumerate(asked, start=1):
            places = []
            for number, answer in enumerate(next(remaining), start=1):
                if objective != "packed" or (index, number) == (1, 1):
                    rows.append(_Row())
                    rows[-1].add(prefix, 0, 0, 0)
                row, mark = rows[-1], 0 if full_attention else index
                if objective != "packed" or number == 1:
                    end = row.add(question, mark, 0, len(prefix)) + len(question) - 1
                    end = end if len(question) else len(prefix) - 1
                start = row.add(answer, mark, 0 if full_attention else number, len(prefix) + len(question))
                places.append((len(rows) - 1, start, end))
            found.append(places)
    device = copies.device
    padding = (PADDING, 0, 0)
    longest = max(len(row.marks) for row in rows)
    marks = torch.tensor([row.marks + [padding] * (longest - len(row.marks)) for row in rows], device=device)
    embeds = pad_sequence([torch.cat(row.parts) for row in rows], batch_first=True)
    return Layout(embeds, *marks.unbind(-1), *torch.tensor(found, device=device).unbind(-1))


def may_attend(question: Tensor, copy: Tensor, other_question: Tensor, other_copy: Tensor) -> Tensor:
    """Whether positions of `question` and `copy` attend to positions of `other_question` and `other_copy`, Boolean."""
    return ((other_question == 0) | (other_question == question)) & ((other_copy == 0) | (other_copy == copy))


def dense_mask(layout: Layout) -> Tensor:
    """Attention mask for `scaled_dot_product_attention`: [R, 1, L, L] Boolean, True where the query attends to the key."""
    questions, copies = layout.questions, layout.copies
    return may_attend(questions[:, :, None], copies[:, :, None], questions[:, None, :], copies[:, None, :])[:, None]


def block_mask(layout: Layout) -> BlockMask:
    """The same as a `BlockMask` for flex attention, which skips blocks without any True."""
    from torch.nn.attention.flex_attention import create_block_mask

    questions, copies = layout.questions, layout.copies

    def mask_mod(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return may_attend(questions[row, query], copies[row, query], questions[row, key], copies[row, key])

    rows, length = questions.shape
    return create_block_mask(mask_mod, rows, None, length, length, device=questions.device)

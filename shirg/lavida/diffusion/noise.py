"""Noise for training: times, masked positions and two complementary copies (LaViDa llava_llada.py:42-71, 150-189)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from shirg.errors import UserError
from shirg.lavida.config import IGNORE_INDEX

MIN_MASK_PROBABILITY = 1e-3  # LaViDa llava_llada.py:56-71
POLICIES: dict[str, dict[str, float]] = {
    "uniform": {},
    "logit_normal": {"logit_mean": 0.0, "logit_std": 1.0},
    "mode": {"mode_scale": 1.29},
}
"""Distributions of the diffusion time and the defaults of their arguments (Esser et al. 2024, section 3.1)."""


def sample_times(
    batch: int,
    policy: str = "uniform",
    policy_args: dict[str, float] | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Diffusion times [batch] in [0, 1], float32, on `device`.

    Raises:
        UserError: for an unknown policy, or arguments it does not take.
    """
    if policy not in POLICIES:
        raise UserError(f"policy={policy!r} is unknown; expected {', '.join(map(repr, POLICIES))}")
    unknown = set(policy_args or {}) - set(POLICIES[policy])
    if unknown:
        raise UserError(f"policy_args: {policy!r} takes {list(POLICIES[policy]) or 'none'}; got {sorted(unknown)}")
    arguments = {**POLICIES[policy], **(policy_args or {})}
    if policy == "logit_normal":
        draw = torch.randn(batch, generator=generator, device=device)
        return torch.sigmoid(arguments["logit_mean"] + arguments["logit_std"] * draw)
    u = torch.rand(batch, generator=generator, device=device)
    if policy == "mode":
        return 1 - u - arguments["mode_scale"] * (torch.cos(math.pi * u / 2) ** 2 - 1 + u)
    return u


def forward_process(times: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Positions masked at `times` [B] given uniform `noise` [B, L]: Boolean [B, L], and their probability [B, 1].

    At least one position of each row is masked, though it need not be one of the answer.
    """
    probability = (1 - MIN_MASK_PROBABILITY) * times[:, None] + MIN_MASK_PROBABILITY
    return noise <= torch.maximum(probability, noise.min(dim=1, keepdim=True).values), probability


def draw_noise(
    batch: int,
    length: int,
    policy: str = "uniform",
    policy_args: dict[str, float] | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """`forward_process` of drawn times and noise, on `device`.

    The times are drawn first, then the noise, as LaViDa does (llava_llada.py:42-71), so that a seed masks the same positions.

    Args:
        length: of whole rows, with images and prompts.

    Raises:
        UserError: as `sample_times`.
    """
    times = sample_times(batch, policy, policy_args, generator, device)
    return forward_process(times, torch.rand(batch, length, generator=generator, device=device))


@dataclass
class NoisyCopies:
    """Two complementary copies of a batch: every target is masked in exactly one of them."""

    embeds: Tensor
    """[2B, L, H], with the mask token's embedding at masked positions."""
    labels: Tensor
    """[2B, L], -100 at positions that are not targets."""
    masked: Tensor
    """[2B, L] Boolean."""


def complementary_copies(
    embeds: Tensor, labels: Tensor, drawn: Tensor, mask_embedding: Tensor, fim_token_id: int | None = None
) -> NoisyCopies:
    """Mask the drawn targets in one copy and all other targets in a second one. The arguments are not modified.

    Args:
        embeds: clean embeddings [B, L, H].
        labels: [B, L], -100 at positions that are not targets.
        drawn: Boolean [B, L] from `forward_process`.
        mask_embedding: the embedding row [H] of the mask token.
        fim_token_id: control token of infilling, which is neither masked nor a target.
    """
    targets = labels != IGNORE_INDEX
    if fim_token_id is not None:
        targets = targets & (labels != fim_token_id)
    masked = torch.cat([drawn & targets, ~drawn & targets])  # [2B, L]
    both = torch.cat([embeds, embeds])
    return NoisyCopies(
        embeds=torch.where(masked[..., None], mask_embedding.to(both.dtype), both),
        labels=torch.where(masked, torch.cat([labels, labels]), IGNORE_INDEX),
        masked=masked,
    )

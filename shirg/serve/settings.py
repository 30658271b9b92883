"""Limits and defaults of a server."""

from __future__ import annotations

from dataclasses import dataclass, field

from shirg.lavida.vision import DEFAULT_BUDGET
from shirg.ranges import Budget


@dataclass(frozen=True)
class Limits:
    """What one request, and all together, may use."""

    queue: int = 64
    """Requests that wait; further ones get status 429."""
    batch: int = 16
    """Requests that are denoised together."""
    body_bytes: int = 32 * 2**20
    pixels: int = 40_000_000
    """Width x height of an image."""
    images: int = 8
    """Images of a conversation."""
    turns: int = 32
    """Messages of a conversation."""
    prompt_tokens: int = 8192
    """Text tokens of a conversation."""
    answer_tokens: int = 1024
    cache_bytes: int = 512 * 2**20
    """Tower features and selected tokens that are kept for later questions."""


@dataclass(frozen=True)
class Defaults:
    """Values for requests that do not set them."""

    path: str = "shirg"
    budget: Budget = DEFAULT_BUDGET
    steps: int | None = None
    """Denoising steps per window of an answer; None is one per token."""
    threshold: float | None = None
    """Commit confident predictions instead of a number of steps; see `GenerationSettings`."""


@dataclass(frozen=True)
class Access:
    """Who may ask, and what is fetched for them."""

    token: str | None = None
    """Bearer token that every request needs; None asks for none."""
    image_hosts: tuple[str, ...] = ()
    """Hosts that images are fetched from; none by default."""


@dataclass(frozen=True)
class ServerSettings:
    """Everything that a server is configured with beside its models."""

    limits: Limits = field(default_factory=Limits)
    defaults: Defaults = field(default_factory=Defaults)
    access: Access = field(default_factory=Access)

"""`shirg answer IMAGE QUESTION`: ask one question about one page."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from tyro.conf import Positional, arg

from shirg import ranges
from shirg.cli.flags import AdaptedModelFlags, SelectorFlags
from shirg.cli.runner import run_command
from shirg.errors import UserError

if TYPE_CHECKING:
    import torch

    from shirg.lavida import Lavida, PrefixCache

MODELS_LENGTH = "(default: 16 for the nano, 32 for official weights)"
NO_PARALLEL = "(default: a number of steps)"
ONE_PER_TOKEN = "(default: one per token)"
SELECTING = ("shirg", "early", "multiview")
"""The modes that take a budget."""


@dataclasses.dataclass(kw_only=True)
class Flags(SelectorFlags, AdaptedModelFlags):
    """Answer one question about one page. Only the answer is printed to stdout; a terminal shows denoising on stderr."""

    image: Positional[Path]
    """A PNG, JPEG, GIF, WebP, BMP, TIFF or PPM file."""

    question: Positional[str]
    """The question, in quotes."""

    mode: Literal["shirg", "early", "lowres", "hd", "highres", "multiview"] = "shirg"
    """Vision path: shirg keeps a budget of tokens, early selects the patches before they are encoded, highres keeps all, lowres
    encodes 384 pixels, hd pools tiles, multiview selects from tiles."""

    budget: Annotated[int | Literal["auto"], ranges.BUDGET, arg(metavar="INT|auto")] = 768
    """Visual tokens to keep with shirg, early and multiview; auto keeps as many as the page needs, 64 to 1024."""

    draft: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="(default: none)")] = None
    """Draft of the answer: a text with gaps of N tokens, "Total: [mask:6] USD", or its beginning, "The total is"."""

    max_new_tokens: Annotated[int | None, ranges.TOKENS, arg(metavar="INT", help_behavior_hint=MODELS_LENGTH)] = None
    """Length of the answer in tokens, a draft included."""

    block_length: Annotated[
        int | None, ranges.TOKENS, arg(metavar="INT", help_behavior_hint="(default: one block)")
    ] = None
    """Tokens denoised together, block by block from left to right; denoising ends after the block in which the answer ends.
    LLaDA only: Dream always has one block."""

    steps: Annotated[int | None, ranges.TOKENS, arg(metavar="INT", help_behavior_hint=ONE_PER_TOKEN)] = None
    """Denoising steps for the whole answer: fewer are faster, and commit more tokens at once."""

    step_ratio: Annotated[float | None, ranges.STEP_RATIO, arg(metavar="FLOAT", help_behavior_hint=ONE_PER_TOKEN)] = (
        None
    )
    """Steps per token, instead of --steps: 0.5 is LaViDa's usual choice."""

    schedule: Literal["none", "linear", "shift", "cosine", "logit-normal"] = "none"
    """How many tokens each step commits: none the same number in every step, cosine and logit-normal few at both ends."""

    shift: Annotated[float | None, ranges.SHIFT, arg(metavar="FLOAT", help_behavior_hint="(default: 3)")] = None
    """For --schedule shift: 3 commits few tokens early and many late, 0.33 many early, as LaViDa's captions do."""

    threshold: Annotated[float | None, ranges.THRESHOLD, arg(metavar="FLOAT", help_behavior_hint=NO_PARALLEL)] = None
    """Commit at every step all tokens of at least this probability, instead of a number of steps: 0.9 is usual."""

    factor: Annotated[float | None, ranges.FACTOR, arg(metavar="FLOAT", help_behavior_hint=NO_PARALLEL)] = None
    """The same with the n-th best probability at least 1 - factor / (n + 1), instead of --threshold."""

    remasking: Literal["low_confidence", "margin", "entropy", "random"] = "low_confidence"
    """Which tokens are committed first: of highest probability, largest margin, lowest entropy, or random ones."""

    temperature: Annotated[float, ranges.TEMPERATURE] = 0.0
    """Above 0, tokens are sampled; 0 takes the most probable ones."""

    seed: Annotated[int, ranges.SEED] = 0
    """Seed of --temperature and --remasking random."""

    show_steps: bool = False
    """Print the answer after every step to stderr, one line each, also without a terminal."""


def command(flags: Flags) -> None:
    """Answer and print."""
    if flags.shift is not None and flags.schedule != "shift":
        raise UserError(f"--shift: got {flags.shift}, but only --schedule shift uses it; add that")
    if flags.selector is not None and flags.mode not in SELECTING:
        raise UserError(f"--selector: got {flags.selector!r}, but --mode {flags.mode} selects nothing; leave one out")
    from shirg.cli.live import shown_steps
    from shirg.cli.models import load_image, load_model
    from shirg.threads import spare_threads

    page = load_image(flags.image)
    with spare_threads() as threads, contextlib.ExitStack() as shown:
        model = load_model(flags, flags.adapter)
        threads.adjust()
        on_step = shown.enter_context(shown_steps(model, every_step=flags.show_steps))
        answer = model.answer(
            page,
            flags.question,
            flags.mode,
            flags.budget,
            flags.max_new_tokens,
            draft=flags.draft,
            on_step=on_step,
            on_prefix=lambda cache: report_budget(model, flags, cache),
            **decoding(flags, model.device),
        )
    print(answer)


def report_budget(model: Lavida, flags: Flags, cache: PrefixCache) -> None:
    """Print on stderr how many tokens the budget "auto" kept: the prefix without the question's and the summary token."""
    if flags.budget == "auto" and flags.mode in SELECTING:
        kept = cache.keys[0].shape[2] - (len(model.prompt_ids(flags.question)) - 1) - model.vision.gate.summary
        print(f"budget auto: {kept:,} tokens", file=sys.stderr)


def decoding(flags: Flags, device: torch.device) -> dict[str, Any]:
    """The flags as keywords of `Lavida.generate`."""
    import torch

    blocks = {} if flags.block_length is None else {"block_length": flags.block_length}
    return blocks | {
        "steps": flags.steps,
        "step_ratio": flags.step_ratio,
        "schedule": None if flags.schedule == "none" else flags.schedule,
        "schedule_kwargs": None if flags.shift is None else {"shift": flags.shift},
        "threshold": flags.threshold,
        "factor": flags.factor,
        "remasking": flags.remasking,
        "temperature": flags.temperature,
        "generator": torch.Generator(device).manual_seed(flags.seed),
    }


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)

"""The settings of an evaluation."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from shirg import ranges
from shirg.errors import UserError
from shirg.settings import Budgeted, Seeded

if TYPE_CHECKING:
    from shirg.evaluation.answering import Decoding
    from shirg.evaluation.results import Settings
    from shirg.lavida import Lavida

NANO_BATCH = 8
"""Questions of a page that the nano answers together; more save nothing."""

MOST_WORKERS = 8
"""More than there are pages in most evaluations' last round."""

DATASETS = "(default: documents charts for the nano, ChartQA DocVQA for official weights)"
Variants = Annotated[Sequence[str], arg(name="variants", metavar="NAME [NAME ...]")]
Questions = Annotated[int, ranges.COUNT, arg(name="eval_samples")]
Repeats = Annotated[int, ranges.REPEATS, arg(name="timing_repeats")]


@dataclass(kw_only=True)
class BenchmarkSettings(Budgeted, Seeded):
    """What is evaluated, in every command that reads benchmarks."""

    datasets: Annotated[
        Sequence[str] | None, arg(name="eval_datasets", metavar="NAME [NAME ...]", help_behavior_hint=DATASETS)
    ] = None
    """ChartQA DocVQA InfoVQA TextVQA TabMWP AI2D OCRBench SROIE FUNSD, or the rendered `documents` and `charts`, which need
    no files."""

    sample_size: Questions = 500
    """Most questions per benchmark, a seeded sample. With 120 in all, differences of about 10 points are distinguished from
    chance."""


@dataclass(kw_only=True)
class EvaluationSettings(BenchmarkSettings):
    """What `shirg evaluate` decides."""

    modes: Variants = ("lowres", "hd", "highres", "shirg")
    """What to compare: `core`, `all`, or some of lowres hd hd-flat highres multiview-all, and, once per budget, shirg early
    multiview and other selectors (uniform random pool divprune cdpruner ...); separated by blanks or commas."""

    efficiency_repeats: Repeats = 5
    """Runs of which each stage's time is the median, after one untimed; 0 leaves timing out."""

    batch_size: Annotated[
        int | None, ranges.BATCH, arg(metavar="INT", help_behavior_hint="(default: 8 for the nano, else 1)")
    ] = None
    """Questions that are denoised together, of one page or of several; in float32 no answer depends on it but for exact ties."""

    threshold: Annotated[
        float | None, ranges.THRESHOLD, arg(metavar="FLOAT", help_behavior_hint="(default: half a step per token)")
    ] = None
    """Commit at every step all tokens of at least this probability, and the best one, instead of a number of steps."""

    resume: bool = False
    """Continue after the answers in the output folder. Without it, an earlier run's files move into a folder `old-N` there."""

    num_shards: Annotated[int, ranges.PARTS, arg(help_behavior_hint="(default: torchrun's processes, else 1)")] = 1
    """Number of processes that share the pages; all have the same output folder."""

    shard_index: Annotated[
        int | None, ranges.PART, arg(metavar="INT", help_behavior_hint="(default: torchrun's, else none)")
    ] = None
    """Answer this process's share only, counted from 0. Without it, the answers of all shares are joined."""


@dataclass(kw_only=True)
class SHIRGEvaluationConfig(EvaluationSettings):
    """Settings of one evaluation; wrong values raise `UserError` here, before anything is loaded."""

    adapters: Mapping[str, Path | str] = field(default_factory=dict)
    """Name -> folder of adapters to compare, in addition to the one that the model has, which is called "adapter"."""

    data_dir: Path | str | None = None
    """Folder with one folder per benchmark; None looks on the hub. The embedded sets need neither."""

    max_new_tokens: Annotated[int | None, ranges.TOKENS] = None
    """Answer positions that are denoised; None takes the model's own length (16 for the nano, 32 for other models)."""

    block_length: Annotated[int | None, ranges.TOKENS] = None
    """Positions denoised together, a divisor of `max_new_tokens`; None takes all at once."""

    step_ratio: Annotated[float, ranges.STEP_RATIO] = 0.5
    """Denoising steps per answer position (LaViDa README: 16 steps for 32 tokens)."""

    prompt_suffix: Literal["official", "none"] | None = None
    """"official" adds what the benchmark's usual harness adds to a question, "none" asks it bare. None takes "none"
    for the nano, which was trained on bare questions, and "official" for other models."""

    output_dir: Path | str = "./shirg_lora_output/evaluation"
    """Gets the results, the report and its figures."""

    workers: Annotated[int | None, ranges.BATCH] = None
    """Processes that answer pages side by side, each with one thread. None takes as many as torch would use threads for the
    nano on a CPU, where two processes do more than two threads and bear other programs better; 1 for other models, and where
    processes are not forked (macOS), so that each would have to load everything."""

    command: str | None = None
    """How the run was called, for its card."""

    def __post_init__(self) -> None:
        from shirg.evaluation.tasks import find_task
        from shirg.evaluation.variants import ADAPTER, named_modes

        names = (
            [] if isinstance(self.modes, str) else [name for words in self.modes for name in words.split(",") if name]
        )
        given = {"datasets": self.datasets, "token_budgets": self.token_budgets, "modes": names}
        for name, value in given.items():
            good = value is None or (value and not isinstance(value, str))
            _check(name, getattr(self, name), "at least one, in a list", good)
        self.modes = names
        if self.datasets is not None:
            self.datasets = list(dict.fromkeys(find_task(name).name for name in self.datasets))
        ranges.check_fields(self)
        for name in self.adapters:
            good = name not in ("", ADAPTER) and "+" not in name
            _check("adapters", name, f'a name without "+" that is not "{ADAPTER}"', good)
        named_modes(self.modes, flat=True)
        if self.shard_index is not None:
            inside = self.shard_index < self.num_shards
            wanted = f"0 to {self.num_shards - 1} of num_shards={self.num_shards}"
            _check("shard_index", self.shard_index, wanted, inside)

    def decoding(self, model: Lavida) -> Decoding:
        """How `model` generates answers.

        Raises:
            UserError: if `block_length` does not divide the answer's length, or `step_ratio` gives a block no step.
        """
        from shirg.evaluation.answering import Decoding

        length = self.max_new_tokens or model.config.answer_tokens
        block = self.block_length or length
        _check("block_length", block, f"a divisor of max_new_tokens ({length})", length % block == 0)
        wanted = f"at most 1, and large enough to give a block of {block} a step"
        _check("step_ratio", self.step_ratio, wanted, int(self.step_ratio * block) > 0)
        batch = self.batch_size or (NANO_BATCH if model.config.is_nano else 1)
        return Decoding(length, block, self.step_ratio, self.threshold, batch)

    def workers_for(self, model: Lavida) -> int:
        """How many processes answer `model`'s questions."""
        import torch

        if self.workers is not None:
            return self.workers
        forked = multiprocessing.get_start_method() == "fork"
        if not (forked and model.config.is_nano and model.device.type == "cpu"):
            return 1
        return min(torch.get_num_threads(), MOST_WORKERS)

    def resolved(self, model: Lavida) -> Settings:
        """All settings with the model's own values in the place of None.

        Raises:
            UserError: if a budget is larger than what the model's paths give to choose from.
        """
        from shirg.data.sources import EMBEDDED
        from shirg.evaluation.results import Settings, from_json
        from shirg.evaluation.tasks import OFFICIAL_DEFAULT
        from shirg.evaluation.variants import SELECTING_MODES, in_order, named_modes

        most = (model.vision.resolution // model.tower.patch_size) ** 2
        modes = named_modes(self.modes, flat=model.config.patch_merge_type == "flat")
        of_large_view = [mode for mode in modes if mode in SELECTING_MODES and mode != "multiview"]
        for budget in self.token_budgets if of_large_view else ():
            fits = budget == "auto" or budget <= most
            _check("token_budgets", budget, f"at most {most}, the grid at {model.vision.resolution} pixels", fits)
        decoding = self.decoding(model)
        found = asdict(self) | {
            "datasets": list(self.datasets or (EMBEDDED if model.config.is_nano else OFFICIAL_DEFAULT)),
            "token_budgets": in_order(self.token_budgets),
            "modes": modes,
            "max_new_tokens": decoding.max_new_tokens,
            "block_length": decoding.block_length,
            "prompt_suffix": self.prompt_suffix or ("none" if model.config.is_nano else "official"),
            "data_dir": None if self.data_dir is None else str(self.data_dir),
            "output_dir": str(self.output_dir),
            "adapters": {name: str(folder) for name, folder in self.adapters.items()},
        }
        return from_json(Settings, found)


def _check(name: str, value: object, wanted: str, good: object) -> None:
    if not good:
        raise UserError(f"{name}: got {value!r}, must be {wanted}")

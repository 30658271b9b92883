"""The settings of an evaluation."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from shirg import ranges
from shirg.data.sources import EMBEDDED
from shirg.errors import UserError
from shirg.evaluation.answering import Decoding
from shirg.evaluation.results import Settings, from_json
from shirg.evaluation.tasks import OFFICIAL_DEFAULT, find_task
from shirg.evaluation.variants import ADAPTER, SELECTING_MODES, in_order, named_modes
from shirg.lavida import Lavida
from shirg.lavida.vision import Budget

NANO_BATCH = 8
"""Questions of a page that the nano answers together; more save nothing."""

MOST_WORKERS = 8
"""More than there are pages in most evaluations' last round."""

PROMPT_SUFFIXES = ("official", "none")

RANGES = {
    "num_shards": ranges.PARTS,
    "shard_index": ranges.PART,
    "sample_size": ranges.COUNT,
    "efficiency_repeats": ranges.REPEATS,
    "max_new_tokens": ranges.TOKENS,
    "block_length": ranges.TOKENS,
    "step_ratio": ranges.STEP_RATIO,
    "batch_size": ranges.BATCH,
    "workers": ranges.BATCH,
}
"""Field -> its numbers; None is left open."""


@dataclass
class SHIRGEvaluationConfig:
    """Settings of one evaluation; wrong values raise `UserError` here, before anything is loaded."""

    datasets: Sequence[str] | None = None
    """Benchmarks by name, case ignored. None takes the embedded sets for the nano, ChartQA and DocVQA for other
    models."""

    token_budgets: Sequence[Budget] = field(default_factory=lambda: [512, 768, 1024])
    """Kept tokens per image, the summary token not counted; "auto" finds the number for each image, the same for every
    selector."""

    adapters: Mapping[str, Path | str] = field(default_factory=dict)
    """Name -> folder of adapters to compare, in addition to the one that the model has, which is called "adapter"."""

    sample_size: int = 500
    """Most questions per benchmark; a seeded sample where the benchmark has more."""

    data_dir: Path | str | None = None
    """Folder with one folder per benchmark; None looks on the hub. The embedded sets need neither."""

    modes: Sequence[str] = ("lowres", "hd", "highres", "shirg")
    """What to compare, of `variants.ALL_MODES`: vision paths, and baselines by name; selections are run once per
    budget. ("core",) are those of the short table, ("all",) is every one."""

    max_new_tokens: int | None = None
    """Answer positions that are denoised; None takes the model's own length (16 for the nano, 32 for other models)."""

    block_length: int | None = None
    """Positions denoised together, a divisor of `max_new_tokens`; None takes all at once."""

    step_ratio: float = 0.5
    """Denoising steps per answer position (LaViDa README: 16 steps for 32 tokens)."""

    prompt_suffix: str | None = None
    """"official" adds what the benchmark's usual harness adds to a question, "none" asks it bare. None takes "none"
    for the nano, which was trained on bare questions, and "official" for other models."""

    output_dir: Path | str = "./shirg_lora_output/evaluation"
    """Gets the results, the report and its figures."""

    seed: int = 0
    """Decides the sample of questions, the rendered pages and the resampling of the intervals."""

    efficiency_repeats: int = 5
    """Timed runs of every stage, after two untimed; the median is reported. 0 leaves the timing out."""

    resume: bool = False
    """Keep the answers in `output_dir` of an earlier run with the same settings, and continue after them. Without it, an
    earlier run's files are moved into a folder `old-N` next to the new ones."""

    num_shards: int = 1
    """Number of shards that the pages are divided into, for several processes that share `output_dir`."""

    shard_index: int | None = None
    """Answer the questions of this shard only, 0 to `num_shards` - 1. None with several shards merges their answers."""

    batch_size: int | None = None
    """Questions of one page that are denoised together; in float32 no answer depends on it but for exact ties. None takes 8 for
    the nano, 1 for models whose memory that might exceed."""

    workers: int | None = None
    """Processes that answer pages side by side, each with one thread. None takes as many as torch would use threads for the
    nano on a CPU, where two processes do more than two threads and bear other programs better; 1 for other models, and where
    processes are not forked (macOS), so that each would have to load everything."""

    command: str | None = None
    """How the run was called, for its card."""

    def __post_init__(self) -> None:
        for name, wanted in {"datasets": "name", "token_budgets": "number", "modes": "name"}.items():
            value = getattr(self, name)
            good = value is None or (value and not isinstance(value, str))
            _check(name, value, f"at least one {wanted}, in a list", good)
        if self.datasets is not None:
            self.datasets = list(dict.fromkeys(find_task(name).name for name in self.datasets))
        for budget in self.token_budgets:
            if budget != "auto":
                ranges.BUDGET.check("token_budgets", budget)
        for name in self.adapters:
            good = name not in ("", ADAPTER) and "+" not in name
            _check("adapters", name, f'a name without "+" that is not "{ADAPTER}"', good)
        named_modes(self.modes, flat=True)
        for name, allowed in RANGES.items():
            if getattr(self, name) is not None:
                allowed.check(name, getattr(self, name))
        if self.shard_index is not None:
            inside = self.shard_index < self.num_shards
            wanted = f"0 to {self.num_shards - 1} of num_shards={self.num_shards}"
            _check("shard_index", self.shard_index, wanted, inside)
        suffix_known = self.prompt_suffix in (None, *PROMPT_SUFFIXES)
        _check("prompt_suffix", self.prompt_suffix, f"one of {', '.join(PROMPT_SUFFIXES)}", suffix_known)

    def decoding(self, model: Lavida) -> Decoding:
        """How `model` generates answers.

        Raises:
            UserError: if `block_length` does not divide the answer's length, or `step_ratio` gives a block no step.
        """
        length = self.max_new_tokens or model.config.answer_tokens
        block = self.block_length or length
        _check("block_length", block, f"a divisor of max_new_tokens ({length})", length % block == 0)
        wanted = f"at most 1, and large enough to give a block of {block} a step"
        _check("step_ratio", self.step_ratio, wanted, int(self.step_ratio * block) > 0)
        return Decoding(length, block, self.step_ratio, self.batch_size or (NANO_BATCH if model.config.is_nano else 1))

    def workers_for(self, model: Lavida) -> int:
        """How many processes answer `model`'s questions."""
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

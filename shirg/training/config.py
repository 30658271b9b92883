"""Everything a run is told, in one place."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shirg.errors import UserError
from shirg.precision import MIXED_PRECISIONS
from shirg.training.budgets import POOLED_TOKENS, BudgetSampler
from shirg.training.quantized import BODY_BITS
from shirg.training.trackers import check_trackers

if TYPE_CHECKING:
    from shirg.lavida import Lavida

OBJECTIVES = ("packed", "prefix", "bidirectional")


@dataclass
class SHIRGLoRAConfig:
    """Settings of one SHIRG LoRA run; wrong values raise `UserError` here, before anything is loaded."""

    lora_rank: int = 16
    """Rank of the two update matrices of every target."""

    lora_alpha: float = 32
    """LoRA scale; the update is multiplied by `lora_alpha / lora_rank`."""

    lora_dropout: float = 0.05
    """Dropout on the input of the update, in training only."""

    target_modules: list[str] = field(default_factory=lambda: ["mm_projector.0", "mm_projector.2"])
    """Full names of the linear layers that get an update; nothing else is trained."""

    token_budgets: list[int] = field(default_factory=lambda: [512, 768, 1024])
    """Kept tokens per image, the summary token not counted."""

    include_pooled: bool = True
    """Train LaViDa's own pooled path (980 tokens, 1008 with newlines) as one of the ratios."""

    ratio_sampling: str = "uniform"
    """How a ratio is drawn per optimizer step: "uniform", "weighted" or "curriculum"."""

    budget_weights: list[float] | None = None
    """For "weighted": one number per budget, then one for the pooled path; None takes 1 / tokens."""

    num_epochs: int = 3
    """Passes over the training records."""

    learning_rate: float = 1e-4
    """Peak rate of AdamW; linear warm-up, then a cosine down to zero."""

    batch_size: int = 4
    """Records per process and micro-batch, for whoever builds the data loaders; the trainer takes what a loader
    yields."""

    gradient_accumulation_steps: int = 1
    """Micro-batches per optimizer step; all of a step share one ratio."""

    mixed_precision: str = "auto"
    """"auto" (a GPU's bf16, or fp16 where it has none; on a CPU what a short measurement finds faster), "no", "bf16" or
    "fp16", which on a CPU is "auto"."""

    warmup_ratio: float = 0.03
    """Share of the optimizer steps spent warming up (LaViDa scripts/train/exps/cluster)."""

    weight_decay: float = 0.0
    """AdamW weight decay (LaViDa trains with none)."""

    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""

    gradient_checkpointing: bool = False
    """Recompute the language model's blocks in the backward pass: far less memory, a third more work."""

    body_bits: int = 16
    """Bits of the frozen language model's linear layers: 16 as loaded, 8 or 4 by bitsandbytes on a GPU."""

    shard_body: bool = False
    """Divide the frozen language model's blocks among the processes: less memory, more traffic; the same losses."""

    objective: str = "packed"
    """"packed" (one prefix, both noisy copies behind it), "prefix" (same loss, two full rows), "bidirectional"
    (LaViDa's)."""

    share_prefix: bool | None = None
    """Let the questions of one image that meet in a micro-batch share its tokens: several times less work. Batches are then
    dealt image by image, the gate chooses by the image alone, and the image does not see the question. None does so for the
    nano, which learnt to read that way, when "packed", and not for other models."""

    max_answer_tokens: int | None = None
    """Answer positions per record, longer answers are cut and counted; None takes as many as the model generates (16 for
    the nano, 32 for official weights)."""

    seed: int = 0
    """Decides initial weights, data order, ratios, noise and dropout."""

    output_dir: str = "./shirg_lora_output"
    """Gets `checkpoints/` and `logs/`."""

    base_model: str | None = None
    """What the model was loaded from ("nano", a folder, a hub id), for the adapter's card."""

    save_steps: int = 100
    """Optimizer steps between checkpoints; one is also written at the end and on Ctrl-C."""

    save_total_limit: int | None = 3
    """Checkpoints kept, newest first; None keeps all. `best_model` is not counted."""

    validation_steps: int | None = None
    """Optimizer steps between validations; None validates after every epoch. Before the first step and at the end
    always."""

    logging_steps: int = 10
    """Optimizer steps between lines of `training.log`; `metrics.jsonl` has every step."""

    trackers: list[str] = field(default_factory=list)
    """Where steps are shown besides `metrics.jsonl`: "tensorboard" (files in `logs/tensorboard`), "wandb", "trackio"."""

    feature_cache_mb: int = 1024
    """Most memory (MiB, per process) for tower features of images met before."""

    resume: bool = False
    """Go on from the latest complete checkpoint of `output_dir`, if there is one."""

    def __post_init__(self) -> None:
        positive = ("lora_rank", "num_epochs", "batch_size", "gradient_accumulation_steps")
        for name in (*positive, "save_steps", "logging_steps"):
            _check(name, getattr(self, name), "1 or more", _is_count)
        for name in ("save_total_limit", "validation_steps", "max_answer_tokens"):
            if getattr(self, name) is not None:
                _check(name, getattr(self, name), "1 or more, or None", _is_count)
        for name in ("lora_alpha", "learning_rate", "max_grad_norm"):
            _check(name, getattr(self, name), "a positive number", lambda value: math.isfinite(value) and value > 0)
        _check("lora_dropout", self.lora_dropout, "at least 0 and below 1", lambda value: 0 <= value < 1)
        _check("warmup_ratio", self.warmup_ratio, "between 0 and 1", lambda value: 0 <= value <= 1)
        _check("weight_decay", self.weight_decay, "0 or more", lambda value: math.isfinite(value) and value >= 0)
        _check("feature_cache_mb", self.feature_cache_mb, "0 or more", lambda value: value >= 0)
        _check(
            "mixed_precision",
            self.mixed_precision,
            f"one of {', '.join(MIXED_PRECISIONS)}",
            MIXED_PRECISIONS.__contains__,
        )
        _check("objective", self.objective, f"one of {', '.join(OBJECTIVES)}", OBJECTIVES.__contains__)
        _check("body_bits", self.body_bits, f"one of {', '.join(map(str, BODY_BITS))}", BODY_BITS.__contains__)
        _check("target_modules", self.target_modules, "a list of layer names", lambda value: len(value) > 0)
        check_trackers(self.trackers)
        self.sampler(total_steps=1)

    def resolved(self, model: Lavida) -> SHIRGLoRAConfig:
        """The same settings with what None stands for with `model`."""
        length = self.max_answer_tokens or model.config.answer_tokens
        share = self.share_prefix
        if share is None:
            share = model.config.is_nano and self.objective == "packed"
        return dataclasses.replace(self, max_answer_tokens=length, share_prefix=share)

    def sampler(self, total_steps: int, pooled_tokens: int = POOLED_TOKENS) -> BudgetSampler:
        """The sampler of this run's ratios, `pooled_tokens` being what the model's pooled path makes of a page."""
        return BudgetSampler(
            self.token_budgets,
            include_pooled=self.include_pooled,
            sampling=self.ratio_sampling,
            weights=self.budget_weights,
            total_steps=total_steps,
            pooled_tokens=pooled_tokens,
            seed=self.seed,
        )

    def trajectory(self) -> dict[str, object]:
        """The settings that decide the losses: a resumed run must share them."""
        free = (
            "output_dir",
            "base_model",
            "save_steps",
            "save_total_limit",
            "logging_steps",
            "trackers",
            "shard_body",
            "feature_cache_mb",
            "resume",
            "batch_size",
        )
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in free}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 1


def _check(name: str, value: Any, wanted: str, good: Callable[[Any], bool]) -> None:
    if not good(value):
        raise UserError(f"{name}: got {value!r}, must be {wanted}")

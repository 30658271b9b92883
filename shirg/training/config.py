"""The settings of a training run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from shirg import ranges
from shirg.errors import UserError
from shirg.settings import Budgeted, Seeded

if TYPE_CHECKING:
    from shirg.lavida import Lavida
    from shirg.training.budgets import BudgetSampler

FREE = frozenset(
    ("output_dir", "base_model", "save_steps", "save_total_limit", "logging_steps", "trackers", "shard_body")
    + ("feature_cache_mb", "resume", "batch_size")
)
"""Settings that a resumed run may change. (Of batches the loader's own size counts.)"""

EARLIER: dict[str, Any] = {
    "padding_weight": 1.0,
    "answer_padding": "full",
    "validation_interval": "epoch",
    "validation_records": None,
    "budget_range": (128, 1024),
    "noise_times": "uniform",
    "include_early": False,
}
"""Settings that runs of earlier versions did not store -> what these runs did."""


def lacking(stored: Mapping[str, Any]) -> list[str]:
    """The settings in `EARLIER` that the stored run of an earlier version lacks."""
    return [name for name in EARLIER if name not in stored]


Epochs = Annotated[int, ranges.EPOCHS, arg(name="epochs")]


@dataclass(kw_only=True)
class TrainingSettings(Budgeted, Seeded):
    """Settings of every training that are flags, too."""

    lora_rank: Annotated[int, ranges.LORA_RANK] = 16
    """Rank of the adapter on each of its layers, which are the projector's two."""

    lora_alpha: Annotated[float, ranges.LORA_ALPHA] = 32
    """The adapter's update is multiplied by alpha / rank."""

    include_pooled: bool = True
    """Train LaViDa's own pooled path (980 tokens, 1008 with newlines) beside the budgets."""

    include_early: bool = False
    """Train the path early, too, at every budget: patches chosen before the tower."""

    ratio_sampling: Literal["uniform", "weighted", "curriculum", "continuous"] = "uniform"
    """How the budget of an optimizer step is drawn. continuous draws any in --budget-range in place of the fixed ones, with which
    it is validated."""

    budget_range: Annotated[tuple[int, int], ranges.BUDGET, arg(metavar="INT INT")] = (128, 1024)
    """Smallest and largest budget that continuous draws."""

    num_epochs: Epochs = 3
    """Passes over the training records."""

    learning_rate: Annotated[float, ranges.LEARNING_RATE] = 1e-4
    """Peak rate of AdamW; a short linear warm-up, then a cosine to zero."""

    batch_size: Annotated[int, ranges.BATCH] = 4
    """Records per micro-batch and process."""

    mixed_precision: Literal["auto", "fp16", "bf16", "no"] = "auto"
    """Precision of the training arithmetic. auto: bf16 on a GPU that has it, else fp16; on a CPU what a short measurement finds
    faster, bfloat16 or float32. fp16 is for GPUs, on a CPU it is auto."""

    objective: Literal["packed", "prefix", "bidirectional"] = "packed"
    """packed: one prefix, then both noisy copies of the answer; prefix: the same loss in two rows, about twice the work;
    bidirectional: LaViDa's own, with full attention."""

    share_prefix: Annotated[
        bool | None, arg(metavar="{True,False}", help_behavior_hint="(default: True for the nano, when packed)")
    ] = None
    """Questions about one image in a batch share its prefix, for which the image alone decides the selection: several times
    less work. The image then does not see the question, as the nano was trained."""

    padding_weight: Annotated[float, ranges.WEIGHT] = 0.1
    """Weight in the loss of an end-of-text token that pads an answer, beside 1 for a token of the answer. With 1 (LaViDa, and
    this package's first versions) padding is most of the loss of short answers."""

    answer_padding: Literal["longest", "full"] = "longest"
    """Length to which a step's answers are padded: longest is its longest answer and one to five tokens more, as LaViDa pads a
    batch; full is always the most that an answer may have. Validation takes full, as inference does."""

    noise_times: Literal["uniform", "logit_normal", "mode"] = "uniform"
    """Distribution of the diffusion times in training (Esser et al. 2024, section 3.1): uniform as LaViDa trains; logit_normal
    and mode prefer half-masked answers, mode with heavier tails. Validation is always uniform."""

    lora_dropout: Annotated[float, ranges.SHARE] = 0.05
    """Dropout on the input of the adapter's update, in training only."""

    validation_interval: Annotated[
        float | Literal["auto", "epoch"], ranges.PORTION, arg(metavar="FLOAT|auto|epoch")
    ] = "auto"
    """Share of the run's optimizer steps between validations, such as 0.05; epoch validates after every epoch. auto is 0.05, or
    so much more that validation takes a fifth of the training's time. Before the first step and at the end always."""

    validation_records: Annotated[int | None, ranges.COUNT, arg(metavar="INT|None")] = 500
    """Records of a validation, in whole batches evenly spread over the validation data; None takes all."""

    gradient_checkpointing: bool = False
    """Recompute the language model's blocks in the backward pass: far less memory, half as much work again."""

    save_steps: Annotated[int, ranges.COUNT] = 100
    """Optimizer steps between checkpoints; one is also written at the end and on Ctrl-C."""

    resume: bool = False
    """Resume from the newest complete checkpoint in the output folder, if there is one."""


@dataclass(kw_only=True)
class BodySettings:
    """How the frozen language model is held, settings that are flags of `shirg train` alone."""

    body_bits: Literal[16, 8, 4] = 16
    """Bits of the frozen language model's layers: 16 as loaded; 8 and 4 need a GPU and bitsandbytes."""

    shard_body: bool = False
    """Divide the frozen language model's blocks among the processes instead of holding all of them in each: less memory, more
    traffic; the same losses."""


@dataclass(kw_only=True)
class SHIRGLoRAConfig(BodySettings, TrainingSettings):
    """Settings of one SHIRG LoRA run; wrong values raise `UserError` here, before anything is loaded."""

    target_modules: list[str] = field(default_factory=lambda: ["mm_projector.0", "mm_projector.2"])
    """Full names of the linear layers that get an update; nothing else is trained."""

    budget_weights: list[float] | None = None
    """For "weighted": one number per budget, then one for the pooled path; None takes 1 / tokens."""

    gradient_accumulation_steps: Annotated[int, ranges.BATCH] = 1
    """Micro-batches per optimizer step; all of a step are of one component."""

    warmup_ratio: Annotated[float, ranges.Range(0.0, 1.0)] = 0.03
    """Share of the optimizer steps spent warming up (LaViDa scripts/train/exps/cluster)."""

    weight_decay: Annotated[float, ranges.Range(0.0, 10.0)] = 0.0
    """AdamW weight decay (LaViDa trains with none)."""

    max_grad_norm: Annotated[float, ranges.Range(0.0, 1e6, above=True)] = 1.0
    """Gradients are scaled down to this norm."""

    max_answer_tokens: Annotated[int | None, ranges.TOKENS] = None
    """Answer positions per record; longer answers are cut and counted. None takes as many as the model generates (16 for
    the nano, 32 for official weights)."""

    output_dir: str = "./shirg_lora_output"
    """Gets `checkpoints/` and `logs/`."""

    base_model: str | None = None
    """What the model was loaded from ("nano", a folder, a hub id), for the adapter's card."""

    save_total_limit: Annotated[int | None, ranges.COUNT] = 3
    """Checkpoints kept, newest first; None keeps all. `best_model` is not counted."""

    validation_steps: Annotated[int | None, ranges.COUNT] = None
    """Optimizer steps between validations, in place of `validation_interval`."""

    logging_steps: Annotated[int, ranges.COUNT] = 10
    """Optimizer steps between lines of `training.log`; `metrics.jsonl` has every step."""

    trackers: list[str] = field(default_factory=list)
    """Where steps are shown besides `metrics.jsonl`: "tensorboard" (files in `logs/tensorboard`), "wandb", "trackio"."""

    feature_cache_mb: Annotated[int, ranges.RECORDS] = 1024
    """Most memory (MiB, per process) for tower features of images met before."""

    def __post_init__(self) -> None:
        from shirg.training.logs import check_trackers

        ranges.check_fields(self)
        if not self.target_modules:
            raise UserError(f"target_modules: got {self.target_modules!r}, must be a list of layer names")
        check_trackers(self.trackers)
        self.sampler(total_steps=1)

    def resolved(self, model: Lavida) -> SHIRGLoRAConfig:
        """The same settings with what None means for `model`."""
        length = self.max_answer_tokens or model.config.answer_tokens
        share = self.share_prefix
        if share is None:
            share = model.config.is_nano and self.objective == "packed"
        return dataclasses.replace(self, max_answer_tokens=length, share_prefix=share)

    def continuing(self, stored: Mapping[str, Any]) -> SHIRGLoRAConfig:
        """These settings for a run that is resumed; what its version did not have yet stays as it was then.

        Args:
            stored: the settings of the run.
        """
        return dataclasses.replace(self, **{name: EARLIER[name] for name in lacking(stored)})

    def sampler(self, total_steps: int, pooled_tokens: int | None = None) -> BudgetSampler:
        """The sampler of this run's components.

        Args:
            pooled_tokens: what the model's pooled path makes of a page; None takes `POOLED_TOKENS`.
        """
        from shirg.training.budgets import POOLED_TOKENS, BudgetSampler

        return BudgetSampler(
            self.token_budgets,
            include_pooled=self.include_pooled,
            include_early=self.include_early,
            sampling=self.ratio_sampling,
            weights=self.budget_weights,
            total_steps=total_steps,
            pooled_tokens=pooled_tokens or POOLED_TOKENS,
            seed=self.seed,
            budget_range=self.budget_range,
        )

    def check_grid(self, model: Lavida) -> int:
        """Tokens of the large view with `model`'s settings.

        Raises:
            UserError: for a budget above them.
        """
        from shirg.training.budgets import check_grid

        if self.ratio_sampling == "continuous":
            check_grid(self.budget_range, model, "budget_range")
        return check_grid(self.token_budgets, model)

    def trajectory(self) -> dict[str, Any]:
        """The settings that decide the losses: a resumed run must share them."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in FREE}

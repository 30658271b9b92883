"""The settings of a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from shirg import ranges
from shirg.errors import UserError
from shirg.lavida.vision import Budget
from shirg.training.budgets import POOLED_TOKENS, BudgetSampler
from shirg.training.logs import check_trackers

if TYPE_CHECKING:
    from shirg.lavida import Lavida

FREE = frozenset(
    ("output_dir", "base_model", "save_steps", "save_total_limit", "logging_steps", "trackers", "shard_body")
    + ("feature_cache_mb", "resume", "batch_size")
)
"""Settings that a resumed run may change. (Of batches the loader's own size counts.)"""


@dataclass
class SHIRGLoRAConfig:
    """Settings of one SHIRG LoRA run; wrong values raise `UserError` here, before anything is loaded."""

    lora_rank: Annotated[int, ranges.LORA_RANK] = 16
    """Rank of the two update matrices of every target."""

    lora_alpha: Annotated[float, ranges.LORA_ALPHA] = 32
    """LoRA scale; the update is multiplied by `lora_alpha / lora_rank`."""

    lora_dropout: Annotated[float, ranges.SHARE] = 0.05
    """Dropout on the input of the update, in training only."""

    target_modules: list[str] = field(default_factory=lambda: ["mm_projector.0", "mm_projector.2"])
    """Full names of the linear layers that get an update; nothing else is trained."""

    token_budgets: list[Budget] = field(default_factory=lambda: [512, 768, 1024])
    """Kept tokens per image, the summary token not counted; "auto" is each image's own number, at most 1024, by its print."""

    include_pooled: bool = True
    """Train LaViDa's own pooled path (980 tokens, 1008 with newlines) as a component of the mixture."""

    ratio_sampling: str = "uniform"
    """How the component of an optimizer step is drawn: "uniform", "weighted" or "curriculum"."""

    budget_weights: list[float] | None = None
    """For "weighted": one number per budget, then one for the pooled path; None takes 1 / tokens."""

    num_epochs: Annotated[int, ranges.EPOCHS] = 3
    """Passes over the training records."""

    learning_rate: Annotated[float, ranges.LEARNING_RATE] = 1e-4
    """Peak rate of AdamW; linear warm-up, then a cosine down to zero."""

    batch_size: Annotated[int, ranges.BATCH] = 4
    """Records per process and micro-batch, for whoever builds the data loaders; the trainer takes what a loader
    yields."""

    gradient_accumulation_steps: Annotated[int, ranges.BATCH] = 1
    """Micro-batches per optimizer step; all of a step are of one component."""

    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """"auto" (a GPU's bf16, or fp16 where it has none; on a CPU what a short measurement finds faster), "no", "bf16" or
    "fp16", which on a CPU is "auto"."""

    warmup_ratio: Annotated[float, ranges.Range(0.0, 1.0)] = 0.03
    """Share of the optimizer steps spent warming up (LaViDa scripts/train/exps/cluster)."""

    weight_decay: Annotated[float, ranges.Range(0.0, 10.0)] = 0.0
    """AdamW weight decay (LaViDa trains with none)."""

    max_grad_norm: Annotated[float, ranges.Range(0.0, 1e6, above=True)] = 1.0
    """Gradients are scaled down to this norm."""

    gradient_checkpointing: bool = False
    """Recompute the language model's blocks in the backward pass: far less memory, a third more work."""

    body_bits: Literal[16, 8, 4] = 16
    """Bits of the frozen language model's linear layers: 16 as loaded, 8 or 4 by bitsandbytes on a GPU."""

    shard_body: bool = False
    """Divide the frozen language model's blocks among the processes: less memory, more traffic; the same losses."""

    objective: Literal["packed", "prefix", "bidirectional"] = "packed"
    """"packed" (one prefix, both noisy copies after it), "prefix" (same loss, two full rows), "bidirectional"
    (LaViDa's)."""

    share_prefix: bool | None = None
    """Let the questions of one image in a micro-batch share its tokens: several times less work. Batches are then dealt image
    by image, the gate chooses by the image alone, and the image does not see the question. None does so for the nano, which
    was trained that way, when "packed", and not for other models."""

    max_answer_tokens: Annotated[int | None, ranges.TOKENS] = None
    """Answer positions per record; longer answers are cut and counted. None takes as many as the model generates (16 for
    the nano, 32 for official weights)."""

    seed: int = 0
    """Decides initial weights, data order, components, noise and dropout."""

    output_dir: str = "./shirg_lora_output"
    """Gets `checkpoints/` and `logs/`."""

    base_model: str | None = None
    """What the model was loaded from ("nano", a folder, a hub id), for the adapter's card."""

    save_steps: Annotated[int, ranges.COUNT] = 100
    """Optimizer steps between checkpoints; one is also written at the end and on Ctrl-C."""

    save_total_limit: Annotated[int | None, ranges.COUNT] = 3
    """Checkpoints kept, newest first; None keeps all. `best_model` is not counted."""

    validation_steps: Annotated[int | None, ranges.COUNT] = None
    """Optimizer steps between validations; None validates after every epoch. Before the first step and at the end
    always."""

    logging_steps: Annotated[int, ranges.COUNT] = 10
    """Optimizer steps between lines of `training.log`; `metrics.jsonl` has every step."""

    trackers: list[str] = field(default_factory=list)
    """Where steps are shown besides `metrics.jsonl`: "tensorboard" (files in `logs/tensorboard`), "wandb", "trackio"."""

    feature_cache_mb: Annotated[int, ranges.RECORDS] = 1024
    """Most memory (MiB, per process) for tower features of images met before."""

    resume: bool = False
    """Resume from the latest complete checkpoint of `output_dir`, if there is one."""

    def __post_init__(self) -> None:
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

    def sampler(self, total_steps: int, pooled_tokens: int = POOLED_TOKENS) -> BudgetSampler:
        """The sampler of this run's components, `pooled_tokens` being what the model's pooled path makes of a page."""
        return BudgetSampler(
            self.token_budgets,
            include_pooled=self.include_pooled,
            sampling=self.ratio_sampling,
            weights=self.budget_weights,
            total_steps=total_steps,
            pooled_tokens=pooled_tokens,
            seed=self.seed,
        )

    def trajectory(self) -> dict[str, Any]:
        """The settings that decide the losses: a resumed run must share them."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in FREE}

"""Flags that several commands share: one name, one meaning and one default wherever they appear."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from shirg import ranges

EMBEDDED_OR_OFFICIAL = "(default: documents charts for the nano, ChartQA DocVQA for official weights)"

MODELS_OWN = "(default: the adapter's or the model's own)"
MODELS_OWN_SIDE = "(default: the adapter's or the model's own, mostly 672)"

SELECTORS = (
    "shirg", "random", "uniform", "divprune", "cdpruner", "vispruner", "holov", "dart", "tops", "visionzip", "prumerge",
    "tome", "pool", "downsample",
)  # fmt: skip
"""The names in `shirg.gate.SELECTORS`, repeated here so that --help need not wait for torch."""
SELECTOR_HELP = f"The selector: {SELECTORS[0]}, or to compare {', '.join(SELECTORS[1:])}."

OptionalFolder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: none)")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommonFlags:
    """What every command takes."""

    debug: bool = False
    """Show the whole traceback of an error instead of one line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFlags(CommonFlags):
    """Which model reads, and how it sees a page."""

    model: str = "nano"
    """`nano` (comes with the package), a folder in LaViDa's official layout, or an id on the Hugging Face hub."""

    revision: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the main branch)")] = None
    """Branch, tag or commit of a model on the hub."""

    image_resolution: Annotated[
        int | None, ranges.RESOLUTION, arg(metavar="INT", help_behavior_hint=MODELS_OWN_SIDE)
    ] = None
    """Pixels per side at which SHIRG sees a page, a multiple of 14; 672 gives 48x48 = 2304 tokens to choose from."""

    fit: Annotated[Literal["stretch", "pad"] | None, arg(metavar="{stretch,pad}", help_behavior_hint=MODELS_OWN)] = None
    """How a page that is not square becomes so: stretched, as LaViDa's base view is, or padded with grey."""

    relevance: Annotated[
        Literal["llm", "siglip", "none"] | None, arg(metavar="{llm,siglip,none}", help_behavior_hint=MODELS_OWN)
    ] = None
    """Where tokens are compared with the question: among the language model's words, in SigLIP's space, or nowhere."""

    relevance_sign: Annotated[Literal[1, -1] | None, arg(metavar="{1,-1}", help_behavior_hint=MODELS_OWN)] = None
    """-1 prefers the tokens least similar to the question, for a space that is inverted; measure both."""

    text_tower: Annotated[str | None, arg(metavar="DIR|ID", help_behavior_hint="(default: none)")] = None
    """SigLIP checkpoint that --relevance siglip compares with: google/siglip-so400m-patch14-384 for released LaViDa."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateFlags(ModelFlags):
    """The same for commands whose gate may be set."""

    preset: Annotated[
        Literal["runs", "default", "shirg-v2", "ocr"] | None,
        arg(metavar="{runs,default,shirg-v2,ocr}", help_behavior_hint=MODELS_OWN),
    ] = None
    """The gate's settings: words kept whole (`runs`, the default), SHIRG-v2's formula, or strokes first (`ocr`); see
    docs/method.md."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectorFlags(GateFlags):
    """The same for commands that may use another selector."""

    selector: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=MODELS_OWN, help=SELECTOR_HELP)] = None
    """A name in `shirg.gate.SELECTORS`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptedModelFlags(ModelFlags):
    """The same for commands that use an adapter rather than train one."""

    adapter: OptionalFolder = None
    """An adapter trained before: a `best_model` or `checkpoint-N` folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedFlags(CommonFlags):
    """What makes a run repeatable."""

    config: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """YAML file with settings by their flags' names, as every run writes to `config.yaml` in its output folder (configs/ has
    some); other flags override it."""

    seed: Annotated[int, ranges.SEED] = 0
    """Decides everything random: pages, their order, initial weights, budgets, noise and samples."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFlags(SeedFlags):
    """What the training set is made of."""

    dataset_size: Annotated[int, ranges.RECORDS] = 1000
    """Records of the general part: an image with one question or caption each."""

    ocr_samples: Annotated[int, ranges.RECORDS] = 200
    """Records of the part that is about reading text, added to the general part."""

    data_dir: OptionalFolder = None
    """Your images: a folder with one folder per data set (docs/data.md). Without it everything is rendered."""

    allow_fewer: bool = False
    """Take what there is where the folder holds fewer records than asked; else that is an error."""

    render_missing: bool = False
    """Fill up with rendered pages where the folder holds fewer records than asked."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BudgetFlags(CommonFlags):
    """Which costs are served."""

    token_budgets: Annotated[
        tuple[int | Literal["auto"], ...], ranges.BUDGET, arg(metavar="INT|auto [INT|auto ...]")
    ] = (512, 768)
    """Visual tokens kept per image, one or more numbers; one more token sums up what was dropped. auto keeps as many as the
    print of each image needs, at most 1024."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingFlags(BudgetFlags, SeedFlags):
    """How the adapter is trained."""

    epochs: Annotated[int, ranges.EPOCHS] = 1
    """Passes over the training records."""

    batch_size: Annotated[int, ranges.BATCH] = 4
    """Records per micro-batch and process."""

    grad_accumulation: bool = False
    """Sum the gradients of several micro-batches before every optimizer step."""

    accumulation_steps: Annotated[int, ranges.BATCH] = 4
    """How many micro-batches, when --grad-accumulation is on."""

    learning_rate: Annotated[float, ranges.LEARNING_RATE] = 1e-4
    """Peak rate of AdamW; a short warm-up, then a cosine to zero."""

    lora_rank: Annotated[int, ranges.LORA_RANK] = 16
    """Rank of the adapter on each of the projector's two layers."""

    lora_alpha: Annotated[float, ranges.LORA_ALPHA] = 32
    """The adapter's update is multiplied by alpha / rank."""

    mixed_precision: Literal["auto", "fp16", "bf16", "no"] = "auto"
    """Precision of the training arithmetic. auto: bf16 on a GPU that has it, else fp16; on a CPU what a short measurement finds
    faster, bfloat16 or float32. fp16 is for GPUs, on a CPU it is auto."""

    include_pooled: bool = True
    """Train LaViDa's own pooled path (980 tokens, 1008 with newlines) beside the budgets."""

    ratio_sampling: Literal["uniform", "weighted", "curriculum"] = "uniform"
    """How the budget of an optimizer step is drawn."""

    objective: Literal["packed", "prefix", "bidirectional"] = "packed"
    """packed: one prefix, then both noisy copies of the answer; prefix: the same loss in two rows, about twice the work;
    bidirectional: LaViDa's own, with full attention."""

    share_prefix: Annotated[
        bool | None, arg(metavar="{True,False}", help_behavior_hint="(default: True for the nano)")
    ] = None
    """Questions about one image in a batch share its prefix, for which the image alone decides the selection: several times
    less work."""

    gradient_checkpointing: bool = False
    """Recompute the language model's blocks in the backward pass: far less memory, half as much work again."""

    save_steps: Annotated[int, ranges.COUNT] = 100
    """Optimizer steps between checkpoints."""

    enable_augmentation: bool = False
    """Change training images slightly at every reading (colours, blur, JPEG, angle); validation images are left alone."""

    loader_workers: Annotated[
        int | None, ranges.PROCESSES, arg(metavar="INT", help_behavior_hint="(default: 2 with a GPU, else 0)")
    ] = None
    """Processes that read and cut images ahead of the training; the result does not depend on it."""

    tensorboard: bool = False
    """Also log every step for TensorBoard, to `logs/tensorboard` in the output folder; the package must be installed."""

    wandb: bool = False
    """Also log every step to Weights & Biases; the package must be installed."""

    trackio: bool = False
    """Also log every step to trackio; the package must be installed."""

    resume: bool = False
    """Resume from the newest checkpoint in the output folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationFlags(BudgetFlags, SeedFlags):
    """What is evaluated."""

    eval_datasets: Annotated[
        tuple[str, ...], arg(metavar="NAME [NAME ...]", help_behavior_hint=EMBEDDED_OR_OFFICIAL)
    ] = ()
    """ChartQA DocVQA InfoVQA TextVQA TabMWP AI2D OCRBench SROIE FUNSD, or the rendered `documents` and `charts`, which need
    no files."""

    eval_samples: Annotated[int, ranges.COUNT] = 60
    """Most questions per benchmark. With 120 in all, differences of about 10 points are distinguished from chance."""

    eval_data_dir: OptionalFolder = None
    """Folder with one folder per benchmark (docs/data.md); without it they are loaded from the hub."""

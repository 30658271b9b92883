"""Flags that several commands share. A flag has the same name, meaning and default in all of them.

Settings of the library are inherited from its configuration classes. Some defaults are smaller here.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

from tyro.conf import arg

from shirg import ranges
from shirg.data.config import BaseRecords, DataSettings, OcrRecords
from shirg.errors import UserError
from shirg.evaluation.config import BenchmarkSettings, Questions
from shirg.settings import Budgeted, Seeded, TokenBudgets
from shirg.training.config import Epochs, TrainingSettings

MODELS_OWN = "(default: the adapter's or the model's own)"
MODELS_OWN_SIDE = "(default: the adapter's or the model's own, mostly 672)"

SELECTORS = (
    "shirg", "random", "uniform", "divprune", "cdpruner", "vispruner", "holov", "dart", "tops", "visionzip", "prumerge",
    "tome", "pool", "downsample", "distinct",
)  # fmt: skip
"""The names in `shirg.gate.SELECTORS`, repeated here so that --help need not wait for torch."""
SELECTOR_HELP = f"The selector: {SELECTORS[0]}, or a baseline: {', '.join(SELECTORS[1:])}."

OptionalFolder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: none)")]
OptionalFile = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: none)")]


def read_token(file: Path | None) -> str | None:
    """The token in a file; None without one.

    Raises:
        UserError: if it contains anything else.
    """
    if file is None:
        return None
    token = file.read_text(encoding="utf-8").strip()
    if not token.isascii() or not token or any(sign.isspace() for sign in token):
        raise UserError(f"--token-file: {file} must contain one word of ASCII letters and signs")
    return token


@dataclasses.dataclass(kw_only=True)
class CommonFlags:
    """Flags of every command."""

    debug: bool = False
    """Print the whole traceback of an error instead of one line."""


@dataclasses.dataclass(kw_only=True)
class ModelFlags(CommonFlags):
    """The model and its vision settings."""

    model: str = "nano"
    """`nano` (comes with the package), a folder in LaViDa's official layout, or an id on the Hugging Face hub."""

    revision: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the main branch)")] = None
    """Branch, tag or commit of a model on the hub."""

    image_resolution: Annotated[
        int | None, ranges.RESOLUTION, arg(metavar="INT", help_behavior_hint=MODELS_OWN_SIDE)
    ] = None
    """Pixels per side of SHIRG's view, a multiple of 14; 672 gives 48x48 = 2304 tokens to select from."""

    fit: Annotated[Literal["stretch", "pad"] | None, arg(metavar="{stretch,pad}", help_behavior_hint=MODELS_OWN)] = None
    """How an image becomes square: stretched, as LaViDa's base view is, or padded with grey."""

    relevance: Annotated[
        Literal["llm", "siglip", "none"] | None, arg(metavar="{llm,siglip,none}", help_behavior_hint=MODELS_OWN)
    ] = None
    """Space in which tokens are compared with the question: the language model's word embeddings (llm), SigLIP's, or none."""

    relevance_sign: Annotated[Literal[1, -1] | None, arg(metavar="{1,-1}", help_behavior_hint=MODELS_OWN)] = None
    """-1 prefers the tokens least similar to the question, for an inverted space; measure both."""

    text_tower: Annotated[str | None, arg(metavar="DIR|ID", help_behavior_hint="(default: none)")] = None
    """SigLIP checkpoint that --relevance siglip compares with: google/siglip-so400m-patch14-384 for released LaViDa."""


@dataclasses.dataclass(kw_only=True)
class GateFlags(ModelFlags):
    """Model flags of commands with a gate preset."""

    preset: Annotated[
        Literal["runs", "default", "shirg-v2", "ocr"] | None,
        arg(metavar="{runs,default,shirg-v2,ocr}", help_behavior_hint=MODELS_OWN),
    ] = None
    """The gate's settings: words kept whole (`runs`, the default), SHIRG-v2's formula, or strokes first (`ocr`); see
    docs/method.md."""


@dataclasses.dataclass(kw_only=True)
class SelectorFlags(GateFlags):
    """Model flags of commands with a selector."""

    selector: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=MODELS_OWN, help=SELECTOR_HELP)] = None
    """A name in `shirg.gate.SELECTORS`."""


@dataclasses.dataclass(kw_only=True)
class AdaptedModelFlags(ModelFlags):
    """Model flags of commands that load an adapter."""

    adapter: OptionalFolder = None
    """Adapter folder: `best_model` or `checkpoint-N`."""


@dataclasses.dataclass(kw_only=True)
class SeedFlags(Seeded, CommonFlags):
    """Flags of a reproducible run."""

    config: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """YAML file with settings by their flags' names, as every run writes to `config.yaml` in its output folder (configs/ has
    some); other flags override it."""


@dataclasses.dataclass(kw_only=True)
class DataFlags(SeedFlags, DataSettings):
    """The training data, by default smaller than the library's."""

    base_dataset_size: BaseRecords = 1000
    ocr_enhancement_size: OcrRecords = 200


@dataclasses.dataclass(kw_only=True)
class BudgetFlags(Budgeted, CommonFlags):
    """Token budgets, by default fewer than the library's."""

    token_budgets: TokenBudgets = dataclasses.field(default_factory=lambda: [512, 768])


@dataclasses.dataclass(kw_only=True)
class TrainingFlags(BudgetFlags, SeedFlags, TrainingSettings):
    """Training of the adapter, by default one epoch."""

    num_epochs: Epochs = 1

    grad_accumulation: bool = False
    """Sum the gradients of several micro-batches before every optimizer step."""

    accumulation_steps: Annotated[int, ranges.BATCH] = 4
    """How many micro-batches, when --grad-accumulation is on."""

    enable_augmentation: bool = False
    """Augment training images (colour, blur, JPEG, rotation, perspective), differently in every epoch; validation images are
    not augmented."""

    loader_workers: Annotated[
        int | None, ranges.PROCESSES, arg(metavar="INT", help_behavior_hint="(default: 2 with a GPU, else 0)")
    ] = None
    """Processes that load images and cut views ahead of the training; the result does not depend on it."""

    tensorboard: bool = False
    """Also log every step for TensorBoard, to `logs/tensorboard` in the output folder; the package must be installed."""

    wandb: bool = False
    """Also log every step to Weights & Biases; the package must be installed."""

    trackio: bool = False
    """Also log every step to trackio; the package must be installed."""


@dataclasses.dataclass(kw_only=True)
class EvaluationFlags(BudgetFlags, SeedFlags, BenchmarkSettings):
    """Benchmarks, by default with fewer questions than the library's."""

    sample_size: Questions = 60

    eval_data_dir: OptionalFolder = None
    """Folder with one folder per benchmark (docs/data.md); without it they are loaded from the hub."""


def flag_names(flags_type: type) -> dict[str, str]:
    """Field -> its flag, without the leading dashes."""
    hints = get_type_hints(flags_type, include_extras=True)
    found = {}
    for field in dataclasses.fields(flags_type):
        given = (getattr(one, "name", None) for one in getattr(hints[field.name], "__metadata__", ()))
        found[field.name] = next(filter(None, given), field.name).replace("_", "-")
    return found

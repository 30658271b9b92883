"""Flags that several commands share: one name, one meaning and one default wherever they appear.

What is a setting of the library, too, is inherited from its configuration. Some defaults are smaller here.
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
    "tome", "pool", "downsample",
)  # fmt: skip
"""The names in `shirg.gate.SELECTORS`, repeated here so that --help need not wait for torch."""
SELECTOR_HELP = f"The selector: {SELECTORS[0]}, or to compare {', '.join(SELECTORS[1:])}."

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
    """What every command takes."""

    debug: bool = False
    """Show the whole traceback of an error instead of one line."""


@dataclasses.dataclass(kw_only=True)
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


@dataclasses.dataclass(kw_only=True)
class GateFlags(ModelFlags):
    """The same for commands whose gate may be set."""

    preset: Annotated[
        Literal["runs", "default", "shirg-v2", "ocr"] | None,
        arg(metavar="{runs,default,shirg-v2,ocr}", help_behavior_hint=MODELS_OWN),
    ] = None
    """The gate's settings: words kept whole (`runs`, the default), SHIRG-v2's formula, or strokes first (`ocr`); see
    docs/method.md."""


@dataclasses.dataclass(kw_only=True)
class SelectorFlags(GateFlags):
    """The same for commands that may use another selector."""

    selector: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=MODELS_OWN, help=SELECTOR_HELP)] = None
    """A name in `shirg.gate.SELECTORS`."""


@dataclasses.dataclass(kw_only=True)
class AdaptedModelFlags(ModelFlags):
    """The same for commands that use an adapter rather than train one."""

    adapter: OptionalFolder = None
    """An adapter trained before: a `best_model` or `checkpoint-N` folder."""


@dataclasses.dataclass(kw_only=True)
class SeedFlags(Seeded, CommonFlags):
    """What a repeatable run takes."""

    config: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """YAML file with settings by their flags' names, as every run writes to `config.yaml` in its output folder (configs/ has
    some); other flags override it."""


@dataclasses.dataclass(kw_only=True)
class DataFlags(SeedFlags, DataSettings):
    """What the training set is made of, smaller than the library's."""

    base_dataset_size: BaseRecords = 1000
    ocr_enhancement_size: OcrRecords = 200


@dataclasses.dataclass(kw_only=True)
class BudgetFlags(Budgeted, CommonFlags):
    """Which costs are served, fewer than the library's."""

    token_budgets: TokenBudgets = dataclasses.field(default_factory=lambda: [512, 768])


@dataclasses.dataclass(kw_only=True)
class TrainingFlags(BudgetFlags, SeedFlags, TrainingSettings):
    """How the adapter is trained; one pass."""

    num_epochs: Epochs = 1

    grad_accumulation: bool = False
    """Sum the gradients of several micro-batches before every optimizer step."""

    accumulation_steps: Annotated[int, ranges.BATCH] = 4
    """How many micro-batches, when --grad-accumulation is on."""

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


@dataclasses.dataclass(kw_only=True)
class EvaluationFlags(BudgetFlags, SeedFlags, BenchmarkSettings):
    """What is evaluated, with fewer questions than the library's."""

    sample_size: Questions = 60

    eval_data_dir: OptionalFolder = None
    """Folder with one folder per benchmark (docs/data.md); without it they are loaded from the hub."""


def flag_names(flags_type: type) -> dict[str, str]:
    """Field -> its flag, without the dashes before it."""
    hints = get_type_hints(flags_type, include_extras=True)
    found = {}
    for field in dataclasses.fields(flags_type):
        given = (getattr(one, "name", None) for one in getattr(hints[field.name], "__metadata__", ()))
        found[field.name] = next(filter(None, given), field.name).replace("_", "-")
    return found

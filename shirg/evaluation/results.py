"""Results of an evaluation as dataclasses, and their JSON.

Scores are shares from 0 to 1, times are milliseconds, sizes are bytes. Fields are named as in the files; a field made by
`_absent` is omitted from the file if it has its default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from shirg.bootstrap import LEVEL, RESAMPLES
from shirg.evaluation.variants import Variant
from shirg.lavida.costs import PathCost
from shirg.ranges import Budget

Kind = TypeVar("Kind")


def _absent(default: Callable[[], Any] = str) -> Any:
    """A field that is omitted from the JSON if it has its default."""
    return field(default_factory=default, metadata={"absent": default()})


# ------------------------------------------------------------------ what was run


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`SHIRGEvaluationConfig` with the model's own values filled in; see there."""

    datasets: list[str]
    token_budgets: list[Budget]
    sample_size: int
    data_dir: str | None
    modes: list[str]
    max_new_tokens: int
    block_length: int
    step_ratio: float
    prompt_suffix: str
    output_dir: str
    seed: int
    efficiency_repeats: int
    resume: bool = False
    num_shards: int = 1
    shard_index: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    command: str | None = None
    threshold: float | None = None
    adapters: dict[str, str] = _absent(dict)


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The evaluated model."""

    nano: bool
    family: str
    resolution: int
    relevance: str
    relevance_sign: int
    parameters: int
    adapter_parameters: int
    """Parameters of the largest adapter; 0 without one."""
    weights: str
    """Fingerprint of the base model's weights."""
    adapter_weights: str | None
    """Fingerprint of the adapter that was loaded on the model."""
    adapters: dict[str, str] = _absent(dict)
    """Name -> fingerprint, of adapters given by name."""


@dataclass(frozen=True, kw_only=True)
class GateInfo:
    """The gate's preset, None if it has none, and the fields that differ from the default."""

    preset: str | None
    changed: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Software and hardware of the run."""

    shirg: str
    python: str
    system: str
    machine: str
    packages: dict[str, str]
    device: str
    threads: int
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Settings of the bootstrap intervals."""

    resamples: int = RESAMPLES
    level: float = LEVEL
    seed: int = 0
    unit: str = "page"


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """A benchmark: its metric, the number of questions and pages, and its sources."""

    name: str
    metric: str
    note: str
    questions: int
    pages: int
    skipped: int
    sources: list[str]
    licences: list[str]


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Questions that were skipped in every variant."""

    dataset: str
    id: str
    questions: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Unanswered:
    """A question that could not be asked in one variant, such as one with too long a prefix; it counts as an empty answer."""

    dataset: str
    id: str
    variant: str
    reason: str


# ------------------------------------------------------------------ answers and scores


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A question and its answer in one variant: a line of `predictions.jsonl`."""

    dataset: str
    id: str
    image_id: str
    question: str
    answers: list[str]
    kind: str
    part: str | None = None
    """The part of a benchmark that is reported separately."""
    text_px: float
    """Height of the answer's text in the large view, pixels; 0 if unknown."""
    variant: Variant
    tokens: int | None
    """Visual tokens in the prompt; None if the question could not be asked."""
    prediction: str
    score: float
    """By the benchmark's primary metric, the first of `scores`."""
    scores: dict[str, float]
    unanswered: str = _absent()
    """Why the question could not be asked; "" if it was."""
    run: str = _absent()
    """Fingerprint of the run."""

    @property
    def metric(self) -> str:
        """The primary metric."""
        return next(iter(self.scores))


@dataclass(frozen=True, kw_only=True)
class Score:
    """A mean over questions with its 95% interval; the ends are None if there is a single page."""

    dataset: str = _absent()
    by: str = _absent()
    group: str = _absent()
    part: str = _absent()
    variant: str
    metric: str = _absent()
    score: float
    low: float | None
    high: float | None
    questions: int
    pages: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean paired difference of `variant` and `against`, with its 95% interval and verdict."""

    dataset: str = _absent()
    by: str = _absent()
    group: str = _absent()
    variant: str
    against: str
    difference: float
    low: float | None
    high: float | None
    questions: int
    pages: int
    differing_pages: int
    verdict: str


@dataclass(frozen=True, kw_only=True)
class TokenCount:
    """Visual tokens of a variant over the questions, of one data set or of all; 0 if none could be asked."""

    dataset: str = _absent()
    variant: str
    mean: float
    fewest: int
    most: int

    def __str__(self) -> str:
        """ "769", or "mean 640 (330 to 1025)" where the number differs between questions."""
        return str(self.most) if self.fewest == self.most else f"mean {self.mean:.0f} ({self.fewest} to {self.most})"


@dataclass(frozen=True, kw_only=True)
class MetricGroup:
    """The pooled questions of all data sets with the same primary metric."""

    metric: str
    datasets: list[str]
    scores: list[Score]
    comparisons: list[Difference]

    def score(self, variant: str) -> Score:
        """The score of one variant."""
        return next(one for one in self.scores if one.variant == variant)

    def compared(self, variant: str, against: str) -> Difference | None:
        """The paired difference of two variants."""
        return next((one for one in self.comparisons if (one.variant, one.against) == (variant, against)), None)


@dataclass(frozen=True, kw_only=True)
class FailureCount:
    """Wrong answers of a variant by cause."""

    dataset: str
    variant: str
    cause: str
    questions: int
    asked: int


@dataclass(frozen=True, kw_only=True)
class Example:
    """A question on which two variants differ: `theirs` and `their_score` are the second one's."""

    dataset: str
    id: str
    image_id: str
    question: str
    answers: list[str]
    kind: str
    text_px: float
    prediction: str
    score: float
    theirs: str
    their_score: float


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Questions on which `variant` scores furthest below (`losses`) and above (`wins`) `against`."""

    variant: str
    against: str
    losses: list[Example]
    wins: list[Example]

    def kinds(self) -> dict[str, list[Example]]:
        """Name -> list, of the two lists."""
        return {"losses": self.losses, "wins": self.wins}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Everything that is computed from the answers alone."""

    tokens: list[TokenCount]
    """Over all questions."""
    dataset_tokens: list[TokenCount] = field(default_factory=list)
    """By data set."""
    together: list[MetricGroup] = field(default_factory=list)
    scores: list[Score]
    """By data set, variant and metric."""
    parts: list[Score]
    """By data set, part and variant."""
    comparisons: list[Difference]
    """By data set."""
    breakdown: list[Score]
    """By data set, variant, and height of text or kind of question."""
    group_comparisons: list[Difference]
    failures: list[FailureCount]
    examples: Examples | None

    def visual_tokens(self, dataset: str | None = None) -> dict[str, TokenCount]:
        """Variant -> its tokens, over all questions or those of a data set."""
        entries = self.tokens if dataset is None else self.dataset_tokens
        return {entry.variant: entry for entry in entries if dataset in (None, entry.dataset)}

    def score(self, dataset: str, variant: str, metric: str) -> Score:
        """The score of one variant on one data set."""
        key = dataset, variant, metric
        return next(one for one in self.scores if (one.dataset, one.variant, one.metric) == key)


# ------------------------------------------------------------------ costs


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Measured cost of one answer by a variant, on one page, batch of one."""

    variant: Variant
    tokens: int
    """Visual tokens."""
    tower_ms: float
    selection_ms: float | None
    """None if the path selects nothing."""
    embedding_ms: float
    """From the tower's tokens to the embeddings in the prompt: selection or pooling, and projector."""
    prefix_tokens: int
    prefill_ms: float
    step_ms: float
    """One denoising step after the cached prefix."""
    step_uncached_ms: float
    """One denoising step that encodes the prefix again."""
    kv_bytes: int
    steps: int
    total_ms: float
    """From the image to the text."""
    kv_image_bytes: int
    peak_memory_bytes: int | None
    """On a GPU, weights included."""


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Bytes of the prefix cache that a selection saves, as shares of those of `against`."""

    variant: str
    against: str
    tokens: int
    reference_tokens: int
    image: float
    """Share saved of the visual part."""
    prefix: float
    """Share saved of the whole prefix."""


@dataclass(frozen=True, kw_only=True)
class ComputedCost(PathCost):
    """Computed cost of one answer by a variant."""

    variant: str
    tokens: int
    """Visual tokens."""


@dataclass(frozen=True, kw_only=True)
class Computed:
    """Computed costs at the size of a published model."""

    shape: str
    scenario: dict[str, Any]
    rows: list[ComputedCost]


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Costs of the variants, without an adapter."""

    repeats: int
    warm_up: int
    page_size: list[int]
    rows: list[Cost]
    savings: list[Saving]
    computed: Computed | None = None
    record: str = _absent()
    """Id of the question that was timed."""


# ------------------------------------------------------------------ all results


@dataclass(frozen=True, kw_only=True)
class Results(Summary):
    """One evaluation: the content of `evaluation_results.json`."""

    format: str
    config: Settings
    run: dict[str, Any]
    """All that the answers depend on."""
    fingerprint: str = ""
    model: ModelInfo
    gate: GateInfo | None = field(default=None, metadata={"absent": None})
    environment: Environment
    intervals: Bootstrap
    datasets: list[DatasetInfo]
    variants: list[Variant]
    efficiency: Efficiency | None
    skipped: list[Skipped]
    unanswered: list[Unanswered] = field(default_factory=list)
    resumed_answers: int = 0
    seconds: float = 0.0

    def variant(self, name: str) -> Variant:
        """The variant of that name."""
        return next(one for one in self.variants if one.name == name)

    def costs(self) -> dict[str, Cost]:
        """`Variant.path` -> its cost."""
        return {row.variant.path: row for row in self.efficiency.rows} if self.efficiency else {}

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters, in the order in which they were run."""
        return list(dict.fromkeys(one.adapter for one in self.variants if one.adapter is not None))


# ------------------------------------------------------------------ JSON


def to_json(value: Any) -> Any:
    """`value` as JSON values. The fields of a `Variant` in a dataclass become fields of the object that contains it."""
    if isinstance(value, Variant):
        return value.to_json()
    if isinstance(value, Mapping):
        return {name: to_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(one) for one in value]
    if not is_dataclass(value):
        return value
    found: dict[str, Any] = {}
    for one in fields(value):
        held = getattr(value, one.name)
        if isinstance(held, Variant):
            found |= held.to_json()
        elif "absent" not in one.metadata or held != one.metadata["absent"]:
            found[one.name] = to_json(held)
    return found


def from_json(kind: type[Kind], value: Any) -> Kind:
    """The `kind` whose `to_json` is `value`. Fields that the file lacks get their defaults.

    Raises:
        TypeError: if it lacks a field without a default.
    """
    return _read(kind, value)


def _read(kind: Any, value: Any) -> Any:
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        kinds = [one for one in inside if one is not NoneType]
        return value if value is None or len(kinds) > 1 else _read(kinds[0], value)
    if origin is list:
        return [_read(inside[0], one) for one in value]
    if kind is Variant:
        return Variant.from_json(value)
    if not isinstance(kind, type) or not is_dataclass(kind):
        return value
    held = {name: (one, value if one is Variant else value.get(name)) for name, one in _hints(kind).items()}
    return kind(**{name: _read(one, of) for name, (one, of) in held.items() if one is Variant or name in value})


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)

"""Ranges of numeric settings, checked before work begins.

A setting has its range in its annotation, `Annotated[int, BUDGET]`. Upper limits are far above useful values, but low enough
that a typing error fails at once. Limits that depend on the model (tokens of an image, positions) are checked once the model is
loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from shirg.errors import UserError


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; whole ones if `low` is an int."""

    low: float
    high: float
    above: bool = False
    """Whether `low` itself is excluded."""
    below: bool = False
    """Whether `high` itself is excluded."""
    multiple: int | None = None
    """Divisor of every number, or None."""
    words: str | None = None
    """What messages say of the range, if not its limits."""

    def __str__(self) -> str:
        if self.words is not None:
            return self.words
        kind = "a number" if isinstance(self.low, float) else "a whole number"
        kind = kind if self.multiple is None else f"a multiple of {self.multiple}"
        if self.above:
            return f"{kind} above {self.low:g} and {'below' if self.below else 'at most'} {_plain(self.high)}"
        return f"{kind} from {self.low:g} to {'below ' if self.below else ''}{_plain(self.high)}"

    def contains(self, value: object) -> bool:
        """Whether `value` is a number in the range; NaN, infinities and booleans are not."""
        kinds = int | float if isinstance(self.low, float) else int
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        above = self.low < value if self.above else self.low <= value
        below = value < self.high if self.below else value <= self.high
        return above and below and (self.multiple is None or value % self.multiple == 0)

    def check(self, name: str, value: object) -> None:
        """Raise `UserError`, beginning with `name`, unless `value` is in the range."""
        if not self.contains(value):
            raise UserError(f"{name}: got {value!r}, must be {self}")


def check_fields(settings: Any, names: Mapping[str, str] = MappingProxyType({})) -> None:
    """Compare every field of a dataclass, or every item of it, with the `Range` or the `Literal` in its annotation.

    Args:
        names: what messages call a field, if not by its name.

    Raises:
        UserError: naming the field, its value and what would do.
    """
    hints = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        hint, value, name = hints[field.name], getattr(settings, field.name), names.get(field.name, field.name)
        words = _words(hint)
        if _is_choice(hint) and value not in words:
            shown = ", ".join(str(word) for word in words if word is not None)
            raise UserError(f"{name}: got {value!r}, must be one of {shown}")
        for allowed in (one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Range)):
            for number in value if isinstance(value, list | tuple) else [value]:
                if number not in words:
                    allowed.check(name, number)


def _is_choice(hint: Any) -> bool:
    """Whether an annotation allows words alone: a `Literal`, or one or None."""
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    kinds = get_args(plain) if get_origin(plain) in (Union, UnionType) else [plain]
    return all(kind is NoneType or get_origin(kind) is Literal for kind in kinds)


def _words(hint: Any) -> tuple[object, ...]:
    """What an annotation allows beside numbers: its literals, and None."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return (None,) if hint is NoneType else tuple(word for part in get_args(hint) for word in _words(part))


def _plain(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) and number < 2**40 else f"{number:g}"


SEED = Range(0, 2**63 - 1)
RESOLUTION = Range(14, 1792, multiple=14)
"""Pixels per side, in patches of 14; the tower's attention grows with the fourth power."""
BUDGET = Range(1, (1792 // 14) ** 2, words="a whole number from 1 to the tokens of the image, 2,304 at 672 pixels")
"""Visual tokens kept; the maximum is the number of tokens of the largest view, the model's own limit is lower."""
Budget = int | Literal["auto"]
"""Visual tokens to keep; "auto" is estimated by `shirg.gate.page_budget`."""
TOKENS = Range(1, 2**17)
"""Tokens of an answer, and denoising steps; the maximum is a model's number of positions."""
PROMPT_TOKENS = Range(0, 2**17)
STEP_RATIO = Range(0.0, 1.0, above=True)
SHIFT = Range(0.0, 1000.0, above=True)
THRESHOLD = Range(0.0, 1.0, above=True)
"""Confidence of a prediction that is committed."""
FACTOR = Range(0.0, 1000.0, above=True)
TEMPERATURE = Range(0.0, 100.0)
RECORDS = Range(0, 10**9)
"""Records of a part of a data set, which may be empty."""
COUNT = Range(1, 10**9)
"""Records, questions or steps, at least one."""
BATCH = Range(1, 2**16)
EPOCHS = Range(1, 10**6)
PARTS = Range(1, 10**6)
"""Processes that share a job (`--num-shards`)."""
PART = Range(0, 10**6 - 1)
PROCESSES = Range(0, 1024)
REPEATS = Range(0, 1000)
LEARNING_RATE = Range(0.0, 10.0, above=True)
LORA_RANK = Range(1, 4096)
LORA_ALPHA = Range(0.0, 10.0**6, above=True)
SHARE = Range(0.0, 1.0, below=True)
PORTION = Range(0.0, 1.0, above=True)
"""A share that is more than nothing and may be all."""
WEIGHT = Range(0.0, 1.0)
IMAGE_SIDE = Range(64, 10**5)
TEXT_PX = Range(4.0, 1000.0)
PORT = Range(0, 65535)
HOURS = Range(0.0, 10_000.0, above=True)
MEGABYTES = Range(0, 2**20)

"""Ranges of numeric settings, checked before work begins.

A flag has its range in its annotation, `Annotated[int, BUDGET]`. Upper limits are far above useful values, but low enough that a
typing error fails at once. Limits that depend on the model (tokens of an image, positions) are checked once the model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

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

    def __str__(self) -> str:
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


def check_fields(settings: Any, prefix: str = "") -> None:
    """Compare every field of a dataclass, or every item of it, with the `Range` or the `Literal` in its annotation.

    Args:
        prefix: "--" where fields are flags.

    Raises:
        UserError: naming the field, its value and what would do.
    """
    for field, hint in get_type_hints(type(settings), include_extras=True).items():
        value, words = getattr(settings, field), _words(hint)
        name = prefix + field.replace("_", "-") if prefix else field
        if get_origin(hint) is Literal and value not in words:
            raise UserError(f"{name}: got {value!r}, must be one of {', '.join(map(str, get_args(hint)))}")
        for allowed in (one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Range)):
            for number in value if isinstance(value, list | tuple) else [value]:
                if number not in words:
                    allowed.check(name, number)


def _words(hint: Any) -> set[object]:
    """What an annotation allows beside numbers: its literals, and None."""
    if get_origin(hint) is Literal:
        return set(get_args(hint))
    return {None} if hint is type(None) else set().union(*map(_words, get_args(hint)))


def _plain(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) and number < 2**40 else f"{number:g}"


SEED = Range(0, 2**63 - 1)
RESOLUTION = Range(14, 1792, multiple=14)
"""Pixels per side, in patches of 14; the tower's attention grows with the fourth power."""
BUDGET = Range(1, (1792 // 14) ** 2)
"""Visual tokens kept; the maximum is the number of tokens of the largest view."""
TOKENS = Range(1, 2**17)
"""Tokens of an answer, and denoising steps; the maximum is a model's number of positions."""
PROMPT_TOKENS = Range(0, 2**17)
STEP_RATIO = Range(0.0, 1.0, above=True)
SHIFT = Range(0.0, 1000.0, above=True)
TEMPERATURE = Range(0.0, 100.0)
RECORDS = Range(0, 10**9)
"""Records of a part of a data set, which may be empty."""
COUNT = Range(1, 10**9)
"""Records, questions or steps, at least one."""
BATCH = Range(1, 2**16)
EPOCHS = Range(1, 10**6)
PARTS = Range(1, 10**6)
"""Shards, tasks of an array job."""
PART = Range(0, 10**6 - 1)
PROCESSES = Range(0, 1024)
REPEATS = Range(0, 1000)
LEARNING_RATE = Range(0.0, 10.0, above=True)
LORA_RANK = Range(1, 4096)
LORA_ALPHA = Range(0.0, 10.0**6, above=True)
SHARE = Range(0.0, 1.0, below=True)
IMAGE_SIDE = Range(64, 10**5)
PORT = Range(0, 65535)
HOURS = Range(0.0, 10_000.0, above=True)

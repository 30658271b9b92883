"""Open values (numbers, dates, codes, names) whose text decides which split may print them.

A string belongs to one split by a hash of its characters, so train, validation and held-out pages cannot share a value
however many pages are drawn. Strings of fewer than four characters are too few to divide and are shared.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
import string
from collections.abc import Callable

from shirg.data.render.lexicon import MONTHS, label_words

SPLITS = ("train", "validation", "heldout")
_INSIGNIFICANT = re.compile(r"[^a-z0-9.]")
SHARED_BELOW = 4
"""Values with fewer significant characters (letters, digits, points) than this are printed in every split."""

_STARTS = (
    "Bar Bel Bor Bren Cal Car Cor Dal Dar Del Dor Fal Far Fen Gal Gar Hal Har Hol Jan Kal Kar Kor Lan Lor Mal Mar Mel "
)
_STARTS += "Mir Mon Nal Nor Pal Per Quin Ral Ren Ros Sal San Sel Sor Tal Tar Tor Val Ver Vin Wal Wes Yor Zan"
_MIDDLES = ("a", "e", "i", "o", "u", "an", "en", "in", "or", "er", "el", "il", "")
_ENDS = {
    "first": (
        "na",
        "ra",
        "la",
        "ta",
        "na",
        "lia",
        "ria",
        "sa",
        "ro",
        "no",
        "mo",
        "do",
        "lo",
        "ko",
        "th",
        "n",
        "s",
        "ck",
    ),
    "last": (
        "son",
        "berg",
        "ton",
        "dez",
        "ski",
        "ley",
        "ford",
        "man",
        "ner",
        "well",
        "sen",
        "kin",
        "wood",
        "rich",
        "ti",
    ),
    "town": ("ville", "ton", "burg", "port", "ham", "dale", "stad", "mouth", "field", "by", "wick", "gate"),
    "firm": ("tek", "co", "lux", "net", "soft", "med", "corp", "mart", "gen", "max", "print", "pack"),
}
_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
PRINTABLE = string.printable[:94]


@functools.lru_cache(maxsize=1)
def _closed() -> frozenset[str]:
    return frozenset(significant(word) for word in label_words())


def significant(text: str) -> str:
    """The characters of `text` that count for its split: letters in one case, digits, points."""
    return _INSIGNIFICANT.sub("", text.casefold())


def split_of(text: str) -> str:
    """The split that owns the value `text`: of ten parts, eight are train, one validation, one heldout."""
    digest = hashlib.blake2b(significant(text).encode(), digest_size=4).digest()
    part = int.from_bytes(digest, "big") % 10
    return SPLITS[max(0, part - 7)]


def allowed(text: str, split: str) -> bool:
    """Whether pages of `split` may print the value `text`.

    Every word of it that is neither short nor a label word must belong to the split; a value without such a word
    ("12 March") is judged as a whole.
    """
    words = _divided_words(text)
    if not words and len(significant(text)) >= SHARED_BELOW:
        words = [text]
    return all(split_of(word) == split for word in words)


def heldout_alone(text: str) -> bool:
    """Whether `text` is a value that pages of "heldout" may print and no others; label words are everybody's."""
    words = _divided_words(text)
    if not words and len(significant(text)) >= SHARED_BELOW and any(character.isdigit() for character in text):
        words = [text]  # a value of short parts and label words, as "12 March" is
    return bool(words) and all(split_of(word) == "heldout" for word in words)


def _divided_words(text: str) -> list[str]:
    """The words of `text` that belong to one split: neither short nor a label word."""
    return [w for w in text.split() if len(significant(w)) >= SHARED_BELOW and significant(w) not in _closed()]


def random_word(rng: random.Random) -> str:
    """Letters, digits and signs in the proportions of forms and receipts."""
    draw = rng.random()
    if draw < 0.35:
        return rng.choice((str.lower, str.title, str.title, str.upper))(
            "".join(rng.choice(rng.choice(("aeiou", string.ascii_lowercase))) for _ in range(rng.randint(2, 10)))
        )
    if draw < 0.55:
        sign, whole, point = (
            rng.choice(("", "$", "")),
            rng.randint(0, 10 ** rng.randint(1, 4)),
            rng.choice((".", ",", ".")),
        )
        return f"{sign}{whole}{point}{rng.randint(0, 99):02d}"
    if draw < 0.75:
        return str(rng.randint(0, 10 ** rng.randint(1, 8))) + rng.choice(("", "", "%", ":"))
    if draw < 0.9:
        return "".join(rng.choice(string.ascii_uppercase + string.digits * 2 + "-/") for _ in range(rng.randint(2, 10)))
    return "".join(rng.choice(PRINTABLE) for _ in range(rng.randint(1, 8)))


class Values:
    """Draws values of one split with one page's habits (currency sign, date format, style of codes).

    Args:
        rng: the page's random numbers.
        split: one of `SPLITS`.
        strange: share of the fields' and columns' values that are any string instead of one of its type.
    """

    def __init__(self, rng: random.Random, split: str, strange: float = 0.0) -> None:
        self.rng = rng
        self.split = split
        self.strange = strange
        self.currency = rng.choice(("$", "$", "", ""))
        self.thousands = rng.random() < 0.5
        self.date_style = rng.choice(("d/m/y", "y-m-d", "d.m.y", "d Month", "Month d", "d/m/yy"))
        self.code_style = rng.choice(("AB-1234", "A1234", "12345", "AB12C", "12-345", "ABC-123"))

    def draw(self, make: Callable[[], str]) -> str:
        """The first string from `make` that the split owns.

        Raises:
            RuntimeError: if a thousand draws hold none: `make` has too few different strings.
        """
        for _ in range(1000):
            text = make()
            if allowed(text, self.split):
                return text
        raise RuntimeError(f"no value of split {self.split!r} in 1000 draws; the last was {text!r}")

    def of(self, kind: str) -> str:
        """A value of the type that `FIELDS` or `COLUMNS` names, or a strange one."""
        if self.strange and self.rng.random() < self.strange:
            return self.draw(lambda: random_word(self.rng))
        return self.draw(getattr(self, f"_{kind}"))

    def money_text(self, cents: int) -> str:
        """An amount as this page prints it."""
        whole = f"{cents // 100:,}" if self.thousands else str(cents // 100)
        return f"{self.currency}{whole}.{cents % 100:02d}"

    def cents(self, low: int, high: int, *also: Callable[[int], int]) -> int:
        """An amount in cents that the split owns, as are the amounts `also` derives from it (totals, change)."""
        for _ in range(20000):
            amount = self.rng.randint(low, high)
            if all(allowed(self.money_text(a), self.split) for a in (amount, *(f(amount) for f in also))):
                return amount
        raise RuntimeError(f"no amount of split {self.split!r} between {low} and {high} cents")

    def name(self, part: str) -> str:
        """An invented name; `part` is "first", "last", "town" or "firm"."""
        return self.draw(lambda: self._name(part))

    def _name(self, part: str) -> str:
        start = self.rng.choice(_STARTS_LIST)
        return start + self.rng.choice(_MIDDLES) + self.rng.choice(_ENDS[part])

    def _person(self) -> str:
        return f"{self.name('first')} {self.name('last')}"

    def _surname(self) -> str:
        return self.name("last")

    def _company(self) -> str:
        return self.name("firm")

    def _town(self) -> str:
        return self.name("town")

    def _money(self) -> str:
        return self.money_text(self.rng.randint(100, self.rng.choice((9999, 99999, 999999))))

    def _integer(self) -> str:
        number = self.rng.randint(3, self.rng.choice((99, 999, 9999)))
        return f"{number:,}" if self.thousands else str(number)

    def _small(self) -> str:
        return str(self.rng.randint(1, 99))

    def _decimal(self) -> str:
        return f"{self.rng.uniform(1, 99):.1f}"

    def _percent(self) -> str:
        return f"{self.rng.uniform(1, 60):.1f}%" if self.rng.random() < 0.5 else f"{self.rng.randint(1, 99)}%"

    def _weight(self) -> str:
        return f"{self.rng.randint(2, 980)} kg"

    def _time(self) -> str:
        return f"{self.rng.randint(0, 23):02d}:{self.rng.randint(0, 59):02d}"

    def _phone(self) -> str:
        return f"{self.rng.randint(200, 999)}-{self.rng.randint(0, 9999):04d}"

    def _date(self) -> str:
        day, month, year = self.rng.randint(1, 28), self.rng.randint(1, 12), self.rng.randint(1960, 2029)
        return {
            "d/m/y": f"{day:02d}/{month:02d}/{year}",
            "y-m-d": f"{year}-{month:02d}-{day:02d}",
            "d.m.y": f"{day:02d}.{month:02d}.{year}",
            "d Month": f"{day} {MONTHS[month - 1]}",
            "Month d": f"{MONTHS[month - 1]} {day}",
            "d/m/yy": f"{day:02d}/{month:02d}/{year % 100:02d}",
        }[self.date_style]

    def _code(self) -> str:
        return "".join(
            self.rng.choice(_LETTERS) if c.isalpha() else str(self.rng.randint(0, 9)) if c.isdigit() else c
            for c in self.code_style
        )


_STARTS_LIST = tuple(_STARTS.split())

"""Metrics of the benchmarks: `(prediction, accepted answers) -> score`, 0 to 1."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Sequence

Metric = Callable[[str, Sequence[str]], float]

RELAXED_TOLERANCE = 0.05
"""Largest relative error of a numeric answer (Masry et al. 2022, ChartQA, section 5.1)."""

ANLS_THRESHOLD = 0.5
"""Normalised edit distance above which an answer counts as wrong, tau in eq. 1 of Biten et al. 2019."""

VQA_MATCHES = 3
"""Annotators who must agree with an answer for a score of 1 (Antol et al. 2015, section 3)."""


def relaxed_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """ChartQA's relaxed accuracy: 1.0 within 5% of a numeric answer, else 1.0 only for the same string, case ignored.

    White space around a word counts, as in lmms-eval's scorer. `"12%"` is read as 0.12, as there, so "12" does not answer
    "12%". A gold answer of zero has no relative error and is compared as a string; thousands separators and list answers are
    strings, too.
    """
    return float(any(_relaxed_match(prediction, answer) for answer in answers))


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Normalised Levenshtein similarity to the nearest accepted answer (Biten et al. 2019, eq. 1).

    `1 - NL` where the edit distance divided by the longer length, NL, is at most 0.5, else 0. Equation 1 leaves out an NL
    of exactly 0.5; the DocVQA scorer and lmms-eval count it as half right, and published numbers with them, so it counts
    here. The distance ignores case and runs of white space, as in that scorer; the length does not.
    """
    nearest = min((_edit_share(prediction, answer) for answer in answers), default=1.0)
    return 1.0 - nearest if nearest <= ANLS_THRESHOLD else 0.0


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQA accuracy: mean over the annotators left out in turn of `min(1, matches among the others / 3)`.

    Both sides are normalised as in TextVQA's scorer (see `normalise_evalai`). With the official ten answers this is
    exactly Antol et al. 2015. With fewer than four answers the others cannot reach three, and agreement with all of them scores 1
    (a single answer: equality).
    """
    guess = normalise_evalai(prediction)
    matches = [normalise_evalai(answer) == guess for answer in answers]
    if len(matches) < 2:
        return float(any(matches))
    needed = min(VQA_MATCHES, len(matches) - 1)
    total = sum(matches)
    return sum(min(1.0, (total - match) / needed) for match in matches) / len(matches)


def numeric_match(prediction: str, answers: Sequence[str]) -> float:
    """TabMWP's accuracy: equal numbers after normalisation, else equal strings, case ignored (Lu et al. 2023).

    A leading `$`, a trailing `%` or full stop and thousands separators are dropped, fractions are divided out,
    numbers are rounded to three decimals. A unit is part of the answer's text only where the data keep it there.
    """
    guess = _tabmwp_value(prediction)
    return float(any(_tabmwp_value(answer) == guess for answer in answers))


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 when the prediction is one of the answers, case and runs of white space ignored."""
    guess = _squeeze(prediction)
    return float(any(_squeeze(answer) == guess for answer in answers))


def contains_match(prediction: str, answers: Sequence[str]) -> float:
    """OCRBench's match: 1.0 when the prediction contains one of the answers (Liu et al. 2024, section 3).

    Case, line breaks and full-width forms of ASCII are normalised, as in lmms-eval's scorer; other white space counts.
    """
    text = _level(prediction)
    return float(any(_level(answer) in text for answer in answers))


def formula_contains(prediction: str, answers: Sequence[str]) -> float:
    """OCRBench's match for handwritten formulas: 1.0 when the prediction contains an answer, blanks left out of both.

    Case counts, since it does in LaTeX.
    """
    text = _without_blanks(prediction)
    return float(any(_without_blanks(answer) in text for answer in answers))


def option_letter(prediction: str, answers: Sequence[str]) -> float:
    """Exact match of the letter of a multiple-choice answer, as lmms-eval scores AI2D.

    "B. larva" is B; anything else is compared as it is, case and ASCII punctuation left out.
    """
    first = _LETTER_FIRST.match(prediction)
    guess = _bare(first[1] if first else prediction)
    return float(any(_bare(answer) == guess for answer in answers))


METRICS: dict[str, Metric] = {
    "relaxed_accuracy": relaxed_accuracy,
    "anls": anls,
    "vqa_accuracy": vqa_accuracy,
    "numeric_match": numeric_match,
    "exact_match": exact_match,
    "contains_match": contains_match,
    "option_letter": option_letter,
}


def normalise_evalai(text: str) -> str:
    """An answer as TextVQA's scorer on EvalAI compares it, and lmms-eval with it.

    Lower case; commas and question marks removed; "'s" a word of its own; other punctuation removed beside a
    space, otherwise turned into one; full stops kept only before a digit; number words up to ten as digits; articles
    dropped; missing apostrophes of contractions put back (facebookresearch/mmf, pythia/tasks/processors.py,
    EvalAIAnswerProcessor). VQA v2's scorer has the last four rules, and keeps commas to them.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = text.strip().replace("\n", " ").replace("\t", " ").strip()
    text = _strip_punctuation(text)
    words = (_NUMBER_WORDS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: ord(" ")}


def _level(text: str) -> str:
    return text.translate(_HALF_WIDTH).lower().strip().replace("\n", " ")


def _without_blanks(text: str) -> str:
    return text.strip().replace("\n", "").replace(" ", "")


_LETTER_FIRST = re.compile(r"\s*([A-Z])\.")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _bare(text: str) -> str:
    return text.strip().lower().translate(_NO_PUNCTUATION)


def _edit_share(prediction: str, answer: str) -> float:
    """Edit distance by the longer length; lengths are those of upper case, as the scorer takes them ("\u00df" counts two)."""
    from rapidfuzz.distance import Levenshtein

    length = max(len(prediction.upper()), len(answer.upper()))
    return Levenshtein.distance(_squeeze(prediction), _squeeze(answer)) / length if length else 0.0


def _squeeze(text: str) -> str:
    return " ".join(text.lower().split())


def _relaxed_match(prediction: str, answer: str) -> bool:
    guess, truth = _as_number(prediction), _as_number(answer)
    if guess is not None and truth:
        return abs(guess - truth) / abs(truth) <= RELAXED_TOLERANCE
    return prediction.lower() == answer.lower()


def _as_number(text: str) -> float | None:
    try:
        value = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None  # "nan" and "inf" are words here


_TABMWP_NUMBER = re.compile(r"[-+]?[\d,]*\.?\d+(/\d+)?")


def _tabmwp_value(text: str) -> float | str:
    text = _squeeze(text).replace("$", "").removesuffix(".").removesuffix("%").strip()
    if not _TABMWP_NUMBER.fullmatch(text):
        return text
    numerator, _, denominator = text.replace(",", "").partition("/")
    if denominator and not float(denominator):
        return text
    return round(float(numerator) / float(denominator or 1), 3)


# The scorer's tables. Contractions are listed as they should be written; the scorer corrects each of them where one
# apostrophe is missing. It damages "somebody'd" instead, in prediction and truth; we copy that.
_PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
_STRAY_FULL_STOP = re.compile(r"\.(?!\d)")
_FULL_STOPS = 32
"""The scorer removes so many at most: it hands re.UNICODE, which is 32, to the place of the count."""
_ARTICLES = frozenset({"a", "an", "the"})
_DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER_WORDS = {"none": "0"} | {word: str(value) for value, word in enumerate(_DIGIT_WORDS)}
_PROPER_CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't "
    "he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've "
    "must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've "
    "somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd "
    "something'd've something'll that's there'd there'd've there're there's they'd they'd've "
    "they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd "
    "where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't "
    "wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
)


def _with_one_apostrophe_missing(word: str) -> list[str]:
    return [word[:place] + word[place + 1 :] for place, char in enumerate(word) if char == "'"]


_CONTRACTIONS = {wrong: word for word in _PROPER_CONTRACTIONS.split() for wrong in _with_one_apostrophe_missing(word)}
_CONTRACTIONS["somebody'd"] = "somebodyd"


def _strip_punctuation(text: str) -> str:
    stripped = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if beside_space else " ")
    return _STRAY_FULL_STOP.sub("", stripped, count=_FULL_STOPS)

"""The one parser of what records of data sets hold: texts, answers, image names, choices, conversations.

Every function takes a value as JSON or a table has it and the name of its field, and gives what a person would read
there, or raises `UserError` with a reason that names the field. The rules are the same for every source:

* A number is its text, 0 too. Nothing (null, NaN), an empty text and one of blanks alone are missing.
* A boolean is no text: whether `true` should be read as "yes", "true" or 1 is not in the file.
* A list or an object is never turned into text as a whole; where one may stand, its parts are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from shirg.data.records import IMAGE_PLACEHOLDER
from shirg.errors import UserError

ANSWER_FIELDS = ("answer", "answers", "text", "value")
"""Where an answer that is an object holds its text: VQA's lists of annotators, and SQuAD's and ShareGPT's forms."""

IMAGE_FIELDS = ("path", "file_name", "image", "image_url", "url")
"""Where an image that is an object holds its name."""

DEEPEST = 3
"""Lists and objects that may lie in each other around an answer or an image's name."""

CONVERSATION_FIELDS = ("conversations", "messages", "conversation")
ROLE_FIELDS, SAID_FIELDS = ("from", "role"), ("value", "content", "text")
ASKING, TELLING = ("human", "user"), ("gpt", "assistant", "model", "chatgpt", "bot")
"""Names of the two who speak, in LLaVA's, OpenAI's and ShareGPT's files."""

_TYPES = {dict: "an object", list: "a list", tuple: "a list", bool: "a boolean", bytes: "bytes"}


def is_missing(value: object) -> bool:
    """Whether there is nothing: null, NaN, a text of blanks, or a list or object without entries."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], {}, ())


def text(value: object, field: str) -> str:
    """A text without blanks around it, or a number's.

    Raises:
        UserError: if it is missing or of another type, or cannot be written to a file.
    """
    if is_missing(value):
        raise UserError(f"{field} is missing or empty")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UserError(f"{field} is {_type(value)}, not a text")
    if isinstance(value, float) and math.isinf(value):
        raise UserError(f"{field} is {value}, not a text")
    found = str(value).strip()
    try:
        found.encode()
    except UnicodeEncodeError as error:  # JSON can spell halves of a pair, which no path and no Parquet file can hold
        raise UserError(f"{field} holds half a character ({error.reason})") from error
    return found


def label(value: object) -> str:
    """A text that may be missing, such as a kind: of a list the first; empty for what is no text."""
    first = value[0] if isinstance(value, list) and value else value
    try:
        return text(first, "label")
    except UserError:
        return ""


def question(value: object, field: str = "question") -> str:
    """A question without its image placeholder, which may stand anywhere in it; blanks around that become one.

    Raises:
        UserError: as `text`, or if there are several placeholders: a record has one image.
    """
    asked = text(value, field)
    places = asked.count(IMAGE_PLACEHOLDER)
    if places > 1:
        raise UserError(f"{field} has {places} image placeholders, but records have one image")
    before, _, after = (part.strip(" \t") for part in asked.partition(IMAGE_PLACEHOLDER))
    gap = "\n" if before.endswith("\n") or after.startswith("\n") else " "
    return text(f"{before.rstrip()}{gap}{after.lstrip()}" if places else asked, field)


def answers(value: object, field: str = "answers") -> tuple[str, ...]:
    """Accepted answers: one, or a list of which missing ones are left out; each a text or an object that holds one.

    Raises:
        UserError: if none is left, or one is of another type, or holds an image placeholder.
    """
    found = tuple(_answers(value, field))
    if not found:
        raise UserError(f"{field} is missing or empty")
    return found


def _answers(value: object, field: str, depth: int = 0) -> Iterator[str]:
    if is_missing(value):
        return
    if depth > DEEPEST:
        raise UserError(f"{field} is nested too deeply")
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _answers(one, field, depth + 1)
    elif isinstance(value, dict):
        yield from _answers(_of(value, ANSWER_FIELDS, field), field, depth + 1)
    else:
        yield answer(value, field)


def answer(value: object, field: str = "answer") -> str:
    """The one answer of a turn.

    Raises:
        UserError: as `text`, or if it holds an image placeholder.
    """
    found = text(value, field)
    if IMAGE_PLACEHOLDER in found:
        raise UserError(f"{field} holds an image placeholder")
    return found


def image_name(value: object, field: str = "image") -> str:
    """The one image's name: a text or whole number, an object that holds it, or a list of one of these.

    Raises:
        UserError: if it is missing, of another type, or there are several.
    """
    for _ in range(DEEPEST):
        if isinstance(value, (list, tuple)) and len(value) > 1:
            raise UserError(f"{field} names {len(value)} images, but records have one")
        if isinstance(value, (list, tuple)) and value:
            value = value[0]
        elif isinstance(value, dict) and value:
            value = _of(value, IMAGE_FIELDS, field)
    if isinstance(value, float) and not math.isnan(value):
        raise UserError(f"{field} is {value}, not a name")
    return text(value, field)


def choices(value: object, field: str) -> list[str]:
    """The choices of a question, at least one; a missing one is empty, since its place counts.

    Raises:
        UserError: if it is no list, or one of them is of another type.
    """
    return [
        "" if is_missing(one) else text(one, f"{field}[{place}]") for place, one in enumerate(entries(value, field))
    ]


def choice_number(value: object, field: str, count: int) -> int:
    """The place of the right one of `count` choices, from 0: a whole number or its digits.

    Raises:
        UserError: if it is something else, or no choice has that place.
    """
    shown = text(value, field)
    if not shown.isdecimal() or len(shown) > len(str(count)) or int(shown) >= count:
        raise UserError(f"{field} is {shown[:20]}, which fits no choice: there are {count}, counted from 0")
    return int(shown)


def entries(value: object, field: str) -> list[Any]:
    """A list that has something in it.

    Raises:
        UserError: if it is missing, empty or something else.
    """
    if is_missing(value):
        raise UserError(f"{field} is missing or empty")
    if not isinstance(value, list):
        raise UserError(f"{field} is {_type(value)}, not a list")
    return value


def as_object(value: object, field: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: if it is something else.
    """
    if not isinstance(value, dict):
        raise UserError(f"{field} is {'missing' if value is None else _type(value)}, not an object")
    return value


def conversation(entry: Mapping[str, Any]) -> tuple[object, list[tuple[object, object]]]:
    """The image that an entry names, and (question, answer) for every question, None where no answer follows.

    LLaVA's form and its kin are read: `conversations`, `messages`; `from`, `role`; `human`, `user`; `value`, `content`,
    whose list of parts is joined; `image`, `images`, or the images among the parts. What they hold is given unchanged,
    for `image_name`, `question` and `text`.

    Raises:
        UserError: if there is no conversation, it is of another form, or nobody asks in it.
    """
    turns = _first(entry, CONVERSATION_FIELDS)
    if turns is None:
        raise UserError(f"{' or '.join(CONVERSATION_FIELDS[:2])} is missing or empty")
    spoken = [_turn(turn, f"turn {place}") for place, turn in enumerate(entries(turns, "conversations"), start=1)]
    after = [*spoken[1:], ("", None, [])]
    pairs = [
        (asked, told if teller in TELLING else None)
        for (asker, asked, _), (teller, told, _) in zip(spoken, after, strict=True)
        if asker in ASKING
    ]
    if not pairs:
        names = ", ".join(dict.fromkeys(who or "nobody" for who, _, _ in spoken))
        raise UserError(f"conversations: no question of {' or '.join(ASKING)}; turns are of {names[:80]}")
    shown = [image for _, _, images in spoken for image in images if not is_missing(image)]
    named = _first(entry, ("image", "images"))
    return (shown if named is None else named), pairs


def _turn(value: object, field: str) -> tuple[str, object, list[object]]:
    """Who speaks, what, and the images among its parts; parts are a list in OpenAI's form."""
    turn = as_object(value, field)
    who, said = label(_first(turn, ROLE_FIELDS)).lower(), _first(turn, SAID_FIELDS)
    if not isinstance(said, list):
        return who, said, []
    parts = [as_object(part, f"{field}: a part") for part in said]
    images = [part.get("type") in ("image", "image_url") for part in parts]
    texts = [
        IMAGE_PLACEHOLDER if is_image else label(part.get("text")) for part, is_image in zip(parts, images, strict=True)
    ]
    named = [_first(part, IMAGE_FIELDS) for part, is_image in zip(parts, images, strict=True) if is_image]
    return who, "\n".join(texts), named


def _first(entry: Mapping[str, Any], names: tuple[str, ...]) -> object:
    return next((entry[name] for name in names if not is_missing(entry.get(name))), None)


def _of(value: dict[str, Any], names: tuple[str, ...], field: str) -> object:
    """The one of `names` that an object has."""
    found = [name for name in names if name in value]
    if not found:
        raise UserError(f"{field} is an object without {' or '.join(names)}")
    return value[found[0]]


def _type(value: object) -> str:
    return _TYPES.get(type(value), f"of type {type(value).__name__}")

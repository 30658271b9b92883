"""Parser of the values in data set records: texts, answers, image names, choices, conversations.

Each function takes a value from JSON or a table and the name of its field. It returns what a person would read there, or
raises `UserError` with a reason that names the field, if the value is missing, of another type or out of range. The rules are
the same for every source:

* A number is its text, 0 too. Null, NaN, an empty text and blanks are missing.
* A boolean is no text: the file does not define whether `true` means "yes", "true" or 1.
* A list or an object is never converted to a text; where it is allowed, its entries are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from shirg.data.records import IMAGE_PLACEHOLDER
from shirg.errors import UserError

ANSWER_FIELDS = ("answer", "answers", "text", "value")
"""Fields with the text of an answer that is an object: VQA's annotators, SQuAD's and ShareGPT's formats."""

IMAGE_FIELDS = ("path", "file_name", "image", "image_url", "url")
"""Fields with the name of an image that is an object."""

MAX_DEPTH = 3
"""Nested lists and objects around an answer or an image's name."""

CONVERSATION_FIELDS = ("conversations", "messages", "conversation")
ROLE_FIELDS, CONTENT_FIELDS = ("from", "role"), ("value", "content", "text")
HUMAN, ASSISTANT = ("human", "user"), ("gpt", "assistant", "model", "chatgpt", "bot")
"""Names of the two roles in LLaVA's, OpenAI's and ShareGPT's files."""

_TYPES = {dict: "an object", list: "a list", tuple: "a list", bool: "a boolean", bytes: "bytes"}


def is_missing(value: object) -> bool:
    """Whether the value is null, NaN, a text of blanks, or a list or object without entries."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], {}, ())


def text(value: object, field: str) -> str:
    """A text without surrounding blanks, or a number's text."""
    if is_missing(value):
        raise UserError(f"{field} is missing or empty")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UserError(f"{field} is {_type(value)}, not a text")
    if isinstance(value, float) and math.isinf(value):
        raise UserError(f"{field} is {value}, not a text")
    found = str(value).strip()
    try:
        found.encode()
    except UnicodeEncodeError as error:  # JSON allows lone surrogates, which paths and Parquet files cannot hold
        raise UserError(f"{field} holds half a character ({error.reason})") from error
    return found


def label(value: object) -> str:
    """An optional text, such as a kind: the first one of a list; empty for anything else."""
    first = value[0] if isinstance(value, list) and value else value
    try:
        return text(first, "label")
    except UserError:
        return ""


def question(value: object, field: str = "question") -> str:
    """A question without its image placeholder and the blanks around that."""
    asked = text(value, field)
    count = asked.count(IMAGE_PLACEHOLDER)
    if count > 1:
        raise UserError(f"{field} has {count} image placeholders, but records have one image")
    before, _, after = (part.strip(" \t") for part in asked.partition(IMAGE_PLACEHOLDER))
    gap = "\n" if before.endswith("\n") or after.startswith("\n") else " "
    return text(f"{before.rstrip()}{gap}{after.lstrip()}" if count else asked, field)


def answers(value: object, field: str = "answers") -> tuple[str, ...]:
    """Accepted answers: one, or a list without its missing ones; each a text or an object that holds one."""
    found = tuple(_answers(value, field))
    if not found:
        raise UserError(f"{field} is missing or empty")
    return found


def _answers(value: object, field: str, depth: int = 0) -> Iterator[str]:
    if is_missing(value):
        return
    if depth > MAX_DEPTH:
        raise UserError(f"{field} is nested too deeply")
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _answers(one, field, depth + 1)
    elif isinstance(value, dict):
        yield from _answers(_one_of(value, ANSWER_FIELDS, field), field, depth + 1)
    else:
        yield answer(value, field)


def answer(value: object, field: str = "answer") -> str:
    """A single answer."""
    found = text(value, field)
    if IMAGE_PLACEHOLDER in found:
        raise UserError(f"{field} holds an image placeholder")
    return found


def image_name(value: object, field: str = "image") -> str:
    """The image's name: a text or whole number, an object that holds it, or a list with one of these."""
    for _ in range(MAX_DEPTH):
        if isinstance(value, (list, tuple)) and len(value) > 1:
            raise UserError(f"{field} names {len(value)} images, but records have one")
        if isinstance(value, (list, tuple)) and value:
            value = value[0]
        elif isinstance(value, dict) and value:
            value = _one_of(value, IMAGE_FIELDS, field)
    if isinstance(value, float) and not math.isnan(value):
        raise UserError(f"{field} is {value}, not a name")
    return text(value, field)


def choices(value: object, field: str) -> list[str]:
    """The choices of a question, at least one; a missing one is an empty text, so that numbers stay right."""
    return ["" if is_missing(one) else text(one, f"{field}[{n}]") for n, one in enumerate(entries(value, field))]


def choice_number(value: object, field: str, count: int) -> int:
    """The number of the right one of `count` choices, from 0: a whole number or its digits."""
    shown = text(value, field)
    if not shown.isdecimal() or len(shown) > len(str(count)) or int(shown) >= count:
        raise UserError(f"{field} is {shown[:20]}, which fits no choice: there are {count}, counted from 0")
    return int(shown)


def lettered_choices(question: str, choices: Sequence[str], right: int) -> tuple[str, str]:
    """A question with a line per choice, "A. egg", and the letter of the right one."""
    if len(choices) > len(ascii_uppercase):
        raise UserError(f"{len(choices)} choices, but there are letters for {len(ascii_uppercase)}")
    lines = [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]
    return "\n".join([question, *lines]), ascii_uppercase[right]


def entries(value: object, field: str) -> list[Any]:
    """A list that is not empty."""
    if is_missing(value):
        raise UserError(f"{field} is missing or empty")
    if not isinstance(value, list):
        raise UserError(f"{field} is {_type(value)}, not a list")
    return value


def as_object(value: object, field: str) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise UserError(f"{field} is {'missing' if value is None else _type(value)}, not an object")
    return value


def conversation(entry: Mapping[str, Any]) -> tuple[object, list[tuple[object, object]]]:
    """An entry's image, and (question, answer) per human turn, with None where no answer follows.

    Reads LLaVA's format and similar ones: `conversations`, `messages`; `from`, `role`; `human`, `user`; `value`,
    `content`, whose parts are joined if it is a list; `image`, `images`, or images among the parts. The values are
    returned unchanged, for `image_name`, `question` and `answer`."""
    found = _first(entry, CONVERSATION_FIELDS)
    if found is None:
        raise UserError(f"{' or '.join(CONVERSATION_FIELDS[:2])} is missing or empty")
    turns = [_turn(turn, f"turn {number}") for number, turn in enumerate(entries(found, "conversations"), start=1)]
    following = [*turns[1:], ("", None, [])]
    pairs = [
        (content, reply if next_role in ASSISTANT else None)
        for (role, content, _), (next_role, reply, _) in zip(turns, following, strict=True)
        if role in HUMAN
    ]
    if not pairs:
        names = ", ".join(dict.fromkeys(role or "nobody" for role, _, _ in turns))
        raise UserError(f"conversations: no question of {' or '.join(HUMAN)}; turns are of {names[:80]}")
    images = [image for _, _, among_parts in turns for image in among_parts if not is_missing(image)]
    named = _first(entry, ("image", "images"))
    return (images if named is None else named), pairs


def _turn(value: object, field: str) -> tuple[str, object, list[object]]:
    """Role, content, and the images among its parts; OpenAI's format has a list of parts."""
    turn = as_object(value, field)
    role, content = label(_first(turn, ROLE_FIELDS)).lower(), _first(turn, CONTENT_FIELDS)
    if not isinstance(content, list):
        return role, content, []
    parts = [as_object(part, f"{field}: a part") for part in content]
    images = [part for part in parts if part.get("type") in ("image", "image_url")]
    texts = [IMAGE_PLACEHOLDER if part in images else label(part.get("text")) for part in parts]
    return role, "\n".join(texts), [_first(part, IMAGE_FIELDS) for part in images]


def _first(entry: Mapping[str, Any], names: tuple[str, ...]) -> object:
    return next((entry[name] for name in names if not is_missing(entry.get(name))), None)


def _one_of(value: dict[str, Any], names: tuple[str, ...], field: str) -> object:
    found = [name for name in names if name in value]
    if not found:
        raise UserError(f"{field} is an object without {' or '.join(names)}")
    return value[found[0]]


def _type(value: object) -> str:
    return _TYPES.get(type(value), f"of type {type(value).__name__}")

"""Records as releases and tools write them: each is read as a person would read it, or listed with the field's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shirg.data.images import encode_png
from shirg.data.sources import HELD_OUT, LlavaJson, hub, values
from shirg.data.sources.base import Index
from shirg.data.sources.charts import AI2D
from shirg.errors import UserError
from tests.data.preparing import put_json

NAN = float("nan")
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1, max_size=8).filter(str.strip)
Read = tuple[object, str | None]
"""A value and what a person reads there; None where there is nothing to read."""


def read_as(value: object) -> Read:
    return value, str(value).strip()


TEXTS: st.SearchStrategy[Read] = st.one_of(
    WORDS.map(read_as),
    st.integers(-1000, 1000).map(read_as),
    st.just((0, "0")),
    st.floats(allow_nan=False, allow_infinity=False).map(read_as),
)
NOTHING: st.SearchStrategy[Read] = st.sampled_from(
    [(value, None) for value in (None, NAN, "", " \n", True, False, [], {}, float("inf"), {"x": "y"}, [[[["a"]]]])]
)
QUESTIONS = TEXTS | NOTHING | st.sampled_from([(["why?"], None), ({"en": "why?"}, None), ("<image><image>", None)])
QUESTIONS |= WORDS.map(lambda word: (f"<image>\n{word}", word.strip()))
NAMES: st.SearchStrategy[Read] = st.one_of(
    st.from_regex(r"[a-z0-9]{1,8}\.png", fullmatch=True).map(read_as),
    st.integers(0, 10**9).map(read_as),
    st.just((["a.png"], "a.png")),
    st.just(({"path": "b.png", "bytes": None}, "b.png")),
    st.sampled_from([(["a.png", "b.png"], None), (1.5, None), ({"bytes": "x"}, None)]),
    NOTHING.filter(lambda pair: pair[0] != [[[["a"]]]]),
)


def answer_forms(one: Read) -> st.SearchStrategy[tuple[object, tuple[str, ...] | None]]:
    value, text = one
    expected = None if text is None else (text,)
    forms = [value, [value], {"answer": value}, [{"answer": value, "answer_id": 1}], {"text": [value], "start": [3]}]
    several = [value, "", None, NAN, value], None if text is None else (text, text)
    return st.sampled_from([*((form, expected) for form in forms), several])


ANSWERS = (TEXTS | NOTHING).filter(lambda pair: not isinstance(pair[0], list | dict)).flatmap(answer_forms) | (
    st.sampled_from([(["a", True], None), ([{"x": 1}], None), ({"0": "a"}, None), (["<image>"], None)])
)


@dataclass(frozen=True)
class Form:
    """How one source writes a record: the names of its fields, and its files."""

    image: str
    question: str
    answers: str
    write: Callable[[Path, Any, Any, Any], None]
    shown: str = "{}"
    """The image's name below the source's folder."""


def listed(path: str, under: str | None = None, **names: str) -> Callable[[Path, Any, Any, Any], None]:
    def write(folder: Path, image: Any, question: Any, answers: Any) -> None:
        entry = {names["image"]: image, names["question"]: question, names["answers"]: answers}
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps({under: [entry]} if under else [entry]), encoding="utf-8")

    return write


def form(path: str, shown: str, image: str, question: str, answers: str, under: str | None = None) -> Form:
    names = {"image": image, "question": question, "answers": answers}
    return Form(image, question, answers, listed(path, under, **names), shown)


def opencqa(folder: Path, image: Any, question: Any, answers: Any) -> None:
    (folder / "etc/data").mkdir(parents=True, exist_ok=True)
    (folder / "etc/data/test.json").write_text(json.dumps({"1": [image, "t", "p", question, answers, "s"]}))


FORMS = {
    "chartqa": form("test/test_human.json", "test/png/{}", "imgname", "query", "label"),
    "docvqa": form("val_v1.0.json", "documents/{}", "image", "question", "answers", "data"),
    "infovqa": form("infographicsVQA_val_v1.0.json", "images/{}", "image_local_name", "question", "answers", "data"),
    "textvqa": form("TextVQA_0.5.1_val.json", "train_images/{}.jpg", "image_id", "question", "answers", "data"),
    "ocrbench": form("OCRBench.json", "OCRBench_Images/{}", "image_path", "question", "answers"),
    "opencqa": Form("image", "question", "answer", opencqa, "chart_images/{}"),
}


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=40, deadline=None)
@given(image=NAMES, question=QUESTIONS, answers=ANSWERS)
def test_a_record_is_read_or_listed_with_the_field(name, image, question, answers, tmp_path_factory):
    folder, how = tmp_path_factory.getbasetemp() / f"values-{name}", FORMS[name]
    for images in ("test/png", "documents", "images", "train_images", "OCRBench_Images", "chart_images"):
        (folder / images).mkdir(parents=True, exist_ok=True)
    how.write(folder, image[0], question[0], answers[0])
    index = HELD_OUT[name](folder).index("test")
    wrong = [
        field
        for field, (_, expected) in ((how.image, image), (how.question, question), (how.answers, answers))
        if expected is None
    ]
    if wrong:
        assert not index.groups and [entry.records for entry in index.rejected] == [1]
        assert any(index.rejected[0].reason.startswith(field) for field in wrong), index.rejected[0].reason
        return
    assert not index.rejected
    ((group, draft),) = [(group.name, draft) for group in index.groups for draft in group.drafts]
    assert (draft.question, draft.answers) == (question[1], answers[1])
    assert group == how.shown.format(image[1])


def one_file(folder: Path, path: str, content: object) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(json.dumps(content), encoding="utf-8")


def outcome(index: Index) -> tuple[list[tuple[str, tuple[str, ...]]], list[str]]:
    drafts = [(draft.question, draft.answers) for group in index.groups for draft in group.drafts]
    return drafts, [entry.reason for entry in index.rejected]


def check(index: Index, expected: list[tuple[str, tuple[str, ...]]], fields: list[str]) -> None:
    drafts, reasons = outcome(index)
    if fields:
        assert not drafts and any(reasons[0].startswith(field) for field in fields), reasons
    else:
        assert drafts == expected and not reasons


@settings(max_examples=40, deadline=None)
@given(question=QUESTIONS, answers=ANSWERS, offered=st.lists(TEXTS, min_size=1, max_size=3) | NOTHING)
def test_problems_of_tabmwp(question, answers, offered, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "values-tabmwp"
    shown = offered[0] if isinstance(offered, tuple) else [value for value, _ in offered]
    problem = {"question": question[0], "answer": answers[0], "choices": shown}
    one_file(folder, "problems_test.json", {"1": problem})
    none = values.is_missing(shown)
    wrong = [name for name, (_, read) in (("question", question), ("answer", answers)) if read is None]
    wrong += ["choices"] if isinstance(offered, tuple) and not none and shown != [[[["a"]]]] else []
    wrong += ["choices"] if shown == [[[["a"]]]] else []
    texts = "" if none or isinstance(offered, tuple) else "\nChoices: " + "; ".join(text for _, text in offered)
    check(HELD_OUT["tabmwp"](folder).index("test"), [(f"{question[1]}{texts}", answers[1])], wrong)


@settings(max_examples=40, deadline=None)
@given(question=QUESTIONS, answers=ANSWERS)
def test_covers_of_ocrvqa(question, answers, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "values-ocrvqa"
    one_file(folder, "dataset.json", {"b": {"split": 3, "questions": [question[0]], "answers": [answers[0]]}})
    wrong = [name for name, (_, read) in (("questions", question), ("answers", answers)) if read is None]
    check(HELD_OUT["ocrvqa"](folder).index("test"), [(question[1], answers[1])], wrong)


@settings(max_examples=40, deadline=None)
@given(answers=ANSWERS)
def test_receipts_of_sroie(answers, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "values-sroie"
    (folder / "img").mkdir(parents=True, exist_ok=True)
    one_file(folder, "key/1.json", {"total": answers[0]})
    asked = "What is the total amount of the receipt?"
    check(HELD_OUT["sroie"](folder).index("test"), [(asked, answers[1])], [] if answers[1] else ["total"])


@settings(max_examples=40, deadline=None)
@given(label=TEXTS | NOTHING, said=TEXTS | NOTHING)
def test_forms_of_funsd(label, said, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "values-funsd"
    entities = [
        {"id": 0, "text": label[0], "label": "question", "box": [0, 0, 9, 9], "linking": [[0, 1]]},
        {"id": 1, "text": said[0], "label": "answer", "box": [10, 0, 19, 9], "linking": [[0, 1]]},
    ]
    one_file(folder, "testing_data/annotations/1.json", {"form": entities})
    drafts, reasons = outcome(HELD_OUT["funsd"](folder).index("test"))
    unreadable = [value for value, text in (label, said) if text is None and not values.is_missing(value)]
    assert len(reasons) == len(unreadable) and all(reason.startswith("text of entity ") for reason in reasons)
    if label[1] and said[1]:
        name = " ".join(label[1].split())
        assert drafts == [(f'What is written for "{name}"?', (" ".join(said[1].split()),))]
    else:  # an entity without text gives nothing
        assert not drafts


@settings(max_examples=60, deadline=None)
@given(
    question=st.sampled_from(["First?", " ", "<image> Which?"]),
    offered=st.lists(TEXTS | st.just(("", "")), max_size=30) | NOTHING,
    right=st.integers(-1, 30) | st.sampled_from(["1", True, None, 1.5, NAN, "x", "9" * 5000, [0]]),
    split=st.sampled_from(["train", "test"]),
)
def test_choices_of_ai2d(question, offered, right, split, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "values-ai2d"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    folder.joinpath("ai2d_test_ids.csv").write_text("1\n" if split == "test" else "2\n", encoding="utf-8")
    bad = isinstance(offered, tuple) or not offered
    shown = offered[0] if isinstance(offered, tuple) else [value for value, _ in offered]
    texts = [] if bad else [text for _, text in offered]
    sound = {"answerTexts": ["egg", "larva"], "correctAnswer": 0}
    about = {question: {"answerTexts": shown, "correctAnswer": right}, "Always?": sound}
    one_file(folder, "questions/1.png.json", {"questions": about})
    drafts, reasons = outcome(AI2D(folder).index(split))
    assert drafts[-1][0].startswith("Always?")  # whatever is wrong with one record, the next is read
    place = int(right) if right == "1" or (type(right) is int) else -1
    blank = split == "train" and not bad and 0 <= place < len(texts) and not texts[place]
    wrong = (["question"] if question == " " else []) + (["answerTexts"] if bad or blank else [])
    wrong += ["correctAnswer"] if not 0 <= place < len(texts) else []
    wrong += [str(len(texts))] if split == "test" and len(texts) > 26 else []
    if wrong:
        assert len(drafts) == len(reasons) == 1 and any(reasons[0].startswith(field) for field in wrong), reasons
        return
    assert not reasons and len(drafts) == 2
    asked = "First?" if question == "First?" else "Which?"
    lines = [f"{chr(65 + number)}. {text}" for number, text in enumerate(texts)]
    expected = "\n".join([asked, *lines]) if split == "test" else f"{asked}\nChoices: {'; '.join(texts)}"
    assert drafts[0] == (expected, (chr(65 + place) if split == "test" else texts[place],))


@pytest.mark.parametrize("right", ["9" * 5000, 26, "26", -1])
def test_a_number_that_fits_no_choice_is_listed(right):
    with pytest.raises(UserError, match="correctAnswer is .*fits no choice: there are 26"):
        values.choice_number(right, "correctAnswer", 26)
    assert values.choice_number("025"[1:], "correctAnswer", 26) == 25


@pytest.mark.parametrize("count", [26, 27])
def test_more_choices_than_letters_end_no_set(count, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "ai2d_test_ids.csv").write_text("1\n")
    many = {"answerTexts": [f"c{place}" for place in range(count)], "correctAnswer": count - 1}
    sound = {"answerTexts": ["egg"], "correctAnswer": 0}
    one_file(tmp_path, "questions/1.png.json", {"questions": {"Which?": many, "Last?": sound}})
    drafts, reasons = outcome(AI2D(tmp_path).index("test"))
    if count == 26:
        assert [answers for _, answers in drafts] == [("Z",), ("A",)] and not reasons
    else:
        assert [answers for _, answers in drafts] == [("A",)]
        assert reasons == ["27 choices, but there are letters for 26"]


ROWS = {"bytes": encode_png(Image.new("RGB", (2, 2)))}


@pytest.mark.parametrize("name", ["chartqa", "textvqa", "ocrbench"])
@settings(max_examples=40, deadline=None)
@given(question=QUESTIONS, answers=ANSWERS, image=st.sampled_from([ROWS, None, {"bytes": None}, "a.png", NAN]))
def test_rows_of_the_hub(name, question, answers, image):
    field = hub.HUB[name].answers
    row = {"question": question[0], field: answers[0], "image": image}
    reads = (("question", question[1]), (field, answers[1]), ("image", True if image is ROWS else None))
    wrong = [field for field, read in reads if read is None]
    if wrong:
        with pytest.raises(UserError) as raised:
            hub.record_of_row(row, 1, name, "licence")
        assert any(str(raised.value).startswith(field) for field in wrong)
    else:
        record = hub.record_of_row(row, 1, name, "licence")
        assert (record.question, record.answers) == (question[1], answers[1])


def llava(folder: Path, *entries: object) -> Index:
    put_json(folder / "mix.json", list(entries))
    return LlavaJson(folder / "mix.json").index("train")


ASKED = {"from": "human", "value": "<image>\nWhy?"}, {"from": "gpt", "value": "So."}
READ = [("a.png", "Why?", ("So.",))]


def spoken(*turns: tuple[str, object], form: tuple[str, str] = ("role", "content")) -> list[dict[str, object]]:
    return [{form[0]: who, form[1]: said} for who, said in turns]


@pytest.mark.parametrize(
    "entry",
    [
        {"image": "a.png", "conversations": ASKED},
        {"image": ["a.png"], "conversations": ASKED},
        {"images": ["a.png"], "conversations": ASKED},
        {"images": "a.png", "messages": ASKED},
        {"image": None, "images": [{"path": "a.png", "bytes": None}], "conversations": ASKED},
        {"image": "a.png", "conversations": spoken(("user", "<image>Why?"), ("assistant", "So."))},
        {"image": "a.png", "messages": spoken(("user", "Why?\n<image>"), ("assistant", "So."))},
        {"image": "a.png", "messages": spoken(("system", "Be brief."), ("user", "Why?"), ("assistant", " So.\n"))},
        {"image": "a.png", "conversations": spoken(("user", "Why?"), ("gpt", "So."), form=("from", "value"))},
        {"image": "a.png", "conversations": spoken(("User", "Why?"), ("Assistant", "So."), form=("from", "content"))},
        {
            "images": ["a.png"],
            "messages": spoken(
                ("user", [{"type": "image"}, {"type": "text", "text": "Why?"}]),
                ("assistant", [{"type": "text", "text": "So."}]),
            ),
        },
        {
            "messages": spoken(
                ("user", [{"type": "text", "text": "Why?"}, {"type": "image_url", "image_url": {"url": "a.png"}}]),
                ("assistant", "So."),
            )
        },
    ],
    ids=range(12),
)
def test_conversations_as_tools_write_them(entry, tmp_path):
    index = llava(tmp_path, entry)
    assert not index.rejected
    assert [(group.name, draft.question, draft.answers) for group in index.groups for draft in group.drafts] == READ


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"conversations": ASKED}, "image is missing or empty"),
        ({"image": True, "conversations": ASKED}, "image is a boolean, not a text"),
        ({"image": ["a.png", "b.png"], "conversations": ASKED}, "image names 2 images, but records have one"),
        ({"image": "a.png"}, "conversations or messages is missing or empty"),
        ({"image": "a.png", "conversations": "none"}, "conversations is of type str, not a list"),
        ({"image": "a.png", "conversations": ["none"]}, "turn 1 is of type str, not an object"),
        (
            {"image": "a.png", "conversations": spoken(("tool", "a"), ("gpt", "b"))},
            "conversations: no question of human or user; turns are of tool, gpt",
        ),
        ({"image": "a.png", "conversations": [ASKED[0]]}, "answer is missing or empty"),
        ({"image": "a.png", "conversations": [ASKED[0], {"from": "gpt", "value": None}]}, "answer is missing or empty"),
        (
            {"image": "a.png", "conversations": [ASKED[0], {"from": "gpt", "value": {"a": 1}}]},
            "answer is an object, not a text",
        ),
        (
            {"image": "a.png", "conversations": [{"from": "human", "value": "<image>\n"}, ASKED[1]]},
            "question is missing or empty",
        ),
        (
            {"image": "a.png", "conversations": [{"from": "human", "value": "<image> or <image>?"}, ASKED[1]]},
            "question has 2 image placeholders, but records have one image",
        ),
        (
            {"image": "a.png", "conversations": [ASKED[0], {"from": "gpt", "value": "<image>"}]},
            "answer holds an image placeholder",
        ),
        (["a.png"], "the entry is a list, not an object"),
    ],
)
def test_a_conversation_that_cannot_be_used_says_why(entry, reason, tmp_path):
    index = llava(tmp_path, entry, {"image": "a.png", "conversations": ASKED})
    assert [rejected.reason for rejected in index.rejected] == [reason]
    assert [draft.question for group in index.groups for draft in group.drafts] == ["Why?"]


@settings(max_examples=80, deadline=None)
@given(
    image=NAMES,
    asked=QUESTIONS,
    result=TEXTS | NOTHING,
    keys=st.tuples(
        *(st.sampled_from(names) for names in (("image", "images"), values.CONVERSATION_FIELDS)),
        *(
            st.sampled_from(names)
            for names in (values.ROLE_FIELDS, values.CONTENT_FIELDS, values.HUMAN, values.ASSISTANT)
        ),
    ),
)
def test_a_conversation_is_read_or_listed_with_the_field(image, asked, result, keys, tmp_path_factory):
    where, turns, role, said, asker, teller = keys
    entry = {where: image[0], turns: [{role: asker, said: asked[0]}, {role: teller, said: result[0]}]}
    folder = tmp_path_factory.getbasetemp() / "values-llava"
    one_file(folder, "mix.json", [entry])
    index = LlavaJson(folder / "mix.json").index("train")
    wrong = [name for name, (_, text) in (("image", image), ("question", asked), ("answer", result)) if text is None]
    check(index, [(asked[1], (result[1],))], [*wrong, *(["turn"] if wrong else [])])
    if not wrong:
        assert [group.name for group in index.groups] == [image[1]]


def test_a_conversation_of_several_turns(tmp_path):
    turns = spoken(
        ("human", "<image>\na"), ("gpt", 0), ("human", "b"), ("human", "c"), ("gpt", "3"), form=("from", "value")
    )
    index = llava(tmp_path, {"image": "a.png", "conversations": turns})
    assert outcome(index) == ([("a", ("0",)), ("c", ("3",))], ["answer is missing or empty"])
    without = llava(tmp_path, {"id": 7, "conversations": turns})
    assert [(entry.item, entry.records) for entry in without.rejected] == [("7", 3)]


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        ("<image>\nWhy?", "Why?"),
        ("Why?\n<image>", "Why?"),
        ("<image>Why?", "Why?"),
        ("Read <image> the\ntotal", "Read the\ntotal"),
        ("Read the \n<image>\n total", "Read the\ntotal"),
        ("a<image>b", "a b"),
        ("  Why?  ", "Why?"),
    ],
)
def test_the_placeholder_goes_with_the_blanks_around_it(asked, read):
    assert values.question(asked) == read


def test_a_placeholder_in_any_sources_question_is_taken_out(tmp_path):
    for image in ("test/png",):
        (tmp_path / image).mkdir(parents=True)
    entry = {"imgname": "1.png", "query": "<image> How many?", "label": 0}
    put_json(tmp_path / "test/test_human.json", [entry, entry | {"query": "<image> and <image>"}])
    drafts, reasons = outcome(HELD_OUT["chartqa"](tmp_path).index("test"))
    assert drafts == [("How many?", ("0",))]
    assert reasons == ["query has 2 image placeholders, but records have one image"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(JSON, st.sampled_from(["question", "answers", "image_name", "text", "conversation", "choices"]))
def test_whatever_stands_there_gives_texts_or_names_the_field(value, parser):
    try:
        if parser == "conversation":
            values.conversation({"conversations": value})
        else:
            found = getattr(values, parser)(value, "this field")
            texts = [found] if isinstance(found, str) else found
            assert texts and all(isinstance(one, str) for one in texts)
            assert parser == "choices" or all(one.strip() == one != "" for one in texts)
    except UserError as error:
        assert str(error).startswith(("this field", "conversations", "turn "))


FIELDS = (
    *("imgname", "query", "label", "image", "question", "answers", "question_types", "image_id", "image_path", "type"),
    *("answer", "choices", "unit", "split", "questions", "genre", "imageURL", "text", "id", "linking", "box"),
    *("answerTexts", "correctAnswer", "abcLabel"),
)
ENTRY = JSON | st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=8)
SOUND_LAST = {
    "chartqa": ("test/test_human.json", lambda entry: [entry, {"imgname": "1.png", "query": "Last?", "label": 1}]),
    "docvqa": ("val_v1.0.json", lambda entry: {"data": [entry, {"image": "1", "question": "Last?", "answers": [1]}]}),
    "textvqa": (
        "TextVQA_0.5.1_val.json",
        lambda entry: {"data": [entry, {"image_id": "1", "question": "Last?", "answers": [1]}]},
    ),
    "ocrbench": ("OCRBench.json", lambda entry: [entry, {"image_path": "1", "question": "Last?", "answers": 1}]),
    "opencqa": ("etc/data/test.json", lambda entry: {"1": entry, "2": ["1.png", "", "", "Last?", 1]}),
    "tabmwp": ("problems_test.json", lambda entry: {"1": entry, "2": {"question": "Last?", "answer": 1}}),
    "ocrvqa": ("dataset.json", lambda entry: {"1": entry, "2": {"split": 3, "questions": ["Last?"], "answers": [1]}}),
    "ai2d": (
        "questions/1.png.json",
        lambda entry: {"questions": {"a": entry, "Last?": {"answerTexts": ["x"], "correctAnswer": 0}}},
    ),
    "funsd": (
        "testing_data/annotations/1.json",
        lambda entry: {
            "form": [
                entry,
                {"id": 8, "text": "Last?", "label": "question", "linking": [[8, 9]]},
                {"id": 9, "text": "1", "label": "answer", "linking": [[8, 9]]},
            ]
        },
    ),
}


@pytest.mark.parametrize("name", SOUND_LAST)
@settings(max_examples=30, deadline=None)
@given(entry=ENTRY)
def test_no_record_ends_a_set(name, entry, tmp_path_factory):
    folder, (path, around) = tmp_path_factory.getbasetemp() / f"last-{name}", SOUND_LAST[name]
    for images in ("test/png", "documents", "train_images", "OCRBench_Images", "chart_images", "images", "tables"):
        (folder / images).mkdir(parents=True, exist_ok=True)
    (folder / "ai2d_test_ids.csv").write_text("1\n")
    one_file(folder, path, around(entry))
    drafts, _ = outcome(HELD_OUT[name](folder).index("test"))
    assert any("Last?" in asked for asked, _ in drafts)


def test_lists_that_never_end_are_refused():
    deep: object = "a"
    for _ in range(5000):
        deep = [deep]
    for parser in (values.answers, values.image_name, values.text, values.question):
        with pytest.raises(UserError, match="answers|image|question|field"):
            parser(deep, "field") if parser is values.text else parser(deep)
    assert values.label(deep) == ""

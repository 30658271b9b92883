"""Every benchmark in the layout of its release, and what happens to entries that cannot be used."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from PIL import Image

from shirg.data import load_benchmark
from shirg.data.images import encode_png
from shirg.data.sources import BENCHMARKS, EMBEDDED, HELD_OUT, OCR_SOURCES, RenderedPages, find_source, hub
from shirg.data.sources.base import Index
from shirg.data.sources.documents import linked_pairs
from shirg.data.sources.llava import LlavaPretrain
from shirg.errors import UserError
from tests.data.preparing import put_image, put_json


def chartqa(folder: Path) -> None:
    for number, name in enumerate(("10.png", "11.png")):
        put_image(folder / "test/png" / name, number)
    put_json(folder / "test/test_human.json", [{"imgname": "10.png", "query": "How many?", "label": "3"}])
    put_json(folder / "test/test_augmented.json", [{"imgname": "11.png", "query": "Which year?", "label": "1999"}])


def docvqa(folder: Path, image_folder: str = "spdocvqa_images") -> None:
    put_image(folder / image_folder / "ab_1.png")
    entry = {"questionId": 1, "question": "Page?", "image": "documents/ab_1.png", "answers": ["2", "page 2"]}
    put_json(folder / "val_v1.0_withQT.json", {"data": [entry | {"question_types": ["layout", "form"]}]})


def infovqa(folder: Path) -> None:
    put_image(folder / "infographicsvqa_images/7.jpeg")
    entry = {"questionId": 1, "question": "Share?", "image_local_name": "7.jpeg", "answers": ["20%"]}
    put_json(folder / "infographicsVQA_val_v1.0.json", {"data": [entry]})


def textvqa(folder: Path) -> None:
    put_image(folder / "train_images/0a.jpg")
    entry = {"question_id": 1, "question": "brand?", "image_id": "0a", "answers": ["nokia"] * 9 + ["toshiba"]}
    put_json(folder / "TextVQA_0.5.1_val.json", {"data": [entry]})


def tabmwp(folder: Path) -> None:
    put_image(folder / "tables/5.png")
    problem = {"question": "More?", "choices": ["yes", "no"], "answer": "no", "unit": None, "ans_type": "boolean_text"}
    put_json(folder / "problems_test.json", {"5": problem})
    put_json(folder / "problems_dev1k.json", {"6": problem})


def sroie(folder: Path) -> None:
    put_image(folder / "img/003.jpg")
    put_json(folder / "key/003.json", {"company": "ACME", "date": "25/12/2018", "total": "80.90"})


def funsd(folder: Path) -> None:
    put_image(folder / "testing_data/images/f1.png")
    form = [
        {"id": 0, "text": "Date:", "label": "question", "box": [0, 0, 9, 9], "linking": [[0, 1]]},
        {"id": 1, "text": "May 2", "label": "answer", "box": [10, 0, 19, 9], "linking": [[0, 1]]},
    ]
    put_json(folder / "testing_data/annotations/f1.json", {"form": form})


def ocrvqa(folder: Path, parts: tuple[int, ...] = (1, 2, 3)) -> None:
    covers = {}
    for part in parts:
        put_image(folder / f"images/b{part}.jpg", part)
        about = {"imageURL": "http://x/y/b.gif", "genre": "Law", "split": part}
        covers[f"b{part}"] = about | {"questions": ["Who wrote this?", "Title?"], "answers": ["A. B.", f"Book {part}"]}
    put_json(folder / "dataset.json", covers)


def ai2d(folder: Path, damaged: bool = False) -> None:
    for number, grey in (("0", 10), ("7", 20)):
        put_image(folder / f"images/{number}.png", grey)
        about = {"answerTexts": ["egg", "larva"], "correctAnswer": 1, "abcLabel": False}
        questions = {"What comes first?": about} | ({"Broken?": about | {"correctAnswer": 5}} if damaged else {})
        put_json(folder / f"questions/{number}.png.json", {"imageName": f"{number}.png", "questions": questions})
    (folder / "ai2d_test_ids.csv").write_text("7\n", encoding="utf-8")


def opencqa(folder: Path, part: str) -> None:
    put_image(folder / "chart_images/5.png")
    put_json(folder / f"etc/data/{part}.json", {"5": ["5.png", "title", "text", "How?", "So.", "text"], "6": ["6.png"]})


def ocrbench(folder: Path) -> None:
    put_image(folder / "OCRBench_Images/svt/1.png")
    word = {"image_path": "svt/1.png", "question": "what is written?", "answers": "CENTRE", "type": "Regular Text"}
    put_json(folder / "json_files/OCRBench.json", [word, word | {"question": "what?", "answers": ["a", "b"]}])


MAKERS = {maker.__name__: maker for maker in (chartqa, docvqa, infovqa, textvqa, tabmwp, ai2d, ocrbench, sroie, funsd)}

EXPECTED = {
    "chartqa": [("How many?", ("3",), "human"), ("Which year?", ("1999",), "augmented")],
    "docvqa": [("Page?", ("2", "page 2"), "layout")],
    "infovqa": [("Share?", ("20%",), "")],
    "textvqa": [("brand?", ("nokia",) * 9 + ("toshiba",), "")],
    "tabmwp": [("More?\nChoices: yes; no", ("no",), "boolean_text")],
    "ai2d": [("What comes first?\nA. egg\nB. larva", ("B",), "")],
    "ocrbench": [("what is written?", ("CENTRE",), "Regular Text"), ("what?", ("a", "b"), "Regular Text")],
    "sroie": [
        ("What is the name of the company that issued the receipt?", ("ACME",), "company"),
        ("What is the date of the receipt?", ("25/12/2018",), "date"),
        ("What is the total amount of the receipt?", ("80.90",), "total"),
    ],
    "funsd": [('What is written for "Date:"?', ("May 2",), "")],
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_release_layout(name: str, tmp_path: Path):
    MAKERS[name](tmp_path / name)
    records = load_benchmark(name.upper(), tmp_path)
    assert [(r.question, r.answers, r.kind) for r in records] == EXPECTED[name]
    assert {(r.source, r.split, r.width, r.height) for r in records} == {(name, "test", 20, 10)}
    assert len({r.id for r in records}) == len(records)
    assert records.rejected == []
    assert load_benchmark(name, tmp_path / name) == records  # the folder itself


def test_first_release_of_docvqa_keeps_its_folder_name(tmp_path: Path):
    docvqa(tmp_path, image_folder="documents")
    assert len(load_benchmark("DocVQA", tmp_path)) == 1


def test_exact_folder_name_goes_before_a_longer_one(tmp_path: Path):
    for folder, label in (("ChartQA Dataset", "2"), ("chartqa", "1")):
        put_image(tmp_path / folder / "test/png/1.png")
        entry = {"imgname": "1.png", "query": "Which?", "label": label}
        put_json(tmp_path / folder / "test/test_human.json", [entry])
    assert load_benchmark("chartqa", tmp_path)[0].answers == ("1",)


def test_limit_is_a_seeded_sample(tmp_path: Path):
    put_image(tmp_path / "test/png/1.png")
    entries = [{"imgname": "1.png", "query": f"q{number}", "label": number} for number in range(50)]
    put_json(tmp_path / "test/test_human.json", entries)
    first, again, other = (load_benchmark("chartqa", tmp_path, 10, seed) for seed in (3, 3, 4))
    assert len(first) == 10
    assert first == again
    assert {r.question for r in first} != {r.question for r in other}
    assert [r.question for r in load_benchmark("chartqa", tmp_path, 99)] == [f"q{n}" for n in range(50)]


def test_unusable_entries_are_listed_and_the_sample_is_still_full(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    put_image(tmp_path / "test/png/good.png")
    (tmp_path / "test/png/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but not for long")
    put_image(tmp_path / "secret.png")
    entries = [
        {"imgname": "broken.png", "query": "q", "label": "a"},
        {"imgname": "gone.png", "query": "q", "label": "a"},
        {"imgname": "../../secret.png", "query": "q", "label": "a"},
        {"imgname": "good.png", "query": " ", "label": "a"},
        {"imgname": "good.png", "query": "q", "label": ""},
        {"imgname": "good.png", "query": "the one", "label": "a"},
        "not an object",
    ]
    put_json(tmp_path / "test/test_human.json", entries)
    with caplog.at_level(logging.WARNING):
        records = load_benchmark("chartqa", tmp_path, 6)
    assert [r.question for r in records] == ["the one"]
    reasons = {entry.item: entry.reason for entry in records.rejected}
    assert "cannot be read" in reasons["test/png/broken.png"]
    assert "No such file" in reasons["test/png/gone.png"]
    assert "not a path inside the data folder" in reasons["../../secret.png"]
    assert sum(entry.records for entry in records.rejected) == 6
    assert caplog.messages == [
        "chartqa: questions skipped: 6; the first, ../../secret.png: " + reasons["../../secret.png"]
    ]


def test_nothing_usable_is_an_error(tmp_path: Path):
    chartqa(tmp_path)
    for image in (tmp_path / "test/png").iterdir():
        image.write_bytes(b"")
    with pytest.raises(UserError, match=r"chartqa in .*: no usable record \(2 rejected; the first: test/png/10.png"):
        load_benchmark("chartqa", tmp_path)


def test_damaged_annotation_file_is_named(tmp_path: Path):
    chartqa(tmp_path)
    (tmp_path / "test/test_human.json").write_text("[{", encoding="utf-8")
    with pytest.raises(UserError, match=r"test_human\.json: cannot be read as JSON"):
        load_benchmark("chartqa", tmp_path)


def test_unknown_name_lists_all():
    with pytest.raises(
        UserError, match="'ChartQB' is not a known benchmark.*did you mean chartqa.*documents, charts, chartqa, docvqa"
    ):
        load_benchmark("ChartQB")


def test_choices_of_the_hub(monkeypatch: pytest.MonkeyPatch):
    data = encode_png(Image.new("RGB", (4, 3)))
    row = {"question": "First?", "options": ["egg", "larva"], "answer": "0", "image": {"bytes": data, "path": None}}
    monkeypatch.setattr(hub, "load_rows", lambda *_: [row, row | {"answer": "2"}, row | {"answer": "egg"}])
    records = hub.hub_records("ai2d", "licence", None, 0)
    assert [(r.question, r.answers) for r in records] == [("First?\nA. egg\nB. larva", ("A",))]
    assert ["fits no choice" in entry.reason for entry in records.rejected] == [True, True]


def test_rows_of_the_hub_say_what_is_wrong(monkeypatch: pytest.MonkeyPatch):
    data = {"bytes": encode_png(Image.new("RGB", (4, 3))), "path": None}
    row = {"question": "First?", "options": ["egg"], "answer": 0, "image": data}
    wrong = [{"options": ["x"] * 27}, {"question": " "}, {"answer": None}, {"answer": True}, {"image": None}]
    monkeypatch.setattr(hub, "load_rows", lambda *_: [*(row | change for change in wrong), row])
    records = hub.hub_records("ai2d", "licence", None, 0)
    assert [(r.question, r.answers) for r in records] == [("First?\nA. egg", ("A",))]
    assert [entry.reason for entry in records.rejected] == [
        "27 choices, but there are letters for 26",
        "question is missing or empty",
        "answer is missing or empty",
        "answer is a boolean, not a text",
        "image is missing, not an object",
    ]


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_below_one_is_an_error(limit: int):
    with pytest.raises(UserError, match="at least 1 record"):
        load_benchmark("documents", limit=limit)


def test_neither_local_nor_reachable_names_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def unreachable(self: object, repository: str, timeout: float) -> None:
        assert timeout <= 10
        raise OSError(f"no route to {repository}")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match=r"--eval-data-dir DIR with DIR/docvqa/ .*val_v1.0.*lmms-lab/DocVQA") as caught:
        load_benchmark("DocVQA", tmp_path)
    assert "no route to lmms-lab-encoder/DocVQA" in str(caught.value)
    with pytest.raises(UserError, match="--eval-data-dir .*no such folder"):
        load_benchmark("DocVQA", tmp_path / "gone")
    with pytest.raises(UserError, match="--eval-data-dir DIR with DIR/sroie/"):
        load_benchmark("SROIE")


@pytest.mark.parametrize("owner", ["lmms-lab", "lmms-lab-encoder"])
def test_a_set_is_found_under_either_of_its_owners(owner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The hub's cache stands for the hub: offline, one of the two names is there."""
    data = encode_png(Image.new("RGB", (4, 3)))
    rows = datasets.Dataset.from_list(
        [{"question": "Total?", "answers": ["7"], "image": {"bytes": data, "path": None}}]
    )
    rows.cast_column("image", datasets.Image()).to_parquet(tmp_path / "validation-00000-of-00001.parquet")
    load = datasets.load_dataset

    def cached(repository: str, configuration: str | None, split: str) -> object:
        if repository != f"{owner}/textvqa":
            raise FileNotFoundError(f"Couldn't find {repository} in the cache")
        return load(
            "parquet", data_files={split: str(tmp_path / "*.parquet")}, split=split, cache_dir=tmp_path / "cache"
        )

    monkeypatch.setattr(datasets, "load_dataset", cached)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert [record.answers for record in load_benchmark("TextVQA")] == [("7",)]


def test_data_folder_that_is_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="data folder .*file: Not a directory"):
        find_source(LlavaPretrain, tmp_path / "file", "train")


def test_rows_of_the_hub(monkeypatch: pytest.MonkeyPatch):
    data = encode_png(Image.new("RGB", (4, 3)))
    row = {"type": "human_test", "question": "How many? ", "answer": ["14"], "image": {"bytes": data, "path": None}}
    monkeypatch.setattr(hub, "load_rows", lambda *_: [row, row | {"answer": []}, row | {"image": {"bytes": b"x"}}])
    records = hub.hub_records("chartqa", "licence", None, 0)
    assert [(r.question, r.answers, r.kind, r.width) for r in records] == [("How many?", ("14",), "human_test", 4)]
    assert [entry.item for entry in records.rejected] == ["row 1", "row 2"]
    monkeypatch.setattr(hub, "load_rows", lambda *_: [row | {"answer": []}])
    with pytest.raises(UserError, match="lmms-lab/ChartQA: no usable record among 1"):
        hub.hub_records("chartqa", "licence", None, 0)


def test_training_part_never_contains_the_test_part(tmp_path: Path):
    for name, make in MAKERS.items():
        make(tmp_path / name)
    ocrvqa(tmp_path / "ocrvqa", parts=(3,))
    opencqa(tmp_path / "opencqa", "test")
    found = {kind.name: find_source(kind, tmp_path, "train") for kind in OCR_SOURCES}
    assert sum(source.index("train").num_records for source in found.values() if source) == 1  # of ai2d


def test_funsd_links_worked_by_hand():
    def entity(number: int, text: str, label: str, top: int, *targets: int) -> dict[str, object]:
        links = [[number, target] for target in targets]
        return {"id": number, "text": text, "label": label, "box": [0, top, 9, top + 9], "linking": links}

    form = [
        entity(0, "Name", "question", 0, 4, 3),
        entity(1, "Fax", "question", 10, 5),
        entity(2, "Fax", "question", 20, 5),
        entity(3, "first  line", "answer", 30),
        entity(4, "second", "answer", 40),
        entity(5, "555", "answer", 50),
        entity(6, "Empty", "question", 60, 7, 99),
        entity(7, "", "answer", 70),
    ]
    assert linked_pairs(form) == [("Name", ["first line second", "first line", "second"])]


def test_forms_without_a_testing_part_are_evaluated_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    funsd(tmp_path / "funsd")
    assert load_benchmark("funsd", tmp_path).note == "" and not caplog.records
    (tmp_path / "funsd/testing_data").rename(tmp_path / "funsd/training_data")
    records = load_benchmark("funsd", tmp_path)
    assert len(records) == 1 and records.note == "read from training_data, as there is no testing_data"
    assert records.note in caplog.text


def test_form_with_a_strange_id_gives_nothing():
    assert linked_pairs([{"id": [0], "text": "Date", "label": "question", "linking": [[0, 1]]}]) == []


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_sets_are_balanced_and_always_the_same(name: str):
    kinds = EMBEDDED[name].kinds
    records = load_benchmark(name.title(), limit=2 * len(kinds) + 1)
    assert records == load_benchmark(name, limit=2 * len(kinds) + 1)
    counts = Counter(r.kind for r in records)
    assert [counts[kind] for kind in kinds] == [3] + [2] * (len(kinds) - 1)
    assert all(8 <= r.text_px <= 16 and r.split == "test" and (r.width, r.height) == (672, 672) for r in records)
    assert records != load_benchmark(name, limit=2 * len(kinds) + 1, seed=1)


def test_embedded_pages_are_no_training_pages():
    held = load_benchmark("documents", limit=8)
    pages = RenderedPages(text_px=(8.0, 16.0))
    trained = [record for number in range(len(pages.kinds)) for record in pages.page_records(number)]
    assert {r.image_id for r in held}.isdisjoint(r.image_id for r in trained)


def test_rendered_series_does_not_depend_on_where_it_begins():
    pages = RenderedPages(seed=5, text_px=(10.0, 20.0))
    first = list(pages.records(15, seed=5))
    assert len(first) == 15
    assert first == [record for number in range(5) for record in pages.page_records(number)][:15]
    assert {r.image_id for r in first}.isdisjoint(r.image_id for r in pages.records(15, seed=6))


def of(name: str, folder: Path, split: str) -> Index:
    source = find_source(HELD_OUT[name], folder, split)
    assert source is not None
    return source.index(split)


def test_ocrvqa_parts_are_told_by_number(tmp_path: Path):
    ocrvqa(tmp_path / "OCR-VQA-200K")
    for split, part in (("train", 1), ("test", 3)):
        (group,) = of("ocrvqa", tmp_path, split).groups
        assert group.name == f"images/b{part}.jpg"  # the address says .gif, the copy at hand says .jpg
        assert [(d.question, d.answers, d.kind) for d in group.drafts] == [
            ("Who wrote this?", ("A. B.",), "Law"),
            ("Title?", (f"Book {part}",), "Law"),
        ]
    covers = {"b1": {"split": 1, "questions": ["a"], "answers": []}, "../../b": {"split": 1, "questions": ["a"]}}
    covers["../up"] = {"split": 1, "questions": ["a"], "answers": ["b"]}
    put_json(tmp_path / "OCR-VQA-200K/dataset.json", covers)
    index = of("ocrvqa", tmp_path, "train")
    assert not index.groups and [entry.item for entry in index.rejected] == ["b1", "../../b", "../up.jpg"]


def test_ai2d_test_diagrams_are_those_of_the_list(tmp_path: Path):
    ai2d(tmp_path / "ai2d", damaged=True)
    joined = ("images/0.png", "What comes first?\nChoices: egg; larva", ("larva",))
    lettered = ("images/7.png", "What comes first?\nA. egg\nB. larva", ("B",))
    for split, expected in (("train", joined), ("test", lettered)):
        index = of("ai2d", tmp_path, split)
        (group,) = index.groups
        assert [(group.name, d.question, d.answers) for d in group.drafts] == [expected]
        reason = "correctAnswer is 5, which fits no choice: there are 2, counted from 0"
        assert [entry.reason for entry in index.rejected] == [reason]
    (tmp_path / "ai2d/ai2d_test_ids.csv").unlink()
    assert find_source(HELD_OUT["ai2d"], tmp_path, "train") is None


def test_ai2d_letters_need_pictures_with_letters(tmp_path: Path):
    """For training they are left out without; an evaluation image is known by the release's picture."""
    ai2d(tmp_path / "ai2d")
    for number in ("0", "7"):
        about = {"answerTexts": ["A", "B"], "correctAnswer": 0, "abcLabel": True}
        questions = {"imageName": f"{number}.png", "questions": {"Which is the egg?": about}}
        put_json(tmp_path / f"ai2d/questions/{number}.png.json", questions)
    index = of("ai2d", tmp_path, "train")
    assert not index.groups and "abc_images/ is missing" in index.rejected[0].reason
    assert [group.name for group in of("ai2d", tmp_path, "test").groups] == ["images/7.png"]
    with pytest.raises(UserError, match=r"no usable record \(1 rejected; the first: about letters"):
        load_benchmark("AI2D", tmp_path)
    put_image(tmp_path / "ai2d/abc_images/0.png")
    assert [group.name for group in of("ai2d", tmp_path, "train").groups] == ["abc_images/0.png"]


def test_real_charts_of_opencqa(shared: Path):
    """The validation part, as the repository has it."""
    source = find_source(HELD_OUT["opencqa"], shared / "data", "test")
    records = source.records()
    assert len(records) == 200 and not records.rejected
    assert all(record.question.strip() and len(record.answers) == 1 for record in records)
    charts = [shared / "data/opencqa" / record.id.split(":")[1] for record in records]
    formats = Counter(Image.open(chart).format for chart in charts)
    assert formats["GIF"] and formats["JPEG"]  # all are called .png
    assert all(record.image[:2] in (b"\x89P", b"\xff\xd8") for record in records)


def test_opencqa_takes_the_edited_answer(tmp_path: Path):
    opencqa(tmp_path / "OpenCQA", "train")
    index = of("opencqa", tmp_path, "train")
    (group,) = index.groups
    assert (group.name, group.drafts[0].question, group.drafts[0].answers) == ("chart_images/5.png", "How?", ("So.",))
    assert [entry.item for entry in index.rejected] == ["6"]
    assert find_source(HELD_OUT["opencqa"], tmp_path, "test") is None


def test_receipts_with_a_training_part(tmp_path: Path):
    folder = tmp_path / "SROIE2019"
    for part, total in (("train", "1.00"), ("test", "2.00")):
        put_image(folder / part / "img/x.jpg")
        put_json(folder / part / "entities/x.json", {"total": total})
        (folder / part / "entities/x.json").rename(folder / part / "entities/x.txt")
    for split, total in (("train", "1.00"), ("test", "2.00")):
        (group,) = of("sroie", tmp_path, split).groups
        assert (group.name, group.drafts[0].answers) == (f"{split}/img/x.jpg", (total,))


@pytest.mark.parametrize(
    ("name", "total"),
    [("opencqa", 200), ("chartqa", 548), ("docvqa", 22), ("tabmwp", 500), ("sroie", None), ("funsd", None)],
)
def test_real_pages(name: str, total: int | None, shared: Path):
    source = find_source(HELD_OUT[name], shared / "data", "test")
    assert source is not None
    index = source.index()
    if total is not None:
        assert index.num_records == total
    assert index.num_records > 20
    records = source.records(5)
    assert len(records) == 5
    assert all(r.open_image().size == (r.width, r.height) for r in records)


def test_real_receipts_have_four_fields_but_for_missing_addresses(shared: Path):
    source = find_source(BENCHMARKS["sroie"], shared / "data", "test")
    assert source is not None
    kinds = Counter(draft.kind for group in source.index().groups for draft in group.drafts)
    assert kinds["company"] == kinds["date"] == kinds["total"] == 36
    assert 30 <= kinds["address"] <= 36

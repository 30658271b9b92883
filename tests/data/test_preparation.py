"""Preparing a data set: exact counts, equal bytes, a split by image, and a run that may be stopped anywhere."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from shirg.data import SHIRGDatasetConfig, SHIRGDatasetProcessor, composition, preparation
from shirg.data.composition import Progress, RecordStream, compose
from shirg.data.images import encode_png
from shirg.data.records import Record, image_id
from shirg.data.shards import ShardReader, sha256_of
from shirg.data.sources.base import Draft, ImageGroup, Index
from shirg.data.sources.rendered import RenderedPages
from shirg.errors import UserError


def config(folder: Path, **changes: object) -> SHIRGDatasetConfig:
    small = {
        "base_dataset_size": 50,
        "ocr_enhancement_size": 20,
        "shard_size": 30,
        "num_workers": 0,
        "image_resolution": 336,
    }
    return SHIRGDatasetConfig(**{**small, "text_px": (8.0, 12.0), "output_dir": folder, **changes})


def prepare(folder: Path, **changes: object) -> dict[str, bytes]:
    """Every file of the prepared folder."""
    result = SHIRGDatasetProcessor(config(folder, **changes)).prepare_full_dataset()
    assert result == folder
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def records(folder: Path, split: str) -> list[Record]:
    return [record for path in sorted(folder.glob(f"{split}-*.parquet")) for record in ShardReader(path)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder prepared in one go."""
    folder = tmp_path_factory.mktemp("whole") / "data"
    prepare(folder)
    return folder


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A lab's folder: captions with a broken and a missing image, and charts for training."""
    root = tmp_path / "lab"
    captions = root / "llava_pretrain"
    (captions / "00000").mkdir(parents=True)
    entries = []
    for number in range(24):
        name = f"00000/{number}.png"
        (captions / name).write_bytes(encode_png(Image.new("RGB", (16, 8), (number, 0, 0))))
        turns = [{"from": "human", "value": "Describe.\n<image>"}, {"from": "gpt", "value": f"red {number}"}]
        entries.append({"id": str(number), "image": name, "conversations": turns})
    (captions / "00000/3.png").write_bytes(b"broken")
    (captions / "00000/5.png").unlink()
    entries.append({"id": "up", "image": "../../secret.png", "conversations": entries[0]["conversations"]})
    (captions / "blip_laion_cc_sbu_558k.json").write_text(json.dumps(entries), encoding="utf-8")
    charts = root / "ChartQA/train"
    (charts / "png").mkdir(parents=True)
    (charts / "png/1.png").write_bytes(encode_png(Image.new("RGB", (16, 8), "blue")))
    questions = [{"imgname": "1.png", "query": f"q{number}", "label": number} for number in range(3)]
    (charts / "train_human.json").write_text(json.dumps(questions), encoding="utf-8")
    return root


def test_defaults_are_the_promised_numbers():
    defaults = SHIRGDatasetConfig()
    assert (defaults.base_dataset_size, defaults.ocr_enhancement_size, defaults.total_samples) == (
        558_000,
        50_000,
        608_000,
    )


def test_counts_are_exact_and_the_manifest_tells_them(whole: Path):
    train, held = records(whole, "train"), records(whole, "validation")
    assert (len(train), len(held)) == (66, 4)  # 5% of 70, rounded
    told = manifest(whole)
    assert told["splits"]["train"] == {"records": 66, "images": len({r.image_id for r in train})}
    assert told["sources"] == {"rendered": 70}
    assert told["parts"]["base"] == {"records": 50, "real": 0, "rendered": 50}
    assert [shard["records"] for shard in told["shards"]] == [4, 30, 30, 6]
    assert all(sha256_of(whole / shard["file"]) == shard["sha256"] for shard in told["shards"])
    assert {r.split for r in train} == {"train"}
    assert len({r.id for r in train + held}) == 70
    assert all(r.image_id == image_id(r.image) for r in train)


def test_several_questions_about_an_image_store_it_once(whole: Path):
    train = records(whole, "train")
    images = {r.image_id: len(r.image) for r in train}
    assert len(images) < len(train) / 3
    stored = sum(path.stat().st_size for path in whole.glob("train-*.parquet"))
    assert stored < 1.5 * sum(images.values()) + 60_000


def test_split_is_by_image(whole: Path):
    train, held = ({r.image_id for r in records(whole, split)} for split in ("train", "validation"))
    assert train.isdisjoint(held)


def test_same_seed_gives_equal_bytes_and_workers_change_nothing(whole: Path, tmp_path: Path):
    first = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert prepare(tmp_path / "again", num_workers=2) == first
    other = prepare(tmp_path / "other", seed=1)
    assert other["train-00000.parquet"] != first["train-00000.parquet"]


def test_preparing_leaves_the_global_random_state_alone(tmp_path: Path):
    import torch

    before = torch.get_rng_state()
    prepare(tmp_path / "data", base_dataset_size=5, ocr_enhancement_size=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("stop_at", [1, 2, 6])
def test_stopped_and_continued_equals_one_go(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
):
    folder, rendered = tmp_path / "data", []
    render = RenderedPages.page_records

    def stops(self: RenderedPages, number: int) -> list[Record]:
        rendered.append(number)
        if len(rendered) == stop_at:
            raise KeyboardInterrupt
        return render(self, number)

    monkeypatch.setattr(RenderedPages, "page_records", stops)
    with pytest.raises(KeyboardInterrupt):
        prepare(folder)
    assert not (folder / "manifest.json").exists()
    finished = {path.name for path in folder.iterdir()}
    assert not any(name.startswith((".train", ".validation")) for name in finished)
    before = {name: (folder / name).stat().st_mtime_ns for name in finished if name.endswith(".parquet")}
    assert prepare(folder) == {path.name: path.read_bytes() for path in whole.iterdir()}
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before


def test_finished_folder_is_left_alone(whole: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preparation, "write_shard", lambda *_: pytest.fail("a shard was written"))
    prepare(whole)


def test_damaged_shard_is_made_again(tmp_path: Path):
    first = prepare(tmp_path)
    (tmp_path / "train-00001.parquet").write_bytes(b"half")
    (tmp_path / ".train-00002.parquet.k1ll3d").mkdir()
    assert prepare(tmp_path) == first


def test_other_configuration_replaces_our_shards_only(tmp_path: Path):
    prepare(tmp_path, shard_size=10)
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    files = prepare(tmp_path, shard_size=70)
    expected = {"train-00000.parquet", "validation-00000.parquet", "manifest.json", ".progress.json", "notes.txt"}
    assert set(files) == expected


def test_foreign_shards_are_not_overwritten(tmp_path: Path):
    (tmp_path / "train-00000.parquet").write_bytes(b"somebody else's")  # and no journal beside it
    with pytest.raises(UserError, match=r"holds train-00000\.parquet, not made here"):
        prepare(tmp_path)


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_damaged_journal_is_named(tmp_path: Path, content: str):
    (tmp_path / ".progress.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"\.progress\.json: damaged"):
        prepare(tmp_path)


def test_real_sets_come_first_and_the_renderer_fills(lab: Path, tmp_path: Path):
    folder = tmp_path / "data"
    prepare(folder, data_dir=lab, base_dataset_size=30, ocr_enhancement_size=8, validation_fraction=0.1)
    told = manifest(folder)
    assert told["splits"]["train"]["records"] + told["splits"]["validation"]["records"] == 38
    assert told["sources"]["llava_pretrain"] == 22
    assert told["sources"]["chartqa"] in (1, 3)  # one, if the chart went into validation, whose share is one record
    assert sum(told["sources"].values()) == 38
    reasons = {entry["item"]: entry["reason"] for entry in told["rejected"]}
    assert reasons.keys() == {"00000/3.png", "00000/5.png", "../../secret.png"}
    assert "cannot be read" in reasons["00000/3.png"]
    held = records(folder, "validation")
    assert {r.source for r in held} >= {"llava_pretrain", "rendered"}


def test_forms_that_evaluation_reads_are_not_trained_on(tmp_path: Path):
    form = [
        {"id": 0, "text": "Date", "label": "question", "linking": [[0, 1]]},
        {"id": 1, "text": "May 2", "label": "answer", "linking": [[0, 1]]},
    ]

    def part(name: str) -> None:
        folder = tmp_path / "lab/funsd" / name
        for kind in ("annotations", "images"):
            (folder / kind).mkdir(parents=True)
        (folder / "annotations/f.json").write_text(json.dumps({"form": form}), encoding="utf-8")
        (folder / "images/f.png").write_bytes(encode_png(Image.new("RGB", (16, 8))))

    asked = {"data_dir": tmp_path / "lab", "base_dataset_size": 0, "ocr_enhancement_size": 5}
    part("training_data")
    prepare(tmp_path / "alone", **asked)
    told = manifest(tmp_path / "alone")
    assert told["sources"] == {"rendered": 5}
    (entry,) = told["rejected"]
    assert (entry["source"], entry["item"], entry["records"]) == ("funsd", "training_data", 1)
    assert "evaluation reads these forms" in entry["reason"]
    part("testing_data")
    prepare(tmp_path / "both", **asked, validation_fraction=0.0)
    assert manifest(tmp_path / "both")["sources"] == {"funsd": 1, "rendered": 4}


def test_fewer_asked_than_there_are_takes_a_seeded_choice(lab: Path, tmp_path: Path):
    def captions(name: str, seed: int) -> set[str]:
        sizes = {"base_dataset_size": 6, "ocr_enhancement_size": 0, "validation_fraction": 0.0}
        prepare(tmp_path / name, data_dir=lab, seed=seed, **sizes)
        assert manifest(tmp_path / name)["sources"] == {"llava_pretrain": 6}
        return {r.answers[0] for r in records(tmp_path / name, "train")}

    assert captions("a", 0) == captions("b", 0) != captions("c", 1)


def test_stopped_among_broken_images_and_continued(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = {"data_dir": lab, "base_dataset_size": 22, "ocr_enhancement_size": 3, "shard_size": 4}
    whole = prepare(tmp_path / "whole", **asked)
    write, written = preparation.write_shard, []

    def fails(path: Path, stream: object) -> int:
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        written.append(path)
        return write(path, stream)

    monkeypatch.setattr(preparation, "write_shard", fails)
    with pytest.raises(UserError, match="No space left on device; shards finished so far are kept"):
        prepare(tmp_path / "parts", **asked)
    monkeypatch.setattr(preparation, "write_shard", write)
    assert prepare(tmp_path / "parts", **asked) == whole


def test_image_in_validation_is_refused_for_training_under_another_name(tmp_path: Path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encode_png(Image.new("RGB", (4, 4))))
    groups = [ImageGroup("s", "l", tmp_path, name, (Draft("q", ("a",)),)) for name in ("a.png", "b.png")]
    plan = compose([Index(groups, [])], [], (2, 0), 0.5, 0, RenderedPages(text_px=(10.0, 20.0)))
    stream = RecordStream(plan, Progress(), [], set(), 0)
    assert [(r.source, r.split) for r in stream] == [("s", "validation"), ("rendered", "train")]
    assert [entry.reason for entry in stream.rejected] == ["the same image is in the validation split"]


@settings(max_examples=80, deadline=None)
@given(
    base=st.lists(st.integers(1, 4), max_size=12),
    ocr=st.lists(st.integers(1, 4), max_size=12),
    sizes=st.tuples(st.integers(0, 30), st.integers(1, 30)),
    fraction=st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.9]),
    broken=st.sets(st.integers(0, 11)),
    stop=st.integers(0, 60),
)
@example(base=[4, 4, 2], ocr=[1], sizes=(10, 1), fraction=0.05, broken=set(), stop=0)  # all real, halves to round
def test_any_composition_is_exact_and_can_be_continued(base, ocr, sizes, fraction, broken, stop):
    def index(part: str, counts: list[int]) -> Index:
        drafts = [tuple(Draft(f"q{n}", ("a",)) for n in range(count)) for count in counts]
        return Index([ImageGroup(part, "l", Path(), f"{part}{n}", d) for n, d in enumerate(drafts)], [])

    def open_group(group: ImageGroup, split: str) -> list[Record]:
        if int(group.name[len(group.source) :]) in broken:
            raise UserError("broken")
        return [
            Record(f"{group.name}:{n}", b"", group.name, d.question, d.answers, group.source, "l", 1, 1, split=split)
            for n, d in enumerate(group.drafts)
        ]

    def open_page(pages: RenderedPages, number: int) -> list[Record]:
        name = f"page{number}"
        return [
            Record(f"{name}:{n}", b"", name, "q", ("a",), "rendered", "l", 1, 1, split=pages.split) for n in range(3)
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageGroup, "records", open_group)
        patch.setattr(RenderedPages, "page_records", open_page)
        plan = compose([index("base", base)], [index("ocr", ocr)], sizes, fraction, 7, RenderedPages())
        stream = RecordStream(plan, Progress(), [], set(), 0)
        given_all, states = [], []
        for record in itertools.islice(stream, sum(sizes) + 1):  # one more than there may be
            given_all.append(record)
            states.append((stream.progress.copy(), list(stream.rejected)))
        total = sum(sizes)
        assert len(given_all) == total
        if not broken and max([*base, *ocr, 0]) == 1:  # no group is cut, so no record of it is lost
            real = min(sizes[0], len(base)) + min(sizes[1], len(ocr))
            assert sum(r.source != "rendered" for r in given_all) == real
        assert len({r.id for r in given_all}) == total
        held = {r.image_id for r in given_all if r.split == "validation"}
        assert held.isdisjoint(r.image_id for r in given_all if r.split == "train")
        num_held = sum(r.split == "validation" for r in given_all)
        assert num_held == (min(max(round(fraction * total), 1), total - 1) if fraction else 0)
        if stop and stop <= total:
            state, rejected = states[stop - 1]
            seen = {r.image_id for r in given_all[:stop] if r.split == "validation"}
            rest = RecordStream(plan, Progress(**json.loads(json.dumps(state.as_dict()))), rejected, seen, 0)
            assert list(rest) == given_all[stop:]
            assert rest.rejected == stream.rejected


def test_opens_with_datasets(whole: Path):
    import datasets

    datasets.disable_progress_bars()
    cache = str(whole.parent / "cache")
    loaded = datasets.load_dataset("parquet", data_dir=str(whole), cache_dir=cache)
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 66, "validation": 4}
    row, record = loaded["train"][0], records(whole, "train")[0]
    assert row["image"].size == (336, 336)
    assert row["conversations"] == record.conversations
    assert tuple(row["answers"]) == record.answers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_dataset_size": -1}, "base_dataset_size: -1; 0 or more"),
        ({"base_dataset_size": 0, "ocr_enhancement_size": 0}, "total_samples: 0; at least 1"),
        ({"image_resolution": 670}, "image_resolution: 670; a multiple of 14"),
        ({"validation_fraction": 1.0}, "validation_fraction: 1.0; from 0 to below 1"),
        ({"shard_size": 0}, "shard_size: 0; at least 1"),
        ({"text_px": (9.0, 8.0)}, "text_px: "),
        ({"text_px": (3.0, 8.0)}, "text_px: .*4 or more"),
        ({"image_resolution": 112}, "image_resolution: 112; at least 128"),
        ({"num_workers": -1}, "num_workers: -1"),
        ({"data_dir": "/nowhere/at/all"}, "data_dir: /nowhere/at/all; an existing folder"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, changes: dict, message: str):
    with pytest.raises(UserError, match=message):
        SHIRGDatasetProcessor(config(tmp_path, **changes))


def test_output_that_cannot_be_a_folder(tmp_path: Path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"output_dir .*file"):
        prepare(tmp_path / "file" / "data")


def test_digest_tells_compositions_apart():
    def digest(question: str, seed: int) -> str:
        group = ImageGroup("s", "l", Path(), "a.png", (Draft(question, ("a",)),))
        return compose([Index([group], [])], [], (1, 1), 0.0, seed, replace(RenderedPages(), seed=seed)).digest()

    assert digest("q", 0) == digest("q", 0)
    assert len({digest("q", 0), digest("p", 0), digest("q", 1)}) == 3
    assert composition.PARTS == ("base", "ocr", "rendered")

"""Preparing a data set: exact counts, equal bytes, a split by image, and a run that may be stopped anywhere."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from shirg.data import SHIRGDatasetConfig, SHIRGDatasetProcessor, preparation
from shirg.data.catalogue import CatalogueWriter
from shirg.data.checking import check_folder
from shirg.data.composition import PARTS, SPLITS, HeldOut, Plan, Pool, compose
from shirg.data.images import encode_png
from shirg.data.records import Record, image_id
from shirg.data.shards import ShardReader, sha256_of
from shirg.data.sources import LlavaJson
from shirg.data.sources.rendered import RECORDS_PER_SLOT, RenderedPages
from shirg.data.survey import Look, Looks
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
    assert told["parts"]["base"] == {"asked": 50, "records": 50, "real": 0, "rendered": 50}
    assert [shard["records"] for shard in told["shards"]] == [4, 30, 30, 6]
    assert all(sha256_of(whole / shard["file"]) == shard["sha256"] for shard in told["shards"])
    assert {r.split for r in train} == {"train"}
    assert len({r.id for r in train + held}) == 70
    assert all(r.image_id == image_id(r.image) for r in train)


def test_several_questions_about_an_image_store_it_once(whole: Path):
    train = records(whole, "train")
    images = {r.image_id: len(r.image) for r in train}
    assert len(images) < len(train) / (RECORDS_PER_SLOT - 2)
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


@pytest.mark.parametrize("stop_at", [1, 2, 7])
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
    finished = {path.name for path in folder.iterdir() if path.is_file()}
    assert not any(path.name.startswith((".train", ".validation")) for path in folder.iterdir())
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
    asked = {"base_dataset_size": 30, "ocr_enhancement_size": 8, "validation_fraction": 0.1}
    prepare(folder, data_dir=lab, render_missing=True, **asked)
    told = manifest(folder)
    assert told["splits"]["train"]["records"] + told["splits"]["validation"]["records"] == 38
    assert told["sources"]["llava_pretrain"] == 22
    assert told["sources"]["chartqa"] == 3
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
        (folder / "images/f.png").write_bytes(encode_png(Image.new("RGB", (16, 8), (len(name), 0, 0))))

    asked = {"base_dataset_size": 0, "ocr_enhancement_size": 5, "render_missing": True}
    asked["data_dir"] = tmp_path / "lab"
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
    asked = {"data_dir": lab, "base_dataset_size": 22, "ocr_enhancement_size": 3, "shard_size": 4, "allow_fewer": True}
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


def put_captions(folder: Path, entries: list[tuple[str, Image.Image]], name: str = "captions.json") -> Path:
    """A file in LLaVA's form, one caption per image."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (file, image) in enumerate(entries):
        image.save(folder / file)
        turns = [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": f"caption {number}"}]
        lines.append({"id": str(number), "image": file, "conversations": turns})
    (folder / name).write_text(json.dumps(lines), encoding="utf-8")
    return folder / name


def picture(number: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Noise of a seed, soft enough to survive JPEG."""
    coarse = np.random.default_rng(number).integers(0, 256, (12, 12), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def test_image_in_validation_is_refused_for_training_under_another_name(tmp_path: Path):
    file = put_captions(tmp_path / "own", [("a.png", picture(1)), ("b.png", picture(1))])
    asked = {"base_dataset_size": 2, "ocr_enhancement_size": 0, "validation_fraction": 0.5, "base_json": (file,)}
    prepare(tmp_path / "data", render_missing=True, **asked)
    told = manifest(tmp_path / "data")
    assert told["sources"] == {"captions": 1, "rendered": 1}
    assert [entry["reason"] for entry in told["rejected"]] == ["the same image is in the validation split"]
    (held,) = records(tmp_path / "data", "validation")
    assert held.source == "captions"


def test_no_evaluation_image_is_trained_on(tmp_path: Path):
    """Neither the file itself nor its picture at half the size as a JPEG; named or found in the folder."""
    lab, test = tmp_path / "lab", tmp_path / "lab/chartqa/test"
    (test / "png").mkdir(parents=True)
    for number in (1, 2):
        picture(number, (192, 128)).save(test / f"png/{number}.png")
    questions = [{"imgname": f"{number}.png", "query": "q", "label": "a"} for number in (1, 2)]
    (test / "test_human.json").write_text(json.dumps(questions), encoding="utf-8")
    same, smaller = picture(1, (192, 128)), picture(2, (192, 128)).resize((96, 64))
    entries = [("same.png", same), ("smaller.jpg", smaller), ("c.png", picture(3)), ("d.png", picture(4))]
    file = put_captions(tmp_path / "own", entries)
    asked = {"base_dataset_size": 2, "ocr_enhancement_size": 0, "base_json": (file,), "validation_fraction": 0.0}
    for name, where in (("found", {"data_dir": lab}), ("named", {"exclude_data_dir": lab})):
        named = {"exclude_datasets": ("ChartQA", "documents")} if name == "named" else {}
        prepare(tmp_path / name, **asked, **where, **named)
        told = manifest(tmp_path / name)
        assert told["excluded"]["images"] == {"chartqa": 2}
        assert {entry["item"]: entry["reason"] for entry in told["rejected"]} == {
            "same.png": "the same file as chartqa test/png/1.png, which is evaluated on",
            "smaller.jpg": "the same picture as chartqa test/png/2.png, which is evaluated on",
        }
        assert {r.id for r in records(tmp_path / name, "train")} == {"captions:c.png:0", "captions:d.png:0"}
    with pytest.raises(UserError, match="base part: 3 records asked, 2 there .*2 rejected; the first, "):
        prepare(tmp_path / "more", **(asked | {"base_dataset_size": 3}), data_dir=lab)
    with pytest.raises(UserError, match="exclude_datasets: docvqa is not in"):
        prepare(tmp_path / "gone", **asked, data_dir=lab, exclude_datasets=("DocVQA",))
    with pytest.raises(UserError, match="'Nothing' is not known"):
        prepare(tmp_path / "gone", **asked, data_dir=lab, exclude_datasets=("Nothing",))


def test_fewer_records_than_asked_are_an_error_unless_allowed(lab: Path, tmp_path: Path):
    asked = {"data_dir": lab, "base_dataset_size": 30, "ocr_enhancement_size": 3}
    with pytest.raises(UserError, match=r"base part: 30 records asked, 24 there.*--dataset-size 24.*--allow-fewer"):
        prepare(tmp_path / "data", **asked)
    asked["base_dataset_size"] = 24  # as many as the file tells of, but two images are not there
    with pytest.raises(UserError, match=r"base part: 24 records asked, 22 there \(3 rejected; the first, \.\./"):
        prepare(tmp_path / "data", **asked)
    assert not list((tmp_path / "data").glob("*.parquet"))
    prepare(tmp_path / "data", **asked, allow_fewer=True)
    told = manifest(tmp_path / "data")
    assert told["total_samples"] == 25
    assert told["parts"]["base"] == {"asked": 24, "records": 22, "real": 22, "rendered": 0}
    assert told["configuration"]["missing"] == "fewer"


def test_linked_images_are_read_from_where_they_are(lab: Path, tmp_path: Path):
    asked = {"data_dir": lab, "base_dataset_size": 20, "ocr_enhancement_size": 3}
    embedded, linked = tmp_path / "embedded", tmp_path / "linked"
    assert sum(map(len, prepare(linked, **asked, images="link").values())) < 40_000
    prepare(embedded, **asked)
    for split in SPLITS:
        pairs = zip(records(embedded, split), records(linked, split), strict=True)
        for ours, theirs in pairs:
            assert (ours.id, ours.image_id, ours.image) == (theirs.id, theirs.image_id, theirs.image)
            assert Path(theirs.path).read_bytes() == theirs.image and not ours.path
    import datasets

    datasets.disable_progress_bars()
    loaded = datasets.load_dataset("parquet", data_dir=str(linked), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"][0]["image"].size == (16, 8)


def test_what_cannot_be_kept_as_it_is_gets_converted(tmp_path: Path):
    """A large JPEG is shrunk, a GIF called .png becomes one; both are held even where images are linked."""
    file = put_captions(tmp_path / "own", [("large.jpg", picture(1, (400, 100))), ("b.png", picture(2))])
    picture(3).convert("P").save(tmp_path / "own/b.png", "GIF")
    asked = {"base_dataset_size": 2, "ocr_enhancement_size": 0, "validation_fraction": 0.0, "base_json": (file,)}
    prepare(tmp_path / "data", **asked, images="link", max_image_side=200)
    found = {r.id: r for r in records(tmp_path / "data", "train")}
    large, gif = found["captions:large.jpg:0"], found["captions:b.png:0"]
    assert (large.width, large.height, large.image[:2]) == (200, 50, b"\xff\xd8")
    assert (gif.width, gif.height, gif.image[1:4]) == (96, 64, b"PNG")
    assert all(r.open_image().size == (r.width, r.height) and not r.path for r in found.values())
    assert all(image_id(r.image) == r.image_id for r in found.values())


def test_image_that_changes_meanwhile_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = put_captions(tmp_path / "own", [("a.png", picture(1))])
    write = preparation.write_shard

    def changed(path: Path, stream: object) -> int:
        picture(2).save(tmp_path / "own/a.png")
        return write(path, stream)

    monkeypatch.setattr(preparation, "write_shard", changed)
    asked = {"base_dataset_size": 1, "ocr_enhancement_size": 0, "validation_fraction": 0.0, "base_json": (file,)}
    with pytest.raises(UserError, match=r"a\.png: changed since it was looked at"):
        prepare(tmp_path / "data", **asked)


def test_shares_of_a_cluster_give_the_same_bytes(lab: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    asked = {"data_dir": lab, "base_dataset_size": 24, "ocr_enhancement_size": 20, "shard_size": 6}
    asked["render_missing"] = True
    whole = prepare(tmp_path / "whole", **asked)
    shared = tmp_path / "shared"

    def share(index: int) -> None:
        shape = {"shard_index": index, "num_shards": 2, "output_dir": shared}
        SHIRGDatasetProcessor(config(shared, **asked, **shape)).prepare_full_dataset()

    caplog.set_level(logging.INFO)
    share(1)
    assert "when all are, give the same commands again" in caplog.text and not list(shared.glob("*.parquet"))
    share(0)  # looks at its share, and then everything is looked at
    share(1)
    assert len(list(shared.glob("*.parquet"))) == len([name for name in whole if name.endswith(".parquet")])
    assert not (shared / "manifest.json").exists()
    with pytest.raises(UserError, match="holds another data set"):
        asked["seed"] = 5
        share(0)
    del asked["seed"]
    assert prepare(shared, **asked) == whole


HOLD = """
import contextlib, sys
from pathlib import Path
from shirg.data.locks import locked
with contextlib.ExitStack() as held:
    for path in sys.argv[1:]:
        held.enter_context(locked(Path(path), "folder", shared=path.endswith("lock") and len(sys.argv) > 2))
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_refuse_each_other(tmp_path: Path):
    work = tmp_path / ".work"
    work.mkdir()

    @contextlib.contextmanager
    def other(*names: str) -> Iterator[int]:
        command = [sys.executable, "-c", HOLD, *(str(work / name) for name in names)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"held\n"
            yield process.pid
            process.communicate()

    with other("lock") as pid, pytest.raises(UserError, match=rf"being prepared by process {pid} on"):
        prepare(tmp_path)
    with other("lock", "lock-0-of-2"):
        with pytest.raises(UserError, match="being prepared by"):
            prepare(tmp_path)
        with pytest.raises(UserError, match="share 0: being prepared by"):
            prepare(tmp_path, num_shards=2)
    prepare(tmp_path)


PROGRAM = """
import sys
from pathlib import Path
from shirg.data import SHIRGDatasetConfig, SHIRGDatasetProcessor
folder, file = map(Path, sys.argv[1:])
config = SHIRGDatasetConfig(
    60, 30, folder, shard_size=10, num_workers=2, image_resolution=336, text_px=(8.0, 12.0), base_json=(file,),
    render_missing=True,
)
SHIRGDatasetProcessor(config).prepare_full_dataset()
"""


def test_killed_and_continued_equals_one_go(tmp_path: Path):
    """The process is killed as a power cut would, its workers end by themselves, and the next run takes over."""
    file = put_captions(tmp_path / "own", [(f"{number}.jpg", picture(number)) for number in range(60)])
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", PROGRAM, str(folder), str(file)]
    process = subprocess.Popen(command, start_new_session=True)
    until = time.monotonic() + 120
    while len(list(folder.glob("*.parquet"))) < 3 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert len(before) >= 3
    assert process.returncode == -signal.SIGKILL and not (folder / "manifest.json").exists()
    size = {"base_dataset_size": 60, "ocr_enhancement_size": 30, "shard_size": 10}
    asked = size | {"base_json": (file,), "render_missing": True}
    continued = prepare(folder, **asked)
    again = [name for name, when in before.items() if (folder / name).stat().st_mtime_ns != when]
    assert len(again) <= 1  # a shard that was finished, and the note about it not yet
    assert continued == prepare(tmp_path / "whole", **asked)


def plan_of(
    counts: dict[str, list[int]], sizes: dict[str, int], fraction: float, missing: str, shas: list[int]
) -> Plan:
    pools, begin = {}, 0
    for part in PARTS:
        groups = np.arange(begin, begin + len(counts[part]))
        looks = Looks(
            Look("", "", 0, 0, False, "broken") if not shas[g] else Look(f"{shas[g]:064x}", "", 1, 1, True)
            for g in groups.tolist()
        )
        looks.table["sha256"][:, 0] = looks.table["sha256"][:, 3]  # the word that differs comes first
        pools[part] = Pool(groups, np.array(counts[part], dtype=np.int64), looks, lambda place: ("s", str(place)))
        begin += len(groups)
    return compose(pools, HeldOut(str, Looks()), sizes, fraction, missing)


@settings(max_examples=60, deadline=None)
@given(
    base=st.lists(st.integers(1, 4), max_size=12),
    ocr=st.lists(st.integers(1, 4), max_size=12),
    sizes=st.tuples(st.integers(0, 30), st.integers(1, 30)),
    fraction=st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.9]),
    missing=st.sampled_from(["refuse", "fewer", "render"]),
    shas=st.lists(st.integers(0, 30), min_size=24, max_size=24),
)
@example([4, 4, 2], [1], (10, 1), 0.05, "refuse", list(range(1, 25)))  # all real, halves to round
@example([3, 3], [3], (6, 3), 0.1, "refuse", list(range(1, 25)))  # no image has as few questions as validation asks
def test_any_composition_is_exact_and_never_shares_an_image(base, ocr, sizes, fraction, missing, shas):
    asked = dict(zip(PARTS, sizes, strict=True))
    plan = plan_of({"base": base, "ocr": ocr}, asked, fraction, missing, shas)
    total, held = sum(sizes), plan.total("validation")
    if missing == "render":
        assert held + plan.total("train") == total
        target = min(max(round(fraction * total), 1), total - 1) if fraction else 0
        rendered = total - sum(plan.real.values())
        assert held == target or rendered < target or held <= 4
    else:
        assert held + plan.total("train") == sum(plan.real.values())
    assert {part: plan.real[part] + plan.lacking[part] for part in PARTS} == asked
    counts, images = [*base, *ocr], {}
    for split in SPLITS:
        runs = [run for run in plan.runs[split] if run.groups is not None]
        used = [group for run in runs for group in run.groups.tolist()]
        assert len(set(used)) == len(used) and all(shas[group] for group in used)
        images[split] = {shas[group] for group in used}
        for run in runs:
            taken = np.diff(run.ends, prepend=0).tolist()
            assert all(1 <= n <= counts[g] for n, g in zip(taken, run.groups.tolist(), strict=True))
            cut = [g for n, g in zip(taken, run.groups.tolist(), strict=True) if n < counts[g]]
            assert split == "train" or not cut
            assert len(cut) <= 1
        assert plan.total(split) == sum(last - first for _, first, last in plan.pieces(split, 0, plan.total(split)))
    assert images["train"].isdisjoint(images["validation"])
    unique = [sha for sha in shas[: len(counts)] if sha]
    if len(set(unique)) == len(unique):  # nothing is lost to copies
        for part, begin in (("base", 0), ("ocr", len(base))):
            there = {"base": base, "ocr": ocr}[part]
            whole = sum(n for place, n in enumerate(there) if shas[begin + place])
            assert plan.real[part] == min(asked[part], whole)


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
        ({"exclude_data_dir": "/nowhere/at/all"}, "exclude_data_dir: /nowhere/at/all; an existing folder"),
        ({"base_json": ("/nowhere.json",)}, "base_json: .*existing .json"),
        ({"allow_fewer": True, "render_missing": True}, "allow_fewer: True; not together with render_missing"),
        ({"images": "copy"}, "images: copy; embed or link"),
        ({"max_image_side": 10}, "max_image_side: 10; at least 64"),
        ({"num_shards": 0}, "num_shards: 0"),
        ({"shard_index": 2, "num_shards": 2}, "shard_index: 2; from 0 to below num_shards"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, changes: dict, message: str):
    with pytest.raises(UserError, match=message):
        SHIRGDatasetProcessor(config(tmp_path, **changes))


def test_output_that_cannot_be_a_folder(tmp_path: Path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"output_dir .*file"):
        prepare(tmp_path / "file" / "data")


def test_digest_tells_catalogues_apart(tmp_path: Path):
    def digest(name: str, answer: str) -> str:
        folder = tmp_path / "own"
        folder.mkdir(exist_ok=True)
        turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": answer}]
        (folder / name).write_text(json.dumps([{"image": "a.png", "conversations": turns}]), encoding="utf-8")
        writer = CatalogueWriter(tmp_path / "catalogue")
        writer.read("base", LlavaJson(folder / name), "train")
        return writer.close().digest

    assert digest("a.json", "1") == digest("a.json", "1")
    assert len({digest("a.json", "1"), digest("a.json", "2"), digest("b.json", "1")}) == 3


def test_real_sets_in_the_layouts_of_their_releases(shared: Path, tmp_path: Path):
    """Charts, tables and forms as they are published, but called the training parts; the pages of DocVQA kept out."""
    lab = tmp_path / "lab"
    for name, link, target in (
        ("opencqa", "chart_images", "opencqa/chart_images"),
        ("opencqa", "etc/data/train.json", "opencqa/etc/data/val.json"),
        ("tabmwp", "tables", "tabmwp/tables"),
        ("tabmwp", "problems_train.json", "tabmwp/problems_dev1k.json"),
        ("funsd", "training_data", "funsd/training_data"),
        ("funsd", "testing_data/annotations", "sroie/box"),
        ("docvqa", "documents", "docvqa_samples/documents"),
        ("docvqa", "val_v1.0.json", "docvqa_samples/val_v1.0.json"),
    ):
        (lab / name / link).parent.mkdir(parents=True, exist_ok=True)
        (lab / name / link).symlink_to(shared / "data" / target)
    asked = {"data_dir": lab, "base_dataset_size": 0, "ocr_enhancement_size": 300, "exclude_datasets": ("DocVQA",)}
    folder = tmp_path / "data"
    prepare(folder, **asked, images="link", shard_size=100)
    told = manifest(folder)
    assert told["total_samples"] == sum(told["sources"].values()) == 300
    assert told["sources"].keys() == {"opencqa", "tabmwp", "funsd"}
    assert told["excluded"]["images"] == {"docvqa": 7}
    assert check_folder(folder) == []
    found = [r for split in SPLITS for r in records(folder, split) if r.source == "opencqa"]
    suffixes = {Path(r.path).suffix for r in found}
    assert suffixes == {".png", ""}  # files called .png that are GIF inside had to be converted
    assert all(r.open_image().size == (r.width, r.height) for r in found)

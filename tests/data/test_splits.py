"""Which records go where: the asked proportion, a split by image, and no evaluation image in training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from shirg.data.catalogue import CatalogueWriter
from shirg.data.image_scan import ImageInfo, ImageTable
from shirg.data.images import encode_png
from shirg.data.shards import SPLITS
from shirg.data.sources import LlavaJson
from shirg.data.splits import PARTS, EvaluationImages, ImagePool, SplitPlan, assign_splits
from shirg.errors import UserError
from tests.data.preparing import manifest, picture, prepare, put_captions, records


def plan_of(
    counts: dict[str, list[int]], sizes: dict[str, int], fraction: float, missing: str, shas: list[int]
) -> SplitPlan:
    pools, begin = {}, 0
    for part in PARTS:
        groups = np.arange(begin, begin + len(counts[part]))
        table = ImageTable(
            ImageInfo(reason="broken") if not shas[g] else ImageInfo(f"{shas[g]:064x}", "", 1, 1, True)
            for g in groups.tolist()
        )
        table.rows["sha256"][:, 0] = table.rows["sha256"][:, 3]  # the word that differs comes first
        pools[part] = ImagePool(groups, np.array(counts[part], dtype=np.int64), table, lambda place: ("s", str(place)))
        begin += len(groups)
    nothing = ImagePool(np.zeros(0, np.int64), np.zeros(0, np.int64), ImageTable(), lambda place: ("", ""))
    return assign_splits(pools, EvaluationImages(nothing), sizes, fraction, missing)


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
@example([1], [2], (0, 2), 0.05, "refuse", [1, 2, *[0] * 22])  # the smallest image is of a part of which none is asked
@example([4, 4], [3], (1, 1), 0.5, "refuse", list(range(1, 25)))  # no image has as few questions as its part asks
def test_any_composition_is_exact_and_never_shares_an_image(base, ocr, sizes, fraction, missing, shas):
    asked = dict(zip(PARTS, sizes, strict=True))
    plan = plan_of({"base": base, "ocr": ocr}, asked, fraction, missing, shas)
    total, held, trained = sum(sizes), plan.splits["validation"].total, plan.splits["train"].total
    if missing == "render":
        assert held + trained == total
        target = min(max(round(fraction * total), 1), total - 1) if fraction else 0
        rendered = total - sum(plan.real.values())
        assert held == target or rendered < target or held <= 4
    else:
        assert held + trained == sum(plan.real.values())
    assert {part: plan.real[part] + plan.lacking[part] for part in PARTS} == asked
    counts, images = [*base, *ocr], {}
    for split in SPLITS:
        used = plan.splits[split].groups.tolist()
        assert len(set(used)) == len(used) and all(shas[group] for group in used)
        images[split] = {shas[group] for group in used}
        taken = np.diff(plan.splits[split].ends, prepend=0).tolist()
        assert all(1 <= n <= counts[g] for n, g in zip(taken, used, strict=True))
        cut = [g for n, g in zip(taken, used, strict=True) if n < counts[g]]
        assert split == "train" or not cut
        assert len({g < len(base) for g in cut}) == len(cut)  # at most one per part
        assert plan.splits[split].total == sum(taken) + plan.splits[split].rendered
    assert images["train"].isdisjoint(images["validation"])
    unique = [sha for sha in shas[: len(counts)] if sha]
    if len(set(unique)) == len(unique):  # nothing is lost to copies
        for part, begin in (("base", 0), ("ocr", len(base))):
            there = {"base": base, "ocr": ocr}[part]
            whole = sum(n for place, n in enumerate(there) if shas[begin + place])
            assert plan.real[part] == min(asked[part], whole)


def test_split_is_by_image(whole: Path):
    train, held = ({r.image_id for r in records(whole, split)} for split in ("train", "validation"))
    assert train.isdisjoint(held)


def test_real_sets_come_first_and_the_renderer_fills(lab: Path, tmp_path: Path):
    folder = tmp_path / "data"
    asked = {"base_dataset_size": 30, "ocr_enhancement_size": 8, "validation_fraction": 0.1}
    prepare(folder, data_dir=lab, render_missing=True, **asked)
    result = manifest(folder)
    assert result["splits"]["train"]["records"] + result["splits"]["validation"]["records"] == 38
    assert result["sources"]["llava_pretrain"] == 22
    assert result["sources"]["chartqa"] == 3
    assert sum(result["sources"].values()) == 38
    reasons = {entry["item"]: entry["reason"] for entry in result["rejected"]}
    assert reasons.keys() == {"00000/3.png", "00000/5.png", "../../secret.png"}
    assert "cannot be read" in reasons["00000/3.png"]
    held = records(folder, "validation")
    assert {r.source for r in held} >= {"llava_pretrain", "rendered"}


def test_fewer_asked_than_there_are_takes_a_seeded_choice(lab: Path, tmp_path: Path):
    def captions(name: str, seed: int) -> set[str]:
        sizes = {"base_dataset_size": 6, "ocr_enhancement_size": 0, "validation_fraction": 0.0}
        prepare(tmp_path / name, data_dir=lab, seed=seed, **sizes)
        assert manifest(tmp_path / name)["sources"] == {"llava_pretrain": 6}
        return {r.answers[0] for r in records(tmp_path / name, "train")}

    assert captions("a", 0) == captions("b", 0) != captions("c", 1)


def test_fewer_records_than_asked_are_an_error_unless_allowed(lab: Path, tmp_path: Path):
    asked = {"data_dir": lab, "base_dataset_size": 30, "ocr_enhancement_size": 3}
    with pytest.raises(UserError, match=r"base part: 30 records requested, 24 found.*--dataset-size 24.*--allow-fewer"):
        prepare(tmp_path / "data", **asked)
    asked["base_dataset_size"] = 24  # as many as the file tells of, but two images are not there
    with pytest.raises(UserError, match=r"base part: 24 records requested, 22 found \(3 rejected; the first, \.\./"):
        prepare(tmp_path / "data", **asked)
    assert not list((tmp_path / "data").glob("*.parquet"))
    prepare(tmp_path / "data", **asked, allow_fewer=True)
    result = manifest(tmp_path / "data")
    assert result["total_samples"] == 25
    assert result["parts"]["base"] == {"asked": 24, "records": 22, "real": 22, "rendered": 0}
    assert result["configuration"]["missing"] == "fewer"


def test_a_folder_without_anything_usable_is_never_an_empty_data_set(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"ocr part: 20 records requested, 0 found\. Get data \(`shirg prepare --list` names the files"
    ):
        prepare(tmp_path / "data", data_dir=tmp_path, allow_fewer=True)
    assert not (tmp_path / "data/manifest.json").exists()


def test_image_in_validation_is_refused_for_training_under_another_name(tmp_path: Path):
    file = put_captions(tmp_path / "own", [("a.png", picture(1)), ("b.png", picture(1))])
    asked = {"base_dataset_size": 2, "ocr_enhancement_size": 0, "validation_fraction": 0.5, "base_json": (file,)}
    prepare(tmp_path / "data", render_missing=True, **asked)
    result = manifest(tmp_path / "data")
    assert result["sources"] == {"captions": 1, "rendered": 1}
    assert [entry["reason"] for entry in result["rejected"]] == ["the same image is in the validation split"]
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
        result = manifest(tmp_path / name)
        assert result["excluded"]["images"] == {"chartqa": 2}
        assert {entry["item"]: entry["reason"] for entry in result["rejected"]} == {
            "same.png": "the same file as chartqa test/png/1.png, an evaluation image",
            "smaller.jpg": "near-duplicate of chartqa test/png/2.png, an evaluation image",
        }
        assert {r.id for r in records(tmp_path / name, "train")} == {"captions:c.png:0", "captions:d.png:0"}
    with pytest.raises(UserError, match="base part: 3 records requested, 2 found .*2 rejected; the first, "):
        prepare(tmp_path / "more", **(asked | {"base_dataset_size": 3}), data_dir=lab)
    with pytest.raises(UserError, match="exclude_datasets: docvqa is not in"):
        prepare(tmp_path / "gone", **asked, data_dir=lab, exclude_datasets=("DocVQA",))
    with pytest.raises(UserError, match="'Nothing' is not known"):
        prepare(tmp_path / "gone", **asked, data_dir=lab, exclude_datasets=("Nothing",))


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
    result = manifest(tmp_path / "alone")
    assert result["sources"] == {"rendered": 5}
    (entry,) = result["rejected"]
    assert (entry["source"], entry["item"], entry["records"]) == ("funsd", "training_data", 1)
    assert "evaluation reads these forms" in entry["reason"]
    part("testing_data")
    prepare(tmp_path / "both", **asked, validation_fraction=0.0)
    assert manifest(tmp_path / "both")["sources"] == {"funsd": 1, "rendered": 4}


def test_digest_differs_between_catalogues(tmp_path: Path):
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

"""JSON as data sets have it: LLaVA's form, lists of any length, broken lines, entries of every kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shirg.data import load_benchmark
from shirg.data.sources import LlavaJson, find_source
from shirg.data.sources import base as base_module
from shirg.data.sources.base import iter_json_list
from shirg.data.sources.llava import LlavaPretrain
from shirg.errors import UserError
from tests.data.preparing import put_image, put_json


def test_llava_pretrain_layout(tmp_path: Path):
    put_image(tmp_path / "LLaVA-Pretrain/00453/004539375.jpg")
    turns = [
        {"from": "human", "value": "Render a summary of the photo.\n<image>"},
        {"from": "gpt", "value": "luxury furniture"},
    ]
    entries = [{"id": "1", "image": "00453/004539375.jpg", "conversations": turns}, {"id": "2", "image": "x.jpg"}]
    put_json(tmp_path / "LLaVA-Pretrain/blip_laion_cc_sbu_558k.json", entries)
    source = find_source(LlavaPretrain, tmp_path, "train")
    assert source is not None
    (record,) = source.records(split="train")
    assert record.question == "Render a summary of the photo."
    assert record.conversations == [
        {"from": "human", "value": "<image>\nRender a summary of the photo."},
        {"from": "gpt", "value": "luxury furniture"},
    ]
    assert [entry.item for entry in source.index("train").rejected] == ["x.jpg"]


@pytest.mark.parametrize("place", ["imgname", "query", "label"])
def test_half_a_character_is_refused_where_it_is_read(tmp_path: Path, place: str):
    put_image(tmp_path / "test/png/1.png")
    good = {"imgname": "1.png", "query": "q", "label": "a"}
    put_json(tmp_path / "test/test_human.json", [good, good | {place: "\ud800"}])
    records = load_benchmark("chartqa", tmp_path)
    assert len(records) == 1
    (entry,) = records.rejected
    assert "half a character" in entry.reason and entry.item.isascii()


def test_llava_form_of_any_name_with_broken_lines(tmp_path: Path):
    turns = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]
    lines = [
        json.dumps({"id": 1, "image": "coco/1.png", "conversations": turns}),
        '{"id": 2, "image": ',
        "",
        json.dumps({"id": 1, "image": "coco/1.png", "conversations": turns}),
        json.dumps({"id": 3, "conversations": turns}),
        json.dumps({"id": 4, "image": "/etc/passwd", "conversations": turns}),
        json.dumps({"id": 5, "image": "2.png", "conversations": "none"}),
        "[" * 100_000,
        "7",
    ]
    (tmp_path / "My Mix.jsonl").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    source = LlavaJson(tmp_path / "My Mix.jsonl")
    index = source.index("train")
    assert source.name == "my_mix"
    assert [(group.source, group.name) for group in index.groups] == [("my_mix", "coco/1.png")]
    assert [entry.item for entry in index.rejected] == [
        "My Mix.jsonl line 2",
        "coco/1.png",
        "3",
        "/etc/passwd",
        "2.png",
        "My Mix.jsonl line 8",
        "entry 6",
    ]
    assert "duplicate question" in index.rejected[1].reason


VALUES = st.recursive(
    st.one_of(st.none(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=6)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(values=st.lists(VALUES, max_size=6), indent=st.sampled_from([None, 2]), piece=st.integers(1, 9), data=st.data())
def test_long_lists_are_read_a_piece_at_a_time(values, indent, piece, data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "list.json"
    text = json.dumps(values, indent=indent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_module, "JSON_CHUNK", piece)
        path.write_text(text, encoding="utf-8")
        assert list(iter_json_list(path)) == values
        path.write_text(text[: data.draw(st.integers(0, len(text) - 1))], encoding="utf-8")
        given_before = []
        with pytest.raises(UserError, match=r"list\.json: cannot be read as a JSON list"):
            given_before.extend(iter_json_list(path))


@pytest.mark.parametrize("text", ["{}", "[1 2]", "[1,]", "[1;2]", "", "[" * 5000])
def test_what_is_no_list_is_named(text: str, tmp_path: Path):
    (tmp_path / "list.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"list\.json: cannot be read as a JSON list"):
        list(iter_json_list(tmp_path / "list.json"))

"""`shirg select`: a picture and a JSON for every page, whatever else lies in the folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image

from shirg import cli
from shirg.cli import flags, select
from shirg.gate import SELECTORS, GateConfig
from tests.tiny import tiny_model, tiny_page


def run(model: Path, capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; 280 pixels are 20 x 20 patches."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["select", *map(str, arguments), "--model", str(model), "--image-resolution", "280"])
    printed = capsys.readouterr()
    return stop.value.code, printed.out, printed.err


def test_the_names_are_those_of_the_gate():
    assert set(flags.SELECTORS) == set(SELECTORS)


def test_help_lists_the_selectors(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        cli.main(["select", "--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in SELECTORS) and "IMAGE|FOLDER" in said


def test_one_page_gives_a_picture_and_its_numbers(model, tmp_path, capsys):
    page = tmp_path / "page.jpg"
    tiny_page(300, 200).save(page)
    code, said, _ = run(model, capsys, page, "--budget", 40)
    assert code == 0 and said == f"40 of 400 patches kept (10%): {tmp_path / 'page.kept.png'}\n"
    with Image.open(tmp_path / "page.kept.png") as picture:
        assert picture.width > picture.height  # as the page, not as the square that the tower sees
    record = json.loads((tmp_path / "page.kept.json").read_text(encoding="utf-8"))
    assert record["grid"] == {"rows": 20, "columns": 20} and (record["width"], record["height"]) == (300, 200)
    assert record["budget"] == len(record["indices"]) == len(set(record["indices"])) == 40
    places = zip(record["rows"], record["columns"], strict=True)
    assert [20 * row + column for row, column in places] == record["indices"] == sorted(record["indices"])
    assert record["summary"] == {"token": True, "patches": 360, "share": 0.9} and record["tokens"] == 41
    assert len(record["scores"]) == len(record["clusters"]) == 40 and not record["merged"]
    assert record["groups"] == list(range(40)) and record["changed_by_question"] == 0


def test_the_same_call_gives_the_same_bytes(model, tmp_path, capsys):
    tiny_page().save(tmp_path / "page.png")
    files = []
    for name in ("one", "two"):
        assert run(model, capsys, tmp_path / "page.png", "--budget", 50, "--output-dir", tmp_path / name)[0] == 0
        files.append([(tmp_path / name / f"page.kept.{kind}").read_bytes() for kind in ("png", "json")])
    assert files[0] == files[1]


def test_a_question_is_told_with_what_it_changed(tmp_path, capsys):
    """With a floor of its own: the words of random weights match by chance, which does not count without one."""
    model = tmp_path / "tiny"
    tiny_model(shirg={"relevance_floor": -0.99}).save_pretrained(model)
    tiny_page().save(tmp_path / "page.png")
    records = {}
    for kind in ("llm", "none"):
        asked = [
            "--question",
            "What is the total?",
            "--preset",
            "shirg-v2",
            "--relevance",
            kind,
            "--output-dir",
            tmp_path / kind,
        ]
        assert run(model, capsys, tmp_path / "page.png", "--budget", 40, *asked)[0] == 0
        records[kind] = json.loads((tmp_path / kind / "page.kept.json").read_text(encoding="utf-8"))
    plain = set(records["none"]["indices"])
    assert records["none"]["changed_by_question"] == 0
    assert records["llm"]["changed_by_question"] == len(set(records["llm"]["indices"]) - plain) > 0


def test_the_preset_decides_the_gate_and_what_it_keeps(model, tmp_path, capsys):
    tiny_page().save(tmp_path / "page.png")
    kept = {}
    for preset in ("shirg-v2", "ocr", "runs"):
        output = tmp_path / preset
        code, *_ = run(model, capsys, tmp_path / "page.png", "--budget", 40, "--preset", preset, "--output-dir", output)
        record = json.loads((output / "page.kept.json").read_text(encoding="utf-8"))
        assert code == 0 and record["gate"] == dataclasses.asdict(GateConfig.preset(preset))
        kept[preset] = record["indices"]
    assert kept["shirg-v2"] != kept["ocr"] != kept["runs"] != kept["shirg-v2"]


def test_merging_is_told_as_such(model, tmp_path, capsys):
    tiny_page().save(tmp_path / "page.png")
    code, said, _ = run(model, capsys, tmp_path / "page.png", "--budget", 100, "--selector", "pool")
    record = json.loads((tmp_path / "page.kept.json").read_text(encoding="utf-8"))
    assert code == 0 and "400 patches merged into 100 tokens (25%)" in said
    assert record["merged"] and set(record["groups"]) == set(range(100)) and len(record["indices"]) == 400


def test_a_folder_is_drawn_whole_and_what_cannot_be_read_is_named(model, tmp_path, capsys):
    for name in ("a.png", "a.jpg", "b.gif", ".hidden.png", "old.kept.png"):
        tiny_page().save(tmp_path / name)
    (tmp_path / "bro[b]ken.png").write_bytes(b"nothing")
    (tmp_path / "notes.txt").write_text("no image")
    output = tmp_path / "output"
    code, said, errors = run(model, capsys, tmp_path, "--budget", 9, "--output-dir", output)
    names = ["a.jpg.kept", "a.png.kept", "b.kept"]
    assert sorted(file.name for file in output.iterdir()) == sorted(n + end for n in names for end in (".json", ".png"))
    assert code == 2 and said == f"drew 3 of 4 images: {output}\n"
    named, last = errors.splitlines()
    assert named.startswith(f"shirg: skipped: image {tmp_path / 'bro[b]ken.png'}: cannot be read")
    assert last == "shirg: error: 1 of 4 images cannot be read: bro[b]ken.png; the others are drawn"


def test_a_second_run_over_a_folder_leaves_its_own_pictures_alone(model, tmp_path, capsys):
    tiny_page().save(tmp_path / "a.png")
    for _ in range(2):
        assert run(model, capsys, tmp_path, "--budget", 9)[0] == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.kept.json", "a.kept.png", "a.png"]


def test_ctrl_c_leaves_complete_files(model, tmp_path, capsys, monkeypatch):
    for name in ("a.png", "b.png"):
        tiny_page().save(tmp_path / name)
    draw = select.draw_page

    def stopped(model, page: Path, *rest: object) -> str:
        if page.name == "b.png":
            raise KeyboardInterrupt
        return draw(model, page, *rest)

    monkeypatch.setattr(select, "draw_page", stopped)
    code, _, errors = run(model, capsys, tmp_path, "--budget", 9, "--output-dir", tmp_path / "output")
    assert code == 130 and "Ctrl-C" in errors
    assert sorted(file.name for file in (tmp_path / "output").iterdir()) == ["a.kept.json", "a.kept.png"]
    json.loads((tmp_path / "output" / "a.kept.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "image nowhere: No such file or directory"),
        (["empty"], "folder empty: no image in it"),
        (
            ["page.png", "--budget", 9, "--selector", "best"],
            "--selector: selector 'best' is unknown; there are cdpruner",
        ),
        (
            ["page.png", "--budget", 401],
            "--budget: got 401, must be a whole number from 1 to the tokens of the image, here 400",
        ),
        (["page.png", "--output-dir", "page.png"], "--output-dir: page.png is a file"),
        (["page.png", "--budget", 9, "--question", " "], "question"),
        (["broken.png", "--budget", 9], "image broken.png: cannot be read"),
    ],
)
def test_mistakes_are_one_line(arguments, says, model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_page().save("page.png")
    Path("empty").mkdir()
    Path("broken.png").write_bytes(b"nothing")
    code, _, errors = run(model, capsys, *arguments)
    assert code == 2 and says in errors and errors.count("\n") == 1
    assert not list(tmp_path.glob("*.kept.*"))

"""Files of earlier versions (see golden/README.md) are read, and come to what they came to then."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import shirg
from shirg import Lavida, cli
from shirg.data import RecordDataset, build_loaders

GOLDEN = Path(__file__).parent / "golden"
BEST = GOLDEN / "run/checkpoints/best_model"
ANSWERS = {
    "run/checkpoints/best_model": ["33", "UF-1007", "KW-5540", "Winollux"],
    "run/checkpoints/checkpoint-4": ["33.33", "UF-1057", "KW-5540", "Winollux"],
    "old_adapter": ["35", "UF-1057", "KW-5740", "Wanillux"],
}
QUESTIONS = {
    "train": [
        ("Read the title.", "Final Overview"),
        ("Customer?", "Lanorro Waleton"),
        ("Read the Gate.", "3"),
        ("What Policy is given?", "UF-1017"),
        ("Read the Serial.", "KW-5740"),
        ("Read the Bank.", "Vinolux"),
    ],
    "validation": [("Who is it from?", "Galilmart"), ("Read the Phone.", "725-8644")],
}


@pytest.fixture(autouse=True)
def on_the_processor(monkeypatch):
    """A GPU's numbers differ."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A copy of the run under the relative path that it was made with."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(GOLDEN / "run", "run"))


@pytest.fixture(scope="module")
def nano() -> Lavida:
    return Lavida.from_pretrained("nano", device="cpu")


def command(*arguments: object) -> None:
    """A command that succeeds."""
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    assert not left.value.code


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("split", QUESTIONS)
def test_records(split):
    records = RecordDataset(GOLDEN / "run/data", split)
    found = [records[number] for number in range(len(records))]
    assert [(record.question, *record.answers) for record in found] == QUESTIONS[split]
    assert {record.open_image().size for record in found} == {(448, 448)}
    assert {(record.kind, record.source, record.licence) for record in found} == {
        ("document", "rendered", "Apache-2.0")
    }
    train, validation = build_loaders(GOLDEN / "run/data", batch_size=2)
    assert (len(train), len(validation)) == (3, 1)


def test_prepared_folder_is_whole(capsys):
    command("prepare", "--check", GOLDEN / "run/data")
    assert "8 records (6 for training on 1 images, 2 for validation on 1 images" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ANSWERS)
def test_answers_with_an_adapter(folder, nano):
    nano.load_adapter(GOLDEN / folder)
    records = [RecordDataset(GOLDEN / "run/data")[number] for number in range(2, 6)]
    page = records[0].open_image()
    assert [nano.answer(page, record.question, mode="shirg", budget=256) for record in records] == ANSWERS[folder]


FORMULA = {"alpha": 0.25, "beta": 0.15, "clusters_per_budget": 0.25, "edge": "gradient", "edge_spread": 0.0}
SELECTED = {
    "run/checkpoints/best_model": (
        {"alpha": 0.0, "beta": 1.0, "clusters_per_budget": 0.0, "edge": "runs", "edge_spread": 0.2, "max_cell": 8},
        "llm",
        [129, 208, 216, *range(481, 497), 504, 512, 520, 528, 536],
    ),
    "old_adapter": (
        {**FORMULA, "max_cell": 6, "relevance_spread": 0.0, "min_cell": 1},
        "none",
        [33, 133, 145, 150, 184, 194, 241, 270, 285, 297, 321, 326]
        + [337, 363, 376, 510, 517, 533, 538, 546, 622, 657, 686, 689],
    ),
}


@pytest.mark.parametrize("folder", SELECTED)
def test_an_adapter_brings_its_selection(folder, tmp_path):
    page = tmp_path / "page.png"
    page.write_bytes(RecordDataset(GOLDEN / "run/data", "validation")[0].image)
    command("select", page, "--adapter", GOLDEN / folder, "--budget", 24, "--question", "Read the Phone.")
    found = read(tmp_path / "page.kept.json")
    gate, relevance, indices = SELECTED[folder]
    assert found["gate"].items() >= gate.items() and found["indices"] == indices
    assert (found["resolution"], found["fit"], found["relevance"]) == (448, "stretch", relevance)


def test_checkpoint(tmp_path):
    model = Lavida.from_pretrained(GOLDEN / "checkpoint", device="cpu")
    page = RecordDataset(GOLDEN / "run/data", "validation")[0].open_image()
    with torch.no_grad():
        found = model.encode_images([page], mode="shirg", budget=9)[0]
    expected = [0.311322, 0.407904, 0.294290, 0.463067, 0.499705, 0.475443, 0.512567, 0.517480, 0.505546, 0.507741]
    torch.testing.assert_close(found[:, 0], torch.tensor(expected), rtol=1e-4, atol=1e-5)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "again")
    assert read(tmp_path / "again/config.json") == read(GOLDEN / "checkpoint/config.json")
    stored, again = (load_file(folder / "model.safetensors") for folder in (GOLDEN / "checkpoint", tmp_path / "again"))
    assert stored.keys() == again.keys() and all(torch.equal(again[name], stored[name]) for name in stored)


def test_training_resumes(run):
    steps, validations = (lines(run / "logs" / f"{name}.jsonl") for name in ("metrics", "validation"))
    shutil.rmtree(run / "checkpoints/best_model")
    settings = "--image-resolution 448 --token-budgets 128 256 --lora-rank 2 --lora-alpha 4 --batch-size 2 --epochs 2"
    more = "--save-steps 4 --learning-rate 0.05 --mixed-precision no --loader-workers 0 --resume"
    folders = ("--prepared-dir", run / "data", "--output-dir", run)
    command("train", *folders, *settings.split(), *more.split())
    again = lines(run / "logs/metrics.jsonl")
    assert [step["budget"] for step in again] == [256, 128, "pooled", 128, 256, "pooled"]
    assert again[:4] == steps[:4] and again[4:] != steps[4:]  # steps 5 and 6 took other times
    assert [step["loss"] for step in again] == pytest.approx([step["loss"] for step in steps], rel=1e-3)
    losses = lines(run / "logs/validation.jsonl")[-1]["losses"]
    assert losses == pytest.approx(validations[-1]["losses"], rel=1e-3)
    best, before = (
        load_file(folder / "adapter_model.safetensors") for folder in (run / "checkpoints/best_model", BEST)
    )
    assert best.keys() == before.keys()
    for name, value in best.items():
        torch.testing.assert_close(value, before[name], rtol=1e-2, atol=1e-3)


def test_report_of_a_training(run):
    from shirg.evaluation.results import Results, from_json
    from shirg.evaluation.training_report import write_training_report

    report = write_training_report(
        run,
        command="shirg train",
        seconds=60,
        settings=read(run / "checkpoints/checkpoint-4/training_state.json")["run"] | {"save_steps": 4},
        training=read(run / "logs/training_results.json"),
        evaluation=from_json(Results, read(run / "evaluation/evaluation_results.json")),
    ).read_text(encoding="utf-8")
    assert "of step 6, has a validation loss of 0.6180; at the start it was 0.6873" in report
    assert "| train | 6 | 1 |" in report and "1,408 of 3,602,368 (0.039%)" in report
    assert (run / "figures/loss_per_step.png").is_file()


@pytest.mark.parametrize("earlier", [False, True])
def test_report_of_an_evaluation(earlier, run, capsys):
    """Earlier files have no `together` and another word for "undecided"."""
    path = run / "evaluation/evaluation_results.json"
    if earlier:
        content = read(path)
        del content["together"]
        for entry in (*content["comparisons"], *content["group_comparisons"]):
            entry["verdict"] = entry["verdict"].replace("undecided", "not distinguishable")
        path.write_text(json.dumps(content), encoding="utf-8")
    command("report", run / "evaluation")
    out = capsys.readouterr().out
    assert "48 answers scored again, all numbers agree" in out
    assert "documents: 4 questions on 4 pages" in out and "charts: 4 questions on 3 pages" in out
    rows = {row.split()[0]: row.split()[1:] for row in out.split("charts:")[1].splitlines() if "[" in row}
    assert rows["lowres"][:3] == ["729", "50.0%", "[0,"] and rows["lowres+adapter"][:3] == ["729", "0.0%", "[0,"]
    assert rows["shirg-256"][:2] == ["257", "25.0%"] and rows["shirg-256"][-2:] == ["732", "2.06"]
    report = (run / "evaluation/evaluation_report.md").read_text(encoding="utf-8")
    assert "26.8% [0.0, 53.6]" in report  # ANLS of shirg-256+adapter on documents


def test_evaluation_resumes(run):
    """With the last page's answers missing; versions of libraries are part of a run, and those of today may differ."""
    path = run / "evaluation/predictions.jsonl"
    settings, *rows = lines(path)
    settings |= {"shirg": shirg.__version__, "packages": {name: version(name) for name in settings["packages"]}}
    path.write_text("".join(json.dumps(line) + "\n" for line in (settings, *rows[:-6])), encoding="utf-8")
    asked = "--variants lowres hd shirg --token-budgets 256 --eval-samples 4 --timing-repeats 0 --resume"
    command("evaluate", "--adapter", BEST, "--output-dir", run / "evaluation", *asked.split())
    results = read(run / "evaluation/evaluation_results.json")
    assert results["resumed_answers"] == 42
    before = read(GOLDEN / "run/evaluation/evaluation_results.json")
    assert [results[name] for name in ("scores", "tokens", "together")] == [
        before[name] for name in ("scores", "tokens", "together")
    ]
    answers = [row["prediction"] for row in read(run / "evaluation/detailed_results.json")["predictions"]]
    assert answers == [
        row["prediction"] for row in read(GOLDEN / "run/evaluation/detailed_results.json")["predictions"]
    ]

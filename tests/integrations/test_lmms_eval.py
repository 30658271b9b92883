"""Our models and tasks through lmms-eval's own registry and command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: scripts/check_lmms_eval.sh")

from lmms_eval.models import get_model
from lmms_eval.models.registry_v2 import ModelRegistryV2

import shirg
from shirg.data import load_benchmark
from shirg.errors import UserError
from shirg.evaluation.evaluator import SHIRGEvaluationConfig, SHIRGEvaluator
from shirg.gate import GateConfig
from shirg.integrations.lmms_eval import LavidaShirg, LavidaShirgChat, manifest
from shirg.integrations.lmms_task import write_task
from shirg.lavida import Lavida
from tests.tiny import tiny_model, tiny_page

QUESTION = "What is the total?"
BUDGET = 40


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model(shirg={"nano": True, "answer_tokens": 8, "resolution": 336}).save_pretrained(folder)
    return folder


class Request:
    """The part of lmms-eval's request that our model reads."""

    def __init__(self, *args: object):
        self.args = args


def asked(kind: type, model, images, settings: dict) -> str:
    """One answer by the kind's form of request."""
    model.task_dict = {"task": {"test": [{"image": 0}]}}
    if kind is LavidaShirg:
        request = Request(QUESTION, settings, lambda doc: images, 0, "task", "test")
    else:
        parts = [{"type": "image", "url": image} for image in images] + [{"type": "text", "text": QUESTION}]
        messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": parts}]
        request = Request("", lambda doc: messages, settings, 0, "task", "test")
    return model.generate_until([request])[0]


def test_registry_offers_both_kinds():
    registry = ModelRegistryV2()
    registry.register_manifest(manifest())
    assert registry.get_model_class("lavida_shirg", force_simple=True) is LavidaShirg
    assert registry.get_model_class("lavida_shirg") is LavidaShirgChat


def test_entry_point_is_declared_and_found_where_the_package_is_installed():
    import tomllib

    root = Path(shirg.__file__).resolve().parents[1]
    declared = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    assert declared["lmms_eval.models"] == {"lavida_shirg": "shirg.integrations.lmms_eval:manifest"}
    if any(point.name == "lavida_shirg" for point in entry_points(group="lmms_eval.models")):
        assert get_model("lavida_shirg").__name__ == "LavidaShirgChat"


@pytest.mark.parametrize("kind", [LavidaShirg, LavidaShirgChat])
def test_answers_are_those_of_lavida_answer(checkpoint, kind):
    page = tiny_page()
    ours = kind(pretrained=str(checkpoint), budget=BUDGET, batch_size="1", device="cpu")
    expected = Lavida.from_pretrained(checkpoint).answer(page, QUESTION, budget=BUDGET, step_ratio=0.5)
    assert asked(kind, ours, [page], {}) == expected
    fitting = kind(pretrained=str(checkpoint), budget="auto", batch_size="1", device="cpu")
    assert asked(kind, fitting, [page], {}) == fitting.model.answer(page, QUESTION, budget="auto", step_ratio=0.5)
    last = expected[-1]
    assert asked(kind, ours, [page], {"until": ["never said", last]}) == expected.split(last)[0].strip()
    with pytest.raises(UserError, match="one image; the task gives 2"):
        asked(kind, ours, [page, page], {})


@pytest.mark.parametrize("size", [2, 8])
def test_answers_do_not_depend_on_the_batch(checkpoint, size):
    """Five pages and two lengths of answers, in the order of the requests; one question cannot be asked."""
    pages = [tiny_page(text=f"page {number}") for number in range(5)]
    lengths = [8, 8, 4, 4, 4]
    texts = [f"What {'is so ' * number}long?" if number != 3 else " " for number in range(5)]
    requests = [
        Request(text, {"max_new_tokens": length}, lambda page: [page], row, "task", "test")
        for row, (text, length) in enumerate(zip(texts, lengths, strict=True))
    ]
    ours = LavidaShirg(pretrained=str(checkpoint), budget=BUDGET, batch_size=size, device="cpu")
    ours.model.double()
    ours.task_dict = {"task": {"test": pages}}
    expected = [
        "" if not text.strip() else ours.model.answer(page, text, "shirg", BUDGET, length, step_ratio=0.5)
        for page, text, length in zip(pages, texts, lengths, strict=True)
    ]
    assert ours.generate_until(requests) == expected and len(set(expected)) > 2


def test_arguments_reach_the_model(checkpoint):
    made = {"selector": "uniform", "budget": BUDGET, "steps": 3, "max_new_tokens": 4, "resolution": 224}
    ours = LavidaShirg(str(checkpoint), **made, schedule="shift", shift=1)
    assert (ours.model.vision.gate.selector, ours.model.vision.resolution) == ("uniform", 224)
    assert ours.keywords["steps"] == 3 and ours.keywords["step_ratio"] is None
    assert ours.keywords["schedule_kwargs"] == {"shift": 1.0}
    assert asked(LavidaShirg, ours, [tiny_page()], {"max_new_tokens": 64}) is not None


def test_the_preset_sets_the_gate_and_leaves_the_selector(checkpoint):
    plain = LavidaShirg(str(checkpoint), budget=BUDGET).model.vision.gate
    assert plain == GateConfig() == LavidaShirg(str(checkpoint), budget=BUDGET, preset="default").model.vision.gate
    assert LavidaShirg(str(checkpoint), budget=BUDGET, preset="ocr").model.vision.gate == GateConfig.preset("ocr")
    both = LavidaShirgChat(str(checkpoint), budget=BUDGET, preset="ocr", selector="uniform").model.vision.gate
    assert both == replace(GateConfig.preset("ocr"), selector="uniform")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"buget": 5}, "'buget' is no argument of lavida_shirg; did you mean budget?"),
        ({"qqq": 5}, "there are pretrained, adapter, mode, budget"),
        ({"batch_size": "auto"}, "batch_size: got auto, must be a whole number from 1"),
        ({"selector": "best"}, "selector 'best' is unknown"),
        ({"preset": "fast"}, "preset: got 'fast', must be one of runs, default, shirg-v2, ocr"),
        ({"preset": 3}, "preset: got 3, must be one of runs, default, shirg-v2, ocr"),
        ({"pretrained": "/nowhere"}, "/nowhere"),
        ({"budget": 0}, "budget: got 0, must be a whole number from 1"),
        ({"budget": "many"}, "budget: got 'many'"),
        ({"budget": 577}, "budget: got 577, must be .*, here 576"),
        ({"budget": 3646, "mode": "multiview"}, "budget: got 3646, must be .*, here 3,645"),
        ({"budget": 577, "mode": "early"}, "budget: got 577, must be .*, here 576"),
        ({"mode": "fast"}, "mode='fast' is unknown"),
        ({"steps": 0}, "steps: got 0"),
        ({"steps": 4, "step_ratio": 0.5}, "steps=4 and step_ratio=0.5 .*give one"),
        ({"step_ratio": float("nan")}, "step_ratio: got nan"),
        ({"step_ratio": 0.01}, "steps=0: at least one denoising step"),
        ({"max_new_tokens": 9, "block_length": 4}, "must be a multiple of block_length=4"),
        ({"max_new_tokens": 10**13}, "max_new_tokens: got 10000000000000"),
        ({"schedule": "cubic"}, "schedule='cubic' is unknown"),
        ({"schedule": "shift", "shift": float("inf")}, "shift: got inf"),
        ({"resolution": 670}, "resolution: got 670, must be a multiple of 14"),
        ({"fit": "crop"}, "fit: got 'crop', must be one of stretch, pad"),
        ({"relevance": "clip"}, "relevance: got 'clip'"),
        ({"relevance_sign": 2}, "relevance_sign: got 2"),
    ],
)
def test_mistakes_are_named(checkpoint, arguments, message):
    with pytest.raises(UserError, match=message):
        LavidaShirg(**{"pretrained": str(checkpoint), "budget": BUDGET} | arguments)


def test_a_task_is_a_yaml_that_names_its_data(tmp_path):
    records = load_benchmark("documents", limit=2, seed=0)
    path = write_task(tmp_path, "documents", records, "official")
    text = path.read_text(encoding="utf-8").replace("!function ", "")
    task = yaml.safe_load(text)
    assert Path(task["dataset_kwargs"]["data_files"]["test"]).is_file()
    assert [metric["metric"] for metric in task["metric_list"]] == ["exact_match", "anls"]


@pytest.mark.parametrize("flag", [[], ["--force_simple"]], ids=["chat", "simple"])
def test_lmms_evals_command_scores_as_we_do(tmp_path, checkpoint, flag):
    records = load_benchmark("documents", limit=4, seed=0)
    model = Lavida.from_pretrained(checkpoint)
    config = SHIRGEvaluationConfig(
        datasets=["documents"],
        token_budgets=[BUDGET],
        sample_size=4,
        modes=["shirg"],
        efficiency_repeats=0,
        output_dir=tmp_path / "ours",
    )
    ours = SHIRGEvaluator(config, model).run_evaluation()
    write_task(tmp_path / "tasks", "documents", records, "none")
    command = [sys.executable, "-m", "lmms_eval", "--model", "lavida_shirg", *flag]
    command += ["--model_args", f"pretrained={checkpoint},budget={BUDGET}", "--tasks", "shirg_documents"]
    command += ["--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "theirs"), "--log_samples"]
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        command, env={**os.environ, **offline}, cwd=tmp_path, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (results,) = (tmp_path / "theirs").rglob("*_results.json")
    theirs = json.loads(results.read_text(encoding="utf-8"))["results"]["shirg_documents"]
    for entry in ours["scores"]:
        assert theirs[f"{entry['metric']},none"] == pytest.approx(entry["score"])
    (samples,) = (tmp_path / "theirs").rglob("*_samples_*.jsonl")
    said = [json.loads(line)["filtered_resps"] for line in samples.read_text(encoding="utf-8").splitlines()]
    said = [text[0] if isinstance(text, list) else text for text in said]
    rows = json.loads((tmp_path / "ours" / "detailed_results.json").read_text(encoding="utf-8"))["predictions"]
    by_id = {row["id"]: row["prediction"] for row in rows}
    assert said == [by_id[record.id] for record in records]


def test_a_question_that_cannot_be_asked_is_answered_by_nothing(checkpoint, caplog):
    model = LavidaShirg(pretrained=str(checkpoint), budget=BUDGET, max_new_tokens=4)
    model.model.config.raw["max_sequence_length"] = 60
    assert asked(LavidaShirg, model, [tiny_page()], {}) == ""
    assert "more than this model's 60 positions" in caplog.text

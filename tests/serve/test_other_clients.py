"""Clients of others beside openai's own: lmms-eval's model of OpenAI's interface, and LangChain."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("fastapi", reason="shirg serve needs the extra `serve`")

from shirg.data import load_benchmark
from shirg.evaluation.evaluator import SHIRGEvaluationConfig, SHIRGEvaluator
from shirg.integrations.lmms_task import write_task
from shirg.serve.settings import Defaults, ServerSettings
from tests.serve.running import data_uri, question, running
from tests.tiny import tiny_model, tiny_page

BUDGET = 40


def small():
    return tiny_model(shirg={"nano": True, "answer_tokens": 8, "resolution": 336})


def test_lmms_eval_gets_the_score_of_the_evaluation(tmp_path):
    """Four questions in batches of the server's, four steps for eight tokens as in `shirg evaluate`."""
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: scripts/check_lmms_eval.sh")
    records = load_benchmark("documents", limit=4, seed=0)
    config = SHIRGEvaluationConfig(
        datasets=["documents"],
        token_budgets=[BUDGET],
        sample_size=4,
        modes=["shirg"],
        efficiency_repeats=0,
        output_dir=tmp_path / "ours",
    )
    ours = SHIRGEvaluator(config, small()).run_evaluation()
    write_task(tmp_path / "tasks", "documents", records, "none")
    with running({"tiny": small()}, ServerSettings(defaults=Defaults(budget=BUDGET, steps=4))) as server:
        arguments = f"model=tiny,base_url={server.url}/v1,api_key=none,timeout=120"
        command = [sys.executable, "-m", "lmms_eval", "--model", "openai", "--model_args", arguments]
        command += ["--tasks", "shirg_documents", "--include_path", str(tmp_path / "tasks"), "--log_samples"]
        command += ["--output_path", str(tmp_path / "theirs"), "--gen_kwargs", "max_new_tokens=8"]
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
        done = subprocess.run(
            command, env={**os.environ, **offline}, cwd=tmp_path, capture_output=True, text=True, timeout=900
        )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (results,) = (tmp_path / "theirs").rglob("*_results.json")
    theirs = json.loads(results.read_text(encoding="utf-8"))["results"]["shirg_documents"]
    for entry in ours["scores"]:
        assert theirs[f"{entry['metric']},none"] == pytest.approx(entry["score"])
    (samples,) = (tmp_path / "theirs").rglob("*_samples_*.jsonl")
    texts = [json.loads(line)["filtered_resps"] for line in samples.read_text(encoding="utf-8").splitlines()]
    rows = json.loads((tmp_path / "ours" / "detailed_results.json").read_text(encoding="utf-8"))["predictions"]
    by_id = {row["id"]: row["prediction"] for row in rows}
    assert [text[0] if isinstance(text, list) else text for text in texts] == [by_id[one.id] for one in records]


def test_langchain():
    chat = pytest.importorskip("langchain_openai", reason="a client of shirg serve").ChatOpenAI
    model = small()
    with running({"tiny": model}) as server:
        client = chat(model="tiny", base_url=f"{server.url}/v1", api_key="none", extra_body={"budget": BUDGET})
        messages = question("What is the total?", data_uri(tiny_page()))
        answer = client.invoke(messages)
        pieces = [chunk.content for chunk in client.stream(messages)]
    assert answer.content == "".join(pieces) == model.answer(tiny_page(), "What is the total?", budget=BUDGET)
    assert answer.usage_metadata["output_tokens"] > 0

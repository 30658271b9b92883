"""`shirg evaluate` by its flags, stopped and resumed, in shards and under torchrun."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
import tyro

from shirg import cli
from shirg.cli import evaluate
from shirg.cli.processes import Processes
from shirg.errors import UserError
from tests.forked import TORCHRUN, launched
from tests.tiny import tiny_model

ASKED = ("--eval-datasets", "documents", "--eval-samples", "2", "--token-budgets", "24", "--image-resolution", "168")
COMPARED = ("--variants", "lowres,shirg")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model(shirg={"nano": True, "answer_tokens": 4}).save_pretrained(folder)
    return folder


def config_of(*arguments: str, processes: Processes | None = None):
    flags = tyro.cli(evaluate.Flags, args=list(arguments))
    return evaluate.flags_config(flags, processes or Processes())


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", *(str(argument) for argument in arguments)])
    return stop.value.code


def test_default_stays_as_it_is():
    config = config_of()
    assert list(config.modes) == ["lowres", "hd", "highres", "shirg"]
    assert (config.resume, config.num_shards, config.shard_index) == (False, 1, None)


@pytest.mark.parametrize(
    "arguments", [("shirg,uniform,hd",), ("shirg", "uniform", "hd"), ("shirg,uniform", "hd"), ("shirg,,uniform,", "hd")]
)
def test_variants_by_name_with_commas_or_blanks(arguments):
    assert list(config_of("--variants", *arguments).modes) == ["shirg", "uniform", "hd"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--variants", "unifrom"], "did you mean uniform"),
        (["--variants", ","], r"modes: got \[','\], must be at least one"),
        (["--num-shards", "2", "--shard-index", "2"], "shard_index: got 2, must be 0 to 1 of num_shards=2"),
        (["--shard-index", "1"], "shard_index: got 1, must be 0 to 0 of num_shards=1"),
        (["--num-shards", "0"], "num_shards: got 0"),
    ],
)
def test_mistakes_are_named(arguments, says):
    with pytest.raises(UserError, match=says):
        config_of(*arguments)


def test_full_is_everything():
    assert list(config_of("--full").modes) == list(config_of("--variants", "all").modes) == ["all"]
    with pytest.raises(UserError, match="--full: compares everything; leave out --variants shirg"):
        config_of("--full", "--variants", "shirg")


def test_adapters_by_folder_and_by_name(tmp_path):
    assert config_of().adapters == {} and evaluate.adapters(["a/b"]) == (Path("a/b"), {})
    named = {"mixed": Path("x/best_model"), "alone": Path("y")}
    given = ("mixed=x/best_model", "alone=y")
    assert config_of("--adapter", *given).adapters == evaluate.adapters(given)[1] == named
    assert evaluate.adapters(["z", *given]) == (Path("z"), named)
    (tmp_path / "a=b").mkdir()
    assert evaluate.adapters([str(tmp_path / "a=b")]) == (tmp_path / "a=b", {})
    for wrong, says in ((["x", "y"], "x and y without names"), (["m=x", "m=y"], "two are called 'm'")):
        with pytest.raises(UserError, match=f"--adapter: .*{says}"):
            evaluate.adapters(wrong)
    with pytest.raises(UserError, match="adapters: got 'adapter'"):
        config_of("--adapter", "adapter=x")


def test_a_budget_of_the_pages_own():
    assert config_of("--token-budgets", "auto", "512").token_budgets == ["auto", 512]


@pytest.mark.parametrize(
    "wrong",
    [("--eval-datasets", "nothing"), ("--token-budgets", "200"), ("--adapter", "gone"), ("--adapter", "mixed=gone")],
)
def test_a_refused_run_leaves_no_folder(wrong, checkpoint, tmp_path):
    asked = dict(zip(ASKED[::2], ASKED[1::2], strict=True)) | dict([wrong])
    flags = [part for pair in asked.items() for part in pair]
    assert run("--model", checkpoint, *flags, "--output-dir", tmp_path / "new" / "below") == 2
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    assert run("--model", checkpoint, *flags, "--output-dir", tmp_path / "old") == 2
    assert (tmp_path / "old").is_dir()


def test_torchrun_shares_the_pages_out(monkeypatch):
    for name, value in {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    processes = Processes.of_launcher()
    config = config_of(processes=processes)
    assert (config.num_shards, config.shard_index) == (4, 2)
    with pytest.raises(UserError, match="torchrun divides the pages itself"):
        config_of("--num-shards", "4", processes=processes)


@pytest.fixture(scope="module")
def done(checkpoint, tmp_path_factory) -> tuple[Path, str]:
    """Folder of one process's whole evaluation, which tests leave as it is, and what it showed."""
    folder, shown = tmp_path_factory.mktemp("done"), io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert run("--model", checkpoint, *ASKED, *COMPARED, "--output-dir", folder) == 0
    return folder, shown.getvalue()


def test_resume_shards_and_an_earlier_run(checkpoint, done, tmp_path, capsys):
    folder, shown = done
    assert "documents: 2 questions" in shown and "against lowres" in shown and " shirg-24 " in shown
    whole = (folder / "predictions.jsonl").read_bytes()
    shutil.copytree(folder, tmp_path / "whole")
    asked = ("--model", checkpoint, *ASKED, *COMPARED, "--timing-repeats", 0, "--output-dir")
    assert run(*asked, tmp_path / "whole", "--resume") == 0
    assert (tmp_path / "whole" / "predictions.jsonl").read_bytes() == whole
    card = (tmp_path / "whole" / "run_card.md").read_text(encoding="utf-8")
    assert "Seed 0 decides" in card and '"weights": "' in card
    capsys.readouterr()
    assert run(*asked, tmp_path / "whole", "--resume", "--seed", 1) == 2
    assert "--resume: --seed differs: seed is 1" in capsys.readouterr().err
    for index in (0, 1):
        assert run(*asked, tmp_path / "parts", "--num-shards", 2, "--shard-index", index) == 0
    assert "share 1 of 2: " in capsys.readouterr().out
    assert run(*asked, tmp_path / "parts", "--num-shards", 2) == 0
    merged = (tmp_path / "parts" / "predictions.jsonl").read_bytes()
    assert sorted(merged.splitlines()) == sorted(whole.splitlines())  # each as its answers came


def test_the_whole_run_goes_on_with_its_answers_unless_they_are_of_another_run(checkpoint, tmp_path, capsys):
    small = (*ASKED, "--eval-samples", 1, "--timing-repeats", 0)
    asked = ("run", "--skip-training", "--model", checkpoint, *small, "--output-dir", tmp_path)

    def whole(*further: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in (*asked, *further)])
        results = json.loads((tmp_path / "evaluation" / "evaluation_results.json").read_text())
        return results["resumed_answers"], capsys.readouterr().err if not stop.value.code else "failed"

    answers, _ = whole()
    assert answers == 0
    first = (tmp_path / "evaluation" / "predictions.jsonl").read_bytes()
    answers, said = whole("--resume")
    assert answers == len(first.splitlines()) - 1 and "are measured already" in said
    answers, said = whole("--resume", "--seed", 1)
    assert (
        answers == 0 and "the evaluation starts again, since its answers are of another run (resume: seed is 1" in said
    )
    assert (tmp_path / "evaluation" / "old-1" / "predictions.jsonl").read_bytes() == first


def test_torchrun_equals_one_process(checkpoint, done, tmp_path):
    arguments = ["--model", str(checkpoint), *ASKED, *COMPARED, "--output-dir", str(tmp_path)]
    ended = launched(TORCHRUN, cli.main, ["evaluate", *arguments])
    assert ended.code == 0, ended.err[-3000:]
    shares = [path.read_bytes().splitlines()[1:] for path in sorted((tmp_path / "shards").iterdir())]
    assert sorted(sum(shares, [])) == sorted((tmp_path / "predictions.jsonl").read_bytes().splitlines()[1:])
    assert len(shares) == 2 and all(shares)  # so that joining them asked nothing
    assert (done[0] / "detailed_results.json").read_bytes() == (tmp_path / "detailed_results.json").read_bytes()
    lines, theirs = ((folder / "predictions.jsonl").read_bytes().splitlines() for folder in (done[0], tmp_path))
    assert sorted(lines) == sorted(theirs)
    one, two = (json.loads((folder / "evaluation_results.json").read_text()) for folder in (done[0], tmp_path))
    assert one["scores"] == two["scores"] and two["config"]["num_shards"] == 2

"""`shirg answer`: the answer alone on stdout, how it fills in on stderr, and a clean terminal afterwards."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import sys
import tempfile
from dataclasses import replace

import pytest
import torch
import tyro
from PIL import Image

from shirg import GateConfig, Lavida, cli
from shirg.cli import answer, live
from tests.forked import started
from tests.tiny import tiny_model, tiny_page

MASK = 261
WIPED = "\r\x1b[1A\x1b[2K"  # back, up, and the line cleared
STEP = re.compile(r"step +(\d+) +(\d+)/(\d+) tokens  (.*)")


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> list[str]:
    """The arguments of a short and cheap question."""
    folder = tmp_path_factory.mktemp("answer")
    tiny_model().save_pretrained(folder / "tiny")
    tiny_page().save(folder / "page.png")
    arguments = [folder / "page.png", "What?", "--model", folder / "tiny", "--mode", "lowres"]
    return ["answer", *map(str, arguments)]


def in_process(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    printed = capsys.readouterr()
    return stop.value.code, printed.out, printed.err


def on_a_terminal(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, stop_at: str | None = None
) -> tuple[int, str, str]:
    """Exit code, stdout and what a terminal on stderr was sent; Ctrl-C as soon as `stop_at` appears there."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    ours, theirs = pty.openpty()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
        process = started(cli.main, arguments, stdin=theirs, stdout=out.fileno(), stderr=theirs)
        os.close(theirs)
        sent = ""
        try:
            while chunk := os.read(ours, 4096):
                sent += chunk.decode("utf-8", "replace")
                if stop_at is not None and stop_at in sent:
                    os.kill(process.pid, signal.SIGINT)
                    stop_at = None
        except OSError:  # Linux's end of a terminal that nobody holds any more
            pass
        finally:
            os.close(ours)
        process.join(60)
        out.seek(0)
        return process.exitcode, out.read(), sent


def test_stdout_is_the_answer_and_nobody_else_is_told(asked, capsys):
    code, out, err = in_process(capsys, *asked, "--max-new-tokens", "6")
    assert (code, err, out.count("\n")) == (0, "", 1)


def test_an_own_budget_is_printed(asked, capsys):
    _, image, question, _, folder, *_ = asked
    model = Lavida.from_pretrained(folder)
    kept = model.select(model.image_features(Image.open(image), "shirg"), "auto")
    settings = ["--model", folder, "--budget", "auto", "--max-new-tokens", "2"]
    code, _, err = in_process(capsys, "answer", image, question, *settings)
    assert (code, err) == (0, f"budget auto: {kept.indices.shape[1]} tokens\n")


@pytest.mark.parametrize("budget", ["0", "2305", "99999"])
def test_a_budget_has_one_range(budget, asked, capsys):
    _, image, question, _, folder, *_ = asked
    code, _, err = in_process(capsys, "answer", image, question, "--model", folder, "--budget", budget)
    assert code == 2 and f"--budget: got {budget}, must be a whole number from 1 to the tokens of the image, " in err


def test_an_image_that_is_missing_is_named_as_select_does(asked, tmp_path, capsys):
    model = ["--model", asked[4]]
    said = {
        in_process(capsys, *command, *model)[2] for command in (["answer", "gone.png", "What?"], ["select", "gone.png"])
    }
    assert said == {"shirg: error: image gone.png: No such file or directory\n"}


def test_every_step_can_be_printed_anywhere(asked, capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    small = [*asked, "--max-new-tokens", "6", "--steps", "3"]
    said = in_process(capsys, *small)[1]
    code, out, err = in_process(capsys, *small, "--show-steps")
    assert (code, out) == (0, said)
    lines = [STEP.fullmatch(line) for line in err.splitlines()]
    assert [line.groups()[:3] for line in lines] == [("1", "2", "6"), ("2", "4", "6"), ("3", "6", "6")]
    assert [max(map(line[4].count, "\u2591_")) for line in lines] == [4, 2, 0]


def test_a_terminal_sees_one_line_redrawn(asked, capsys, monkeypatch):
    small = [*asked, "--max-new-tokens", "6"]
    said = in_process(capsys, *small)[1]
    code, out, sent = on_a_terminal(small, monkeypatch)
    assert (code, out) == (0, said)
    assert re.findall(r"step +(\d+)", sent)[:6] == list("123456")
    assert "\u2591" in sent and "\x1b[1;32m" in sent  # masks, and what a step committed
    drawn, after = sent.split("6 passes for 6 tokens")
    assert drawn.count("\n") == 1 and WIPED in drawn  # every redrawing goes back on its line; the last one is wiped
    assert drawn.index("\x1b[?25l") < drawn.rindex("\x1b[?25h") and "\x1b[?25l" not in after


def test_ctrl_c_leaves_a_clean_terminal(asked, monkeypatch):
    code, out, sent = on_a_terminal([*asked, "--mode", "highres", "--max-new-tokens", "400"], monkeypatch, "step  2")
    assert (code, out) == (130, "")
    shown_again = sent.rindex("\x1b[?25h")
    assert sent.rindex("\x1b[?25l") < shown_again
    assert "stopped by Ctrl-C" in sent[shown_again:] and "Traceback" not in sent
    assert "passes for" not in sent


def test_another_rule_chooses(asked, capsys):
    _, image, question, _, folder, *_ = asked
    model = Lavida.from_pretrained(folder)
    model.vision = replace(model.vision, gate=GateConfig(selector="uniform"))
    expected = model.answer(Image.open(image), question, budget=5, max_new_tokens=6)
    settings = ["--budget", "5", "--max-new-tokens", "6", "--selector", "uniform"]
    code, out, _ = in_process(capsys, "answer", image, question, "--model", folder, *settings)
    assert (code, out) == (0, expected + "\n")


def test_a_draft_is_filled(asked, capsys):
    code, out, _ = in_process(capsys, *asked, "--draft", "Total: [mask:3] USD", "--schedule", "logit-normal")
    assert code == 0 and out.startswith("Total: ") and out.endswith(" USD\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--draft", "[mask:x]"], "cannot read '[mask:x]'"),
        (["--shift", "0.3"], "--shift: got 0.3, but only --schedule shift uses it"),
        (["--steps", "2", "--step-ratio", "0.5"], "give one of them"),
        (["--schedule", "cubic"], "schedule"),
        (["--selector", "pool"], "--selector: got 'pool', but --mode lowres selects nothing"),
        (["--max-new-tokens", "9", "--block-length", "4"], "must be a multiple of block_length=4"),
    ],
)
def test_mistakes_are_one_line(arguments, says, asked, capsys):
    code, out, err = in_process(capsys, *asked, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


@pytest.mark.parametrize("flags", [["--show-steps"], []])
def test_a_model_without_a_tokenizer_is_one_line(flags, asked, tmp_path, capsys, monkeypatch):
    tiny_model(tokenizer=False).save_pretrained(tmp_path)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    code, out, err = in_process(capsys, *asked, "--model", str(tmp_path), *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "without a tokenizer" in err


def test_flags_reach_the_model():
    def keywords(*arguments: str) -> dict:
        flags = tyro.cli(answer.Flags, args=["page.png", "What?", *arguments])
        return answer.decoding(flags, "cpu")

    plain = keywords()
    seed = plain.pop("generator").initial_seed()
    assert seed == 0
    assert plain == {
        "steps": None,
        "step_ratio": None,
        "schedule": None,
        "schedule_kwargs": None,
        "threshold": None,
        "factor": None,
        "remasking": "low_confidence",
        "temperature": 0.0,
    }
    given = keywords("--schedule", "shift", "--shift", "0.33", "--seed", "5", "--block-length", "8", "--steps", "4")
    assert given.pop("generator").initial_seed() == 5
    assert given == plain | {"schedule": "shift", "schedule_kwargs": {"shift": 0.33}, "block_length": 8, "steps": 4}
    for flag, value in (("threshold", 0.9), ("factor", 1.5)):
        given = keywords(f"--{flag}", str(value))
        assert given == plain | {flag: value, "generator": given["generator"]}


def test_the_seed_decides_what_is_drawn(asked, capsys):
    drawn = [*asked, "--max-new-tokens", "12", "--temperature", "1.5", "--seed"]
    first, again, other = (in_process(capsys, *drawn, seed)[1] for seed in ("1", "1", "2"))
    assert first == again != other


@pytest.mark.parametrize(("unicode", "signs"), [(True, "\u2591\u00b7\u21b5"), (False, "_. ")])
def test_a_line_shows_what_each_token_is(unicode, signs):
    model = tiny_model()
    word, newline, end = model.tokenizer("ab").input_ids, *model.tokenizer("\n").input_ids, model.config.eos_token_id
    view = live.AnswerView(model, unicode=unicode)
    first = view.line(1, torch.tensor([[word[0], MASK, MASK, MASK]]))
    second = view.line(2, torch.tensor([[*word, newline, end]]))
    mask, special, line_end = signs
    assert first.plain == f"step  1  1/4 tokens  a{mask * 3}"
    assert second.plain == f"step  2  4/4 tokens  ab{line_end}{special}"
    styled = {second.plain[span.start : span.end]: span.style for span in second.spans}
    assert styled[f"b{line_end}"] == live.STYLES["new"] and styled[special] == live.STYLES["new-special"]
    assert first.spans[-1].style == live.STYLES["masked"]


def test_a_plain_stream_is_not_drawn_on(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich take anything for a terminal
    with live.shown_steps(tiny_model(), every_step=False) as on_step:
        assert on_step is None
    assert stream.getvalue() == ""

"""`shirg demo` up to its page: what is said before anything is loaded."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from shirg import cli
from shirg.demo import serving
from tests import forked

ROOT = Path(__file__).resolve().parents[2]


def test_a_port_that_there_cannot_be(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--port", "70000"])
    assert stop.value.code == 2 and "--port: got 70000" in capsys.readouterr().err


def demo_without_gradio(temporary: Path) -> None:
    """The command where gradio is not installed, and nothing of the page is loaded yet."""
    forked.forget("gradio", "shirg.demo")
    sys.modules["gradio"] = None
    tempfile.tempdir = str(temporary)
    cli.main(["demo", "--port", "0", "--host", "0.0.0.0"])


def test_without_gradio_one_line_names_the_command(tmp_path):
    """Said before the model is loaded, and after the warning about the host; nothing is left behind."""
    ended = forked.run(demo_without_gradio, tmp_path)
    warned, said = ended.err.splitlines()
    assert ended.code == 2 and "there is no password" in warned
    assert said.startswith("shirg: error: gradio is not installed") and said.endswith("-m pip install 'gradio>=6.31'")
    assert not list(tmp_path.iterdir())


def test_the_command_is_that_of_the_extra():
    assert f'demo = ["shirg[full]", "{serving.GRADIO}"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")

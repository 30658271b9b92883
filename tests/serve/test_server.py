"""The processes of a server: crashes, SIGTERM, and a model that cannot be loaded."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
import urllib.request
from functools import partial

import psutil
import pytest

pytest.importorskip("fastapi", reason="shirg serve needs the extra `serve`")

from shirg import cli
from tests import forked
from tests.serve.running import data_uri, question
from tests.tiny import tiny_page

PATIENCE = 120


def serving(*arguments: str) -> None:
    """The command; its workers are forked, too, since a new interpreter needs seconds to load torch."""
    import uvicorn._subprocess

    uvicorn._subprocess.spawn = multiprocessing.get_context("fork")
    cli.main(["serve", *arguments])


def asked(port: int, **fields: object) -> dict:
    body = {"model": "nano", "messages": question("Who?", data_uri(tiny_page())), "budget": 64, **fields}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        return json.load(response)


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def process(port):
    with tempfile.TemporaryFile("w+") as err:
        begun = forked.started(partial(serving, "--port", str(port)), stderr=err.fileno())
        yield begun
        if begun.is_alive():
            os.killpg(begun.pid, signal.SIGKILL)
            begun.join()


def until_ready(port: int) -> None:
    for _ in range(PATIENCE * 10):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=PATIENCE).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not start")


def test_a_dead_worker_is_replaced_and_sigterm_answers_what_was_asked(process, port):
    until_ready(port)
    [worker] = psutil.Process(process.pid).children()
    worker.kill()
    psutil.wait_procs([worker], timeout=PATIENCE)
    found = []
    asking = threading.Thread(target=lambda: found.append(asked(port, max_tokens=64)))
    asking.start()  # waits at the listening socket for the next worker
    until_ready(port)
    [successor] = psutil.Process(process.pid).children()
    assert successor.pid != worker.pid
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGTERM)
    asking.join(PATIENCE)
    process.join(PATIENCE)
    assert found and found[0]["choices"][0]["finish_reason"] and process.exitcode == 0


def test_a_model_that_cannot_be_loaded_ends_the_server(port):
    ended = forked.run(partial(serving, "--port", str(port), "--model", "/nowhere/model"))
    assert ended.code == 2 and [line for line in ended.err.splitlines() if line.startswith("shirg: error: ")]
    assert "Traceback" not in ended.err


def test_a_port_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = forked.run(partial(serving, "--port", str(taken.getsockname()[1])))
    assert ended.code == 2 and "cannot be listened on" in ended.err


def test_a_token_file_without_a_token(tmp_path):
    (tmp_path / "token.txt").write_text("two words\n")
    ended = forked.run(partial(serving, "--port", "0", "--token-file", str(tmp_path / "token.txt")))
    assert ended.code == 2 and "--token-file" in ended.err

"""Processes forked from the tests' own, which has loaded torch and all else already: a new interpreter takes seconds to."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from typing import TextIO

import torch

PATIENCE = 300
"""Seconds after which a process is taken to hang, and killed with all that it started."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended: exit code, minus a signal's number where one killed it, and what it wrote."""

    code: int
    out: str
    err: str


def started(action: Callable[..., object], *arguments: object, **streams: int) -> ForkProcess:
    """A process, first of a group of its own, that calls `action(*arguments)`.

    `streams` says which descriptors are its `stdin`, `stdout` and `stderr`, where they are not the tests' own.
    """

    def begin() -> None:
        os.setsid()
        torch.set_num_threads(1)  # it has none of its parent's threads, and would wait for them
        torch.cuda.is_available = lambda: False  # CUDA cannot be used after a fork
        for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
            if name in streams:
                os.dup2(streams[name], number)
                setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
        action(*arguments)

    process = multiprocessing.get_context("fork").Process(target=begin)
    process.start()
    return process


def run(action: Callable[..., object], *arguments: object) -> Ended:
    """Call `action(*arguments)` in a process of its own and wait for its end."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = started(action, *arguments, stdout=out.fileno(), stderr=err.fileno())
        process.join(PATIENCE)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        return Ended(process.exitcode, _all_of(out), _all_of(err))


def _all_of(file: TextIO) -> str:
    file.seek(0)
    return file.read()


def forget(*packages: str) -> None:
    """Let these packages, and all in them, be imported anew: as in a process that has not loaded them."""
    for name in list(sys.modules):
        if any(f"{name}.".startswith(f"{package}.") for package in packages):
            del sys.modules[name]


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def launched(launcher: tuple[str, ...], action: Callable[..., object], *arguments: object) -> Ended:
    """Call `action(*arguments)` in every process of a launcher: its module and options, as after `python -m`.

    The launcher is the real one up to where it would start an interpreter for each process, and forks instead.
    """

    def launch() -> None:
        from torch.distributed import run as torchrun

        read = torchrun.config_from_args

        def forking(options: object) -> tuple:
            return dataclasses.replace(read(options)[0], start_method="fork"), action, arguments

        torchrun.config_from_args = forking
        module, *options = launcher
        sys.argv = [module, *options, "no_script.py"]
        main = __import__(module, fromlist=["main"]).main
        main()

    return run(launch)

"""Processes of a server: each worker has the models and answers requests; a parent restarts those that die.

uvicorn has all of it: the parent holds the listening socket, so that requests wait while a worker starts again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

import uvicorn
from filelock import FileLock, Timeout
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from shirg.errors import UserError
from shirg.lavida import Lavida
from shirg.serve.settings import ServerSettings

logger = logging.getLogger(__name__)

HEALTH_SECONDS = 120
"""Time within which a worker must react; it imports torch first, which takes seconds."""
DRAIN_SECONDS = 30
"""Time for the last answers after SIGTERM."""


@dataclass
class Worker:
    """The application of a worker process; loads the models when it starts (ASGI).

    Args:
        load: name -> model; called once in each worker.
        ready: called when the worker can be asked.
        devices: folder of the workers' locks; each worker has the GPU whose lock it holds.
    """

    load: Callable[[], Mapping[str, Lavida]]
    settings: ServerSettings
    ready: Callable[[], None]
    devices: Path
    number: int = 1
    app: Callable[..., Any] | None = None
    lock: FileLock | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if self.app is None:  # uvicorn sends the startup first
            self.app = await asyncio.to_thread(self._started)
        if scope["type"] == "lifespan":
            send = self._announcing(send)
        await self.app(scope, receive, send)

    def _started(self) -> Callable[..., Any]:
        try:
            self._claim_gpu()
            models = self.load()
            from shirg.serve.app import create_app

            return create_app(models, self.settings)
        except UserError as error:
            print(f"shirg: error: {error}", file=sys.stderr, flush=True)
            os._exit(STARTUP_FAILURE)  # nothing runs yet; the parent ends, too

    def _announcing(self, send: Any) -> Any:
        async def sent(message: dict[str, Any]) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                self.ready()

        return sent

    def _claim_gpu(self) -> None:
        """Use a GPU that no other worker has; the lock ends with the process."""
        import torch

        if not torch.cuda.is_available():
            return
        for index in range(min(self.number, torch.cuda.device_count())):
            self.lock = FileLock(self.devices / f"gpu-{index}.lock")
            try:
                self.lock.acquire(timeout=0)
            except Timeout:
                continue
            torch.cuda.set_device(index)
            return
        raise UserError(f"--workers: got {self.number}, must be at most the number of GPUs")


class Supervisor(Multiprocess):
    """uvicorn's parent process."""

    interrupted = False

    def handle_int(self) -> None:
        """Ctrl-C."""
        self.interrupted = True
        super().handle_int()

    def keep_subprocess_alive(self) -> None:
        """Restart dead workers, and forget their gauges.

        uvicorn also pings living ones at each turn. A worker that dies during a ping is then missed for `HEALTH_SECONDS`, so that
        pings are left out while all live.
        """
        if all(process.exitcode is None for process in self.processes):
            return
        before = {process.pid for process in self.processes}
        super().keep_subprocess_alive()
        for pid in before - {process.pid for process in self.processes}:
            logger.warning("worker %d died and is started again", pid)
            if len(self.processes) > 1:
                from prometheus_client.multiprocess import mark_process_dead

                mark_process_dead(pid)

    @property
    def failed(self) -> bool:
        """Whether a worker could not start."""
        return any(process.exitcode == STARTUP_FAILURE for process in self.processes)


def serve(
    load: Callable[[], Mapping[str, Lavida]],
    settings: ServerSettings,
    listener: socket,
    workers: int,
    ready: Callable[[], None],
) -> Supervisor:
    """Serve until SIGTERM or Ctrl-C, which answer what was asked before; returns the supervisor.

    Args:
        load, ready: as of `Worker`; they are pickled.
        listener: a bound socket.
    """
    with tempfile.TemporaryDirectory(prefix="shirg-serve-", ignore_cleanup_errors=True) as name:
        if workers > 1:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = name
        worker = Worker(load, settings, ready, Path(name), workers)
        config = uvicorn.Config(
            worker,
            workers=workers,
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            timeout_worker_healthcheck=HEALTH_SECONDS,
        )
        supervisor = Supervisor(config, [listener])
        supervisor.run()
        return supervisor

"""File locks for output folders; the operating system releases them when the process ends."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from shirg.errors import UserError

WHOLE, SHARE = ".lock", ".lock-{}-of-{}"
"""Files in the folder while it is locked, as a whole or for one of several processes that share its work."""

PATIENCE_S = 1.0
"""How long a share waits for another one that starts at the same time."""


class Taken(Exception):
    """Another process has the lock; the message names it."""


@contextlib.contextmanager
def folder_lock(
    folder: str | Path, share: tuple[int, int] | None = None, *, setting: str = "output_dir"
) -> Iterator[None]:
    """Lock `folder` against other processes and threads while the block runs.

    The operating system holds the lock (`filelock`): a killed process leaves none, and forked workers do not inherit it. The same
    thread may lock a folder again inside the block. The folder is created if needed; a created folder that is empty at the end is
    removed.

    Args:
        share: (number, count) of a process that does a share of the work. Shares of other numbers may run at the same time, but
            no process with the same share or with the lock of the whole folder.
        setting: name of the folder's argument in messages.

    Raises:
        UserError: if another process has the lock, or the folder cannot be created or written.
    """
    folder = Path(folder)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with contextlib.ExitStack() as held:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                _take(held, folder, share)
            except Taken as error:
                raise UserError(
                    f"{setting}: {folder} is being filled by {error}; wait for it, stop it, or choose another folder"
                ) from None
            except OSError as error:
                reason = "it is a file" if folder.is_file() else error.strerror or error
                raise UserError(f"{setting}: {folder} cannot be written ({reason}); choose another folder") from error
            yield
    finally:
        with contextlib.suppress(OSError):  # a folder that is not empty
            for place in made:
                place.rmdir()


def _take(held: contextlib.ExitStack, folder: Path, share: tuple[int, int] | None) -> None:
    """Take the lock of the whole folder, and keep it without a share. With a share only its own lock is kept, so that no share
    starts while another process checks for shares."""
    if share is not None:
        with _locked(folder / WHOLE, PATIENCE_S):
            held.enter_context(_locked(folder / SHARE.format(*share)))
        return
    held.enter_context(_locked(folder / WHOLE))
    for other in folder.glob(SHARE.format("*", "*")):
        with _locked(other):
            pass


@contextlib.contextmanager
def _locked(path: Path, patience: float = 0.0) -> Iterator[None]:
    lock = FileLock(path, is_singleton=True)  # reentrant in a thread, with a counter
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise Taken(_holder(path)) from None
    try:
        if lock.lock_counter == 1:
            command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])
            path.write_text(f"process {os.getpid()} on {socket.gethostname()} ({command})", encoding="utf-8")
        yield
    finally:
        if lock.lock_counter == 1:
            with contextlib.suppress(OSError):  # Windows removes no open file
                path.unlink()
        lock.release()


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
    return "another process"

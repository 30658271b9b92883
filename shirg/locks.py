"""One owner at a time for a folder that a command fills; the lock goes with the process that holds it."""

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
"""How long a share waits for another one that begins at the same time."""


class Taken(Exception):
    """Another process has a lock; the message says which."""


@contextlib.contextmanager
def owned(folder: str | Path, share: tuple[int, int] | None = None, *, setting: str = "output_dir") -> Iterator[None]:
    """Keep other processes and threads from filling `folder` while the block runs.

    The operating system holds the lock (`filelock`), so that none is left by a process that was killed, and forked workers do
    not inherit it. The same thread may own a folder again inside the block. The folder is made if need be; what was made and
    is empty at the end goes again.

    Args:
        share: (number, of how many) for a process that does a share of the work: together with other shares, but neither
            with the owner of the whole folder nor with the same share.
        setting: what messages call the argument that names the folder.

    Raises:
        UserError: if another one has it, or the folder cannot be made or written; the message says which.
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
        with contextlib.suppress(OSError):  # what is not empty stays
            for place in made:
                place.rmdir()


def _take(held: contextlib.ExitStack, folder: Path, share: tuple[int, int] | None) -> None:
    """A share passes through the lock of the whole, which the owner of the whole keeps: so no share begins while another
    process looks whether there are any."""
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
    lock = FileLock(path, is_singleton=True)  # one for a thread: taken again there, it only counts
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

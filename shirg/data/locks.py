"""One process at a time in a folder, on whatever machine; the lock goes with the process that holds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from shirg.errors import UserError


@contextlib.contextmanager
def locked(path: Path, what: str, *, shared: bool = False) -> Iterator[None]:
    """Holds a lock on the file `path` while the block runs.

    It is the kind of lock that forked workers do not inherit, else they would hold it on when this process is killed. It
    keeps other processes out, not other threads.

    Args:
        path: made if need be; its folder is there.
        what: how the message names what is locked.
        shared: together with others who ask for a shared lock.

    Raises:
        UserError: if another process holds it; the message says which, as far as that is known.
        OSError: if the file system has no locks.
    """
    descriptor = _acquire(path, what, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        if not shared:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        os.close(descriptor)


def _acquire(path: Path, what: str, mode: int) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(descriptor, mode | fcntl.LOCK_NB)
            # Whoever held the lock before may have removed the file: then this is a lock on nothing.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except (BlockingIOError, PermissionError):
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            raise UserError(
                f"{what}: being prepared by {holder or 'another process'}; wait for it or stop it"
            ) from None
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)

"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well.

    The block creates a file or a folder at the yielded path. On success everything in it is flushed to the disk and renamed
    over `path` (a folder that stands there is moved aside first and then deleted, since no system call swaps two folders).
    On any error, Ctrl-C included, the temporary path is removed and `path` is left as it was.

    Raises:
        OSError: if the folder cannot be made or written, or the disk is full.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    fresh = scratch / target.name
    try:
        yield fresh
        _flush(fresh)
        if target.is_dir():
            os.replace(target, scratch / "replaced")
        os.replace(fresh, target)
        _flush_folder(target.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` (UTF-8) to `path`, complete or not at all."""
    with atomic_path(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write `value` as indented JSON to `path`, complete or not at all; NaN is refused since JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _flush(path: Path) -> None:
    if path.is_dir():
        for child in path.rglob("*"):
            if child.is_file():
                _flush_file(child)
        return
    _flush_file(path)


def _flush_file(path: Path) -> None:
    with open(path, "rb+") as handle:
        os.fsync(handle.fileno())


def _flush_folder(path: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

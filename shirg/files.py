"""Atomic writing of files and folders, and JSON Lines."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shirg.errors import UserError

SCRATCH = re.compile(r"\.(.+)\.[a-z0-9_]{8}")
"""Names of the temporary folders of `atomic_path`, as `tempfile.mkdtemp` makes them."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends without an error.

    The block creates a file or a folder at the yielded path. On success it is flushed to the disk and renamed to `path`; an
    existing folder is moved aside first and then deleted, since no system call swaps two folders. On any error, Ctrl-C
    included, the temporary path is removed and `path` is unchanged. Files get the default permissions.

    Raises:
        OSError: if the folder cannot be made or written, or the disk is full.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    fresh, replaced = scratch / target.name, scratch / f"{target.name}.replaced"
    try:
        yield fresh
        _flush(fresh, _usual_mode(scratch / f"{target.name}.mode"))
        if target.is_dir():
            os.replace(target, replaced)
        os.replace(fresh, target)
        _flush_folder(target.parent)
    finally:
        if replaced.exists() and not target.exists():  # stopped between the two renames
            os.replace(replaced, target)
        shutil.rmtree(scratch, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Clean up after a process that was killed inside `atomic_path` for a path in `folder`.

    A folder that was moved aside and not replaced is restored; temporary paths are removed. No other process may write to
    `folder`.
    """
    for scratch in folder.glob(".*"):
        found = SCRATCH.fullmatch(scratch.name)
        if found is None or not scratch.is_dir():
            continue
        name = found[1]
        inside = {path.name for path in scratch.iterdir()}
        if not inside <= {name, f"{name}.replaced", f"{name}.mode"}:
            continue  # not ours
        if f"{name}.replaced" in inside and not (folder / name).exists():
            os.replace(scratch / f"{name}.replaced", folder / name)
        shutil.rmtree(scratch, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Delete a folder atomically: it is renamed first."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    os.replace(folder, scratch / folder.name)
    shutil.rmtree(scratch, ignore_errors=True)


def check_writable(folder: Path) -> None:
    """Create `folder` and write a small file in it, to find errors before the work.

    Raises:
        UserError: if it cannot be created or written.
    """
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"shirg")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        if folder.is_file():
            raise UserError(f"output_dir: {folder} is a file; give a folder, new or not") from error
        raise UserError(f"output_dir: {folder} cannot be written ({error.strerror}); choose another folder") from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` (UTF-8) to `path` atomically."""
    with atomic_path(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write `value` as indented JSON to `path` atomically. NaN, which JSON does not have, is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def json_line(value: Mapping[str, Any]) -> str:
    """`value` as a line of JSON Lines; NaN is refused."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def append_line(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Append `value` to a JSON Lines file. A crash loses at most this line."""
    with open(path, "a", encoding="utf-8") as handle:
        handle.write(json_line(value))


def read_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The values of a JSON Lines file, up to the first incomplete line; an empty list without a file."""
    values, absent = [], (FileNotFoundError, NotADirectoryError)
    with contextlib.suppress(*absent, json.JSONDecodeError), open(path, encoding="utf-8", errors="replace") as handle:
        for line in handle:
            values.append(json.loads(line))
    return values


def _usual_mode(probe: Path) -> int:
    """Permissions of a new file, read from one, since reading the umask changes it for all threads."""
    probe.touch()
    return stat.S_IMODE(probe.stat().st_mode)


def _flush(path: Path, mode: int) -> None:
    """Flush a file, or every file of a folder, and set its permissions; those of safetensors files exclude other users."""
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_file():
            file.chmod(mode)
            with open(file, "rb+") as handle:
                os.fsync(handle.fileno())


def _flush_folder(path: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

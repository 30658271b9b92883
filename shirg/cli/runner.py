"""Runs a command: parses its flags, calls its function, prints a user's mistake as one line, and sets the exit code."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn, TypeVar

import tyro

from shirg.cli import config_file
from shirg.cli.flags import CommonFlags, flag_names
from shirg.errors import UserError, missing_package
from shirg.process_group import shut_down_process_group
from shirg.ranges import check_fields

USER_MISTAKE = 2
STOPPED = 130  # 128 + SIGINT, what a shell reports for Ctrl-C

FLAG_OF = {
    "resolution": "image_resolution",
    "gate": "preset",
    "gradient_accumulation_steps": "accumulation_steps",
    "augment": "enable_augmentation",
    "weights": "model",
    "adapter_weights": "adapter",
    "started_from": "adapter",
    "training_data": "prepared_dir",
}
"""Names in messages of the library -> the field of the flag that sets it, where the names differ."""

UNRECOGNIZED = re.compile(r"Unrecognized options: ([^,\s]+)(?:.*?Perhaps you meant: (--[\w-]+))?")
"""tyro's message about unknown options: the first of them, and the most similar known one."""

WRONG_VALUES = {
    r"Error parsing (?P<flag>--[\w-]+): invalid literal for int\(\) with base 10: '(?P<value>.*?)'": "a whole number",
    r"Error parsing (?P<flag>--[\w-]+): could not convert string to float: '(?P<value>.*?)'": "a number",
    r"Error parsing (?P<flag>--[\w-]+): no type matching (?P<kinds>\S+) could be instantiated from \[(?P<value>.*?)\]": None,
    r"invalid choice '(?P<value>.*?)' for argument '(?P<flag>--[\w-]+)'. Expected one of \((?P<kinds>.*?),?\)": None,
    r"Error parsing (?P<flag>--[\w-]+): Could not find valid parse for arguments: \['(?P<value>.*?)'\]": "what --help shows",
}
"""tyro's message about a value of a wrong type -> what it must be; None if the message contains that."""

DIFFERS = re.compile(r"resume: (\w+)([.\w]*) is")
"""Beginning of a message about a setting that differs from the resumed run's."""

Flags = TypeVar("Flags", bound=CommonFlags)


def run_command(
    command: Callable[[Flags], None], flags_type: type[Flags], argv: Sequence[str] | None, *, prog: str | None
) -> NoReturn:
    """Parse `argv` (None: the process's own) into `flags_type`, run `command` with it, and exit with its exit code.

    Exit codes: 0; 2 for an error that the user can fix, with one line on stderr; 130 for Ctrl-C. A bug of this package keeps
    its traceback and Python's exit code 1. `prog` is the command's name in its help; None takes the script's.
    """
    flags, names = parse(flags_type, sys.argv[1:] if argv is None else argv, prog)

    def work() -> None:
        check_fields(flags, names)
        command(flags)

    sys.exit(guarded(work, debug=flags.debug, names=names))


def command_line() -> str:
    """The command line of this process, quoted for a shell."""
    called = Path(sys.argv[0])
    return shlex.join([*(("python", sys.argv[0]) if called.suffix == ".py" else (called.name,)), *sys.argv[1:]])


def parse(flags_type: type[Flags], argv: Sequence[str], prog: str | None) -> tuple[Flags, dict[str, str]]:
    """The settings of a `--config` file and of the command line; tyro's framed error page becomes one line.

    Returns:
        The flags, and field -> its name in messages: the flag, or the file and its key.
    """
    names = {field: f"--{flag}" for field, flag in flag_names(flags_type).items()}
    by_flag: dict[str, str] = {}
    stderr = io.StringIO()
    try:
        from_file, origins = config_file.of_command_line(flags_type, argv)
        by_flag = {names[field]: origin for field, origin in origins.items()}
        with contextlib.redirect_stderr(stderr):
            return tyro.cli(flags_type, args=[*from_file, *argv], prog=prog), names | origins
    except UserError as error:
        print(f"shirg: error: {_one_line(str(error))}", file=sys.stderr)
        sys.exit(USER_MISTAKE)
    except SystemExit as leaving:
        if leaving.code == USER_MISTAKE:
            inside = stderr.getvalue().split("\n", 1)[-1]  # the first row is the frame's title
            message = re.sub(r"[\u2500-\u257f]|-{4,}|^[|+]|[|+]$", " ", inside, flags=re.MULTILINE)
            flag, colon, rest = _shortened(_one_line(message)).partition(": ")
            print(f"shirg: error: {by_flag.get(flag, flag)}{colon}{rest}", file=sys.stderr)
        raise


def _shortened(message: str) -> str:
    """tyro's message without its help: the flag and what it must be; for unknown options, the first and the most similar one."""
    for pattern, kinds in WRONG_VALUES.items():
        wrong = re.match(pattern, message)
        if wrong:
            kinds = kinds or re.sub(r"[{}']", "", wrong["kinds"]).replace("INT", "a whole number").replace("|", " or ")
            value, one_of = wrong["value"].replace("', '", " "), "one of " if ", " in kinds else ""
            return f"{wrong['flag']}: got {value}, must be {one_of}{kinds}"
    found = UNRECOGNIZED.match(message)
    if not found:
        return re.sub(r" Argument helptext: .*", "; --help explains it", message)
    hint = f"did you mean {found[2]}? " if found[2] else ""
    return f"{found[1]}: no such option or argument; {hint}--help lists all"


def guarded(action: Callable[[], None], *, debug: bool, names: Mapping[str, str] = MappingProxyType({})) -> int:
    """Run `action`; its exit code, after one line on stderr about an error.

    A setting at the beginning of a message, or one that `resume` found changed, gets its name in `names`.
    """
    try:
        with _log_on_stderr():
            action()
    except KeyboardInterrupt:
        if debug:
            raise
        print("shirg: stopped by Ctrl-C; what was finished before is kept", file=sys.stderr)
        return STOPPED
    except Exception as error:
        message = explain(error)
        if debug or message is None:
            raise
        print(f"shirg: error: {_as_flag(message, names)}", file=sys.stderr)
        return USER_MISTAKE
    finally:
        shut_down_process_group()
    return 0


def _as_flag(message: str, names: Mapping[str, str]) -> str:
    found = DIFFERS.match(message)
    if found and FLAG_OF.get(found[1], found[1]) in names:
        flag = names[FLAG_OF.get(found[1], found[1])]
        return message.replace("resume: ", f"--resume: {flag} differs: ", 1)
    setting, colon, rest = message.partition(":")
    field = FLAG_OF.get(setting, setting)
    return f"{names[field]}:{rest}" if colon and field in names else message


def explain(error: Exception) -> str | None:
    """One line for an error that the user can fix; None for a bug of this package."""
    if _disk_is_full(error):
        where = f" while writing {error.filename}" if isinstance(error, OSError) and error.filename else ""
        return (
            f"the disk is full{where}: free some space or choose another --output-dir; what was finished before is kept"
        )
    if isinstance(error, OSError):
        return _explain_os_error(error)
    if isinstance(error, UserError):
        return _one_line(str(error))
    if isinstance(error, ImportError):
        return missing_package(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch
        return "out of memory: lower --batch-size, --image-resolution or the token budgets"
    return None


def _disk_is_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # safetensors wraps the system's error in a type of its own and keeps only the text
    return type(error).__name__ == "SafetensorError" and "No space left on device" in str(error)


def _explain_os_error(error: OSError) -> str:
    plain = {
        errno.ENOENT: "no such file or folder",
        errno.EACCES: "no permission to read or write it",
        errno.EPERM: "no permission to read or write it",
        errno.EROFS: "it is on a read-only file system",
        errno.ENOTDIR: "part of the path is a file, not a folder",
        errno.EISDIR: "it is a folder; a file was expected",
        errno.EEXIST: "a file of that name exists",
    }
    if error.filename is None or error.errno not in plain:
        return _one_line(str(error))
    return f"{error.filename}: {plain[error.errno]}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


@contextlib.contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Show what the package logs, from INFO on, as plain lines on stderr while the block runs."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    package = logging.getLogger("shirg")
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)

"""A run as a YAML file: `--config FILE` reads one, every run writes its own as `config.yaml`.

`null` leaves a setting at its default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from shirg.cli.flags import SeedFlags, flag_names
from shirg.errors import UserError

FILE = "config.yaml"
NOT_SETTINGS = ("config", "debug", "resume")
"""Flags of one call, which are no settings of the run."""


def of_command_line(flags_type: type, argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The settings of the `--config` file that `argv` names, if it names one.

    Returns:
        Arguments to place before the user's own, which override them; and field -> file and key, for messages, without overridden
        fields.

    Raises:
        UserError: for a file that cannot be read, or a setting that the command does not have.
    """
    name = _named(argv) if issubclass(flags_type, SeedFlags) else None
    if name is None:
        return [], {}
    typed = {re.sub("^--(no-)?", "", word.partition("=")[0].replace("_", "-")) for word in argv if word[:2] == "--"}
    hints = get_type_hints(flags_type)
    fields = {flag: field for field, flag in flag_names(flags_type).items() if field not in NOT_SETTINGS}
    words: list[str] = []
    origins: dict[str, str] = {}
    for key, value in read(Path(name)).items():
        origin, flag = f"--config {name}: {key}", str(key).replace("_", "-")
        if flag not in fields:
            near = get_close_matches(flag, fields, n=1)
            hint = f"did you mean {near[0].replace('-', '_')}?" if near else "--help lists all"
            raise UserError(f"--config: {name}: {key!r} is no setting of this command; {hint}")
        if isinstance(value, Mapping):
            raise UserError(f"{origin}: got {value!r}, must be a value or a list")
        if value is None or value == []:
            continue
        if hints[fields[flag]] is bool:
            if not isinstance(value, bool):
                raise UserError(f"{origin}: got {value!r}, must be true or false")
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
        if flag not in typed:
            origins[fields[flag]] = origin
    return words, origins


def _named(argv: Sequence[str]) -> str | None:
    names = [argv[place + 1] for place, word in enumerate(argv[:-1]) if word == "--config"]
    names += [word.partition("=")[2] for word in argv if word.startswith("--config=")]
    return names[-1] if names else None


def read(path: Path) -> dict[str, Any]:
    """The settings in a YAML file.

    Raises:
        UserError: for a file that is missing, no YAML, or no mapping of names to values.
    """
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config: {path}: {error.strerror}; configs/ has examples") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config: {path} is not readable YAML: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"--config: {path} must hold lines like `token_budgets: [512, 768]`")
    return settings


def write(flags: SeedFlags, folder: Path, *, resumed: bool = False) -> None:
    """Write all settings of a run to `folder`/config.yaml; a resumed run keeps the file that is there."""
    import yaml

    from shirg.files import atomic_path

    path = folder / FILE
    if resumed and path.exists():
        return
    values = {
        flag.replace("-", "_"): _plain(getattr(flags, field))
        for field, flag in flag_names(type(flags)).items()
        if field not in NOT_SETTINGS
    }
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as fresh:
        fresh.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value

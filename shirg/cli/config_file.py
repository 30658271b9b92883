"""A run as a YAML file: `--config FILE` reads one, every run writes its own as `config.yaml`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from shirg.cli.flags import SeedFlags
from shirg.errors import UserError

FILE = "config.yaml"
NOT_SETTINGS = ("config", "debug", "resume")
"""Flags of one call, which are no settings of the run."""


def arguments_of(flags_type: type, argv: Sequence[str]) -> list[str]:
    """`argv` with the settings of its `--config` file before it, so that the command line overrides the file.

    Raises:
        UserError: for a file that cannot be read, or a setting that the command does not have.
    """
    name = _named(argv) if issubclass(flags_type, SeedFlags) else None
    return [] if name is None else list(_as_arguments(flags_type, Path(name)))


def _named(argv: Sequence[str]) -> str | None:
    names = [argv[place + 1] for place, word in enumerate(argv[:-1]) if word == "--config"]
    names += [word.partition("=")[2] for word in argv if word.startswith("--config=")]
    return names[-1] if names else None


def _as_arguments(flags_type: type, path: Path) -> Iterator[str]:
    settings = read(path)
    hints = get_type_hints(flags_type)
    known = [field.name for field in dataclasses.fields(flags_type) if field.name not in NOT_SETTINGS]
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "--help lists what there is"
            raise UserError(f"--config: {path}: {key!r} is no setting of this command; {hint}")
        if isinstance(value, Mapping):
            raise UserError(f"--config: {path}: {key} must be a value or a list; got {value!r}")
        flag = f"--{name.replace('_', '-')}"
        if hints[name] is bool and isinstance(value, bool):
            yield flag if value else f"--no-{name.replace('_', '-')}"
        elif value is not None and value != []:
            yield from (flag, *map(str, value if isinstance(value, list) else [value]))


def read(path: Path) -> dict[str, Any]:
    """The settings in a YAML file.

    Raises:
        UserError: for a file that is missing, no YAML, or no mapping of names to values.
    """
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config: {path}: {error.strerror}; configs/ has files to begin with") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config: {path} is no readable YAML: {error}") from error
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
    values = {field.name: getattr(flags, field.name) for field in dataclasses.fields(flags)}
    plain = {
        name: list(map(_plain, value)) if isinstance(value, tuple) else _plain(value)
        for name, value in values.items()
        if name not in NOT_SETTINGS and value is not None
    }
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as fresh:
        fresh.write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value

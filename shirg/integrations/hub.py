"""Upload of an adapter and its model card to the hub."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import TypeGuard

from shirg.errors import UserError
from shirg.files import write_json, write_text
from shirg.lavida.adapter import ADAPTER_FILES, SETTINGS_FILE, adapter_card

CARD = "README.md"
CONFIG, WEIGHTS, _ = ADAPTER_FILES
EMBEDDED = "nano"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def push_to_hub(
    folder: str | Path,
    repo: str,
    *,
    base_model: str | None = None,
    private: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
) -> str:
    """Upload an adapter folder to a repository, which is created if needed; returns the address of the commit.

    Only the adapter's files and its card are uploaded, in one commit, without optimizer states.

    Args:
        folder: `best_model` or `checkpoint-N`.
        repo: "owner/name" on the hub.
        base_model: hub id of the adapter's base; None is the one it was trained on.
        private: whether a new repository is private; an existing one does not change.
        endpoint: of another hub than the public one.
        token: None is the one stored by `hf auth login`.

    Raises:
        UserError: if the folder is no adapter, its base has no hub id, or the upload fails.
    """
    from huggingface_hub import HfApi

    if not HUB_ID.fullmatch(repo):
        raise UserError(f"repo: got {repo!r}, must be owner/name")
    api = HfApi(endpoint=endpoint, token=token)
    with tempfile.TemporaryDirectory() as staged:
        _stage(Path(folder), Path(staged), base_model)
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            found = api.upload_folder(repo_id=repo, folder_path=staged, commit_message="SHIRG adapter")
        except Exception as error:  # the hub's client and its HTTP library raise errors without a common base class
            raise UserError(f"repo: {repo} was not written ({' '.join(str(error).split())})") from error
    return found.commit_url


def _stage(folder: Path, target: Path, base_model: str | None) -> None:
    """Copy the adapter's files to `target`, with the base's name in config, settings and card."""
    missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"adapter {folder}: no {', '.join(missing)}; give a `best_model` or `checkpoint-N` folder")
    config, settings = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (CONFIG, SETTINGS_FILE))
    base = base_model or settings.get("base_model")
    if base != EMBEDDED and not is_hub_id(base):
        raise UserError(
            f"base_model: the adapter was trained on {base or 'a model without a name'}, which nobody else can load; give"
            " the hub id of that model"
        )
    settings["base_model"] = config["base_model_name_or_path"] = base
    write_json(target / CONFIG, config)
    write_json(target / SETTINGS_FILE, settings)
    card = adapter_card(config, settings)
    if base == EMBEDDED:  # the hub would look for a model of that name
        card = card.replace(f"base_model: {base}\n", "", 1)
    write_text(target / CARD, card)
    (target / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())


def is_hub_id(name: str | None) -> TypeGuard[str]:
    """Whether `name` has the form of a hub id and is no local folder."""
    return name is not None and HUB_ID.fullmatch(name) is not None and not Path(name).exists()

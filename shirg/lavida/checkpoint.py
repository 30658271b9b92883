"""Reading and writing checkpoints in the official layout: the weight names of LaViDa are the file format."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from shirg.errors import UserError
from shirg.files import atomic_path

logger = logging.getLogger(__name__)

NANO_FOLDER = Path(__file__).resolve().parents[1] / "nano" / "weights"

CHECKPOINT_SUFFIXES = (".json", ".safetensors", ".jinja", ".txt", ".model", ".md")

SHARED_NAMES = {"tower.": "model.vision_tower.vision_tower.", "mm_projector.": "model.mm_projector."}
LLADA_NAMES = {
    "language.embed_tokens.": "model.transformer.wte.",
    "language.layers.": "model.transformer.blocks.",
    "language.norm.": "model.transformer.ln_f.",
    "language.lm_head.": "model.transformer.ff_out.",
}
LLADA_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}
DREAM_NAMES = {"language.lm_head.": "lm_head.", "language.": "model."}
NAMES = {"llada": {**LLADA_NAMES, **SHARED_NAMES}, "dream": {**DREAM_NAMES, **SHARED_NAMES}}


def official_name(name: str, family: str) -> str:
    """The name that a parameter of ours has in an official checkpoint of `family`.

    >>> official_name("language.layers.3.mlp.gate_proj.weight", "llada")
    'model.transformer.blocks.3.ff_proj.weight'
    """
    if name == "image_newline":
        return "model.image_newline"
    for ours, theirs in NAMES[family].items():
        if name.startswith(ours):
            rest = name.removeprefix(ours)
            if ours == "language.layers." and family == "llada":
                index, module, leaf = re.fullmatch(r"(\d+)\.(.+)\.(\w+)", rest).groups()
                rest = f"{index}.{LLADA_BLOCK[module]}.{leaf}"
            return theirs + rest
    raise AssertionError(f"parameter {name} has no place in the official layout")


def base_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's own tensors under their plain names: adapters are left out, what they wrap keeps its name."""
    return {
        name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items() if ".lora_" not in name
    }


def resolve(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: "nano" is the one inside the package, a path is itself, anything else a hub id.

    Raises:
        UserError: if it is none of them, or the hub does not give it and no copy is in the local cache.
    """
    if str(name) == "nano":
        if not (NANO_FOLDER / "config.json").is_file():
            raise UserError(f"the embedded model is missing: no {NANO_FOLDER / 'config.json'}; reinstall the package")
        return NANO_FOLDER
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or str(name).startswith((".", "~")) or len(folder.parts) != 2:
        raise UserError(f'model {str(name)!r}: no such folder; give "nano", a folder, or a hub id such as "owner/name"')
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=patterns))
    except Exception as error:  # errors of the hub's client, of its HTTP library and of the disk share no base class
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"model {str(name)!r} (revision {revision or 'main'}) is neither a folder here nor in the local hub cache, "
            f"and could not be downloaded ({type(error).__name__}: {reason}); download it where there is a network and "
            "give its folder"
        ) from error


def load_weights(model: nn.Module, family: str, folder: Path, *, device: torch.device, dtype: torch.dtype) -> None:
    """Fill a model built on the "meta" device with the tensors in `folder`, cast to `dtype` on `device`.

    Raises:
        UserError: listing every tensor that is missing, unexpected or of another shape than the config says.
    """
    wanted = {official_name(name, family): (name, tensor.shape) for name, tensor in model.state_dict().items()}
    state, unexpected, misshapen = {}, [], {}
    for name, tensor in _read_tensors(folder, device):
        if name not in wanted:
            unexpected.append(name)
        elif tensor.shape != wanted[name][1]:
            misshapen[name] = f"{name} is {list(tensor.shape)}, the config says {list(wanted[name][1])}"
        else:
            state[wanted[name][0]] = tensor.to(dtype)
    missing = [name for name, (ours, _) in wanted.items() if ours not in state and name not in misshapen]
    problems = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of a wrong shape", list(misshapen.values())),
        )
        if names
    ]
    if problems:
        raise UserError(f"the weights in {folder} do not fit its config.json; tensors " + "; ".join(problems))
    model.load_state_dict(state, assign=True)


def save_checkpoint(model: nn.Module, raw_config: dict, family: str, tokenizer, folder: str | Path) -> None:
    """Write config, weights and tokenizer into `folder` in the official layout, all or nothing.

    An older checkpoint in `folder` is replaced; its model card and other Markdown files stay.

    Raises:
        UserError: if `folder` holds something that belongs to no checkpoint and would be lost.
    """
    from huggingface_hub import save_torch_state_dict

    target = Path(folder)
    foreign = _foreign_files(target)
    if foreign:
        raise UserError(
            f"folder {str(folder)!r} holds {_some(foreign)}, which saving would remove; give another folder"
        )
    state = {official_name(name, family): tensor.contiguous() for name, tensor in base_state(model).items()}
    dtype = str(next(iter(state.values())).dtype).removeprefix("torch.")
    with atomic_path(target) as fresh:
        fresh.mkdir()
        for card in target.glob("*.md"):
            shutil.copy2(card, fresh)
        save_torch_state_dict(state, fresh)
        if tokenizer is not None:
            tokenizer.save_pretrained(fresh)
        text = json.dumps({**raw_config, "torch_dtype": dtype}, indent=2, sort_keys=True)
        (fresh / "config.json").write_text(text + "\n", encoding="utf-8")


def load_tokenizer(folder: Path):
    """The folder's tokenizer, or None if it has none. Code inside the folder is never run.

    Raises:
        UserError: if its files are damaged.
    """
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    if (folder / "tokenizer.json").is_file():
        kind = PreTrainedTokenizerFast
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        kind = Qwen2Tokenizer
    else:
        return None
    try:
        return kind.from_pretrained(folder)
    except Exception as error:  # damaged files show themselves in every way, a bare Exception among them
        raise UserError(f"the tokenizer in {folder} cannot be read ({type(error).__name__}: {error})") from error


def _some(names: list[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _read_tensors(folder: Path, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt", device=str(device)) as handle:
                for name in handle.keys():  # noqa: SIM118 (not a dict)
                    yield name, handle.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is not a readable safetensors file: {error}") from error


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise UserError(f"{folder} holds neither {single.name} nor {index.name}")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is no index of safetensors files ({error})") from error
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise UserError(f"{folder} lacks {_some(absent)}, which {index.name} names")
    return [folder / name for name in names]


def _foreign_files(target: Path) -> list[str]:
    """What in `target` is no part of a checkpoint; without a config.json, everything but the Markdown that stays."""
    if not target.exists():
        return []
    if not target.is_dir():
        return ["a file of that name"]
    known = CHECKPOINT_SUFFIXES if (target / "config.json").is_file() else (".md",)
    return [path.name for path in target.iterdir() if path.is_dir() or path.suffix not in known]

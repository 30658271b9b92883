"""Reading and writing checkpoints in the official layout, with LaViDa's weight names."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from shirg.errors import UserError
from shirg.files import atomic_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

SINGLE_FILE = "model.safetensors"
NANO_FOLDER = Path(__file__).resolve().parents[1] / "nano" / "weights"

REMOTE_CODE = "auto_map"
"""Key of a `config.json` that makes transformers download and run code."""

CHECKPOINT_SUFFIXES = (".json", ".safetensors", ".jinja", ".txt", ".model", ".md")

EMBEDDING = "language.embed_tokens.weight"
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
    """The official name of a parameter of `Lavida` in a checkpoint of `family`.

    >>> official_name("language.layers.3.mlp.gate_proj.weight", "llada")
    'model.transformer.blocks.3.ff_proj.weight'
    """
    if name == "image_newline":
        return "model.image_newline"
    for ours, theirs in NAMES[family].items():
        if name.startswith(ours):
            rest = name.removeprefix(ours)
            if ours == "language.layers." and family == "llada":
                index, _, place = rest.partition(".")
                module, _, leaf = place.rpartition(".")
                rest = f"{index}.{LLADA_BLOCK[module]}.{leaf}"
            return theirs + rest
    raise AssertionError(f"parameter {name} has no name in the official layout")


def base_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors without adapters, with the names that they have without one."""
    return {
        name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items() if ".lora_" not in name
    }


def resolve(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: that of "nano" in the package, a path, or a hub id in the local cache, downloaded if needed.

    Args:
        revision: branch, tag or commit of a hub id; None is its main branch.

    Raises:
        UserError: if there is no such checkpoint, it cannot be downloaded, or `revision` is given for a folder.
    """
    folder = _local_folder(name, revision)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    with _hub_errors(name, revision):
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=patterns))


def as_device(device: torch.device | str) -> torch.device:
    """The device of this name.

    Raises:
        UserError: if the name is unknown, or torch has no such GPU.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise UserError(f'device={device!r} is unknown; give "cpu", "cuda" or "cuda:1"') from error
    seen = torch.cuda.device_count()
    if found.type == "cuda" and (found.index or 0) >= seen:
        raise UserError(
            f'device={device!r}: torch sees {seen} CUDA devices here; give "cpu", or install torch for CUDA'
        )
    return found


def as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """The precision of this name.

    Raises:
        UserError: unless it is float32, bfloat16, float16 or float64.
    """
    known = {
        str(one).removeprefix("torch."): one for one in (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    }
    found = known.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise UserError(f"dtype={dtype!r}: must be one of {', '.join(known)}")
    return found


def config_file(name: str | Path, revision: str | None = None) -> Path:
    """The path of a checkpoint's `config.json`; of a hub id no other file is downloaded.

    Raises:
        UserError: as `resolve`; a folder without the file is not an error here.
    """
    folder = _local_folder(name, revision)
    if folder is not None:
        return folder / "config.json"
    from huggingface_hub import hf_hub_download

    with _hub_errors(name, revision):
        return Path(hf_hub_download(str(name), "config.json", revision=revision))


def _local_folder(name: str | Path, revision: str | None) -> Path | None:
    """The folder of this name, or None for a hub id."""
    folder = NANO_FOLDER if str(name) == "nano" else Path(name).expanduser()
    if folder is not NANO_FOLDER and not folder.is_dir():
        if folder.is_absolute() or str(name).startswith((".", "~")) or len(folder.parts) != 2:
            raise UserError(
                f'model {str(name)!r}: no such folder; give "nano", a folder, or a hub id such as "owner/name"'
            )
        return None
    if revision is not None:
        raise UserError(f"revision={revision!r}: model {str(name)!r} is not a hub id; only hub ids have revisions")
    if folder is NANO_FOLDER and not (folder / "config.json").is_file():
        raise UserError(f"the embedded model is missing: no {folder / 'config.json'}; reinstall the package")
    return folder


@contextmanager
def _hub_errors(name: str | Path, revision: str | None) -> Iterator[None]:
    try:
        yield
    except (
        Exception
    ) as error:  # the hub's client, its HTTP library and the disk raise errors without a common base class
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"model {str(name)!r} (revision {revision or 'main'}) is neither a folder here nor in the local hub cache, "
            f"and could not be downloaded ({type(error).__name__}: {reason}); download it where there is a network and "
            "give its folder"
        ) from error


def load_weights(
    model: nn.Module,
    family: str,
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    unused: Collection[str] = (),
    min_rows: int | None = None,
) -> None:
    """Load the tensors in `folder` into a model built on the "meta" device, cast to `dtype` on `device`.

    There is never a second copy of all weights. On a CPU, in the precision of the files, parameters are views of the
    memory-mapped files, read from disk on first use; the files must not be overwritten in place (`save_pretrained` writes new
    ones). Otherwise each tensor is cast and moved before the next is read. Measured memory is in
    benchmarks/results/load_checkpoint.json: loading LaViDa-8B in bfloat16 takes 0.04 GB of resident memory.

    Args:
        unused: names that may be stored beside the model's own; they are not read.
        min_rows: smallest accepted number of rows of the input embedding, since the official loader shrinks it to the
            tokenizer's length (LaViDa builder.py:297-298). Missing rows, which belong to no token, become zeros. None accepts
            only the config's number.

    Raises:
        UserError: with every tensor that is missing, unexpected or of another shape than in the config.
    """
    wanted = {official_name(name, family): (name, tensor.shape) for name, tensor in model.state_dict().items()}
    files, padded = weight_files(folder), 0
    embedding = official_name(EMBEDDING, family)
    stored = stored_shapes(files).get(embedding, [0])
    if min_rows is not None and min_rows <= stored[0] < wanted[embedding][1][0]:
        padded = wanted[embedding][1][0] - stored[0]
        wanted[embedding] = EMBEDDING, [stored[0], *wanted[embedding][1][1:]]
        logger.info("%s: %d rows of the input embedding are not stored; no token uses them", folder, padded)
    mismatch = f"the weights in {folder} do not fit its config.json"
    state = read_tensors(files, wanted, mismatch, unused=unused, device=device, dtype=dtype)
    if padded:
        state[EMBEDDING] = functional.pad(state[EMBEDDING], (0, 0, 0, padded))
    model.load_state_dict(state, assign=True)


def read_tensors(
    files: Sequence[Path],
    wanted: Mapping[str, tuple[str, Sequence[int]]],
    mismatch: str,
    *,
    unused: Collection[str] = (),
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """{our name: tensor} of safetensors files; the headers are checked before the first tensor is read.

    Args:
        wanted: {name in the files: (our name, shape)}.
        mismatch: beginning of an error message about tensors.
        unused: other names that the files may have; they are not read.

    Raises:
        UserError: with every tensor that is missing, unexpected or of another shape than wanted.
    """
    shapes = stored_shapes(files)
    misshapen = [
        f"{name} is {shapes[name]}, must be {list(shape)}"
        for name, (_, shape) in wanted.items()
        if name in shapes and shapes[name] != list(shape)
    ]
    kinds = {
        "missing": [name for name in wanted if name not in shapes],
        "unexpected": [name for name in shapes if name not in wanted and name not in unused],
        "of a wrong shape": misshapen,
    }
    problems = [f"{len(names)} {kind}: {_listed(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise UserError(f"{mismatch}; tensors " + "; ".join(problems))
    tensors = {}
    for path in files:
        with _opened(path, device) as handle:
            for name in handle.keys():  # noqa: SIM118 (not a dict)
                if name in wanted:
                    tensors[wanted[name][0]] = handle.get_tensor(name).to(dtype)
    return tensors


def stored_shapes(files: Sequence[Path]) -> dict[str, list[int]]:
    """{name: shape} of every tensor in safetensors files, read from their headers.

    Raises:
        UserError: if a file cannot be read.
    """
    shapes: dict[str, list[int]] = {}
    for path in files:
        with _opened(path) as handle:
            shapes |= {name: handle.get_slice(name).get_shape() for name in handle.keys()}  # noqa: SIM118 (not a dict)
    return shapes


def stored_dtype(files: Sequence[Path], name: str) -> torch.dtype:
    """Precision of tensor `name` in safetensors files.

    Raises:
        UserError: if none of them contains it.
    """
    for path in files:
        with _opened(path) as handle:
            if name in handle.keys():  # noqa: SIM118 (not a dict)
                return handle.get_tensor(name).dtype
    raise UserError(f"{files[0].parent} lacks the tensor {name}")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder's weights: those in the index, else the single file.

    A warning names other weight files, which are not read: a single file beside an index and its shards, shards beside a single
    file without an index, or an index without any of its shards.

    Raises:
        UserError: if there are no weights, only pickled ones, only shards without an index, or if a shard is missing.
    """
    single, index = folder / SINGLE_FILE, folder / f"{SINGLE_FILE}.index.json"
    shards = [path.name for path in _shards(folder)]
    names = _indexed(index) if index.is_file() else []
    absent = [name for name in names if not (folder / name).is_file()]
    if single.is_file() and len(absent) == len(names):
        if names or shards:
            logger.warning("%s: weights are read from %s; %s", folder, single.name, _left_out(index, absent, shards))
        return [single]
    if absent:
        raise UserError(f"{folder} lacks {_listed(absent)}, which {index.name} names")
    if not names:
        raise UserError(_no_weights(folder))
    if single.is_file() and single.name not in names:
        logger.warning(
            "%s: weights are read from the %d files that %s names; %s is not among them and is not read",
            *(folder, len(names), index.name, single.name),
        )
    return [folder / name for name in names]


def _indexed(index: Path) -> list[str]:
    """The files in an index, sorted by name; they must be in its folder."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not all(Path(name).name == name for name in names):
            raise ValueError("it names files in other folders")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is not an index of safetensors files ({error})") from error
    return names


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*-of-*.safetensors"))


def _left_out(index: Path, absent: list[str], shards: list[str]) -> str:
    if absent:
        return f"{index.name} names {_listed(absent)}, none of which exists"
    return f"{_listed(shards)} are not read, as no {index.name} names them"


def save_checkpoint(
    model: nn.Module,
    raw_config: dict[str, Any],
    family: str,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: str | Path,
) -> None:
    """Write config, weights and tokenizer into `folder` in the official layout, atomically.

    A checkpoint in `folder` is replaced; its model card and other Markdown files are kept.

    Raises:
        UserError: if `folder` contains other files, which would be lost.
    """
    from huggingface_hub import save_torch_state_dict

    target = Path(folder)
    others = _other_files(target)
    if others:
        raise UserError(
            f"folder {str(folder)!r} contains {_listed(others)}, which saving would remove; give another folder"
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
        text = json.dumps(_written_config(raw_config, dtype), indent=2, sort_keys=True)
        (fresh / "config.json").write_text(text + "\n", encoding="utf-8")


def _written_config(raw: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The `config.json` to save: with the tensors' dtype, without the vector for video and `auto_map`, which are not saved."""
    video = {"add_faster_video": False} if raw.get("add_faster_video") else {}
    kept = {name: value for name, value in raw.items() if name != REMOTE_CODE}
    return {**kept, **video, "torch_dtype": dtype}


def warn_of_remote_code(folder: Path, raw_config: dict[str, Any]) -> None:
    """Warn that code in a checkpoint (transformers' "remote code") is not run."""
    files = sorted(path.name for path in folder.glob("*.py"))
    named = [f"{REMOTE_CODE} in config.json"] if raw_config.get(REMOTE_CODE) else []
    if files or named:
        logger.warning(
            "%s contains code (%s), which is not run: this package has its own model and reads the weights by name",
            *(folder, _listed([*named, *files])),
        )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The folder's tokenizer, or None if it has none. Code in the folder is never run.

    Raises:
        UserError: if its files are damaged.
    """
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    if (folder / "tokenizer.json").is_file():
        kind: type[PreTrainedTokenizerBase] = PreTrainedTokenizerFast
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        kind = Qwen2Tokenizer
    else:
        return None
    try:
        return kind.from_pretrained(folder)
    except Exception as error:  # damaged files raise errors of every type
        raise UserError(f"the tokenizer in {folder} cannot be read ({type(error).__name__}: {error})") from error


def _listed(names: list[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


@contextmanager
def _opened(path: Path, device: torch.device | str = "cpu") -> Iterator[safe_open]:
    try:
        with safe_open(path, framework="pt", device=str(device)) as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error


def _no_weights(folder: Path) -> str:
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    shards = [path.name for path in _shards(folder)]
    if shards:
        return f"{folder} contains {_listed(shards)}, but not their index; get {SINGLE_FILE}.index.json from the same source"
    if not pickled:
        return f"{folder} contains neither model.safetensors nor model.safetensors.index.json (pickled weights are not read)"
    return (
        f"{folder} contains its weights only as pickles ({_listed(pickled)}), which can run any code when they are opened and "
        "are never read; take the model's safetensors version, or save it as safetensors if you trust it"
    )


def _other_files(target: Path) -> list[str]:
    """Names in `target` that belong to no checkpoint; without a config.json, all but Markdown files."""
    if not target.exists():
        return []
    if not target.is_dir():
        return ["a file of that name"]
    known = CHECKPOINT_SUFFIXES if (target / "config.json").is_file() else (".md",)
    return [path.name for path in target.iterdir() if path.is_dir() or path.suffix not in known]

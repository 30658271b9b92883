"""A new LaViDa from its published parts: a plain LLaDA or Dream, a SigLIP, and a projector."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SiglipVisionConfig

from shirg.errors import UserError
from shirg.files import atomic_path
from shirg.lavida import checkpoint
from shirg.lavida.config import GRID_PINPOINTS, SO400M, SPECIAL_IDS, LavidaConfig, read_config
from shirg.lavida.model import Lavida

ARCHITECTURES = {"llada": "LlavaLladaForMaskedDiffusion", "dream": "LlavaDreamForMaskedDiffusion"}
PUBLISHED_TOWER = "google/siglip-so400m-patch14-384"
PROJECTOR_PARTS = ("0.weight", "0.bias", "2.weight", "2.bias")
"""The two linear layers of `mlp2x_gelu`, by the end of their official names."""

PICKLE_MAGIC = (b"PK\x03\x04", b"\x80")
"""First bytes of files by torch.save: a zip archive, or in old versions a bare pickle (protocol 2 and above)."""

HD_RECIPE = {
    "add_faster_video": False,
    "add_time_instruction": False,
    "faster_token_stride": 10,
    "force_sample": False,
    "image_aspect_ratio": "anyres",
    "image_crop_resolution": None,
    "image_grid_pinpoints": [list(canvas) for canvas in GRID_PINPOINTS],
    "image_split_resolution": None,
    "mm_newline_position": "grid",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_pooler_ratio": 2,
    "mm_projector_lr": None,
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_spatial_pool_mode": "bilinear",
    "mm_spatial_pool_stride": None,
    "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower_lr": 2e-6,
    "pos_skipping_range": 4096,
    "tokenizer_model_max_length": 4096,
    "tokenizer_padding_side": "right",
    "use_mm_proj": True,
    "use_pos_skipping": False,
    "vision_tower_pretrained": None,
}
"""Fields that the official training of the HD model writes into `config.json` (LaViDa llada-hd-llada-s2.sh:27-75)."""

VISION_FIELDS = (
    "attention_dropout",
    "hidden_act",
    "hidden_size",
    "image_size",
    "intermediate_size",
    "layer_norm_eps",
    "model_type",
    "num_attention_heads",
    "num_channels",
    "num_hidden_layers",
    "patch_size",
)


def assemble(language: str | Path, tower: str | Path, *, projector: str | Path | None = None, seed: int = 0) -> Lavida:
    """A LaViDa from its parts, with the HD recipe's configuration, on the CPU, in eval mode.

    It has the precision of the language model's files, whose tensors are memory-mapped as in `Lavida.from_pretrained`; the
    tower's are cast one by one.

    Args:
        language: folder or hub id of a plain LLaDA or Dream: config.json, safetensors, tokenizer.
        tower: folder or hub id of a SigLIP (whole or vision only) for 384 pixels in patches of 14. Its last encoder
            layer, pooling head and text half are not read.
        projector: safetensors file of a stage-1 projector (names containing `mm_projector`). None initialises one from `seed`
            as torch does; it must be trained.
        seed: of a new projector and of `image_newline`, randn / sqrt(hidden size) (LaViDa llava_arch.py:59-60).

    Raises:
        UserError: if a folder is not such a model, or tensors are missing, unexpected or of a wrong shape.
    """
    tower_name, language, tower = str(tower), checkpoint.resolve(language), checkpoint.resolve(tower)
    tokenizer = checkpoint.load_tokenizer(language)
    config = LavidaConfig.from_dict(_raw_config(language, tower, tower_name), tokenizer)
    config.raw.update({name: getattr(config, name) for name in SPECIAL_IDS[config.family]})
    with torch.device("meta"):
        model = Lavida(config, tokenizer)
    embedding = checkpoint.official_name("language.embed_tokens.weight", config.family)
    dtype = checkpoint.stored_dtype(checkpoint.weight_files(language), embedding)
    state = {name: tensor.to(dtype) for name, tensor in _initial_tensors(model, seed).items()}
    if projector is not None:
        state |= _stored_projector(model, Path(projector), dtype)
    state |= _language(model, language, dtype) | _tower(model, tower, dtype)
    model.load_state_dict(state, assign=True)
    model.tower.restore_buffers("cpu")
    return model.eval()


def convert_projector(source: Path, target: Path, *, force: bool = False) -> dict[str, list[int]]:
    """Write the projector in a pickled `mm_projector.bin` as a safetensors file; returns {name: shape}.

    The pickle is read by torch's restricted unpickler, which creates only tensors and plain containers.

    Args:
        force: replace a different file at `target`.

    Raises:
        UserError: if the pickle contains anything else or no two-layer projector, or if `target` is another file.
    """
    from safetensors.torch import save

    found = {name: value for name, value in _unpickle(source).items() if "mm_projector" in str(name)}
    shapes = {name: list(value.shape) if _is_dense(value) else type(value).__name__ for name, value in found.items()}
    first = shapes.get(_named(shapes, "0.weight"))
    hidden, width = first if isinstance(first, list) and len(first) == 2 else (0, 0)
    two_layers = dict(zip(PROJECTOR_PARTS, ([hidden, width], [hidden], [hidden, hidden], [hidden]), strict=True))
    if shapes != {_named(shapes, part): shape for part, shape in two_layers.items()}:
        raise UserError(
            f"{source} contains no two-layer projector ({', '.join(PROJECTOR_PARTS)}); found {shapes or 'none'}"
        )
    tensors = {name: value.detach().clone().contiguous() for name, value in found.items()}
    data = save(tensors, metadata={"format": "pt"})
    if target.exists() and not force and target.read_bytes() != data:
        raise UserError(f"{target} exists and is another file; give another name, or --force to replace it")
    with atomic_path(target) as fresh:
        fresh.write_bytes(data)
    return {name: list(value.shape) for name, value in tensors.items()}


# ---------------------------------------------------------------------- configuration


def _raw_config(language: Path, tower: Path, tower_name: str) -> dict[str, Any]:
    """The language model's config with LaViDa's fields, without `auto_map` (remote code)."""
    raw = read_config(language)
    kind = str(raw.get("model_type", "")).lower()
    if kind not in ARCHITECTURES:
        whole = " (a whole LaViDa: load it with from_pretrained)" if kind.startswith("llava") else ""
        raise UserError(f"language: {language} is of model_type {kind!r}{whole}; expected a plain LLaDA or Dream")
    vision = _vision_config(tower)
    known = all(vision[name] == value for name, value in SO400M.items())
    return {
        **{name: value for name, value in raw.items() if name not in ("auto_map", "_name_or_path", "dtype")},
        **HD_RECIPE,
        "model_type": f"llava_{kind}",
        "architectures": [ARCHITECTURES[kind]],
        "mm_vision_tower": PUBLISHED_TOWER if known else tower_name,
        "mm_hidden_size": vision["hidden_size"],
        "vision_config": vision,
    }


def _vision_config(tower: Path) -> dict[str, Any]:
    """All sizes of a SigLIP's vision tower; the hub's files have only those that differ from transformers' defaults."""
    raw = read_config(tower)
    kind = raw.get("model_type")
    if kind not in ("siglip", "siglip_vision_model"):
        raise UserError(f"tower: {tower} is of model_type {kind!r}; expected a SigLIP such as {PUBLISHED_TOWER}")
    given = (raw.get("vision_config") or {}) if kind == "siglip" else raw
    full = SiglipVisionConfig(**{name: given[name] for name in VISION_FIELDS if name in given}).to_dict()
    if (full["image_size"], full["patch_size"]) != (384, 14):
        raise UserError(
            f"tower: {tower} sees {full['image_size']} pixels in patches of {full['patch_size']}; LaViDa's tiles need "
            f"384 pixels in patches of 14, as {PUBLISHED_TOWER} has"
        )
    return {name: full[name] for name in VISION_FIELDS}


# ---------------------------------------------------------------------- weights


def _language(model: Lavida, folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors of the language model; plain models have the same names as LaViDa."""
    wanted = {
        checkpoint.official_name(name, model.config.family): (name, tensor.shape)
        for name, tensor in model.state_dict().items()
        if name.startswith("language.")
    }
    mismatch = f"language: the weights in {folder} do not fit its config.json"
    files = checkpoint.weight_files(folder)
    return checkpoint.read_tensors(files, wanted, mismatch, device=torch.device("cpu"), dtype=dtype)


def _tower(model: Lavida, folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors of the tower. transformers 4 puts `vision_model.` before the names of a vision-only SigLIP, transformers 5 does
    not."""
    files = checkpoint.weight_files(folder)
    stored = checkpoint.stored_shapes(files)
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in stored) else ""
    wanted = {
        prefix + name.removeprefix("tower.vision_model."): (name, tensor.shape)
        for name, tensor in model.state_dict().items()
        if name.startswith("tower.")
    }
    last = model.config.vision_config["num_hidden_layers"] - 1
    spare = re.compile(rf"text_model\.|logit_(scale|bias)$|{prefix}(head|encoder\.layers\.{last})\.")
    unused = {name for name in stored if spare.match(name)}
    mismatch = f"tower: the weights in {folder} do not fit its config.json"
    return checkpoint.read_tensors(files, wanted, mismatch, unused=unused, device=torch.device("cpu"), dtype=dtype)


def _stored_projector(model: Lavida, path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    try:
        stored = checkpoint.stored_shapes([path])
    except UserError:
        if path.is_file() and _is_pickle(path):
            raise UserError(
                f"projector: {path} is a pickle, which can run any code when it is opened; convert it with "
                f"`shirg convert {path.name} {path.with_suffix('.safetensors').name}` and give that file"
            ) from None
        raise
    shapes = model.mm_projector.state_dict()
    wanted = {_named(stored, part): (f"mm_projector.{part}", shapes[part].shape) for part in PROJECTOR_PARTS}
    unused = {name for name in stored if "mm_projector" not in name}
    mismatch = (
        f"projector: {path} does not fit a tower of width {model.config.vision_hidden_size} and a language model "
    )
    mismatch += f"of width {model.config.hidden_size}"
    return checkpoint.read_tensors([path], wanted, mismatch, unused=unused, device=torch.device("cpu"), dtype=dtype)


def _initial_tensors(model: Lavida, seed: int) -> dict[str, Tensor]:
    """`image_newline`, and a projector as initialised by `nn.Linear`: weights and biases uniform within 1 / sqrt(fan-in)."""
    draws = torch.Generator().manual_seed(seed)
    width = model.config.hidden_size
    state = {"image_newline": torch.randn(width, generator=draws, dtype=torch.float32) / width**0.5}
    for part, tensor in model.mm_projector.state_dict().items():
        layer = model.mm_projector[int(part[0])]
        assert isinstance(layer, nn.Linear)
        bound = layer.in_features**-0.5
        fresh = torch.empty(tensor.shape, dtype=torch.float32)
        state[f"mm_projector.{part}"] = fresh.uniform_(-bound, bound, generator=draws)
    return state


def _named(names: Iterable[str], part: str) -> str:
    """The stored name of a projector's part; the prefix before `mm_projector.` varies (LaViDa llava_arch.py:131-138)."""
    return next((name for name in names if name.endswith(f"mm_projector.{part}")), f"model.mm_projector.{part}")


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.layout is torch.strided


def _is_pickle(path: Path) -> bool:
    with open(path, "rb") as handle:
        return handle.read(4).startswith(PICKLE_MAGIC)


def _unpickle(path: Path) -> dict[Any, Any]:
    with open(path, "rb") as handle:  # outside `try`, so that a missing file is an OSError
        try:
            loaded = torch.load(handle, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged pickles raise errors of every type
            refused = re.search(r"GLOBAL ([\w.]+)", str(error))  # torch's message advises an unrestricted load
            why = (
                f"it asks for {refused[1]}, which is not a tensor; nothing in it was run"
                if refused
                else "it is damaged"
            )
            raise UserError(f"{path} is not a file of tensors that torch.save wrote: {why}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path} contains a {type(loaded).__name__}; expected a dictionary of named tensors")
    return loaded

"""The identity of a run: plain values on which its numbers depend, stored with it and compared by `--resume`."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from shirg.errors import UserError

if TYPE_CHECKING:
    from shirg.lavida import Lavida

SAMPLED = 256
"""Values of each tensor in a fingerprint; reading all of 8B parameters would take minutes."""

logger = logging.getLogger(__name__)


class OtherRunError(UserError):
    """The stored run has other settings, so that it cannot be resumed."""


def of_base(model: Lavida) -> dict[str, Any]:
    """Properties of a model without its adapter on which answers and losses depend: vision settings, weights, precision."""
    base = {name: value for name, value in model.named_parameters() if ".lora_" not in name}
    tower = model.text_tower
    return {
        "family": model.config.family,
        **model.vision.as_dict(),
        "parameters": sum(value.numel() for value in base.values()),
        "weights": of_tensors(base.items()),
        "text_tower": None if tower is None else of_tensors(tower.parts.named_parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def of_adapter(model: Lavida) -> dict[str, Any]:
    """Size and weights of a model's adapter; 0 and None without one."""
    from shirg.lavida.adapter import lora_parameters

    found = lora_parameters(model)
    return {
        "adapter_parameters": sum(value.numel() for value in found.values()),
        "adapter_weights": of_tensors(found.items()) if found else None,
    }


def of_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Fingerprint of weights: 16 hexadecimal digits of names, shapes and evenly sampled values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        flat = tensor.detach().flatten()
        values = flat[:: max(1, len(flat) // SAMPLED)].double().cpu().numpy()
        digest.update(f"{name.replace('.base_layer', '')}{list(tensor.shape)}".encode() + values.tobytes())
    return digest.hexdigest()[:16]


def of_data(dataset: object) -> str | None:
    """Fingerprint of training data: 16 hexadecimal digits.

    It is the data set's own `fingerprint()`, as of a prepared folder, or that of the records of a list; None for others.
    """
    if hasattr(dataset, "fingerprint"):
        return dataset.fingerprint()
    if not isinstance(dataset, list | tuple):
        return None
    return of_values((record.id, record.image_id, record.question, *record.answers) for record in dataset)


def of_values(values: Iterable[Sequence[Any]]) -> str:
    """Fingerprint of lists of JSON values: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value).encode())
    return digest.hexdigest()[:16]


def fingerprint(run: Mapping[str, Any]) -> str:
    """Fingerprint of a run: 16 hexadecimal digits of its settings in any order."""
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]


def check_same_run(where: Path, before: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Compare a stored run with this one. Settings that an earlier version did not store count as equal, with a line in the log.

    Raises:
        OtherRunError: at the first setting that differs, with both values; or if none is stored.
    """
    stored, unknown = dict(_flat(before)), set()
    if before.keys().isdisjoint(run):
        raise OtherRunError(
            f"resume: {where} belongs to another kind of run; leave --resume out to start over, or choose another folder"
        )
    for name, value in _flat(json.loads(json.dumps(run))):
        if name not in stored:
            unknown.add(name.split(".")[0])
        elif stored[name] != value:
            raise OtherRunError(
                f"resume: {name} is {value!r}, but {where} was made with {stored[name]!r}; use that value, "
                "leave --resume out to start over, or choose another folder"
            )
    if unknown:
        logger.info("%s is of an earlier version and lacks %s: assumed equal", where, ", ".join(sorted(unknown)))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value

"""Settings of views and token selection: one value that checkpoints, adapters, flags and reports share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shirg.errors import UserError
from shirg.gate import GateConfig, ShirgGate

SHIRG_RESOLUTION = 672
"""Side in pixels at which SHIRG encodes an image: 48 x 48 patches of 14 pixels."""
LARGEST_SIDE = 2**31
FITS = ("stretch", "pad")
RELEVANCE = ("llm", "siglip", "none")
RELEVANCE_SIGNS = (1, -1)
NO_FLOOR = -1.0
"""The `relevance_floor` that leaves all cosines as they are."""


@dataclass(frozen=True)
class VisionSettings:
    """Settings that determine the visual tokens of the language model; `Lavida.vision` is one.

    Raises:
        ValueError: for a value outside its range, or an unknown selector; the message gives the field and the value.
    """

    resolution: int = SHIRG_RESOLUTION
    """Pixels per side of the large view, a multiple of the tower's patch size."""
    fit: str = "stretch"
    """How an image becomes a square view: "stretch" (as LaViDa's base view) or "pad" (keeps the aspect ratio)."""
    gate: GateConfig = GateConfig()
    """Settings of the selection."""
    relevance: str = "llm"
    """Space in which tokens are compared with the question: "llm" compares projected tokens with the question's word embeddings,
    "siglip" compares tokens with its embedding by SigLIP's text tower, "none" selects by the image alone."""
    relevance_sign: int = 1
    """-1 for an inverted space, in which the least similar tokens are the relevant ones."""
    relevance_floor: float = NO_FLOOR
    """Lower limit of the cosine, times the sign, in relevance "llm", for a space that was trained with such a limit; -1 leaves
    all cosines unchanged."""

    def __post_init__(self) -> None:
        if type(self.resolution) is not int or not 0 < self.resolution < LARGEST_SIDE:
            raise UserError(f"resolution: got {self.resolution!r}, must be a whole number above 0")
        for name, allowed in (("fit", FITS), ("relevance", RELEVANCE), ("relevance_sign", RELEVANCE_SIGNS)):
            value = getattr(self, name)
            if value not in allowed or isinstance(value, bool):
                raise UserError(f"{name}: got {value!r}, must be {' or '.join(map(repr, allowed))}")
        check_floor("relevance_floor", self.relevance_floor)
        ShirgGate(self.gate)  # raises for an unknown selector

    def with_stored(self, stored: Mapping[str, Any]) -> VisionSettings:
        """These settings with the fields that an adapter or a config.json names.

        Fields of the gate that the file lacks, since it is older, are those of "shirg-v2".

        Raises:
            UserError, TypeError, ValueError: for an invalid value, or an unknown field of the gate.
        """
        changes = {name: stored[name] for name in FIELDS if name in stored}
        if "gate" in changes:
            changes["gate"] = GateConfig.stored(changes["gate"])
        return dataclasses.replace(self, **changes)

    def differing(self, other: VisionSettings) -> tuple[str, ...]:
        """Names of the fields in which the two differ."""
        return tuple(name for name in FIELDS if getattr(self, name) != getattr(other, name))

    def as_dict(self) -> dict[str, Any]:
        """JSON values, as stored in files."""
        return dataclasses.asdict(self)


FIELDS = tuple(field.name for field in dataclasses.fields(VisionSettings))


def check_floor(name: str, floor: object) -> None:
    """Raise `UserError`, beginning with `name`, unless `floor` can be a `relevance_floor`."""
    if not isinstance(floor, int | float) or not NO_FLOOR <= floor < 1:
        raise UserError(f"{name}: got {floor!r}, must be a cosine from -1 to below 1")

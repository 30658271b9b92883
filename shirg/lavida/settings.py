"""How a model looks at an image and chooses tokens: one value that checkpoints, adapters, flags and reports share."""

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
    """What decides which visual tokens the language model gets. A model holds it as `Lavida.vision`.

    Raises:
        ValueError: for a value outside its range, or an unknown selector; the message gives the field and the value.
    """

    resolution: int = SHIRG_RESOLUTION
    """Pixels per side of the large view, a multiple of the tower's patch size."""
    fit: str = "stretch"
    """How an image becomes one square view: "stretch" (as LaViDa's base view) or "pad" (keeps the shape)."""
    gate: GateConfig = GateConfig()
    """Settings of the selection."""
    relevance: str = "llm"
    """Where tokens are compared with the question: "llm" compares projected tokens with its word embeddings, "siglip" with
    its embedding by SigLIP's text tower, "none" chooses by the image alone."""
    relevance_sign: int = 1
    """-1 where a space is inverted, so that the least similar tokens are the relevant ones."""
    relevance_floor: float = NO_FLOOR
    """Cosine, times the sign, up to which "llm" takes a token for no match. A space that was trained to have such a border
    gains from it; in others -1 leaves all cosines as they are."""

    def __post_init__(self) -> None:
        if type(self.resolution) is not int or not 0 < self.resolution < LARGEST_SIDE:
            raise UserError(f"resolution: got {self.resolution!r}, must be a whole number above 0")
        for name, allowed in (("fit", FITS), ("relevance", RELEVANCE), ("relevance_sign", RELEVANCE_SIGNS)):
            value = getattr(self, name)
            if value not in allowed or isinstance(value, bool):
                raise UserError(f"{name}: got {value!r}, must be {' or '.join(map(repr, allowed))}")
        check_floor("relevance_floor", self.relevance_floor)
        ShirgGate(self.gate)  # refuses a selector that there is not

    def with_stored(self, stored: Mapping[str, Any]) -> VisionSettings:
        """These settings with those fields that an adapter or a config.json names.

        A gate is what it was when it was stored: fields younger than the file are those of "shirg-v2".

        Raises:
            UserError, TypeError, ValueError: for a value or a field of the gate that there is not.
        """
        changes = {name: stored[name] for name in FIELDS if name in stored}
        if "gate" in changes:
            changes["gate"] = GateConfig.stored(changes["gate"])
        return dataclasses.replace(self, **changes)

    def differing(self, other: VisionSettings) -> tuple[str, ...]:
        """Names of the fields in which the two differ."""
        return tuple(name for name in FIELDS if getattr(self, name) != getattr(other, name))

    def as_dict(self) -> dict[str, Any]:
        """JSON values, as they are stored."""
        return dataclasses.asdict(self)


FIELDS = tuple(field.name for field in dataclasses.fields(VisionSettings))


def check_floor(name: str, floor: object) -> None:
    """Raise `UserError`, beginning with `name`, unless `floor` can be a `relevance_floor`."""
    if not isinstance(floor, int | float) or not NO_FLOOR <= floor < 1:
        raise UserError(f"{name}: got {floor!r}, must be a cosine from -1 to below 1")

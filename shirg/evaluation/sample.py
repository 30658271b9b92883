"""The page of a run that timing and drawings are made on."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from shirg.data import Record


@dataclass(frozen=True)
class SamplePage:
    """A page with one of its questions."""

    image: Image.Image
    record: Record
    prompt: str
    """The record's question as it was put to the model, suffix included."""

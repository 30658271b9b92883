"""Near-duplicates of an image are found, other images of the same series are not."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shirg.data.near_duplicates import BITS, THRESHOLD, NearDuplicateIndex, perceptual_hash
from shirg.images import open_image


def words(*hashes: bytes) -> np.ndarray:
    return np.frombuffer(b"".join(hashes), dtype=np.uint64).reshape(-1, BITS // 64)


def flipped(value: bytes, *bits: int) -> bytes:
    unpacked = np.unpackbits(np.frombuffer(value, dtype=np.uint8))
    unpacked[list(bits)] ^= 1
    return np.packbits(unpacked).tobytes()


def test_nearest_within_the_threshold_is_found():
    rng = np.random.default_rng(0)
    known = [rng.bytes(BITS // 8) for _ in range(300)]
    asked = [
        flipped(known[7], *range(100, 100 + THRESHOLD)),
        flipped(known[9], *range(0, 2 * THRESHOLD + 2, 2)),
        known[299],
        rng.bytes(BITS // 8),
    ]
    assert NearDuplicateIndex(words(*known)).find(words(*asked)).tolist() == [7, -1, 299, -1]
    near = NearDuplicateIndex(words(flipped(known[0], 1, 2), flipped(known[0], 3)))
    assert near.find(words(known[0])).tolist() == [1]
    assert NearDuplicateIndex(words()).find(words(known[0])).tolist() == [-1]


def test_a_blank_image_has_no_hash():
    assert perceptual_hash(Image.new("RGB", (100, 80), (250, 250, 240))) == b""
    assert len(perceptual_hash(Image.effect_noise((100, 80), 60))) == BITS // 8


@pytest.mark.parametrize("folder", ["funsd/training_data/images", "chartqa_split/simple/png", "tabmwp/tables"])
def test_real_pages(folder: str, shared: Path):
    """No page is taken for another one of its set; a recompressed copy is taken for its original."""
    files = sorted((shared / "data" / folder).iterdir())[:60]
    images = {hashlib.sha256(image.tobytes()).digest(): image for image in map(_open, files)}
    hashes = [perceptual_hash(image) for image in images.values()]
    copies = [perceptual_hash(_recompressed(image)) for image in images.values()]
    table = words(*hashes)
    for place in range(len(table)):
        others = np.delete(table, place, axis=0)
        assert NearDuplicateIndex(others).find(table[place : place + 1]).tolist() == [-1]
    assert NearDuplicateIndex(table).find(words(*copies)).tolist() == list(range(len(table)))


def _open(path: Path) -> Image.Image:
    return open_image(path.read_bytes())


def _recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return Image.open(buffer)

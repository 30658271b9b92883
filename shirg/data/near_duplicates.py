"""Perceptual hashes that find copies of an image: shrunk, recompressed or saved in another format."""

from __future__ import annotations

import numpy as np
from PIL import Image

BITS = 256
THRESHOLD = 16
"""Most bits in which the hashes of near-duplicates differ. Measured on receipts, forms, charts and tables: JPEG copies of
quality 90 differ in up to 6 bits, copies of half the size and quality 40 in 5 to 22 (median), and two different pages of one
series (tables of one layout, the most similar ones) in 20 or more."""

BLANK_STD = 2.0
"""Standard deviation of grey levels below which an image counts as blank; blank images are compared by checksum only."""

_SIDE, _KEPT = 64, 17


def perceptual_hash(image: Image.Image) -> bytes:
    """A hash of 256 bits; near-duplicates differ in few of them. Empty for a blank image.

    DCT hash of C. Zauner (Implementation and Benchmarking of Perceptual Image Hash Functions, 2010) with more bits:
    signs of the lowest 17 x 17 coefficients of the 64 x 64 grey image against their median, without the first.
    """
    grey = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float64)
    if grey.std() < BLANK_STD:
        return b""
    steps = np.arange(_SIDE)
    waves = np.cos(np.pi * (2 * steps[None] + 1) * np.arange(_KEPT)[:, None] / (2 * _SIDE))
    low = (waves @ grey @ waves.T).ravel()[1 : BITS + 1]
    return np.packbits(low > np.median(low)).tobytes()


class NearDuplicateIndex:
    """Searches perceptual hashes."""

    def __init__(self, hashes: np.ndarray):
        """`hashes` are non-empty values of `perceptual_hash` as uint64 [n, 4]."""
        self._hashes = hashes

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """For each hash [m, 4] the index of the nearest one within `THRESHOLD` bits, or -1; int64 [m]."""
        found = np.full(len(hashes), -1, dtype=np.int64)
        if not len(self._hashes):
            return found
        step = max(1, 2**20 // len(self._hashes))
        for start in range(0, len(hashes), step):
            chunk = hashes[start : start + step]
            # Most pairs already differ too much in the first 64 bits.
            row, column = np.nonzero(np.bitwise_count(chunk[:, None, 0] ^ self._hashes[None, :, 0]) <= THRESHOLD)
            bits = np.bitwise_count(chunk[row] ^ self._hashes[column]).sum(axis=1)
            close = np.flatnonzero(bits <= THRESHOLD)
            close = close[np.lexsort((column[close], bits[close]))][::-1]  # the nearest is written last
            found[start + row[close]] = column[close]
        return found

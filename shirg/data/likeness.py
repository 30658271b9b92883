"""Telling that two image files show the same picture, though one was shrunk, recompressed or saved in another format."""

from __future__ import annotations

import numpy as np
from PIL import Image

BITS = 256
THRESHOLD = 16
"""Most bits in which the hashes of one picture's copies may differ. Measured on receipts, forms, charts and tables: JPEG
copies of quality 90 differ in up to 6 bits, copies of half the size and quality 40 in 5 to 22 (median), and two different
pages of one series (tables of one layout, the nearest there are) in 20 or more."""

FLATTEST = 2.0
"""Standard deviation of grey levels below which a picture is taken for blank paper, which looks like any other."""

_SIDE, _KEPT = 64, 17


def perceptual_hash(image: Image.Image) -> bytes:
    """A hash of 256 bits that similar pictures share but for a few bits; empty for a blank picture.

    It is the DCT hash of C. Zauner (Implementation and Benchmarking of Perceptual Image Hash Functions, 2010) with more
    bits: signs of the lowest 17 x 17 coefficients of the 64 x 64 grey picture against their median, the first left out.
    """
    grey = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float64)
    if grey.std() < FLATTEST:
        return b""
    steps = np.arange(_SIDE)
    waves = np.cos(np.pi * (2 * steps[None] + 1) * np.arange(_KEPT)[:, None] / (2 * _SIDE))
    low = (waves @ grey @ waves.T).ravel()[1 : BITS + 1]
    return np.packbits(low > np.median(low)).tobytes()


class Lookalikes:
    """Pictures to be kept apart from, searched by perceptual hash."""

    def __init__(self, words: np.ndarray):
        """Takes `perceptual_hash` values, none of them empty, as uint64 [n, 4]."""
        self._words = words

    def find(self, words: np.ndarray) -> np.ndarray:
        """For every hash [m, 4] the place of the nearest that differs in at most `THRESHOLD` bits; -1 where none does."""
        found = np.full(len(words), -1, dtype=np.int64)
        if not len(self._words):
            return found
        step = max(1, 2**20 // len(self._words))
        for start in range(0, len(words), step):
            part = words[start : start + step]
            # Most pairs differ too much in the first 64 bits already.
            row, column = np.nonzero(np.bitwise_count(part[:, None, 0] ^ self._words[None, :, 0]) <= THRESHOLD)
            bits = np.bitwise_count(part[row] ^ self._words[column]).sum(axis=1)
            close = np.flatnonzero(bits <= THRESHOLD)
            close = close[np.lexsort((column[close], bits[close]))][::-1]  # the nearest is written last
            found[start + row[close]] = column[close]
        return found

"""Scan of the source images before any shard is written: decodes each once for checksum, hash, size and errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from shirg.data.catalogue import Catalogue
from shirg.data.images import KEPT, read_bytes
from shirg.data.near_duplicates import perceptual_hash
from shirg.data.workers import ordered_map
from shirg.errors import UserError
from shirg.files import write_text
from shirg.images import decode

BLOCK = 500
"""Images per block file. A stopped run repeats at most one block."""

CHUNK = 8
"""Images per task of a worker."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What the scan found in an image file. With a `reason` the image is unusable, and the rest is empty.

    Attributes:
        sha256: checksum of the file, hexadecimal.
        perceptual_hash: hexadecimal; empty for a blank image.
        width: of the upright image, pixels.
        height: of the upright image, pixels.
        kept: whether files of this format are stored unchanged.
        reason: why the image is unusable; empty if it is usable.
    """

    sha256: str = ""
    perceptual_hash: str = ""
    width: int = 0
    height: int = 0
    kept: bool = False
    reason: str = ""


ROW = np.dtype(
    [("sha256", "<u8", 4), ("hash", "<u8", 4), ("blank", "?"), ("width", "<i4"), ("height", "<i4"), ("kept", "?")]
)


class ImageTable:
    """Many `ImageInfo`s in 74 bytes each.

    Attributes:
        rows: one `ROW` per image, zeros for an unusable one; [n].
        reasons: index of an unusable image -> why.
    """

    def __init__(self, infos: Iterable[ImageInfo] = ()):
        infos = list(infos)
        self.rows = np.zeros(len(infos), dtype=ROW)
        self.reasons = {index: info.reason for index, info in enumerate(infos) if info.reason}
        for row, info in zip(self.rows, infos, strict=True):
            if not info.reason:
                row["sha256"], row["hash"] = _words(info.sha256), _words(info.perceptual_hash)
                row["blank"], row["width"], row["height"] = not info.perceptual_hash, info.width, info.height
                row["kept"] = info.kept

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def usable(self) -> np.ndarray:
        """Which images are usable; bool [n]."""
        mask = np.ones(len(self), dtype=bool)
        mask[list(self.reasons)] = False
        return mask

    @classmethod
    def concatenated(cls, blocks: Sequence[ImageTable]) -> ImageTable:
        """All blocks as one table."""
        table, begin = cls(), 0
        table.rows = np.concatenate([table.rows, *(block.rows for block in blocks)])
        for block in blocks:
            table.reasons |= {begin + index: reason for index, reason in block.reasons.items()}
            begin += len(block)
        return table


def sha256_of_row(row: np.void) -> str:
    """The hexadecimal checksum in a `ROW`."""
    return row["sha256"].tobytes().hex()


def _words(digest: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(digest) or bytes(32), dtype="<u8")


def scan_image(path: Path, name: str) -> ImageInfo:
    """Read and decode one image file; `name` is for messages."""
    try:
        data = read_bytes(path)
        image, file_format = decode(data, name)
    except UserError as error:
        return ImageInfo(reason=str(error))
    sha256 = hashlib.sha256(data).hexdigest()
    return ImageInfo(sha256, perceptual_hash(image).hex(), image.width, image.height, file_format in KEPT)


class ImageScan:
    """The scanned images of one part in their seeded order, in block files that a stopped run reuses.

    Blocks are independent of each other, so several processes can share them.
    """

    def __init__(self, folder: Path, part: str, catalogue: Catalogue, order: np.ndarray):
        """`order` holds the catalogue numbers of the part's images."""
        self.folder, self.part, self.catalogue, self.order = folder, part, catalogue, order
        state = hashlib.sha256(f"{catalogue.digest} {part} {BLOCK}".encode())
        state.update(order.tobytes())
        self.key = state.hexdigest()[:16]
        self._blocks: dict[int, ImageTable] = {}

    def __len__(self) -> int:
        """Number of blocks."""
        return -(-len(self.order) // BLOCK)

    def members(self, number: int) -> np.ndarray:
        """Catalogue numbers of a block's images."""
        return self.order[number * BLOCK : (number + 1) * BLOCK]

    def missing(self, count: int) -> list[int]:
        """Which of the first `count` blocks no process has finished."""
        return [number for number in range(count) if number not in self._blocks and not self._read(number)]

    def run(self, numbers: list[int], num_workers: int | None, advance: Callable[[int], None]) -> None:
        """Scan the images of these blocks; `advance` is called with the number of finished images.

        Raises:
            OSError: if a block cannot be written.
        """
        tasks = (chunk for number in numbers for chunk in _chunks(self._files(number)))
        infos = (info for chunk in ordered_map(_scan_images, tasks, num_workers) for info in chunk)
        for number in numbers:
            block = []
            for _ in self.members(number):
                block.append(next(infos))
                advance(1)
            self._blocks[number] = ImageTable(block)
            write_text(self._path(number), "".join(json.dumps(astuple(info)) + "\n" for info in block))

    def table(self, count: int) -> ImageTable:
        """The images of the first `count` blocks, all of which are finished."""
        return ImageTable.concatenated([self._blocks[number] for number in range(count)])

    def _files(self, number: int) -> Iterator[tuple[Path, str]]:
        for member in self.members(number).tolist():
            name = self.catalogue.name(member)
            yield self.catalogue.origins[self.catalogue.origin[member]].root / name, name

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.part}-{self.key}-{number:05d}.jsonl"

    def _read(self, number: int) -> bool:
        try:
            lines = self._path(number).read_text(encoding="utf-8").splitlines()
            block = [ImageInfo(*json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError):
            return False
        if len(block) != len(self.members(number)):
            return False
        self._blocks[number] = ImageTable(block)
        return True


def _chunks(files: Iterator[tuple[Path, str]]) -> Iterator[list[tuple[Path, str]]]:
    while chunk := list(islice(files, CHUNK)):
        yield chunk


def _scan_images(files: list[tuple[Path, str]]) -> list[ImageInfo]:
    return [scan_image(path, name) for path, name in files]

"""Looking at every image once before anything is written: is it whole, how large, what does it show."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from shirg.data.catalogue import Catalogue
from shirg.data.images import KEPT, read_bytes
from shirg.data.likeness import perceptual_hash
from shirg.data.workers import ordered_map
from shirg.errors import UserError
from shirg.files import write_text
from shirg.images import decode

BLOCK = 500
"""Images that a stopped run may have to look at again: they are entered together."""

CHUNK = 8
"""Images that a worker gets at once."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of an image file. With a `reason` it cannot be used, and the rest is empty.

    Attributes:
        sha256: of the file, hexadecimal.
        likeness: `perceptual_hash`, hexadecimal; empty for a blank picture.
        width: upright, pixels.
        height: upright, pixels.
        kept: whether the format is one whose files are stored as they are.
        reason: why the image cannot be used; empty if it can.
    """

    sha256: str = ""
    likeness: str = ""
    width: int = 0
    height: int = 0
    kept: bool = False
    reason: str = ""


LOOK = np.dtype(
    [("sha256", "<u8", 4), ("likeness", "<u8", 4), ("blank", "?"), ("width", "<i4"), ("height", "<i4"), ("kept", "?")]
)


class Looks:
    """Many looks in 74 bytes each.

    Attributes:
        table: a row of `LOOK` per image; of one that cannot be used it holds zeros.
        reasons: why an image cannot be used, by its place.
    """

    def __init__(self, looks: Iterable[Look] = ()):
        """Packs what was seen."""
        looks = list(looks)
        self.table = np.zeros(len(looks), dtype=LOOK)
        self.reasons: dict[int, str] = {}
        for place, look in enumerate(looks):
            if look.reason:
                self.reasons[place] = look.reason
                continue
            row = self.table[place]
            row["sha256"], row["width"], row["height"] = _words(look.sha256), look.width, look.height
            row["likeness"], row["blank"], row["kept"] = _words(look.likeness), not look.likeness, look.kept

    def __len__(self) -> int:
        return len(self.table)

    @classmethod
    def joined(cls, blocks: Sequence[Looks]) -> Looks:
        """All blocks as one."""
        looks, begin = cls(), 0
        looks.table = np.concatenate([looks.table, *(block.table for block in blocks)])
        for block in blocks:
            looks.reasons |= {begin + place: reason for place, reason in block.reasons.items()}
            begin += len(block)
        return looks


def sha256_of_row(row: np.void) -> str:
    """The hexadecimal digest in a row of `LOOK`."""
    return row["sha256"].tobytes().hex()


def _words(digest: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(digest) or bytes(32), dtype="<u8")


def look_at(path: Path, name: str) -> Look:
    """Decodes an image file to its end."""
    try:
        data = read_bytes(path)
        image, file_format = decode(data, name)
    except UserError as error:
        return Look(reason=str(error))
    digest = hashlib.sha256(data).hexdigest()
    return Look(digest, likeness_of(image), image.width, image.height, file_format in KEPT)


def likeness_of(image: Image.Image) -> str:
    """The perceptual hash as it is kept in a `Look`."""
    return perceptual_hash(image).hex()


class Survey:
    """Looks at the images of a part in their seeded order, kept in small files so that they are taken once.

    Blocks are independent of each other: several processes can share them, and what they are asked for later does not
    change them.
    """

    def __init__(self, folder: Path, part: str, catalogue: Catalogue, order: np.ndarray):
        """`order` holds the numbers of the part's images in the catalogue."""
        self.folder, self.part, self.catalogue, self.order = folder, part, catalogue, order
        state = hashlib.sha256(f"{catalogue.digest} {part} {BLOCK}".encode())
        state.update(order.tobytes())
        self.key = state.hexdigest()[:16]
        self._held: dict[int, Looks] = {}

    def __len__(self) -> int:
        """Number of blocks."""
        return -(-len(self.order) // BLOCK)

    def missing(self, count: int) -> list[int]:
        """Which of the first `count` blocks nobody has finished."""
        return [number for number in range(count) if number not in self._held and not self._read(number)]

    def run(self, numbers: list[int], num_workers: int | None, advance: Callable[[int], None]) -> None:
        """Looks at the images of these blocks; `advance` hears how many are done.

        Raises:
            OSError: if a block cannot be written.
        """
        tasks = (chunk for number in numbers for chunk in _chunks(self._files(number)))
        looks = (look for chunk in ordered_map(_look_at_all, tasks, num_workers) for look in chunk)
        for number in numbers:
            block = []
            for _ in range(self.images(number)):
                block.append(next(looks))
                advance(1)
            self._held[number] = Looks(block)
            lines = [json.dumps(list(asdict(look).values())) for look in block]
            write_text(self._path(number), "\n".join(lines) + "\n")

    def looks(self, count: int) -> Looks:
        """Of the images of the first `count` blocks, in order; all of them are finished."""
        return Looks.joined([self._held[number] for number in range(count)])

    def members(self, number: int) -> slice:
        """The places of a block in the order."""
        return slice(number * BLOCK, min((number + 1) * BLOCK, len(self.order)))

    def images(self, number: int) -> int:
        """How many images a block has."""
        return self.members(number).stop - self.members(number).start

    def _files(self, number: int) -> Iterator[tuple[Path, str]]:
        for member in self.order[self.members(number)].tolist():
            name = self.catalogue.name(member)
            yield self.catalogue.origins[self.catalogue.origin[member]].root / name, name

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.part}-{self.key}-{number:05d}.jsonl"

    def _read(self, number: int) -> bool:
        try:
            lines = self._path(number).read_text(encoding="utf-8").splitlines()
            block = [Look(*json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError):
            return False
        if len(block) != self.images(number):
            return False
        self._held[number] = Looks(block)
        return True


def _chunks(files: Iterator[tuple[Path, str]]) -> Iterator[list[tuple[Path, str]]]:
    """Chunks of `CHUNK`."""
    while chunk := list(islice(files, CHUNK)):
        yield chunk


def _look_at_all(files: list[tuple[Path, str]]) -> list[Look]:
    return [look_at(path, name) for path, name in files]

"""The picture of a selection: kept patches are bright, dropped ones dimmed and grey.

Drawn by Pillow and numpy in a font that comes with matplotlib; equal inputs give equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from shirg.data.render.fonts import Face
from shirg.files import atomic_path
from shirg.gate import Kept
from shirg.lavida.views import PAD_COLOUR

LONG_SIDE = 1344
"""Pixels of the page's longer side in the picture: 28 for each of 48 patches."""
SHORT_SIDE, LONGEST_SIDE = 672, 4032
"""A narrow page is enlarged until its shorter side has SHORT_SIDE pixels, but its longer side at most LONGEST_SIDE."""
LEAST_WIDTH = 900
"""Least width of the caption, pixels."""

PAPER, INK, GREY = (255, 255, 255), (24, 27, 33), (92, 98, 108)
DIMMED = (0.51, 0.54, 0.60)
"""Factor of a dropped patch's grey by channel; its text stays legible."""
COLOUR_LEFT = 0.12
"""Share of a dropped patch's colour that remains."""
SHADOW = 0.38
"""How much darker dropped patches are next to a kept one."""
RIM = 0.6
"""Strength of a light line around kept patches, which separates them from dropped ones on dark pages."""
BORDER, BORDER_ON_DROPPED, BORDER_ON_KEPT = (240, 173, 40), 0.75, 0.38
"""Colour of the lines between clusters, and their opacity."""
TINTS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66))
"""Okabe and Ito's colours (colour-blind safe); neighbouring groups get different ones."""
TINT = 0.34

HEADLINE, BODY = Face("DejaVuSans-Bold", 30.0), Face("DejaVuSans", 22.0)
MARGIN, GAP, SWATCH = 28, 14, 24
MOST_LINES = 3
"""Lines that one note may take before it is cut."""


@dataclass(frozen=True)
class Tally:
    """Counts of a selection."""

    patches: int
    outputs: int
    """Kept patches, or merged tokens."""
    dropped: int
    """Patches that went to no output."""
    clusters: int
    """1 for selectors that make none."""
    merged: bool
    alone: int
    """Outputs made of a single patch."""
    summary: bool

    @property
    def grouped(self) -> bool:
        """Whether there are groups to show: what was merged, or clusters."""
        return self.merged or self.clusters > 1

    @classmethod
    def of(cls, kept: Kept) -> Tally:
        """Count the first image of a batch."""
        assignment = kept.assignment[0].cpu()
        sizes = assignment[assignment >= 0].bincount()
        return cls(
            patches=assignment.numel(),
            outputs=len(sizes),
            dropped=int((assignment < 0).sum()),
            clusters=kept.clusters[0].unique().numel(),
            merged=kept.indices is None,
            alone=int((sizes == 1).sum()),
            summary=kept.tokens.shape[1] > len(sizes),
        )

    def headline(self) -> str:
        """ "768 of 2,304 patches kept (33%)"."""
        if self.merged:
            return f"{self.patches:,} patches merged into {self.outputs:,} tokens ({self.outputs / self.patches:.0%})"
        if self.outputs == self.patches:
            return f"All {self.patches:,} patches kept"
        return f"{self.outputs:,} of {self.patches:,} patches kept ({self.outputs / self.patches:.0%})"

    def details(self) -> str:
        """Number of clusters or groups, and of dropped patches."""
        parts = []
        groups = self.outputs - self.alone
        if self.merged and groups:
            single = f"{self.alone:,} tokens are single patches, " if self.alone else ""
            parts.append(f"{single}{groups:,} {'are ' if single else ''}means of several patches")
        elif self.clusters > 1:
            parts.append(f"{self.clusters:,} clusters")
        if self.dropped:
            fate = "in one summary token" if self.summary else "dropped"
            parts.append(f"the other {self.dropped:,} {fate}")
        elif self.summary:
            parts.append("one more for the mean of all")
        text = ", ".join(parts)
        return text[:1].upper() + text[1:]


def changed_patches(kept: Kept, by_page: Kept) -> int:
    """Number of patches that are kept with the question (`kept`) and not without it (`by_page`). Of a merging selector, number of
    those that are merged differently. First image of the batch."""
    ours, plain = kept.assignment[0], by_page.assignment[0]
    return int((ours != plain).sum() if kept.indices is None else ((ours >= 0) & (plain < 0)).sum())


def draw_kept(
    page: Image.Image, kept: Kept, grid: tuple[int, int], *, fit: str = "stretch", notes: Sequence[str] = ()
) -> Image.Image:
    """The page in its own aspect ratio, its kept patches bright, with a caption.

    Patches that a selector merges share a tint; a patch that is a token of its own has none.

    Args:
        page: the upright RGB page of any size, not its stretched view.
        kept: the gate's result for one view of this page; the first image of the batch is drawn.
        grid: rows and columns of patches, `kept.scores.shape[1]` in all.
        fit: how the page became square for the tower: "stretch", or "pad", which shows the padding as well.
        notes: further lines below the caption; long ones are wrapped, and cut after `MOST_LINES` lines.

    Returns:
        An RGB image.
    """
    canvas = enlarged_page(page, fit, LONG_SIDE, SHORT_SIDE)
    return _framed(draw_patches(canvas, kept, grid), Tally.of(kept), notes)


def draw_patches(
    canvas: Image.Image, kept: Kept, grid: tuple[int, int], view: Literal["both", "kept", "groups"] = "both"
) -> Image.Image:
    """The page alone, without frame and caption, at the size of `canvas`, which `enlarged_page` made.

    Args:
        view: "kept" dims what was dropped; "groups" leaves the page bright and tints the clusters, neighbours differently;
            "both" dims, and draws the clusters' borders. Where a selector merges, all three tint what was merged, and
            where it makes no clusters, all three show what was kept.
    """
    rows, columns = (_cells(side, count) for side, count in zip(canvas.size[::-1], grid, strict=True))

    def spread(cells: np.ndarray) -> np.ndarray:
        return np.asarray(cells).reshape(grid)[rows][:, columns]

    assignment, clusters = (part[0].cpu().numpy() for part in (kept.assignment, kept.clusters))
    tally, picture = Tally.of(kept), np.asarray(canvas, dtype=np.float32)
    groups = assignment if tally.merged else clusters
    bright = spread(assignment >= 0)
    if view != "groups" or not tally.grouped:
        picture = _dim(picture, bright)
    if tally.merged or (view == "groups" and tally.grouped):
        picture = _tint(picture, spread(_tints(groups.reshape(grid))), _borders(spread(groups)))
    elif tally.grouped and view == "both":
        strength = np.where(bright, BORDER_ON_KEPT, BORDER_ON_DROPPED) * _borders(spread(clusters))
        picture += strength[..., None] * (np.array(BORDER) - picture)
    return Image.fromarray(picture.round().clip(0, 255).astype(np.uint8))


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG, complete or not at all."""
    with atomic_path(path) as fresh:
        picture.save(fresh, "PNG", compress_level=5)  # level 7 takes three times as long for 4% of the bytes


# ---------------------------------------------------------------- the page


def enlarged_page(page: Image.Image, fit: str, long_side: int, short_side: int) -> Image.Image:
    """The page as RGB, padded if `fit` is "pad", resized to `long_side` pixels; to more, at most `LONGEST_SIDE`, if its shorter
    side would have fewer than `short_side`."""
    if fit == "pad":
        side = max(page.size)
        square = Image.new("RGB", (side, side), PAD_COLOUR)
        square.paste(page, ((side - page.width) // 2, (side - page.height) // 2))
        page = square
    scale = max(long_side / max(page.size), short_side / min(page.size))
    scale = min(scale, LONGEST_SIDE / max(page.size))
    width, height = (max(1, round(side * scale)) for side in page.size)
    return page.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def _cells(side: int, count: int) -> np.ndarray:
    """Index of the patch, of `count` along this side, of each of `side` pixels."""
    return (2 * np.arange(side) + 1) * count // (2 * side)


def _dim(page: np.ndarray, bright: np.ndarray) -> np.ndarray:
    """Make dropped patches grey and darker, more so next to kept ones: [H, W, 3]."""
    grey = page @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    faded = (grey[..., None] + COLOUR_LEFT * (page - grey[..., None])) * np.array(DIMMED)
    shape = Image.fromarray(bright.astype(np.uint8) * 255)
    near, rim = (shape.filter(brush) for brush in (ImageFilter.GaussianBlur(5), ImageFilter.MaxFilter(3)))
    faded *= 1 - SHADOW * np.asarray(near, dtype=np.float32)[..., None] / 255
    faded += RIM * np.asarray(rim, dtype=np.float32)[..., None] / 255 * (255 - faded)
    return np.where(bright[..., None], page, faded)


def _tint(page: np.ndarray, tints: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Multiply by the tints, so that black text stays black, and darken the borders between groups: [H, W, 3]."""
    colours = np.array([(255, 255, 255), *TINTS], dtype=np.float32)[tints + 1] / 255
    page = page * (1 - TINT + TINT * colours)
    return page * (1 - 0.35 * (borders & (tints >= 0)))[..., None]


def _tints(groups: np.ndarray) -> np.ndarray:
    """A tint for every patch [R, C] whose group has more than one, different from the neighbouring groups'; else -1."""
    neighbours: dict[int, set[int]] = {}
    for one, other in ((groups[:, :-1], groups[:, 1:]), (groups[:-1], groups[1:])):
        for pair in np.unique(np.stack([one.ravel(), other.ravel()], axis=1), axis=0).tolist():
            for group, beside in (pair, pair[::-1]):
                neighbours.setdefault(group, set()).add(beside)
    sizes = np.bincount(groups[groups >= 0])
    tints: dict[int, int] = {}
    for group in np.flatnonzero(sizes > 1).tolist():
        taken = [tints[beside] for beside in neighbours.get(group, ()) if beside != group and beside in tints]
        order = [(group + step) % len(TINTS) for step in range(len(TINTS))]
        tints[group] = min(order, key=taken.count)  # the first that no neighbour has, or that fewest have
    return np.vectorize(lambda group: tints.get(group, -1), otypes=[np.int64])(groups)


def _borders(groups: np.ndarray) -> np.ndarray:
    """True on the pixel before every change of group, to the right and downwards: [H, W]."""
    border = np.zeros(groups.shape, dtype=bool)
    border[:, :-1] |= groups[:, :-1] != groups[:, 1:]
    border[:-1] |= groups[:-1] != groups[1:]
    return border


# ---------------------------------------------------------------- the caption


def _framed(drawn: Image.Image, tally: Tally, notes: Sequence[str]) -> Image.Image:
    """The page on white, the caption below it."""
    width = max(drawn.width, LEAST_WIDTH)
    lines = [(HEADLINE, INK, line) for line in _wrapped(tally.headline(), HEADLINE, width)]
    for number, note in enumerate((tally.details(), *notes)):
        lines += [(BODY, GREY if number == 0 else INK, line) for line in _wrapped(note, BODY, width)]
    height = MARGIN + drawn.height + MARGIN + sum(_height(face) for face, *_ in lines) + GAP + SWATCH + MARGIN
    frame = Image.new("RGB", (width + 2 * MARGIN, height), PAPER)
    frame.paste(drawn, ((frame.width - drawn.width) // 2, MARGIN))
    top = MARGIN + drawn.height + MARGIN
    for face, colour, line in lines:
        _write(frame, face, colour, MARGIN, top, line)
        top += _height(face)
    _legend(frame, tally, top + GAP)
    return frame


def _legend(frame: Image.Image, tally: Tally, top: int) -> None:
    """The legend as swatches in one row."""
    draw, left = ImageDraw.Draw(frame), MARGIN
    dim = tuple(round(255 * share) for share in DIMMED)
    tinted = tuple(round(255 * (1 - TINT) + TINT * part) for part in TINTS[0])
    line = tuple(round(part + BORDER_ON_DROPPED * (edge - part)) for part, edge in zip(dim, BORDER, strict=True))
    entries: list[tuple[str, tuple[int, ...] | None, tuple[int, ...]]]
    entries = [("a token of its own" if tally.merged else "kept", PAPER, GREY)] if tally.alone else []
    if tally.merged and tally.alone < tally.outputs:
        entries.append(("merged with others", tinted, tinted))
    if tally.dropped:
        entries.append(("in the summary token" if tally.summary else "dropped", dim, dim))
    if not tally.merged and tally.clusters > 1:
        entries.append(("border of a cluster", None, line))
    for text, fill, edge in entries:
        if fill is None:
            draw.line((left, top + SWATCH // 2, left + SWATCH, top + SWATCH // 2), fill=edge, width=2)
        else:
            draw.rectangle((left, top, left + SWATCH - 1, top + SWATCH - 1), fill=fill, outline=edge)
        _write(frame, BODY, GREY, left + SWATCH + 10, top + SWATCH // 2 - _height(BODY) // 2, text)
        left += SWATCH + 10 + _length(BODY, text) + 34


def _height(face: Face) -> int:
    return round(1.45 * face.size)


def _length(face: Face, text: str) -> int:
    return round(face.measure(text)[0][-1]) if text else 0


def _write(frame: Image.Image, face: Face, colour: tuple[int, int, int], left: int, top: int, text: str) -> None:
    """One line of text whose row is `_height(face)` high and begins at `top`."""
    ink, across, up = face.mask(text)
    baseline = top + (_height(face) + face.cap) // 2
    frame.paste(colour, (left + across, baseline + up), ink)


def _wrapped(text: str, face: Face, width: int) -> list[str]:
    """Lines no wider than `width` pixels, at most `MOST_LINES`; words wider than a line are broken."""
    lines, line = [], ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        while _length(face, joined) > width:
            if line:
                lines.append(line)
                line, joined = "", word
                continue
            fits = max(sum(round(edge) <= width for edge in face.measure(joined)[0][1:]), 1)
            lines.append(joined[:fits])
            joined = word = joined[fits:]
        line = joined
    lines += [line] if line else []
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"{lines[MOST_LINES - 1][:-3]}..."]
    return lines

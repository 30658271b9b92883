"""Pie and ring charts: shares in the slices, beside them, or in a legend."""

from __future__ import annotations

import functools
import math

from PIL import Image, ImageDraw

from shirg.data.pages import Box
from shirg.data.render.charts import Series, ask_extremes, chart_frame, palette
from shirg.data.render.lexicon import CATEGORIES
from shirg.data.render.looks import Colour
from shirg.data.render.parts import WHITE
from shirg.data.render.sheet import Printed, Sheet
from shirg.data.render.values import allowed


def compose_pie(sheet: Sheet) -> None:
    """Fill `sheet` with a pie chart."""
    rng, look = sheet.rng, sheet.look
    box = chart_frame(sheet)
    topic = rng.choice(sorted(CATEGORIES))
    ems = (box[3] - box[1]) / look.body.size
    count = rng.randint(3, max(3, min(7, int(ems / 2.4))))
    names = rng.sample(CATEGORIES[topic], count)
    series = _shares(sheet, count)
    colours = palette(sheet, count)
    style = rng.choice(("legend", "legend with shares", "around"))
    place = {"legend": _with_legend, "legend with shares": _with_legend, "around": _around}[style]
    labels, values = place(sheet, box, names, series, colours, shares_inside=style == "legend")
    for name, label, value in zip(names, labels, values, strict=True):
        sheet.ask("pie_share", value, label, label=name)
    for index in rng.sample(range(count), 2):
        sheet.ask("chart_lookup", labels[index], values[index], value=series.texts[index])
    ask_extremes(sheet, labels, series, "pie_label", values)


def _shares(sheet: Sheet, count: int) -> Series:
    """`count` different percentages that make 100, whole or with one decimal, each a text the split owns."""
    rng = sheet.rng
    decimals = rng.random() < 0.35
    while True:
        cuts = sorted(rng.sample(range(1, 100), count - 1))
        tenths = [10 * (b - a) for a, b in zip([0, *cuts], [*cuts, 100], strict=True)]
        if decimals:
            tenths = _owned_near(sheet, tenths)
        if min(tenths) >= 60 and len(set(tenths)) == count:
            break
    numbers = [part / 10 for part in tenths]
    return Series("", sheet.look.accent, numbers, [f"{n:.1f}%" if decimals else f"{n:.0f}%" for n in numbers])


def _owned_near(sheet: Sheet, tenths: list[int]) -> list[int]:
    """Parts within two percent of `tenths` with the same sum and texts the split owns; [0] if the draw found none."""
    choices = [[p for p in range(part - 20, part + 20) if _owned(p, sheet.values.split)] for part in tenths[:-1]]
    if all(choices):
        for _ in range(30):
            moved = [sheet.rng.choice(choice) for choice in choices]
            last = sum(tenths) - sum(moved)
            if _owned(last, sheet.values.split):
                return [*moved, last]
    return [0]


@functools.lru_cache(maxsize=4096)
def _owned(tenths: int, split: str) -> bool:
    return allowed(f"{tenths / 10:.1f}%", split)


def _disc(
    sheet: Sheet, centre: tuple[float, float], radius: float, series: Series, colours: list[Colour], ring: bool
) -> list[float]:
    """Draw the slices, at twice the size and reduced; returns the middle angle of each slice in radians."""
    rng, look = sheet.rng, sheet.look
    side = int(2 * radius) + 2
    disc = Image.new("RGB", (2 * side, 2 * side), look.paper)
    draw = ImageDraw.Draw(disc)
    angle = rng.uniform(0, 360)
    middles = []
    for number, colour in zip(series.numbers, colours, strict=True):
        end = angle + 3.6 * number
        draw.pieslice((2, 2, 2 * side - 2, 2 * side - 2), angle, end, fill=colour, outline=look.paper, width=3)
        middles.append(math.radians((angle + end) / 2))
        angle = end
    if ring:
        hole = 0.5 * side
        draw.ellipse((side - hole, side - hole, side + hole, side + hole), fill=look.paper)
    left, top = int(centre[0] - side / 2), int(centre[1] - side / 2)
    sheet.image.paste(disc.reduce(2), (left, top))
    return middles


def _with_legend(
    sheet: Sheet, box: Box, names: list[str], series: Series, colours: list[Colour], shares_inside: bool
) -> tuple[list[Printed], list[Printed]]:
    """A disc beside or above a list of swatches and names; the shares are in the slices or in the list."""
    rng, face = sheet.rng, sheet.look.body
    left, top, right, bottom = box
    texts = [name if shares_inside else f"{name} {text}" for name, text in zip(names, series.texts, strict=True)]
    width = max(face.width(text) for text in texts) + 2 * face.size
    height = len(names) * 1.6 * face.size
    if right - left - width > 0.45 * (bottom - top):
        radius = min(right - left - width - face.size, bottom - top) / 2
        centre, x = (left + radius, (top + bottom) / 2), left + 2 * radius + face.size
        y = max(top, (top + bottom - height) / 2)
        if rng.random() < 0.3:
            centre, x = (right - radius, centre[1]), left
    else:
        radius = (bottom - top - height - face.size) / 2
        centre, x, y = ((left + right) / 2, top + radius), (left + right - width) / 2, bottom - height
    if radius < 2 * face.size:
        return [()] * len(names), [()] * len(names)
    share = max(sheet.look.label.width(text) for text in series.texts)
    ring = rng.random() < 0.35 and not (shares_inside and share > 0.4 * radius)
    middles = _disc(sheet, centre, radius, series, colours, ring)
    # Close to the rim, where slices are wide, yet inside it.
    distance = min(0.74 * radius, 0.95 * radius - share / 2)
    printed = [_entry(sheet, x, y + 1.6 * face.size * i, text, colours[i]) for i, text in enumerate(texts)]
    if not shares_inside:
        return [words[:1] for words in printed], [words[1:] for words in printed]
    return printed, [_inside(sheet, centre, distance, m, t) for m, t in zip(middles, series.texts, strict=True)]


def _entry(sheet: Sheet, x: float, y: float, text: str, colour: Colour) -> Printed:
    """One line of a legend."""
    face = sheet.look.body
    sheet.draw.rectangle((x, y, x + face.cap, y + face.cap), fill=colour)
    return sheet.put(text, x + face.cap + 0.5 * face.size, y, face)


def _inside(sheet: Sheet, centre: tuple[float, float], distance: float, angle: float, text: str) -> Printed:
    """Print a share on its slice, in white."""
    face = sheet.look.label
    x, y = centre[0] + distance * math.cos(angle), centre[1] + distance * math.sin(angle)
    return sheet.put(text, x, y - face.cap / 2, face, WHITE, "middle")


def _around(
    sheet: Sheet, box: Box, names: list[str], series: Series, colours: list[Colour], shares_inside: bool
) -> tuple[list[Printed], list[Printed]]:
    """A disc with names and shares outside, each at its slice."""
    face = sheet.look.label
    left, top, right, bottom = box
    texts = [f"{name} {text}" for name, text in zip(names, series.texts, strict=True)]
    reach = max(face.width(text) for text in texts) + face.size
    radius = min((right - left) / 2 - reach, (bottom - top) / 2 - 1.5 * face.size)
    if radius < 4 * face.size:
        return _with_legend(sheet, box, names, series, colours, shares_inside=False)
    centre = ((left + right) / 2, (top + bottom) / 2)
    middles = _disc(sheet, centre, radius, series, colours, ring=sheet.rng.random() < 0.35)
    labels, values = [], []
    for angle, text in zip(middles, texts, strict=True):
        x, y = (c + (radius + 0.6 * face.size) * f(angle) for c, f in zip(centre, (math.cos, math.sin), strict=True))
        align = "left" if math.cos(angle) > 0.2 else "right" if math.cos(angle) < -0.2 else "middle"
        words = sheet.put(text, x, y - face.cap / 2, face, align=align)
        labels.append(words[:-1])
        values.append(words[-1:])
    return labels, values

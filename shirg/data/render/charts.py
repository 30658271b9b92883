"""Common parts of bar, line and pie charts: categories, values with their printed text, axes, legends, questions."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from PIL import Image, ImageDraw

from shirg.data.pages import PixelBox
from shirg.data.render.lexicon import EXTREMES, SERIES
from shirg.data.render.looks import ACCENTS, Colour, mix
from shirg.data.render.parts import closing, heading, margin
from shirg.data.render.sheet import Printed, Sheet

_SCALES = ("units", "units", "hundreds", "thousands", "decimals", "percents")
_STEPS = (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 5000)


@dataclass
class Series:
    """One row of values; `texts` is how each is printed."""

    name: str
    colour: Colour
    numbers: list[float]
    texts: list[str]


@dataclass(frozen=True)
class Scale:
    """A linear axis from zero: `step` between ticks, `top` its last tick, in the unit of the values."""

    step: float
    top: float

    @property
    def ticks(self) -> list[float]:
        """Values of the ticks from 0 to `top`."""
        return [self.step * index for index in range(round(self.top / self.step) + 1)]


def chart_frame(sheet: Sheet) -> PixelBox:
    """Print a title, and on some pages a note below; returns the box left for the chart."""
    rng, look = sheet.rng, sheet.look
    edge = margin(sheet)
    left, right, bottom = edge, sheet.size - edge, sheet.size - edge
    y = heading(sheet, left, right, edge)
    if sheet.size > 30 * look.body.size and rng.random() < 0.5:
        note = bottom - int(rng.uniform(0.12, 0.35) * (bottom - y))
        closing(sheet, (left, note, right, bottom))
        bottom = note - look.body.cap
    return left, y, right, bottom


def draw_values(sheet: Sheet, count: int, colour: Colour, name: str = "", scale: str | None = None) -> Series:
    """`count` different values of one scale ("units" below 100, ..., drawn if absent), with texts of the split."""
    rng = sheet.rng
    scale = scale or rng.choice(_SCALES)
    texts: list[str] = []
    while len(texts) < count:
        text = sheet.values.draw(functools.partial(_value_text, sheet, scale))
        if text not in texts:
            texts.append(text)
    return Series(name, colour, [float(text.replace(",", "").rstrip("%")) for text in texts], texts)


def _value_text(sheet: Sheet, scale: str) -> str:
    rng = sheet.rng
    if scale == "decimals":
        return f"{rng.uniform(1, 99):.1f}"
    if scale == "percents":
        return f"{rng.randint(2, 98)}%"
    low, high = {"units": (3, 99), "hundreds": (40, 999), "thousands": (700, 9999)}[scale]
    number = rng.randint(low, high)
    return f"{number:,}" if sheet.values.thousands else str(number)


def tick_values(sheet: Sheet, count: int, ticks: int, colour: Colour) -> tuple[Series, Scale]:
    """`count` values on the ticks of an axis of at most `ticks` steps; one is the highest, one the lowest."""
    rng = sheet.rng
    step = rng.choice((1, 2, 5, 10, 20, 25, 50, 100))
    steps = max(3, min(ticks, 10, 999 // step))
    inner = [rng.randint(2, steps - 1) if steps > 3 else 2 for _ in range(count - 2)]
    levels = [1, steps, *inner]
    rng.shuffle(levels)
    numbers = [float(level * step) for level in levels]
    return Series("", colour, numbers, [str(level * step) for level in levels]), Scale(step, steps * step)


def scale_for(highest: float, ticks: int) -> Scale:
    """The finest axis with at most `ticks` steps that reaches `highest`; above 1000 in whole thousands."""
    for step in _STEPS:
        top = step * math.ceil(highest / step)
        if top <= step * ticks and (top <= 1000 or step % 1000 == 0):
            break
    return Scale(step, top)


def tick_text(value: float) -> str:
    """A tick's label, thousands as "2k": four digits would be a value, and values differ between splits."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def palette(sheet: Sheet, count: int) -> list[Colour]:
    """`count` different colours, the look's accent first; each is chosen to differ from the one before."""
    chosen, others = [sheet.look.accent], [accent for accent in ACCENTS if accent != sheet.look.accent]
    while len(chosen) < count:
        candidates = sheet.rng.sample(others, min(3, len(others)))
        chosen.append(max(candidates, key=lambda c: sum(abs(a - b) for a, b in zip(c, chosen[-1], strict=True))))
        others.remove(chosen[-1])
    return chosen


def two_series(sheet: Sheet) -> list[tuple[str, Colour]]:
    """Names and colours of two series that belong together."""
    first = sheet.rng.randrange(0, len(SERIES), 2)
    return list(zip(SERIES[first : first + 2], palette(sheet, 2), strict=True))


def legend(sheet: Sheet, entries: list[tuple[str, Colour]], left: int, right: int, y: int) -> tuple[list[Printed], int]:
    """One line of swatches and names; returns the printed names and the y below the line."""
    look, gap = sheet.look, int(sheet.look.body.size)
    widths = [look.body.cap + gap // 2 + look.body.width(name) + gap for name, _ in entries]
    x = sheet.rng.choice((left, (left + right - sum(widths)) // 2, right - sum(widths)))
    printed = []
    for (name, colour), width in zip(entries, widths, strict=True):
        sheet.draw.rectangle((x, y, x + look.body.cap, y + look.body.cap), fill=colour)
        printed.append(sheet.put(name, x + look.body.cap + gap // 2, y, look.body))
        x += width
    return printed, y + look.body.cap + gap


def halo(sheet: Sheet, text: str, x: float, y: float) -> Printed:
    """Print `text` centred on `x` over a patch of paper, so that lines below do not run through it."""
    look = sheet.look
    half, drop = look.label.width(text) / 2, look.label.size * 0.2
    box = (x - half - 2, y - drop / 2, x + half + 2, y + look.label.cap + drop)
    if not sheet.free(box):
        return ()
    sheet.draw.rectangle(box, fill=look.paper)
    return sheet.put(text, x, y, look.label, align="middle")


def ask_values(sheet: Sheet, names: list[str], labels: list[Printed], series: Series, values: list[Printed]) -> None:
    """Ask for the values printed at single points, for two points by their values, and for the extremes."""
    for name, label, value in zip(names, labels, values, strict=True):
        sheet.ask("chart_value", value, label, label=name)
    for index in sheet.rng.sample(range(len(names)), min(2, len(names))):
        sheet.ask("chart_lookup", labels[index], values[index], value=series.texts[index])
    ask_extremes(sheet, labels, series, "chart_label", values)


def ask_extremes(sheet: Sheet, labels: list[Printed], series: Series, kind: str, keys: list[Printed] | None) -> None:
    """Ask which category has the highest and which the lowest value; `keys` are the printed values, if any."""
    for extreme, wanted in zip(EXTREMES, (max(series.numbers), min(series.numbers)), strict=True):
        if series.numbers.count(wanted) == 1:
            index = series.numbers.index(wanted)
            located = [keys[index]] if keys and keys[index] else []
            sheet.ask(kind, labels[index], *located, extreme=extreme)


def ask_axis(
    sheet: Sheet, names: list[str], labels: list[Printed], series: Series, ticks: dict[float, Printed]
) -> None:
    """Ask for values that are read off the axis: the answer is the tick that a bar or point reaches."""
    for name, label, number in zip(names, labels, series.numbers, strict=True):
        sheet.ask("chart_axis", ticks.get(number, ()), label, label=name)
    ask_extremes(sheet, labels, series, "chart_label", None)


def smooth_line(sheet: Sheet, points: list[tuple[float, float]], colour: Colour, width: int) -> None:
    """An anti-aliased polyline, drawn at twice the size and reduced."""
    left, top = int(min(x for x, _ in points)) - 6, int(min(y for _, y in points)) - 6
    right, bottom = int(max(x for x, _ in points)) + 6, int(max(y for _, y in points)) + 6
    mask = Image.new("L", (2 * (right - left), 2 * (bottom - top)))
    doubled = [(2 * (x - left), 2 * (y - top)) for x, y in points]
    ImageDraw.Draw(mask).line(doubled, fill=255, width=2 * width, joint="curve")
    sheet.image.paste(colour, (left, top), mask.reduce(2))


def grid_colour(sheet: Sheet) -> Colour:
    """Faint colour of grid lines."""
    return mix(sheet.look.paper, sheet.look.ink, 0.14)

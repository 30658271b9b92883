"""Bar charts: upright or lying, one or two series, values printed or read off the axis."""

from __future__ import annotations

import statistics

from shirg.data.pages import Box, PixelBox
from shirg.data.render.charts import (
    Scale,
    Series,
    ask_axis,
    ask_values,
    chart_frame,
    draw_values,
    grid_colour,
    legend,
    palette,
    scale_for,
    tick_text,
    tick_values,
    two_series,
)
from shirg.data.render.lexicon import CATEGORIES, SHORT_MONTHS
from shirg.data.render.looks import Colour
from shirg.data.render.parts import WHITE
from shirg.data.render.sheet import Printed, Sheet


def compose_bar(sheet: Sheet) -> None:
    """Fill `sheet` with a bar chart."""
    rng = sheet.rng
    box = chart_frame(sheet)
    topic = rng.choice(sorted(CATEGORIES))
    upright = rng.random() < 0.5
    names = _names_that_fit(sheet, topic, box, upright)
    mode = rng.choice(("printed", "printed", "axis", "two series"))
    if mode == "two series":
        _two_series(sheet, names, box, upright)
        return
    colours = [sheet.look.accent] * len(names)
    if rng.random() < 0.4:
        colours = palette(sheet, min(len(names), 6)) * 4
    if mode == "axis":
        # A tick's label needs about two lines of height, or four ems of width, to keep clear of the next.
        room = (
            (box[3] - box[1]) / (2 * sheet.look.label.size)
            if upright
            else (box[2] - box[0]) / (5 * sheet.look.label.size)
        )
        series, scale = tick_values(sheet, len(names), int(room), sheet.look.accent)
    else:
        series = draw_values(sheet, len(names), sheet.look.accent)
        scale = scale_for(max(series.numbers), 5)
    plot, ticks = _axis(sheet, box, scale, names, upright, visible=mode == "axis" or rng.random() < 0.4)
    labels, values = _bars(sheet, plot, names, series, scale, colours, upright, printed=mode == "printed")
    if mode == "axis":
        ask_axis(sheet, names, labels, series, ticks)
    else:
        ask_values(sheet, names, labels, series, values)


def _names_that_fit(sheet: Sheet, topic: str, box: Box, upright: bool) -> list[str]:
    """Four to twelve category names with room under their bars (upright) or beside them; months and days in order."""
    rng, face = sheet.rng, sheet.look.label
    left, top, right, bottom = box
    members = CATEGORIES[topic]
    in_time = topic in ("Month", "Day")
    most = int((bottom - top) / (2 * face.size))
    if upright:
        width = right - left - 4 * face.size
        slot = max(4 * face.size, statistics.median(face.width(name) + face.size / 2 for name in members))
        most = max(4, int(width / slot))
        narrow = tuple(name for name in members if face.width(name) + face.size / 2 < width / most)
        members = narrow if len(narrow) >= 4 else SHORT_MONTHS
        in_time = in_time or members is SHORT_MONTHS
    most = max(4, min(most, 12, len(members)))
    count = rng.randint(max(4, most // 2), most)
    chosen = rng.sample(members, count)
    return sorted(chosen, key=members.index) if in_time else chosen


def _axis(
    sheet: Sheet, box: Box, scale: Scale, names: list[str], upright: bool, visible: bool
) -> tuple[Box, dict[float, Printed]]:
    """Leave room for names and ticks, draw the axis, print the ticks if `visible`; returns plot and ticks."""
    look, face = sheet.look, sheet.look.label
    left, top, right, bottom = box
    side = max(face.width(tick_text(tick)) for tick in scale.ticks) + 8 if visible else 2
    if upright:
        plot = (left + side, top + 1.2 * face.size, right - 2, bottom - 1.5 * face.size)
    else:
        beside = max(face.width(name) for name in names) + 8
        plot = (left + beside, top, right - 3.6 * face.size, bottom - (1.5 * face.size if visible else 4))
    left, top, right, bottom = plot
    ticks: dict[float, Printed] = {}
    for tick in scale.ticks if visible else ():
        if upright:
            y = bottom - tick / scale.top * (bottom - top)
            sheet.draw.line((left, y, right, y), fill=grid_colour(sheet))
            ticks[tick] = sheet.put(tick_text(tick), left - 5, y - face.cap / 2, face, look.muted, "right")
        else:
            x = left + tick / scale.top * (right - left)
            sheet.draw.line((x, top, x, bottom), fill=grid_colour(sheet))
            ticks[tick] = sheet.put(tick_text(tick), x, bottom + 0.5 * face.size, face, look.muted, "middle")
    end = (right, bottom) if upright else (left, top)
    sheet.draw.line((left, bottom, *end), fill=look.rule)
    return plot, ticks


def _bars(
    sheet: Sheet,
    plot: Box,
    names: list[str],
    series: Series,
    scale: Scale,
    colours: list[Colour],
    upright: bool,
    printed: bool,
) -> tuple[list[Printed], list[Printed]]:
    """Draw one bar a name; returns what the names and the values became."""
    left, top, right, bottom = plot
    slot = ((right - left) if upright else (bottom - top)) / len(names)
    thick = slot * sheet.rng.uniform(0.45, 0.85)
    inside = sheet.rng.random() < 0.3
    labels, values = [], []
    for index, (name, number) in enumerate(zip(names, series.numbers, strict=True)):
        centre = (left if upright else top) + (index + 0.5) * slot
        labels.append(_name(sheet, plot, name, centre, upright))
        bar = _bar(sheet, plot, centre, thick, number / scale.top, colours[index], upright)
        if printed:
            values.append(_value(sheet, bar, series.texts[index], upright, inside))
    return labels, values


def _name(sheet: Sheet, plot: Box, name: str, centre: float, upright: bool) -> Printed:
    """Print a category's name under its bar, or to the left of it."""
    face = sheet.look.label
    if upright:
        return sheet.put(name, centre, plot[3] + 0.45 * face.size, face, align="middle")
    return sheet.put(name, plot[0] - 5, centre - face.cap / 2, face, align="right")


def _bar(sheet: Sheet, plot: Box, centre: float, thick: float, share: float, colour: Colour, upright: bool) -> Box:
    """Draw a bar that takes `share` of the plot's length; returns its box."""
    left, top, right, bottom = plot
    if upright:
        bar = (centre - thick / 2, bottom - share * (bottom - top), centre + thick / 2, bottom)
    else:
        bar = (left, centre - thick / 2, left + share * (right - left), centre + thick / 2)
    sheet.draw.rectangle(bar, fill=colour)
    return bar


def _value(sheet: Sheet, bar: Box, text: str, upright: bool, inside: bool) -> Printed:
    """Print a value at its bar's end, inside if wanted and the bar is large enough."""
    face = sheet.look.label
    left, top, right, bottom = bar
    gap = max(2, face.size * 0.3)
    fits = face.width(text) + gap < right - left and face.size + gap < bottom - top
    if upright:
        y, colour = (top + gap, WHITE) if inside and fits else (top - face.cap - gap, sheet.look.ink)
        return sheet.put(text, (left + right) / 2, y, face, colour, "middle")
    y = (top + bottom - face.cap) / 2
    if inside and fits:
        return sheet.put(text, right - gap, y, face, WHITE, "right")
    return sheet.put(text, right + gap, y, face)


def _two_series(sheet: Sheet, names: list[str], box: PixelBox, upright: bool) -> None:
    """Pairs of bars with printed values and a legend."""
    rng = sheet.rng
    left, top, right, bottom = box
    pair = two_series(sheet)
    printed_names, top = legend(sheet, pair, left, right, top)
    names = names[: max(3, len(names) * 2 // 3)] if len(names) > 6 else names[: max(3, len(names) // 2)]
    kind = rng.choice(("units", "hundreds", "percents"))
    both = [draw_values(sheet, len(names), colour, name, kind) for name, colour in pair]
    scale = scale_for(max(max(series.numbers) for series in both), 5)
    plot, _ = _axis(sheet, (left, top, right, bottom), scale, names, upright, visible=False)
    slot = ((plot[2] - plot[0]) if upright else (plot[3] - plot[1])) / len(names)
    thick = slot * rng.uniform(0.36, 0.44)
    for index, name in enumerate(names):
        centre = (plot[0] if upright else plot[1]) + (index + 0.5) * slot
        label = _name(sheet, plot, name, centre, upright)
        for side, series, key in zip((-0.5, 0.5), both, printed_names, strict=True):
            share = series.numbers[index] / scale.top
            bar = _bar(sheet, plot, centre + side * thick, thick - 1, share, series.colour, upright)
            value = _value(sheet, bar, series.texts[index], upright, inside=False)
            sheet.ask("chart_series", value, key, label, series=series.name, label=name)

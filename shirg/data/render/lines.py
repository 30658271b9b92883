"""Line charts: one or two series over years, months or days, values printed at the points or read off the axis."""

from __future__ import annotations

from shirg.data.pages import Box
from shirg.data.render.charts import (
    Scale,
    Series,
    ask_axis,
    ask_values,
    chart_frame,
    draw_values,
    grid_colour,
    halo,
    legend,
    scale_for,
    smooth_line,
    tick_text,
    tick_values,
    two_series,
)
from shirg.data.render.lexicon import SHORT_MONTHS, WEEKDAYS, YEARS
from shirg.data.render.sheet import Printed, Sheet


def compose_line(sheet: Sheet) -> None:
    """Fill `sheet` with a line chart."""
    rng, look = sheet.rng, sheet.look
    box = chart_frame(sheet)
    mode = rng.choice(("printed", "printed", "axis", "two series"))
    pair = [("", look.accent)]
    keys: list[Printed] = [()]
    if mode == "two series":
        pair = two_series(sheet)
        keys, top = legend(sheet, pair, box[0], box[2], box[1])
        box = (box[0], top, box[2], box[3])
    names = _points_in_time(sheet, box[2] - box[0])
    if mode == "axis":
        rows = int((box[3] - box[1]) / (2 * look.label.size))
        series, scale = tick_values(sheet, len(names), rows, look.accent)
        both = [series]
    else:
        kind = None if mode == "printed" else rng.choice(("units", "hundreds", "percents"))
        both = [draw_values(sheet, len(names), colour, name, kind) for name, colour in pair]
        scale = scale_for(max(max(series.numbers) for series in both) * 1.1, 5)
    plot, ticks = _axes(sheet, box, scale, visible=mode == "axis" or rng.random() < 0.4)
    labels = _time_labels(sheet, plot, names)
    values = _draw_lines(sheet, plot, both, scale, printed=mode != "axis")
    if mode == "axis":
        ask_axis(sheet, names, labels, both[0], ticks)
    elif mode == "printed":
        ask_values(sheet, names, labels, both[0], values[0])
    else:
        _ask_two(sheet, names, labels, both, keys, values)


def _points_in_time(sheet: Sheet, width: float) -> list[str]:
    """Four to ten successive years, months or days whose names fit side by side."""
    rng, face = sheet.rng, sheet.look.label
    members = rng.choice((YEARS, YEARS, SHORT_MONTHS, WEEKDAYS))
    slot = max(max(face.width(name) for name in members), 3.2 * face.size) + 0.6 * face.size
    most = int((width - 4 * face.size) / slot)
    if most < 4:
        members, most = SHORT_MONTHS, 4
    step = rng.choice((1, 1, 2, 5)) if members is YEARS else 1
    count = rng.randint(4, max(4, min(most, 10, len(members) // step)))
    start = rng.randint(0, len(members) - 1 - (count - 1) * step)
    return list(members[start : start + (count - 1) * step + 1 : step])


def _axes(sheet: Sheet, box: Box, scale: Scale, visible: bool) -> tuple[Box, dict[float, Printed]]:
    """Leave room for names and ticks and draw both axes; returns the plot and the printed ticks."""
    look, face = sheet.look, sheet.look.label
    left, top, right, bottom = box
    side = max(face.width(tick_text(tick)) for tick in scale.ticks) + 8 if visible else 2
    left, top, right, bottom = plot = (left + side, top + 1.2 * face.size, right - 2, bottom - 1.6 * face.size)
    ticks: dict[float, Printed] = {}
    for tick in scale.ticks:
        y = bottom - tick / scale.top * (bottom - top)
        sheet.draw.line((left, y, right, y), fill=grid_colour(sheet))
        if visible:
            ticks[tick] = sheet.put(tick_text(tick), left - 5, y - face.cap / 2, face, look.muted, "right")
    sheet.draw.line((left, top, left, bottom, right, bottom), fill=look.rule)
    return plot, ticks


def _column_x(plot: Box, index: int, count: int) -> float:
    """x of the `index`-th of `count` points, each in the middle of its share of the plot."""
    return plot[0] + (index + 0.5) * (plot[2] - plot[0]) / count


def _time_labels(sheet: Sheet, plot: Box, names: list[str]) -> list[Printed]:
    """Print the names under the axis."""
    face = sheet.look.label
    y = plot[3] + 0.5 * face.size
    return [sheet.put(name, _column_x(plot, i, len(names)), y, face, align="middle") for i, name in enumerate(names)]


def _draw_lines(sheet: Sheet, plot: Box, both: list[Series], scale: Scale, printed: bool) -> list[list[Printed]]:
    """Draw every series with its markers, then print the values, each on the side where its line leaves room."""
    rng, face = sheet.rng, sheet.look.label
    width, radius = rng.choice((1, 2, 2, 3)), rng.choice((2, 3, 4))
    heights = []
    for series in both:
        count = len(series.numbers)
        ys = [plot[3] - number / scale.top * (plot[3] - plot[1]) for number in series.numbers]
        points = [(_column_x(plot, index, count), y) for index, y in enumerate(ys)]
        smooth_line(sheet, points, series.colour, width)
        for x, y in points:
            sheet.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=series.colour)
            if printed:
                sheet.reserve((x - radius, y - radius, x + radius + 1, y + radius + 1))
        heights.append(ys)
    values: list[list[Printed]] = []
    for series, ys in zip(both, heights, strict=True) if printed else ():
        values.append([])
        for index, (text, y) in enumerate(zip(series.texts, ys, strict=True)):
            x, gap = _column_x(plot, index, len(ys)), radius + 0.35 * face.size
            neighbours = ys[max(0, index - 1) : index + 2]
            above, below = y - gap - face.cap, y + gap
            sides = (above, below) if 2 * y <= min(neighbours) + max(neighbours) else (below, above)
            # The names are below the axis, so no value is printed there.
            order = [place for place in sides if place + face.size < plot[3]]
            words: Printed = ()
            for place in order:
                words = words or halo(sheet, text, x, place)
            values[-1].append(words)
    return values


def _ask_two(
    sheet: Sheet,
    names: list[str],
    labels: list[Printed],
    both: list[Series],
    keys: list[Printed],
    values: list[list[Printed]],
) -> None:
    """Ask for single points of both series."""
    for series, key, row in zip(both, keys, values, strict=True):
        for name, label, value in zip(names, labels, row, strict=True):
            sheet.ask("chart_series", value, key, label, series=series.name, label=name)

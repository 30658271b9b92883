"""Forms: named fields with their values beside or below, lined, boxed or in a grid, and groups of tick boxes."""

from __future__ import annotations

from collections.abc import Iterator

from shirg.data.pages import Box
from shirg.data.render.lexicon import FIELDS, OPTIONS
from shirg.data.render.looks import mix
from shirg.data.render.parts import ask_field, closing, heading, margin, paragraph, value_of
from shirg.data.render.sheet import Sheet


def compose_form(sheet: Sheet) -> None:
    """Fill `sheet` with a form."""
    rng, look = sheet.rng, sheet.look
    edge = margin(sheet)
    left, right, bottom = edge, sheet.size - edge, sheet.size - edge
    y = heading(sheet, left, right, edge)
    if rng.random() < 0.3 and look.body.size * 30 < sheet.size:
        y = (
            paragraph(sheet, (left, y, right, y + 2 * look.label.line), look.label, look.muted, count=30)
            + look.body.cap
        )
    labels = rng.sample(sorted(FIELDS), len(FIELDS))
    if rng.random() < 0.6:
        bottom -= _options(sheet, left, right, bottom)
    layout = rng.choice((_beside, _beside, _above, _grid))
    layout(sheet, labels, (left, y, right, bottom))


def _columns(sheet: Sheet, width: float, ems: float) -> int:
    """How many columns of at least `ems` body ems fit, drawn between one and three."""
    return sheet.rng.randint(1, max(1, min(3, int(width / (ems * sheet.look.body.size)))))


def _fields(sheet: Sheet, labels: list[str], room: float) -> Iterator[tuple[str, str]]:
    """Names and values, leaving out those whose value is wider than `room` pixels."""
    for label in labels:
        value = value_of(sheet, label)
        if sheet.look.body.width(value) < room:
            yield label, value


def _beside(sheet: Sheet, labels: list[str], box: Box) -> None:
    """Names in one column, values to their right, over a line, in a box, or bare."""
    rng, look = sheet.rng, sheet.look
    left, top, right, bottom = box
    columns = _columns(sheet, right - left, 17)
    gap = int(look.body.size)
    width = (right - left - gap * (columns - 1)) // columns
    pitch = int(look.body.size * rng.uniform(1.7, rng.choice((2.2, 3.4))))
    rows = int(min((bottom - top) // pitch, 24))
    style = rng.choice(("line", "box", "bare", "bare"))
    indent = max(sheet.label_width(label, look.label) for label in labels) + gap
    fields = _fields(sheet, labels, width - indent - gap // 2)
    for place, (label, value) in zip(range(rows * columns), fields, strict=False):
        x, y = left + place // rows * (width + gap), top + place % rows * pitch
        key = sheet.put_label(label, x, y + look.body.cap - look.label.cap, look.label, look.muted)
        _underlay(sheet, style, (x + indent - gap // 2, y, x + width, y + look.body.cap))
        ask_field(sheet, label, sheet.put(value, x + indent, y, look.body), key)
    closing(sheet, (left, top + rows * pitch + look.body.cap, right, bottom))


def _underlay(sheet: Sheet, style: str, box: Box) -> None:
    """The place a value is written on: a line below it or a box around it. `box` spans the capitals."""
    look = sheet.look
    left, top, right, bottom = (int(edge) for edge in box)
    drop = max(3, int(look.body.size * 0.32))
    if style == "line":
        sheet.draw.line((left, bottom + drop, right, bottom + drop), fill=look.rule)
    elif style == "box":
        sheet.draw.rectangle((left, top - drop, right, bottom + drop), fill=(255, 255, 255), outline=look.rule)


def _above(sheet: Sheet, labels: list[str], box: Box) -> None:
    """Boxed cells, each with its name small at the top and its value below."""
    rng, look = sheet.rng, sheet.look
    left, top, right, bottom = box
    columns = rng.randint(1, max(1, min(4, int((right - left) / (9 * look.body.size)))))
    pad = max(3, int(look.body.size * 0.35))
    inner = int(look.body.size * rng.uniform(0.4, 0.7))
    height = look.label.cap + look.body.cap + 2 * pad + inner + max(2, pad // 2)
    rows = int(min((bottom - top) // height, 14))
    width = (right - left) // columns
    spaced = rng.random() < 0.3
    fields = _fields(sheet, labels, width - 2 * pad)
    for place in range(rows * columns):
        x, y = left + place % columns * width, int(top + place // columns * height)
        sheet.draw.rectangle((x, y, x + width - 3 * spaced, y + height - 3 * spaced), outline=look.rule)
        label, value = next(fields, ("", ""))
        if label and sheet.label_width(label, look.label) < width - 2 * pad:
            key = sheet.put_label(label, x + pad, y + pad, look.label, look.accent)
            ask_field(sheet, label, sheet.put(value, x + pad, y + pad + inner + look.label.cap, look.body), key)
    closing(sheet, (left, top + rows * height + look.body.cap, right, bottom))


def _grid(sheet: Sheet, labels: list[str], box: Box) -> None:
    """Ruled rows: a shaded cell with the name, a cell with the value."""
    rng, look = sheet.rng, sheet.look
    left, top, right, bottom = box
    pairs = _columns(sheet, right - left, 17)
    pad = max(3, int(look.body.size * rng.uniform(0.3, 0.6)))
    height = look.body.cap + 2 * pad + 2
    rows = int(min((bottom - top) // height, 22))
    width = (right - left) // pairs
    shade = mix(look.paper, look.accent, rng.choice((0.0, 0.08, 0.16)))
    name = max(sheet.label_width(label, look.label) for label in labels) + 2 * pad
    fields = _fields(sheet, labels, width - name - 2 * pad)
    for place, (label, value) in zip(range(rows * pairs), fields, strict=False):
        x, y = left + place // rows * width, int(top + place % rows * height)
        sheet.draw.rectangle((x, y, x + name, y + height), fill=shade, outline=look.rule)
        sheet.draw.rectangle((x + name, y, x + width, y + height), outline=look.rule)
        key = sheet.put_label(label, x + pad, y + pad + 1 + look.body.cap - look.label.cap, look.label)
        ask_field(sheet, label, sheet.put(value, x + name + pad, y + pad + 1, look.body), key)
    closing(sheet, (left, top + rows * height + look.body.cap, right, bottom))


def _options(sheet: Sheet, left: int, right: int, bottom: int) -> int:
    """A line of tick boxes above `bottom`, one of them crossed; returns the height it took."""
    rng, look = sheet.rng, sheet.look
    label = rng.choice(sorted(OPTIONS))
    side, gap = look.body.cap, look.body.space
    y = bottom - int(1.6 * look.body.size)
    x = left + sheet.label_width(label, look.label) + 3 * gap
    options = OPTIONS[label]
    if x + sum(look.body.width(option) + side + 4 * gap for option in options) > right:
        return 0
    key = sheet.put_label(label, left, y, look.label)
    checked = rng.choice(options)
    for option in options:
        sheet.draw.rectangle((x, y, x + side, y + side), outline=look.ink)
        if option == checked:
            sheet.draw.line((x + 2, y + 2, x + side - 2, y + side - 2), fill=look.ink, width=2)
            sheet.draw.line((x + 2, y + side - 2, x + side - 2, y + 2), fill=look.ink, width=2)
        words = sheet.put(option, x + side + gap, y, look.body)
        if option == checked:
            sheet.ask("check", words, key, label=label)
        x += side + 4 * gap + look.body.width(option)
    return int(2.6 * look.body.size)

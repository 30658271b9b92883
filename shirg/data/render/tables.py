"""Tables: named rows and columns under rules, zebra stripes, a full grid, or nothing."""

from __future__ import annotations

from dataclasses import dataclass

from shirg.data.pages import PixelBox
from shirg.data.render.fonts import Face
from shirg.data.render.lexicon import CATEGORIES, COLUMNS, EXTREMES, FIELDS
from shirg.data.render.looks import Colour, mix
from shirg.data.render.parts import WHITE, ask_field, closing, heading, margin, paragraph, value_of
from shirg.data.render.sheet import Printed, Sheet

_ORDERED = ("money", "integer", "decimal")
_MOST_CELLS = 130
_WIDEST = {
    "money": "$8,888.88",
    "integer": "8,888",
    "decimal": "88.8",
    "percent": "88.8%",
    "code": "MM-8888",
    "date": "28 September",
    "surname": "Quinenberg",
    "town": "Quinenville",
}
"""Type of value -> about the widest text it takes."""


@dataclass
class Table:
    """A printed table: the words of its header, and of its cells row by row, the row's name first."""

    header: list[Printed]
    cells: list[list[Printed]]
    bottom: int
    """y below the last row, in pixels."""


def compose_table(sheet: Sheet) -> None:
    """Fill `sheet` with a table and its surroundings."""
    rng, look = sheet.rng, sheet.look
    edge = margin(sheet)
    left, right, bottom = edge, sheet.size - edge, sheet.size - edge
    y = heading(sheet, left, right, edge)
    ems = sheet.size / look.body.size
    if ems > 30 and rng.random() < 0.4:
        y = paragraph(sheet, (left, y, right, y + 3 * look.label.line), look.label, look.muted) + look.body.cap
    if ems > 26 and rng.random() < 0.3:
        y = _fields_above(sheet, left, right, y)
    topic = rng.choice([name for name in CATEGORIES if len(CATEGORIES[name]) > 6])
    columns = _choose_columns(sheet, topic, right - left)
    height = look.body.cap + 2 * max(3, int(look.body.size * rng.uniform(0.3, 0.75)))
    most = max(1, min(len(CATEGORIES[topic]), int((bottom - y) // height) - 1, _MOST_CELLS // (len(columns) + 1)))
    names = rng.sample(CATEGORIES[topic], rng.randint(-(-most * 2 // 3), most))
    # A table with few rows is often set wider apart.
    height += int(rng.choice((0, 0.5, 1)) * min(look.body.size, max(0, (bottom - y) / (len(names) + 1) - height)))
    rows = [[name, *(sheet.values.of(COLUMNS[column]) for column in columns)] for name in names]
    table = draw_table(sheet, (left, y, right, bottom), [topic, *columns], rows, height)
    _ask_cells(sheet, table, columns, rows)
    closing(sheet, (left, table.bottom + look.body.cap, right, bottom))


def _fields_above(sheet: Sheet, left: int, right: int, y: int) -> int:
    """One line of named fields over the table; returns the y below it."""
    look, x = sheet.look, left
    for label in sheet.rng.sample(sorted(FIELDS), 3):
        value = value_of(sheet, label)
        name_width = sheet.label_width(label, look.label) + look.body.space * 2
        if x + name_width + look.body.width(value) > right:
            break
        key = sheet.put_label(label, x, y + look.body.cap - look.label.cap, look.label, look.muted)
        ask_field(sheet, label, sheet.put(value, x + name_width, y, look.body), key)
        x += name_width + look.body.width(value) + 3 * int(look.body.size)
    return y + 2 * look.body.line


def _choose_columns(sheet: Sheet, topic: str, width: int) -> list[str]:
    """Column headers, up to six, that fit beside the row names; some of those that fit are left out."""
    look = sheet.look
    left = width - look.body.size - max(look.bold.width(name) for name in (topic, *CATEGORIES[topic]))
    chosen: list[str] = []
    for column in sheet.rng.sample(sorted(COLUMNS), sheet.rng.choice((3, 4, 5, 6))):
        needed = look.body.size + max(look.bold.width(column), look.body.width(_WIDEST[COLUMNS[column]]))
        if needed < left or not chosen:
            chosen.append(column)
            left -= needed
    return chosen


def _column_widths(sheet: Sheet, header: list[str], rows: list[list[str]], width: int) -> list[int]:
    """Width of every column: what it holds and a gap, then an even share of what is left (or of a part of it)."""
    look = sheet.look
    widths = [
        max(look.bold.width(title), *(look.body.width(row[column]) for row in rows)) + int(look.body.size)
        for column, title in enumerate(header)
    ]
    spare = max(0, width - sum(widths)) * sheet.rng.choice((1.0, 1.0, 0.5, 0.2))
    return [natural + int(spare / len(widths)) for natural in widths]


def draw_table(sheet: Sheet, box: PixelBox, header: list[str], rows: list[list[str]], height: int) -> Table:
    """Print `rows` under `header` inside `box`, `height` pixels a row; the first column is aligned left, the others right.

    Columns that do not fit are left out, as are rows below the box.
    """
    rng, look = sheet.rng, sheet.look
    left, top, right, bottom = box
    widths = _column_widths(sheet, header, rows, right - left)
    while sum(widths) > right - left and len(widths) > 1:
        widths.pop()
    header, rows = header[: len(widths)], [row[: len(widths)] for row in rows[: int((bottom - top) // height) - 1]]
    style = rng.choice(("grid", "rules", "zebra", "zebra", "band", "bare"))
    _draw_style(sheet, style, left, top, widths, height, len(rows))
    on_band = style in ("zebra", "band") and look.accent
    titles = _print_row(sheet, header, widths, left, top, height, look.bold, WHITE if on_band else look.ink)
    cells = []
    for index, row in enumerate(rows):
        y = top + (index + 1) * height
        cells.append(_print_row(sheet, row, widths, left, y, height, look.body, look.ink))
    return Table(titles, cells, int(top + (len(rows) + 1) * height))


def _print_row(
    sheet: Sheet, texts: list[str], widths: list[int], left: int, y: int, height: int, face: Face, colour: Colour
) -> list[Printed]:
    """Print one row; the first text is at the left of its column, the others at the right."""
    gap = int(sheet.look.body.size / 2)
    printed, x = [], left
    for column, (text, width) in enumerate(zip(texts, widths, strict=True)):
        where, align = (x + gap, "left") if column == 0 else (x + width - gap, "right")
        printed.append(sheet.put(text, where, y + (height - face.cap) // 2, face, colour, align))
        x += width
    return printed


def _draw_style(sheet: Sheet, style: str, left: int, top: int, widths: list[int], height: int, count: int) -> None:
    """Stripes and rules under the words."""
    look, draw = sheet.look, sheet.draw
    right, bottom = left + sum(widths), top + (count + 1) * height
    if style in ("zebra", "band"):
        draw.rectangle((left, top, right, top + height - 1), fill=look.accent)
    if style == "zebra":
        for index in range(2, count + 1, 2):
            y = top + index * height
            draw.rectangle((left, y, right, y + height - 1), fill=mix(look.paper, look.accent, 0.12))
    if style in ("grid", "rules"):
        for index in range(count + 2) if style == "grid" else (0, 1, count + 1):
            draw.line((left, top + index * height, right, top + index * height), fill=look.rule)
    if style == "grid":
        x = left
        for width in (0, *widths):
            x += width
            draw.line((x, top, x, bottom), fill=look.rule)


def _ask_cells(sheet: Sheet, table: Table, columns: list[str], rows: list[list[str]]) -> None:
    """Ask for a dozen cells, and for the rows with the extreme values of some columns."""
    places = [(r, c) for r in range(len(table.cells)) for c in range(1, len(table.header))]
    for r, c in sheet.rng.sample(places, min(len(places), 12)):
        keys = (table.cells[r][0], table.header[c])
        sheet.ask("cell", table.cells[r][c], *keys, column=columns[c - 1], row=rows[r][0])
    if sheet.values.strange:  # nothing to compare
        return
    for c in range(1, len(table.header)):
        if COLUMNS[columns[c - 1]] in _ORDERED and len(table.cells) > 2:
            numbers = [float(row[c].replace(",", "").lstrip("$")) for row in rows[: len(table.cells)]]
            extreme = sheet.rng.choice(EXTREMES)
            wanted = max(numbers) if extreme == "highest" else min(numbers)
            r = numbers.index(wanted)
            if numbers.count(wanted) == 1:
                keys = (table.header[c], table.cells[r][c])
                sheet.ask("table_label", table.cells[r][0], *keys, column=columns[c - 1], extreme=extreme)

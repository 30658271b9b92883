"""Documents: letters with a letterhead, invoices, notices with named lines, articles that state facts."""

from __future__ import annotations

from shirg.data.pages import PixelBox
from shirg.data.render.lexicon import FIELDS, ITEMS
from shirg.data.render.parts import ask_field, closing, facts, heading, logo, margin, paragraph, picture, value_of
from shirg.data.render.sheet import Sheet
from shirg.data.render.tables import draw_table


def compose_document(sheet: Sheet) -> None:
    """Fill `sheet` with a document."""
    edge = margin(sheet)
    box = (edge, edge, sheet.size - edge, sheet.size - edge)
    sheet.rng.choice((_letter, _invoice, _notice, _article))(sheet, box)


def _labels(sheet: Sheet, count: int) -> list[str]:
    return sheet.rng.sample(sorted(FIELDS), count)


def _letterhead(sheet: Sheet, box: PixelBox) -> int:
    """A company's mark, name and address at the top; returns the y below its rule."""
    rng, look = sheet.rng, sheet.look
    left, top, right, _ = box
    side = int(1.6 * look.title.size)
    at_right = rng.random() < 0.3
    logo(sheet, (right - side, top, right, top + side) if at_right else (left, top, left + side, top + side))
    x = left if at_right else left + side + look.body.cap
    sheet.ask("company", sheet.put(value_of(sheet, "Company"), x, top + 2, look.title, look.accent))
    address = f"{rng.randint(1, 99)} {value_of(sheet, 'City')}"
    sheet.put(address, x, top + look.title.cap + look.label.cap, look.label, look.muted)
    y = top + max(side, look.title.cap + 2 * look.label.line) + look.body.cap // 2
    sheet.draw.line((left, y, right, y), fill=rng.choice((look.accent, look.rule)), width=rng.choice((1, 2, 3)))
    return y + look.body.cap + 2


def _named_lines(sheet: Sheet, labels: list[str], left: int, right: int, y: int, bottom: int, pitch: int) -> int:
    """Names and values, one field a line, in two columns where the page is wide; returns the y below the last."""
    look = sheet.look
    columns = 2 if right - left > 40 * look.body.size and len(labels) > 3 else 1
    width, rows = (right - left) // columns, -(-len(labels) // columns)
    lowest = y
    for column in range(columns):
        chosen, line = labels[column * rows : (column + 1) * rows], y
        x = left + column * width
        indent = max(sheet.label_width(label, look.label) for label in chosen) + int(look.body.size)
        for label in chosen:
            value = value_of(sheet, label)
            if indent + look.body.width(value) > width or line + look.body.size > bottom:
                continue
            key = sheet.put_label(label, x, line + look.body.cap - look.label.cap, look.label, look.muted)
            ask_field(sheet, label, sheet.put(value, x + indent, line, look.body), key)
            line += pitch
        lowest = max(lowest, line)
    return lowest


def _letter(sheet: Sheet, box: PixelBox) -> None:
    """Letterhead, named lines, paragraphs, facts in running text."""
    rng, look = sheet.rng, sheet.look
    left, _, right, bottom = box
    y = _letterhead(sheet, box)
    room = int((bottom - y) / look.body.line)
    labels = _labels(sheet, 16)
    named = max(3, min(8, room - 5))
    y = _named_lines(sheet, labels[:named], left, right, y, bottom, look.body.line) + look.body.cap
    for start in range(named, 16, 4):
        if room > 16 and rng.random() < 0.6:
            lines = rng.randint(2, 5)
            y = (
                paragraph(sheet, (left, y, right, y + lines * look.body.line), look.body, count=20 * lines)
                + look.body.cap
            )
        if y + 4 * look.body.line < bottom:
            y = facts(sheet, labels[start : start + 4], (left, y, right, bottom), look.body) + look.body.cap
    closing(sheet, (left, y, right, bottom))


def _invoice(sheet: Sheet, box: PixelBox) -> None:
    """Letterhead, named lines, a table of items, the total."""
    rng, look, values = sheet.rng, sheet.look, sheet.values
    left, _, right, bottom = box
    y = _letterhead(sheet, box)
    lines = int((bottom - y) / (1.8 * look.body.size))
    labels = rng.sample(("Date", "Due Date", "Invoice", "Account", "Customer", "Contact", "Phone", "City"), 6)
    y = _named_lines(sheet, labels[: max(1, min(6, lines - 7))], left, right, y, bottom, look.body.line) + look.body.cap
    height = look.body.cap + 2 * max(3, int(look.body.size * rng.uniform(0.3, 0.8)))
    count = max(2, min(int((bottom - y) // height) - 3, rng.randint(4, 18)))
    prices = [values.cents(100, 49999) for _ in range(count - 1)]
    prices.append(values.cents(100, 99999, lambda last: sum(prices) + last))
    names = rng.sample(ITEMS, count)
    columns = rng.choice((["Item", "Price"], ["Item", "Units", "Price"], ["Item", "Code", "Units", "Price"]))
    if right - left < 26 * look.body.size:
        columns = columns[:1] + columns[-1:]
    rows = [
        [name, values.of("code"), str(rng.randint(1, 99)), values.money_text(price)]
        for name, price in zip(names, prices, strict=True)
    ]
    kept = [("Item", "Code", "Units", "Price").index(column) for column in columns]
    table = draw_table(sheet, (left, y, right, bottom), columns, [[row[k] for k in kept] for row in rows], height)
    for name, cells in zip(names, table.cells, strict=False):
        if "Price" in columns[: len(cells)]:
            sheet.ask("item_price", cells[-1], cells[0], item=name)
        if "Units" in columns[: len(cells)]:
            sheet.ask("item_count", cells[columns.index("Units")], cells[0], item=name)
    _total(sheet, values.money_text(sum(prices)), right, table.bottom + look.body.cap)
    closing(sheet, (left, table.bottom + 3 * look.body.line, right, bottom))


def _total(sheet: Sheet, total: str, right: int, y: int) -> None:
    """The total below a table, at the right."""
    face = sheet.look.bold
    x = right - face.size / 2
    key = sheet.put_label("Total", x - face.width(total) - sheet.label_width("Total", face) - 2 * face.size, y, face)
    sheet.ask("total", sheet.put(total, x, y, face, align="right"), key, label="Total")


def _notice(sheet: Sheet, box: PixelBox) -> None:
    """A title and named lines, spaced over the page."""
    rng, look = sheet.rng, sheet.look
    left, top, right, bottom = box
    y = heading(sheet, left, right, top)
    if sheet.size > 30 * look.body.size:
        y = (
            paragraph(sheet, (left, y, right, y + 4 * look.body.line), look.body, count=rng.randint(20, 70))
            + look.body.cap
        )
    pitch = int(look.body.size * rng.uniform(1.5, 2.4))
    indent = rng.choice((0, 0, (right - left) // 8)) if sheet.size > 24 * look.body.size else 0
    y = _named_lines(sheet, _labels(sheet, rng.randint(10, 24)), left + indent, right, y, bottom, pitch) + look.body.cap
    closing(sheet, (left, y, right, bottom))


def _article(sheet: Sheet, box: PixelBox) -> None:
    """One or two columns of running text that states facts, perhaps beside a picture."""
    rng, look = sheet.rng, sheet.look
    left, top, right, bottom = box
    y = heading(sheet, left, right, top)
    columns = 2 if right - left > 44 * look.body.size and rng.random() < 0.7 else 1
    gap = int(1.5 * look.body.size)
    width = (right - left - gap * (columns - 1)) // columns
    labels = _labels(sheet, len(FIELDS))
    for column in range(columns):
        x, here = left + column * (width + gap), y
        if rng.random() < 0.4 and bottom - y > 14 * look.body.line:
            height = min(width // 2, (bottom - y) // 3)
            picture(sheet, (x, here, x + width, here + height))
            here += height + look.body.cap
        for start in range(column * 20, column * 20 + rng.choice((8, 20)), 4):
            if here + 3 * look.body.line > bottom:
                break
            if rng.random() < 0.3 and columns == 2:
                end = here + rng.randint(2, 5) * look.body.line
                here = paragraph(sheet, (x, here, x + width, min(end, bottom)), look.body) + look.body.cap
            here = facts(sheet, labels[start : start + 4], (x, here, x + width, bottom), look.body) + look.body.cap
        closing(sheet, (x, here, x + width, bottom))

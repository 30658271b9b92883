"""Receipts: a strip of paper on a desk with a shop's name, items, prices, tax and total."""

from __future__ import annotations

from shirg.data.render.lexicon import ITEMS
from shirg.data.render.looks import mix
from shirg.data.render.parts import WHITE, bar_code, logo, paragraph, value_of
from shirg.data.render.sheet import Sheet

DESKS = ((120, 110, 100), (90, 96, 104), (160, 150, 136), (70, 60, 54), (196, 196, 192), (224, 220, 212))


def compose_receipt(sheet: Sheet) -> None:
    """Fill `sheet` with a receipt."""
    rng, look = sheet.rng, sheet.look
    em = look.body.size
    width = int(
        min(sheet.size * rng.uniform(0.9, 1.0), max(sheet.size * rng.uniform(0.3, 0.7), em * rng.uniform(20, 34)))
    )
    left = rng.randint(0, sheet.size - width)
    desk = rng.choice(DESKS)
    sheet.draw.rectangle((0, 0, sheet.size, sheet.size), fill=desk)
    sheet.draw.rectangle((left + 3, 0, left + width + 2, sheet.size), fill=mix(desk, (0, 0, 0), 0.5))
    sheet.draw.rectangle((left, 0, left + width - 1, sheet.size), fill=look.paper)
    pad = int(max(4, em * rng.uniform(0.5, 1.2)))
    start = 0 if rng.random() < 0.5 else int(sheet.size * rng.uniform(0, 0.4) * max(0, 1 - 24 * em / sheet.size))
    sheet.draw.rectangle((0, -1, sheet.size, start - 1), fill=desk)
    y = _shop(sheet, left + pad, left + width - pad, start + pad)
    y = _separator(sheet, left + pad, left + width - pad, y)
    pitch = int(em * rng.uniform(1.4, 2.2))
    y = _items_and_sums(sheet, left + pad, left + width - pad, y, pitch, (sheet.size - pad - y) // pitch)
    y = _footer(sheet, left + pad, left + width - pad, y)
    if rng.random() < 0.5 and y + em < sheet.size:
        # The paper was torn off here; what is below is the desk.
        sheet.draw.rectangle((0, y + em / 2, sheet.size, sheet.size), fill=desk)


def _shop(sheet: Sheet, left: int, right: int, y: int) -> int:
    """Name of the shop, its town, and a few fields; returns the y below them."""
    rng, look = sheet.rng, sheet.look
    middle = (left + right) // 2
    if rng.random() < 0.3:
        side = int(look.title.size * 1.6)
        logo(sheet, (middle - side // 2, y, middle + side // 2, y + side))
        y += side + look.body.cap
    name = sheet.put(value_of(sheet, "Company"), middle, y, look.title, rng.choice((look.ink, look.accent)), "middle")
    sheet.ask("company", name)
    y += look.title.line
    if rng.random() < 0.5:
        sheet.put(f"{rng.randint(1, 99)} {value_of(sheet, 'City')}", middle, y, look.body, look.muted, "middle")
        y += look.body.line
    count = 1 if sheet.size < 24 * look.body.size else 3
    for label in rng.sample(("Date", "Time", "Phone", "Invoice", "Desk", "Account", "Customer"), count):
        value = value_of(sheet, label)
        if sheet.label_width(label, look.body) + look.body.width(value) + look.body.size > right - left:
            continue
        key = sheet.put_label(label, left, y, look.body)
        answer = sheet.put(value, right, y, look.body, align="right")
        sheet.ask("field", answer, key, label=label)
        y += look.body.line
    return y


def _separator(sheet: Sheet, left: int, right: int, y: int) -> int:
    """A dashed, dotted or solid rule; returns the y below it."""
    dash, gap = sheet.rng.choice(((6, 4), (2, 3), (right, 0)))
    y += sheet.look.body.cap // 3
    for x in range(left, right, dash + gap):
        sheet.draw.line((x, y, min(x + dash, right), y), fill=sheet.look.rule)
    return y + sheet.look.body.cap


def _items_and_sums(sheet: Sheet, left: int, right: int, y: int, pitch: int, lines: int) -> int:
    """Items with prices, then the sums they make; returns the y below them."""
    rng, values = sheet.rng, sheet.values
    sums = ["Total"] if lines < 7 else rng.choice((["Subtotal", "Tax", "Total"], ["Subtotal", "Tax", "Total", "Cash"]))
    count = max(2, min(lines - len(sums) - 1, rng.randint(4, 18)))
    counts = [rng.randint(1, 9) for _ in range(count)]
    prices = [values.cents(50, 2999) for _ in range(count - 1)]
    taken = sum(prices)
    prices.append(values.cents(50, 4999, lambda last: taken + last))
    style = rng.choice(("count first", "price only", "count after"))
    for item, number, price in zip(rng.sample(ITEMS, count), counts, prices, strict=True):
        _item(sheet, style, item, number, values.money_text(price), left, right, y)
        y += pitch
    y = _separator(sheet, left, right, y)
    subtotal = taken + prices[-1]
    return _sums(sheet, sums, subtotal, left, right, y, pitch)


def _item(sheet: Sheet, style: str, item: str, number: int, price: str, left: int, right: int, y: int) -> None:
    """One line: item, price, and for most styles how many."""
    look = sheet.look
    x = left + (look.body.width("9") + look.body.space * 2 if style == "count first" else 0)
    key = sheet.put(item, x, y, look.body)
    sheet.ask("item_price", sheet.put(price, right, y, look.body, align="right"), key, item=item)
    if style == "count first":
        sheet.ask("item_count", sheet.put(str(number), left, y, look.body), key, item=item)
    elif style == "count after" and right - left > 18 * look.body.size:
        sheet.ask("item_count", sheet.put(str(number), (left + right) // 2, y, look.body), key, item=item)


def _sums(sheet: Sheet, sums: list[str], subtotal: int, left: int, right: int, y: int, pitch: int) -> int:
    """Subtotal, tax, total and cash as far as `sums` names them; returns the y below them."""
    rng, look, values = sheet.rng, sheet.look, sheet.values
    amounts = {"Total": subtotal, "Subtotal": subtotal}
    if "Tax" in sums:
        amounts["Tax"] = values.cents(10, max(400, subtotal // 4), lambda tax: subtotal + tax)
        amounts["Total"] = subtotal + amounts["Tax"]
    amounts["Cash"] = values.cents(amounts["Total"], amounts["Total"] + 5000)
    large = rng.random() < 0.5
    for label in sums:
        face = look.title if label == "Total" and large else look.bold if label == "Total" else look.body
        value = values.money_text(amounts[label])
        if sheet.label_width(label, face) + face.width(value) + face.size > right - left:
            face = look.body
        y += max(0, face.cap - look.body.cap) // 2
        if label == "Total" and rng.random() < 0.2:
            shade = mix(look.paper, look.accent, 0.2)
            sheet.draw.rectangle((left - 2, y - face.cap // 4, right + 2, y + face.cap + face.cap // 4), fill=shade)
        key = sheet.put_label(label, left, y, face)
        sheet.ask("total", sheet.put(value, right, y, face, align="right"), key, label=label)
        y += max(pitch, face.line)
    return y


def _footer(sheet: Sheet, left: int, right: int, y: int) -> int:
    """Thanks, small print and a bar code where there is room; returns the y below them."""
    rng, look = sheet.rng, sheet.look
    if y + 3 * look.body.line > sheet.size:
        return y
    sheet.put("Thank you", (left + right) // 2, y + look.body.cap // 2, look.body, look.muted, "middle")
    y += 2 * look.body.line
    if rng.random() < 0.4:
        end = min(sheet.size - look.label.line, y + rng.randint(2, 5) * look.label.line)
        y = paragraph(sheet, (left, y, right, end), look.label, look.muted) + look.body.cap
    height = int(2 * look.body.size)
    if rng.random() < 0.6 and y + height < sheet.size - 4:
        sheet.draw.rectangle((left, y, right, y + height), fill=WHITE)
        bar_code(sheet, (left + 4, y + 2, right - 4, y + height - 2))
        y += height
    return y + look.body.cap

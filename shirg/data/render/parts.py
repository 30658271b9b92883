"""Parts that several kinds of pages share: headings, running text, logos, stamps, pictures, bar codes."""

from __future__ import annotations

import math

from PIL import Image

from shirg.data.pages import Box
from shirg.data.render.fonts import Face
from shirg.data.render.lexicon import FIELDS, FILLER, TITLE_FIRST, TITLE_LAST
from shirg.data.render.looks import Colour, mix
from shirg.data.render.sheet import Printed, Sheet

WHITE: Colour = (255, 255, 255)


def margin(sheet: Sheet) -> int:
    """The page's margin in pixels: about one and a half ems, and never more than a tenth of the page."""
    return int(min(sheet.size / 10, max(6, sheet.look.body.size * sheet.rng.uniform(0.8, 1.8))))


def heading(sheet: Sheet, left: int, right: int, y: int) -> int:
    """A title between `left` and `right`, plain or in a band, with a question about it; returns the y below it."""
    look, rng = sheet.look, sheet.rng
    title, face = f"{rng.choice(TITLE_FIRST)} {rng.choice(TITLE_LAST)}", look.title
    if face.width(title) > right - left - 4:
        face = look.bold
    style = rng.choice(("plain", "plain", "band", "rule", "logo"))
    pad = max(3, face.cap // 2)
    colour, x, align = rng.choice((look.ink, look.accent)), left, "left"
    if style == "band":
        sheet.draw.rectangle((left, y, right, y + face.cap + 2 * pad), fill=look.accent)
        colour, x, y = WHITE, left + pad, y + pad
    elif style == "logo" and face.width(title) + 3 * face.cap < right - left:
        logo(sheet, (left, y, left + 2 * face.cap, y + 2 * face.cap))
        x, y = left + 3 * face.cap, y + face.cap // 2
    elif rng.random() < 0.5:
        x, align = (left + right) // 2, "middle"
    words = sheet.put(title, x, y, face, colour, align)
    sheet.ask("title", words)
    y += face.cap + pad
    if style == "rule":
        sheet.draw.line((left, y, right, y), fill=look.rule, width=rng.choice((1, 2)))
    if style == "logo":
        y += face.cap // 2
    return y + max(pad, look.body.cap)


def logo(sheet: Sheet, box: Box) -> None:
    """A small coloured mark."""
    left, top, right, bottom = box
    look, draw = sheet.look, sheet.draw
    style = sheet.rng.choice(("disc", "square", "ring", "bars", "triangle"))
    if style == "disc":
        draw.ellipse(box, fill=look.accent)
        draw.ellipse((left, top, (left + right) / 2, bottom), fill=mix(look.accent, WHITE, 0.5))
    elif style == "square":
        draw.rectangle(box, fill=look.accent)
        draw.rectangle((left, top, (left + right) / 2, (top + bottom) / 2), fill=mix(look.accent, WHITE, 0.5))
    elif style == "ring":
        draw.ellipse(box, outline=look.accent, width=max(2, int((right - left) / 5)))
    elif style == "bars":
        step = (right - left) / 5
        for index in (0, 1, 2):
            x = left + 2 * index * step
            draw.rectangle((x, bottom - (index + 1) * (bottom - top) / 3, x + step, bottom), fill=look.accent)
    else:
        draw.polygon([(left, bottom), (right, bottom), ((left + right) / 2, top)], fill=look.accent)
    sheet.reserve(box)


def paragraph(sheet: Sheet, box: Box, face: Face, colour: Colour | None = None, count: int = 60) -> int:
    """Up to `count` words of running text inside `box`; returns the y below it."""
    words = sheet.rng.choices(FILLER, k=count)
    for index in range(0, count, 11):
        words[index] = words[index].capitalize()
        words[index - 1] += "."
    return sheet.flow(words, box, face, colour)[1]


def facts(sheet: Sheet, labels: list[str], box: Box, face: Face) -> int:
    """Running text that states a value for each of `labels` ("The Deposit is $45.20 ..."); returns the y below it."""
    rng = sheet.rng
    phrases: list[str] = []
    starts: list[int] = []
    for label in labels:
        starts.append(len(phrases))
        phrases += ["The", label, "is", value_of(sheet, label), *rng.choices(FILLER, k=rng.randint(1, 8))]
        phrases.append(f"{rng.choice(FILLER)}.")
    printed, y = sheet.flow(phrases, box, face)
    for label, start in zip(labels, starts, strict=True):
        sheet.ask("field", printed[start + 3], printed[start + 1], label=label)
    return y


def picture(sheet: Sheet, box: Box) -> None:
    """A block that looks like a small photograph: soft blobs of colour under noise."""
    rng = sheet.rng
    left, top, right, bottom = (int(edge) for edge in box)
    side = rng.choice((4, 6, 9))
    base = [rng.randrange(60, 200) for _ in range(3)]
    pixels = bytes(max(0, min(255, c + shade)) for shade in rng.choices(range(-60, 60), k=side * side) for c in base)
    photo = Image.frombytes("RGB", (side, side), pixels).resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    sheet.image.paste(photo, (left, top))
    sheet.reserve(box)


def bar_code(sheet: Sheet, box: Box) -> None:
    """Vertical bars of varied width."""
    left, top, right, bottom = box
    x = left
    while x < right - 3:
        width = sheet.rng.choice((1, 1, 2, 3))
        sheet.draw.rectangle((x, top, x + width - 1, bottom - 1), fill=sheet.look.ink)
        x += width + sheet.rng.choice((1, 1, 2, 3))
    sheet.reserve(box)


def stamp(sheet: Sheet, box: Box) -> None:
    """A round or square rubber stamp without words."""
    colour = mix(sheet.rng.choice(((170, 40, 40), (40, 60, 160), (60, 120, 70))), sheet.look.paper, 0.4)
    left, top, right, bottom = box
    centre_x, centre_y, radius = (left + right) / 2, (top + bottom) / 2, min(right - left, bottom - top) / 2 - 1
    sides = sheet.rng.choice((4, 8, 60))
    for share, width in ((1.0, 2), (0.8, 1)):
        ring = [
            (
                centre_x + share * radius * math.cos(2 * math.pi * k / sides),
                centre_y + share * radius * math.sin(2 * math.pi * k / sides),
            )
            for k in range(sides + 1)
        ]
        sheet.draw.line(ring, fill=colour, width=width)
    star = [
        (
            centre_x + radius * (0.5 if k % 2 else 0.2) * math.cos(math.pi * k / 5),
            centre_y + radius * (0.5 if k % 2 else 0.2) * math.sin(math.pi * k / 5),
        )
        for k in range(10)
    ]
    sheet.draw.polygon(star, fill=colour)
    sheet.reserve(box)


def closing(sheet: Sheet, box: Box) -> None:
    """What fills the foot of a page if `box` has room: small print, a picture, a stamp, a bar code, or nothing."""
    rng, look = sheet.rng, sheet.look
    left, top, right, bottom = (int(edge) for edge in box)
    if rng.random() < 0.5 and bottom - top > 3 * look.label.line:
        lines = rng.randint(2, max(4, min(14, int((bottom - top) / look.label.line))))
        end = min(bottom, top + lines * look.label.line)
        count = int(lines * (right - left) / (2.6 * look.label.size))
        top = paragraph(sheet, (left, top, right, end), look.label, look.muted, count) + look.body.cap
    width = int(min((right - left) * 0.5, look.body.size * rng.uniform(6, 14)))
    height = int(min(bottom - top, width * rng.uniform(0.5, 1.0)))
    x = rng.choice((left, right - width, (left + right - width) // 2))
    if width < 20 or height < 24 or not sheet.free((x, top, x + width, top + height)):
        return
    choice = rng.choice((picture, stamp, bar_code, None))
    if choice is bar_code:
        height = min(height, width // 3)
    if choice:
        choice(sheet, (x, top, x + width, top + height))


def value_of(sheet: Sheet, label: str) -> str:
    """An open value of the type that the field `label` holds."""
    return sheet.values.of(FIELDS[label])


def ask_field(sheet: Sheet, label: str, answer: Printed, key: Printed) -> None:
    """Ask for a field by its name."""
    sheet.ask("field", answer, key, label=label)

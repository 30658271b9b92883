"""Example pages, rendered at start."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from shirg.data.render import render_page


@dataclass(frozen=True)
class Example:
    """A rendered page with questions; the first one is preselected."""

    name: str
    image: Image.Image
    answers: dict[str, str]
    """Question -> the answer printed on the page."""


RECIPES: dict[str, tuple[str, int, tuple[float, float], str]] = {
    "Letter": ("document", 1, (15, 20), "Who is it from?"),
    "Receipt": ("receipt", 2, (15, 20), "Invoice?"),
    "Table": ("table", 2, (15, 20), "Read the Points for Thursday."),
    "Chart": ("pie", 4, (22, 30), "What is the share of Cows?"),
}
"""Name -> kind, seed, smallest and largest print in pixels, first question. Held-out pages on which the nano reads some answers
correctly with 768 patches; an illustration, not a measurement."""


def example_pages() -> list[Example]:
    """The pages of `RECIPES`, in order."""
    examples = []
    for name, (kind, seed, text_px, first) in RECIPES.items():
        page = render_page(kind, seed, text_px=text_px, split="heldout")
        answers = {asked.question: asked.answers[0] for asked in page.questions}
        examples.append(Example(name, page.image, {first: answers[first], **answers}))
    return examples

"""What the reader learns on: rendered pages in the two kinds of view that LaViDa is trained on, their questions as tokens, and
the places of every answer.

Since the recipe draws the pages, it knows for every character of an answer its patch, and for every question the patches of
the label it names. `Lesson` has both, and the recipe guides some attention heads to them (`shirg.nano.recipe.reader`).
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import PreTrainedTokenizerFast

from shirg.data.pages import Page, Question, Word
from shirg.data.render import KINDS, render_page
from shirg.lavida.config import GRID_PINPOINTS
from shirg.lavida.views import anyres_views, square_view, tile_grid
from shirg.nano.recipe.geometry import POSITIONS
from shirg.nano.recipe.glyphs import IGNORE, PATCH, SLOTS, glyph_targets, moved, places, print_size
from shirg.nano.recipe.tokenizer import ASSISTANT, END, TURN, build_tokenizer, id_of

VIEW = 384
ANSWER_LENGTH = 16  # tokens of the answer block at most while learning, end-of-text padding included
PROMPT_LENGTH = 24  # tokens of "\n", question and header at most
QUESTIONS = 6  # a page, with repeats where it has fewer
FURTHER_QUESTIONS = 4  # a page with so many more gives a second lesson
PATCHES = POSITIONS * POSITIONS
CHUNK = 12  # batches sorted together
STRANGE = (0.0, 0.0, 0.3, 1.0)  # share of a page's values that are any string
PAGE_TEXT, TILE_TEXT = (8.0, 24.0), (7.5, 40.0)  # px on a page of 384 px and on one of 672 px
LEGIBLE = 7.0  # px of print that is worth reading
CHARTS, DRAWN_CONTRAST = (
    ("bar", "line", "pie"),
    40,
)  # kinds of page that show more than words, and grey levels of an edge
HARD, HARD_LEAD = ("chart_series", "table_label", "chart_axis"), 0.5

POOLED = 14  # tokens a side of a view in tiles
_SHARE = F.interpolate(torch.eye(POSITIONS)[None], size=POOLED, mode="linear")[
    0
].numpy()  # [27, 14], of a row in pooled rows
TOUCHED = (_SHARE > 0.03).T.astype(np.int64)
TOKEN_OF = _SHARE.argmax(1).tolist()  # the pooled row (or column) that shows most of a row of patches
CENTRE_OF = _SHARE.argmax(0).tolist()  # the row of patches that a pooled row shows most of


@dataclass
class Lesson:
    """One page with its questions; V views of 384 px, N = V * 729 patches, M image tokens (N of a page, V * 196 of tiles, as
    LaViDa pools them), Q = QUESTIONS, P = PROMPT_LENGTH, A = ANSWER_LENGTH.

    `pixels` uint8 [V, 384, 384, 3]; `inked` bool [N], patches that a word's box or the edge of a drawing touches; `written` bool
    [M], tokens with a part in one of those; `readable` bool [N], patches of views whose print is large enough to be read;
    `characters`, `indices` int64 [N, SLOTS]; `words` int64 [N], token of the word on each patch (the unknown token for spelled
    ones), IGNORE where none does; `prompts` int64 [Q, P] and `prompt_lengths` [Q]; `answers` int64 [Q, A]; `named` bool [Q, P],
    prompt tokens that name the label; `keys` bool [Q, 2, M], image tokens of the first and of the last label word; `places` bool
    [Q, A, M], image tokens of every answer character.
    """

    pixels: np.ndarray
    inked: np.ndarray
    written: np.ndarray
    readable: np.ndarray
    characters: np.ndarray
    indices: np.ndarray
    words: np.ndarray
    prompts: np.ndarray
    prompt_lengths: np.ndarray
    answers: np.ndarray
    named: np.ndarray
    keys: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class View:
    """What a view shows: the page's words in its pixels, the patches with something on them (Boolean [27, 27]), and whether the
    print is large enough to be read there."""

    image: Image.Image
    words: list[Word]
    inked: np.ndarray
    readable: bool


class Lessons(torch.utils.data.IterableDataset[Lesson]):
    """Endless lessons, `batch` at a time of one kind of view and about equal size, so that little is padded.

    Args:
        seed: of the pages and their questions.
        order_seed: of the order of the kinds of view, and of the order of batches of one kind.
        views: weights of "page" (a page seen whole at 384 px) and "tiles" (LaViDa's five views of a 672 px page).
    """

    def __init__(self, seed: int, order_seed: int, batch: int, views: dict[str, float]):
        self.seed, self.order_seed, self.batch, self.views = seed, order_seed, batch, views

    def __iter__(self) -> Iterator[Lesson]:
        tokenizer = build_tokenizer()
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in itertools.count(first, step):
            rng, order = (random.Random(seed * 1_000_003 + number) for seed in (self.seed, self.order_seed))
            view = order.choices(list(self.views), list(self.views.values()))[0]
            lessons: list[Lesson] = []
            while len(lessons) < CHUNK * self.batch:
                lessons += self._draw(view, tokenizer, rng)
            batches = sorted_batches(lessons[: CHUNK * self.batch], self.batch, id_of(tokenizer, END))
            order.shuffle(batches)
            yield from itertools.chain.from_iterable(batches)

    def _draw(self, view: str, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Iterator[Lesson]:
        if view == "page":
            page, low = _page(rng, rng.choice((VIEW, VIEW, 448, 512, 576)), PAGE_TEXT, VIEW)
            views = whole_page(page)
        else:
            page, low = _page(rng, 672, TILE_TEXT, 672)
            views = tiles(page, low)
        for questions in _some(page.questions, rng):
            yield lesson(views, questions, tokenizer)


def sorted_batches(lessons: list[Lesson], batch: int, end: int) -> list[list[Lesson]]:
    """Batches of about equally long answers and, among these, about as many written tokens, so that little is padded."""
    lessons = sorted(lessons, key=lambda one: (one.answers != end).sum(1).max())
    half = len(lessons) // 2
    lessons = [
        one for part in (lessons[:half], lessons[half:]) for one in sorted(part, key=lambda one: one.inked.sum())
    ]
    return [lessons[start : start + batch] for start in range(0, len(lessons), batch)]


def _page(rng: random.Random, side: int, text_px: tuple[float, float], seen_at: int) -> tuple[Page, float]:
    """A training page of `side` px whose text is `text_px` high once it is seen at `seen_at` px, and its smallest print there."""
    scale = side / seen_at
    low = print_size(rng, text_px)
    high = min(text_px[1], low * rng.uniform(1.0, 1.6))
    kind, seed, strange = rng.choice(KINDS), rng.getrandbits(40), rng.choice(STRANGE)
    return render_page(kind, seed, size=side, text_px=(low * scale, high * scale), strange=strange), low


def whole_page(page: Page) -> list[View]:
    """The page stretched to 384 px, as LaViDa's base view is."""
    scale = (VIEW / page.image.width, VIEW / page.image.height)
    words = [moved(word, scale) for word in page.words]
    return [_view(page, square_view(page.image, VIEW), words)]


def tiles(page: Page, smallest: float) -> list[View]:
    """LaViDa's base view and tiles of a square page whose smallest print is that many px high."""
    rows, cols = tile_grid(page.image.size, GRID_PINPOINTS, VIEW)
    assert rows == cols, "a square page fills a square canvas"
    (base,) = whole_page(page)
    views = [dataclasses.replace(base, readable=smallest * VIEW / page.image.width >= LEGIBLE)]
    scale = cols * VIEW / page.image.width
    images = anyres_views(page.image, GRID_PINPOINTS, VIEW)[1:]
    for image, (row, col) in zip(images, itertools.product(range(rows), range(cols)), strict=True):
        corner = (col * VIEW, row * VIEW)
        views.append(_view(page, image, [moved(word, (scale, scale), corner) for word in page.words]))
    return views


def _view(page: Page, image: Image.Image, words: list[Word]) -> View:
    inked = _inked(words) | (_drawn(image) if page.kind in CHARTS else False)
    return View(image, words, inked, True)


def _some(questions: list[Question], rng: random.Random) -> Iterator[list[Question]]:
    """QUESTIONS of them, and again as many others where there are enough; those that are learnt late first, most titles, which
    are learnt soon, last."""

    def late(one: Question) -> float:
        return rng.random() - HARD_LEAD * (one.kind in HARD) + (one.kind == "title" and rng.random() < 0.75)

    ordered = sorted(questions, key=late)
    for start in range(0, len(ordered), QUESTIONS):
        chosen = ordered[start : start + QUESTIONS]
        if start == 0 or len(chosen) >= FURTHER_QUESTIONS:
            yield chosen + [rng.choice(chosen) for _ in range(QUESTIONS - len(chosen))]


def lesson(views: list[View], questions: list[Question], tokenizer: PreTrainedTokenizerFast) -> Lesson:
    """The views of one page, with targets for tower and attention. Tiles are pooled, a page alone is not."""
    pooled = len(views) > 1
    glyphs = [glyph_targets(view.words, POSITIONS, POSITIONS) for view in views]
    inked = np.stack([view.inked for view in views])
    written = (TOUCHED @ inked @ TOUCHED.T) > 0 if pooled else inked
    seen = [
        _tokens([view.words[index] if view.readable else None for view in views], pooled)
        for index in range(len(views[0].words))
    ]
    parts = [_question(views[0].words, seen, question, tokenizer, written.size) for question in questions]
    return Lesson(
        np.stack([np.asarray(view.image) for view in views]),
        inked.ravel(),
        written.ravel(),
        np.repeat([view.readable for view in views], PATCHES),
        np.concatenate([one.characters.reshape(PATCHES, SLOTS) for one in glyphs]),
        np.concatenate([one.indices.reshape(PATCHES, SLOTS) for one in glyphs]),
        np.concatenate([_words(view.words, tokenizer) for view in views]),
        *[np.stack(column) for column in zip(*parts, strict=True)],
    )


def _tokens(word_by_view: list[Word | None], pooled: bool) -> list[list[int]]:
    """For every character of a word the image tokens that show it, one in each view where it is seen and readable."""
    side = POOLED if pooled else POSITIONS
    shown: list[list[int]] = []
    for view, word in enumerate(word_by_view):
        if word is None:
            continue
        shown = shown or [[] for _ in word.text]
        for tokens, place in zip(shown, places(word, POSITIONS, POSITIONS), strict=True):
            if place is not None:
                row, col = (TOKEN_OF[index] if pooled else index for index in place)
                tokens.append((view * side + row) * side + col)
    return shown


def _words(words: list[Word], tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Every patch of a view under a character learns the word's token, so that a label can be found by one comparison."""
    tokens = np.full((POSITIONS, POSITIONS), IGNORE, np.int64)
    for word in words:
        for place in filter(None, places(word, POSITIONS, POSITIONS)):
            tokens[place] = id_of(tokenizer, word.text.strip(":.,"))
    return tokens.ravel()


def _question(
    words: list[Word], seen: list[list[list[int]]], question: Question, tokenizer: PreTrainedTokenizerFast, count: int
) -> tuple[np.ndarray, ...]:
    """Prompt, its length, answer, named prompt tokens, label tokens and answer tokens (of `count`) of one question.

    `seen` has for every character of every word the image tokens that show it.
    """
    ids = tokenizer(f"\n{question.question}{ASSISTANT}")["input_ids"][:PROMPT_LENGTH]
    prompt = np.full(PROMPT_LENGTH, id_of(tokenizer, END), np.int64)
    prompt[: len(ids)] = ids
    keys, named = np.zeros((2, count), bool), np.zeros(PROMPT_LENGTH, bool)
    if question.key_words:
        labels = [words[index].text.strip(":.,") for index in question.key_words]
        names = {id_of(tokenizer, label) for label in labels} - {tokenizer.unk_token_id}
        named = np.isin(prompt, list(names))
        for row, index in enumerate((question.key_words[0], question.key_words[-1])):
            keys[row, list(itertools.chain(*seen[index]))] = True
    encoded = tokenizer(question.answers[0], return_offsets_mapping=True)
    answer = np.full(ANSWER_LENGTH, id_of(tokenizer, END), np.int64)
    answer_ids = [*encoded["input_ids"], id_of(tokenizer, TURN)][:ANSWER_LENGTH]
    answer[: len(answer_ids)] = answer_ids
    there = np.zeros((ANSWER_LENGTH, count), bool)
    characters = [tokens for index in question.answer_words for tokens in [*seen[index], []]]  # a space between words
    for token, (start, end) in enumerate(encoded["offset_mapping"][:ANSWER_LENGTH]):
        there[token, list(itertools.chain(*characters[start:end]))] = True
    return prompt, np.array(len(ids), np.int64), answer, named, keys, there


def _inked(words: list[Word]) -> np.ndarray:
    inked = np.zeros((POSITIONS, POSITIONS), bool)
    for word in words:
        left, top, right, bottom = (int(edge // PATCH) for edge in word.box)
        inked[max(0, top) : max(0, bottom + 1), max(0, left) : max(0, right + 1)] = True
    return inked


def _drawn(image: Image.Image) -> np.ndarray:
    """Patches with an edge of a bar, a line or a legend's sample, by the spread of their colours without the rarest."""
    side = POSITIONS * PATCH
    pixels = np.asarray(image)[:side, :side].reshape(POSITIONS, PATCH, POSITIONS, PATCH, 3)
    colours = np.sort(pixels.swapaxes(1, 2).reshape(POSITIONS, POSITIONS, PATCH * PATCH, 3), axis=2)
    return (colours[:, :, -5].astype(int) - colours[:, :, 4]).max(-1) > DRAWN_CONTRAST


def collate(lessons: list[Lesson]) -> dict[str, torch.Tensor]:
    """Fields of `Lesson`, stacked."""
    return {
        name: torch.from_numpy(np.stack([getattr(one, name) for one in lessons]))
        for name in Lesson.__dataclass_fields__
    }

"""What the reader learns on: rendered pages in the views that the model must serve, their questions as tokens, and the
patches of every answer.

Since the recipe draws the pages, it knows for every character of an answer its patch, and for every question the patches of
the label it names. `Lesson` has both, and the recipe guides some attention heads to them (`shirg.nano.recipe.reader`).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from shirg.data.pages import Page, Question, Word
from shirg.data.render import KINDS, render_page
from shirg.lavida.config import GRID_PINPOINTS
from shirg.lavida.views import anyres_views
from shirg.nano.recipe.geometry import LARGE_GRID, POSITIONS
from shirg.nano.recipe.glyphs import IGNORE, PATCH, glyph_targets, moved, places
from shirg.nano.recipe.tokenizer import ASSISTANT, END, TURN, build_tokenizer, id_of

VIEW = 384
ANSWER_LENGTH = 16  # tokens of the answer block while learning, end-of-text padding included
PROMPT_LENGTH = 24  # tokens of "\n", question and header at most
QUESTIONS = 6  # a page, with repeats where it has fewer
PATCHES = POSITIONS * POSITIONS
CHUNK = 6  # batches sorted together
STRANGE = (0.0, 0.0, 0.3, 1.0)  # share of a page's values that are any string
WINDOW_TEXT, TILE_TEXT = (7.5, 16.0), (9.0, 20.0)  # px on a page of 672 px


@dataclass
class Lesson:
    """One page with its questions; V views, Q = QUESTIONS, P = PROMPT_LENGTH, A = ANSWER_LENGTH, N = side * side patches, side 27
    (a view of 384 px) or 48 (of 672 px).

    `pixels` uint8 [V, 14 side, 14 side, 3] (384 px for 27); `origin` int64 [3]: patches a side of the whole page, and the row and
    column at which the view begins; `inked` bool [N], patches that a word's box touches; `characters`, `indices` int64
    [side, side, SLOTS]; `words`
    int64 [N], token of the word on each patch (the unknown token for spelled ones), IGNORE where none does;
    `prompts` int64 [Q, P] and `prompt_lengths` [Q]; `answers` int64 [Q, A]; `named` bool [Q, P], prompt tokens that name the
    label; `keys` bool [Q, 2, N], patches of the first and of the last label word; `places` bool [Q, A, N], patches of every
    answer character. Of tiles, patch targets are all False.
    """

    pixels: np.ndarray
    origin: np.ndarray
    inked: np.ndarray
    characters: np.ndarray
    indices: np.ndarray
    words: np.ndarray
    prompts: np.ndarray
    prompt_lengths: np.ndarray
    answers: np.ndarray
    named: np.ndarray
    keys: np.ndarray
    places: np.ndarray


class Lessons(torch.utils.data.IterableDataset[Lesson]):
    """Endless lessons, `batch` at a time of one kind of view and about as many inked patches, so that little is padded.

    Args:
        seed: of the pages and their questions.
        order_seed: of the order of the kinds of view, and of the order of batches of one kind.
        views: weights of "page" (a page seen whole at 384 px), "window" (a part of a 672 px page, with the positions it has
            there), "large" (a 672 px page seen whole) and "tiles" (LaViDa's five views of a 672 px page).
    """

    def __init__(self, seed: int, order_seed: int, text_px: tuple[float, float], batch: int, views: dict[str, float]):
        self.seed, self.order_seed, self.text_px, self.batch, self.views = seed, order_seed, text_px, batch, views

    def __iter__(self) -> Iterator[Lesson]:
        tokenizer = build_tokenizer()
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in itertools.count(first, step):
            rng, order = (random.Random(seed * 1_000_003 + number) for seed in (self.seed, self.order_seed))
            view = order.choices(list(self.views), list(self.views.values()))[0]
            lessons = [self._draw(view, tokenizer, rng) for _ in range(CHUNK * self.batch)]
            lessons.sort(key=lambda one: one.inked.sum())
            batches = [lessons[start : start + self.batch] for start in range(0, len(lessons), self.batch)]
            order.shuffle(batches)
            yield from itertools.chain.from_iterable(batches)

    def _draw(self, view: str, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Lesson:
        if view == "page":
            return whole_page(_page(rng, rng.choice((VIEW, VIEW, 448, 512, 576)), self.text_px, VIEW), tokenizer, rng)
        if view == "tiles":
            return tiles(_page(rng, 672, TILE_TEXT, 672), tokenizer, rng)
        page = _page(rng, 672, WINDOW_TEXT, 672)
        return large_page(page, tokenizer, rng) if view == "large" else window(page, tokenizer, rng)


def _page(rng: random.Random, side: int, text_px: tuple[float, float], seen_at: int) -> Page:
    """A training page of `side` px whose text is `text_px` high once it is seen at `seen_at` px."""
    scale = side / seen_at
    low = rng.uniform(*text_px)
    high = min(text_px[1], low * rng.uniform(1.0, 1.6))
    kind, seed, strange = rng.choice(KINDS), rng.getrandbits(40), rng.choice(STRANGE)
    return render_page(kind, seed, size=side, text_px=(low * scale, high * scale), strange=strange)


def whole_page(page: Page, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Lesson:
    """The page stretched to 384 px, as LaViDa's base view is."""
    scale = (VIEW / page.image.width, VIEW / page.image.height)
    image = page.image if scale == (1.0, 1.0) else page.image.resize((VIEW, VIEW), Image.Resampling.BICUBIC)
    words = [moved(word, scale) for word in page.words]
    return _lesson([image], (POSITIONS, 0, 0), words, _some(page.questions, rng), tokenizer)


def large_page(page: Page, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Lesson:
    """The page as SHIRG's 672 px view shows it, 48 x 48 patches."""
    return _lesson([page.image], (LARGE_GRID, 0, 0), page.words, _some(page.questions, rng), tokenizer, LARGE_GRID)


def window(page: Page, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Lesson:
    """27 x 27 patches of a 672 px page around one of its answers, with the questions that can be answered inside."""
    anchor = page.words[rng.choice(page.questions).answer_words[0]].box
    corner = []
    for start in anchor[:2]:
        patch = int(start) // PATCH - rng.randint(2, POSITIONS - 3)
        corner.append(max(0, min(LARGE_GRID - POSITIONS, patch)))
    left, top = corner[0] * PATCH, corner[1] * PATCH
    image = page.image.crop((left, top, left + VIEW, top + VIEW))
    words = [moved(word, (1.0, 1.0), (left, top)) for word in page.words]
    inside = [all(places(word, POSITIONS, POSITIONS)) for word in words]
    fitting = [q for q in page.questions if all(inside[i] for i in (*q.answer_words, *q.key_words))]
    if not fitting:  # label and answer lie too far apart on this page
        return whole_page(page, tokenizer, rng)
    return _lesson([image], (LARGE_GRID, corner[1], corner[0]), words, _some(fitting, rng), tokenizer)


def tiles(page: Page, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Lesson:
    """LaViDa's base view and tiles of the page; without patch targets."""
    return _lesson(
        anyres_views(page.image, GRID_PINPOINTS, VIEW), (POSITIONS, 0, 0), [], _some(page.questions, rng), tokenizer
    )


def _some(questions: list[Question], rng: random.Random) -> list[Question]:
    """QUESTIONS of them, without repeats where there are enough; most titles, which are learnt soon, are left out."""
    late = {index: rng.random() + (one.kind == "title" and rng.random() < 0.75) for index, one in enumerate(questions)}
    chosen = [questions[index] for index in sorted(late, key=late.__getitem__)[:QUESTIONS]]
    return chosen + [rng.choice(questions) for _ in range(QUESTIONS - len(chosen))]


def _lesson(
    views: list[Image.Image],
    origin: tuple[int, int, int],
    words: list[Word],
    questions: list[Question],
    tokenizer: PreTrainedTokenizerFast,
    side: int = POSITIONS,
) -> Lesson:
    glyphs = glyph_targets(words, side, side)
    patches_of = [_patches(word, side) for word in words]
    parts = [_question(words, patches_of, question, tokenizer, side * side) for question in questions]
    stacked = [np.stack(column) for column in zip(*parts, strict=True)]
    pixels = np.stack([np.asarray(view) for view in views])
    named = _words(words, patches_of, tokenizer, side * side)
    return Lesson(pixels, np.array(origin), _inked(words, side), glyphs.characters, glyphs.indices, named, *stacked)


def _inked(words: list[Word], side: int) -> np.ndarray:
    inked = np.zeros((side, side), bool)
    for word in words:
        left, top, right, bottom = (int(edge // PATCH) for edge in word.box)
        inked[max(0, top) : max(0, bottom + 1), max(0, left) : max(0, right + 1)] = True
    return inked.ravel()


def _words(
    words: list[Word], patches_of: list[list[int | None]], tokenizer: PreTrainedTokenizerFast, count: int
) -> np.ndarray:
    """Every patch under a character learns the word's token, so that a label can be found by one comparison."""
    tokens = np.full(count, IGNORE, np.int64)
    for word, patches in zip(words, patches_of, strict=True):
        tokens[_inside(patches)] = id_of(tokenizer, word.text.strip(":.,"))
    return tokens


def _question(
    words: list[Word],
    patches_of: list[list[int | None]],
    question: Question,
    tokenizer: PreTrainedTokenizerFast,
    count: int,
) -> tuple[np.ndarray, ...]:
    """Prompt, its length, answer, named prompt tokens, label patches and answer patches (of `count`) of one question."""
    ids = tokenizer(f"\n{question.question}{ASSISTANT}")["input_ids"][:PROMPT_LENGTH]
    prompt = np.full(PROMPT_LENGTH, id_of(tokenizer, END), np.int64)
    prompt[: len(ids)] = ids
    keys, named = np.zeros((2, count), bool), np.zeros(PROMPT_LENGTH, bool)
    if words and question.key_words:
        labels = [words[index].text.strip(":.,") for index in question.key_words]
        names = {id_of(tokenizer, label) for label in labels} - {tokenizer.unk_token_id}
        named = np.isin(prompt, list(names))
        for row, index in enumerate((question.key_words[0], question.key_words[-1])):
            keys[row, _inside(patches_of[index])] = True
    answer, places = _answer(patches_of, question, tokenizer, count)
    return prompt, np.array(len(ids), np.int64), answer, named, keys, places


def _answer(
    patches_of: list[list[int | None]], question: Question, tokenizer: PreTrainedTokenizerFast, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the answer block, and for each the patches of the characters it spells."""
    encoded = tokenizer(question.answers[0], return_offsets_mapping=True)
    answer = np.full(ANSWER_LENGTH, id_of(tokenizer, END), np.int64)
    ids = [*encoded["input_ids"], id_of(tokenizer, TURN)][:ANSWER_LENGTH]
    answer[: len(ids)] = ids
    there = np.zeros((ANSWER_LENGTH, count), bool)
    if patches_of:
        patches = [patch for index in question.answer_words for patch in [*patches_of[index], None]]
        for token, (start, end) in enumerate(encoded["offset_mapping"][:ANSWER_LENGTH]):
            there[token, _inside(patches[start:end])] = True
    return answer, there


def _patches(word: Word, side: int) -> list[int | None]:
    """Number of the patch of every character, None where that lies outside the view."""
    return [place and place[0] * side + place[1] for place in places(word, side, side)]


def _inside(patches: list[int | None]) -> list[int]:
    return [patch for patch in patches if patch is not None]


def collate(lessons: list[Lesson]) -> dict[str, torch.Tensor]:
    """Fields of `Lesson`, stacked."""
    return {
        name: torch.from_numpy(np.stack([getattr(one, name) for one in lessons]))
        for name in Lesson.__dataclass_fields__
    }

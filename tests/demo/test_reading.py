"""The demo without the browser: one encoding for every budget, answers step by step, costs from the real cache."""

from __future__ import annotations

import dataclasses
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from shirg.demo.reading import Choice, Costs, Reader
from shirg.demo.streaming import stream_from_thread
from shirg.errors import UserError
from shirg.gate import SELECTORS, GateConfig
from shirg.lavida import PrefixCache
from tests.tiny import name_a_token, tiny_model, tiny_page

QUESTION = "What is the total?"


@pytest.fixture(scope="module")
def reader() -> Reader:
    """280 pixels are 20 x 20 patches."""
    model = tiny_model()
    model.vision = replace(model.vision, resolution=280)
    return Reader(model)


@pytest.fixture(scope="module")
def page(reader):
    return reader.encode(tiny_page(), "page.png")


@pytest.fixture
def tower_calls(reader) -> list[tuple[int, ...]]:
    """The shapes that the tower was given since the test began."""
    seen: list[tuple[int, ...]] = []
    first = reader.model.tower.vision_model.embeddings.patch_embedding
    hook = first.register_forward_pre_hook(lambda _module, given: seen.append(tuple(given[0].shape)))
    yield seen
    hook.remove()


@pytest.mark.parametrize("selector", SELECTORS)
def test_every_selector_uses_one_encoding(reader, page, tower_calls, selector):
    for budget in (64, 100, 400):
        chosen = reader.select(page, Choice(budget, selector))
        outputs = chosen.kept.assignment[0].unique()
        assert (outputs >= 0).sum() == budget and chosen.gate_ms > 0
    assert tower_calls == []


@pytest.mark.parametrize("question", ["", QUESTION])
def test_the_selection_is_that_of_the_model(reader, page, question):
    model = reader.model
    ids = model.question_ids(model.prompt_ids(question)) if question else None
    if question:
        name_a_token(model, page.features, ids[-2:], 100)
    expected = model.select(model.image_features(tiny_page(), "shirg"), 40, ids)
    chosen = reader.select(page, Choice(40, question=question))
    assert torch.equal(chosen.kept.indices, expected.indices)
    plain = set(reader.select(page, Choice(40)).kept.indices[0].tolist())
    assert chosen.changed == len(set(expected.indices[0].tolist()) - plain)
    assert (chosen.changed > 0) == bool(question)


def test_a_preset_replaces_the_settings(reader, page):
    model = reader.model
    kept = reader.select(page, Choice(40, preset="ocr")).kept
    expected = model.select(page.features, 40, vision=replace(model.vision, gate=GateConfig.preset("ocr")))
    assert torch.equal(kept.indices, expected.indices)
    assert not torch.equal(kept.indices, reader.select(page, Choice(40)).kept.indices)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(0), "budget: got 0, must be a whole number from 1 to the tokens of the image, here 400"),
        (Choice(401), "budget: got 401"),
        (Choice(9, "best"), "selector 'best' is unknown"),
        (Choice(9, preset="mine"), "preset 'mine' is unknown"),
    ],
)
def test_mistakes_are_refused_and_the_model_is_unchanged(reader, page, choice, message):
    own = reader.model.vision
    with pytest.raises(UserError, match=message):
        reader.select(page, choice)
    assert reader.model.vision is own


def test_dropped_patches_are_grey_and_groups_are_tinted(reader, page):
    kept = reader.select(page, Choice(40)).kept
    width, height = page.canvas.size
    assert (width, height) == (960, 640)  # the page's own shape
    plain, drawn, groups = (
        np.asarray(picture, dtype=int)
        for picture in (page.canvas, reader.draw(page, kept), reader.draw(page, kept, groups=True))
    )
    bright = (kept.assignment[0] >= 0).reshape(20, 20).numpy()
    for row, column in np.ndindex(20, 20):
        middle = (row * 32 + 16, column * 48 + 24)
        if bright[row, column]:
            assert (drawn[middle] == plain[middle]).all()
        else:
            assert drawn[middle].sum() < plain[middle].sum()
    assert (groups != drawn).any() and (groups != plain).any()
    assert (groups[..., 2] > 120).mean() > 0.5  # where nothing is dimmed the page stays bright


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_steps_of_an_answer_and_costs_of_its_cache(family):
    model = tiny_model(family)
    model.vision = replace(model.vision, resolution=280)
    reader = Reader(model)
    page = reader.encode(tiny_page(), "page.png")
    choice = Choice(40, question=QUESTION)
    *steps, last = reader.answer(page, QUESTION, choice)
    assert last.text == model.answer(tiny_page(), QUESTION, "shirg", 40)
    assert steps[0].number == 0 and [span.state for span in steps[0].spans] == ["masked"]
    masks = [sum(span.tokens for span in step.spans if span.state == "masked") for step in steps]
    assert masks == sorted(masks, reverse=True) and masks[0] == model.config.answer_tokens
    costs, ids = last.costs, model.prompt_ids(QUESTION)
    assert costs.tokens == 41 and costs.prefix_tokens == 41 + len(ids) - 1  # the placeholder goes
    with torch.no_grad():
        embeds = model.mm_projector(reader.select(page, choice).kept.tokens[0])
        cache = PrefixCache()
        model.language(model.splice(ids, [embeds])[None], cache=cache)
    assert costs.kv_bytes == cache.nbytes == 2 * 2 * costs.prefix_tokens * 2 * 8 * 4  # k and v, layers, heads, width
    assert costs.passes == steps[-1].number and min(costs.gate_ms, costs.prefill_ms, costs.denoise_ms) > 0
    assert costs.seconds * 1000 == pytest.approx(costs.tower_ms + costs.gate_ms + costs.prefill_ms + costs.denoise_ms)


def test_an_early_choice_is_the_models_early_path(reader, page, tower_calls):
    model, choice = reader.model, Choice(40, early=True)
    expected = model.select(model.image_features(tiny_page(), "early"), 40)
    assert torch.equal(reader.select(page, choice).kept.indices, expected.indices)
    *_, last = reader.answer(page, QUESTION, choice)
    assert last.text == model.answer(tiny_page(), QUESTION, "early", 40)
    assert last.costs.tokens == 41 and min(last.costs.tower_ms, last.costs.gate_ms) > 0
    assert len(tower_calls) == 3  # the patches once, `Lavida` twice
    with pytest.raises(UserError, match="visionzip.*needs the tower's attention"):
        reader.select(page, Choice(40, "visionzip", early=True))


def test_lowres_is_encoded_once_and_on_request(reader, tower_calls):
    page = reader.encode(tiny_page(), "page.png")
    assert tower_calls == [(1, 3, 280, 280)]
    for _ in range(2):
        *_, last = reader.answer(page, QUESTION, None)
        assert last.text == reader.model.answer(tiny_page(), QUESTION, "lowres") and last.path == "lowres"
        assert last.costs.tokens == 729 and last.costs.gate_ms is None and last.costs.tower_ms > 0
    assert tower_calls.count((1, 3, 384, 384)) == 3 and len(tower_calls) == 4  # ours once, `Lavida.answer` twice


def test_the_users_image_is_not_kept(reader):
    page = reader.encode(tiny_page(2000, 3000), "big.png")
    assert [value.size for value in vars(page).values() if isinstance(value, Image.Image)] == [(640, 960)]


def test_an_empty_question_is_refused(reader, page):
    with pytest.raises(UserError, match="question"):
        list(reader.answer(page, " ", Choice(40)))


def test_values_come_at_once_and_an_error_last():
    proceed = threading.Event()

    def work(emit):
        emit(1)
        proceed.wait(10)
        emit(2)
        raise UserError("no")

    items = stream_from_thread(work)
    assert next(items) == 1
    proceed.set()
    assert next(items) == 2
    with pytest.raises(UserError, match="no"):
        next(items)


def test_closing_ends_the_work():
    done: list[int] = []

    def work(emit):
        for number in range(1000):
            emit(number)
            done.append(number)
            time.sleep(0.01)

    items = stream_from_thread(work)
    assert next(items) == 0
    items.close()
    assert len(done) < 1000 and threading.active_count() == len(threading.enumerate())
    assert not any(thread.name == "shirg-answer" for thread in threading.enumerate())


def test_seconds_are_the_sum_of_the_parts():
    costs = Costs(1, 2, tower_ms=100, gate_ms=5, prefill_ms=20, denoise_ms=75, passes=3, kv_bytes=8)
    assert costs.seconds == pytest.approx(0.2)
    assert dataclasses.replace(costs, gate_ms=None).seconds == pytest.approx(0.195)

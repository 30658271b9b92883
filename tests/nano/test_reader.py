"""Who sees whom, which parts of an image are shown, and losses by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shirg.data.render import render_page
from shirg.nano.recipe.export import as_lavida
from shirg.nano.recipe.lessons import PATCHES, collate, lesson, tiles, whole_page
from shirg.nano.recipe.reader import (
    PADDING,
    Reader,
    attend,
    keep_tokens,
    lay_out,
    mass,
    noise,
    patches_of,
    step,
)


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.manual_seed(0)
    return Reader()


def in_a_row(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Places and counts of an image whose tokens are all shown."""
    return torch.arange(count)[None], torch.ones(1, count)


def test_a_branch_is_read_as_if_it_were_alone(reader):
    """Rows of the second branch must not change when the first branch's answers or the third branch do."""
    torch.manual_seed(1)
    shared, prompt, block = 5, 4, 3
    lengths = torch.tensor([[4, 3, 2]])
    layout = lay_out(lengths, prompt, block, *in_a_row(shared))
    rows = shared + 3 * (prompt + 2 * block)
    hidden = torch.randn(1, rows, 192)
    branch = slice(shared + layout.branch, shared + 2 * layout.branch)
    before = attend(reader.language, hidden, layout, set())[0][:, branch]
    changed = hidden.clone()
    changed[:, shared + prompt : shared + layout.branch] = 7.0  # the first branch's two answer copies
    changed[:, shared + 2 * layout.branch :] = -7.0  # the third branch
    changed[:, branch.start + 3] = 9.0  # the padding of the second branch's own prompt
    after = attend(reader.language, changed, layout, set())[0][:, branch]
    visible = [row for row in range(layout.branch) if row != 3]
    assert torch.allclose(before[:, visible], after[:, visible], atol=1e-5)


def test_the_page_sees_the_first_question_and_no_other(reader):
    torch.manual_seed(2)
    layout = lay_out(torch.tensor([[2, 2]]), 2, 1, *in_a_row(3))
    hidden = torch.randn(1, 3 + 2 * 4, 192)
    page = attend(reader.language, hidden, layout, set())[0][:, :3]
    first, second = hidden.clone(), hidden.clone()
    first[:, 3:5] += 3.0
    second[:, 7:9] += 3.0
    assert not torch.allclose(attend(reader.language, first, layout, set())[0][:, :3], page, atol=1e-3)
    assert torch.allclose(attend(reader.language, second, layout, set())[0][:, :3], page, atol=1e-5)


def test_one_branch_equals_the_shipped_language_model(reader):
    """The recipe's own attention against `LanguageModel.forward` with the prefix of a real prompt: copy A only."""
    torch.manual_seed(3)
    shared, prompt, block = 6, 3, 2
    layout = lay_out(torch.tensor([[prompt]]), prompt, block, *in_a_row(shared))
    hidden = torch.randn(1, shared + prompt + 2 * block, 192)
    ours = attend(reader.language, hidden, layout, set())[0][:, : shared + prompt + block]
    length = shared + prompt
    sees = torch.ones(length + block, length + block, dtype=torch.bool)
    sees[:length, length:] = False  # the prefix does not see the answer
    theirs = reader.language(hidden[:, : length + block], attention_mask=sees[None, None])
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_a_row_that_stands_for_three_is_attended_as_three(reader):
    torch.manual_seed(4)
    few = lay_out(torch.tensor([[2]]), 2, 1, torch.tensor([[0, 2, 4]]), torch.tensor([[1.0, 3.0, 1.0]]))
    many = lay_out(torch.tensor([[2]]), 2, 1, *in_a_row(5))
    assert few.positions.tolist() == [[0, 2, 4, 5, 6, 7, 7]]
    assert many.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 7]]
    many.positions[0, 1:4] = 2
    hidden = torch.randn(1, 7, 192)
    repeated = hidden[:, [0, 1, 1, 1, 2, 3, 4, 5, 6]]
    ours, theirs = (
        attend(reader.language, rows, layout, set())[0] for rows, layout in ((hidden, few), (repeated, many))
    )
    assert torch.allclose(ours, theirs[:, [0, 1, 4, 5, 6, 7, 8]], atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 1), pages=st.integers(1, 3))
def test_the_tokens_shown_speak_for_the_whole_image(seed, share, pages):
    written = torch.rand(pages, 980, generator=torch.Generator().manual_seed(seed)) < share
    kept, counts = keep_tokens(written, random.Random(seed))
    assert (kept.diff() > 0).all()
    shown = torch.gather(written, 1, kept)
    assert torch.equal(shown.sum(1), written.sum(1))  # nothing that is written is left out
    assert (counts[shown] == 1).all() and (counts >= 1).all()
    assert torch.allclose(counts.sum(1), torch.tensor(980.0), atol=0.01)  # and every blank one is counted


def test_noise_hides_about_half_and_is_seeded():
    answers = torch.zeros(40, 6, 16, dtype=torch.long)
    drawn = [noise(answers, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*drawn) and drawn[0].shape == answers.shape
    assert 0.4 < drawn[0].float().mean() < 0.6
    assert drawn[0].float().mean(-1).std() > 0.2  # a level for every answer, not one for all


def test_mass_by_hand():
    look = torch.tensor([0.5, 0.25, 0.25]).log().view(1, 1, 1, 1, 3)
    target = torch.tensor([[[[False, True, True]]]])
    assert mass(look, target).item() == pytest.approx(-np.log(0.5))
    assert mass(look, torch.zeros_like(target)).item() == 0


@pytest.fixture(scope="module")
def tiled() -> dict[str, torch.Tensor]:
    """Two lessons of tiles, of small and of large print."""
    tokenizer, pages = Reader().tokenizer, [render_page("table", 3, size=672, text_px=(px, px)) for px in (9, 30)]
    return collate(
        [lesson(tiles(page, px), page.questions[:6], tokenizer) for page, px in zip(pages, (9, 30), strict=True)]
    )


def test_a_page_and_tiles_shown_whole_are_what_the_model_makes_of_them(reader, tiled):
    """Tokens of `see` and `image_tokens` against the exported model's, whose paths they are."""
    model = as_lavida(reader)
    page = render_page("table", 3, size=672, text_px=(9, 9))
    with torch.no_grad():
        theirs = model.encode_images([page.image], "hd")[0]
        seen, rows = reader.see(tiled["pixels"][:1], torch.ones_like(tiled["inked"][:1]))
        ours = reader.image_tokens(seen, rows, tiled["inked"][:1])[0]
        assert torch.allclose(ours, theirs.float(), atol=1e-3)
        small = whole_page(page)[0]
        seen, rows = reader.see(tiled["pixels"][:1, :1], torch.ones(1, PATCHES, dtype=torch.bool))
        alone = reader.image_tokens(seen, rows, torch.ones(1, PATCHES, dtype=torch.bool))[0]
        assert torch.allclose(alone, model.encode_images([small.image], "lowres")[0].float(), atol=1e-3)


def test_patches_that_were_not_seen_become_their_views_mean_blank_one(reader):
    inked = torch.zeros(2, PATCHES, dtype=torch.bool)
    inked[:, 5] = True
    rows = torch.tensor([5, 7, 9, PATCHES + 5, PATCHES + 11])
    seen = torch.randn(5, reader.mm_projector[0].in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens, projected = reader.image_tokens(seen, rows, inked), reader.mm_projector(seen)
    assert torch.allclose(tokens[0, [5, 7, 9]], projected[:3])
    assert torch.allclose(tokens[0, 0], projected[1:3].mean(0), atol=1e-6)
    assert torch.allclose(tokens[1, 0], projected[4], atol=1e-6)


def test_the_tower_is_shown_all_that_is_inked_and_a_patch_of_every_token_that_is_kept(reader, tiled):
    kept, _ = keep_tokens(tiled["written"], random.Random(0))
    shown = patches_of(kept, tiled["inked"])
    assert (shown >= tiled["inked"]).all()
    with torch.no_grad():
        _, rows = reader.see(tiled["pixels"], shown)
    assert set(np.flatnonzero(shown)) <= set(rows.tolist())
    assert len(rows) == len(set(rows.tolist())) < shown.numel()
    page = torch.zeros(1, PATCHES, dtype=torch.bool)
    assert patches_of(torch.tensor([[3, 8]]), page).nonzero()[:, 1].tolist() == [3, 8]
    # Token 14 + 1 of the second view of tiles shows rows and columns 2 and 3 of its patches, the first a little more.
    (place,) = (
        patches_of(torch.tensor([[196 + 15]]), torch.zeros(1, 5 * PATCHES, dtype=torch.bool)).nonzero()[:, 1].tolist()
    )
    assert divmod(place - PATCHES, 27) in {(2, 2), (2, 3), (3, 2), (3, 3)}


@pytest.mark.parametrize("whole", [False, True])
def test_tiles_have_all_losses_and_teach_the_tower(reader, tiled, whole):
    reader.zero_grad()
    losses, right = step(reader, tiled, random.Random(0), torch.Generator().manual_seed(0), not whole, whole)
    dense = set() if whole else {"glyph", "word"}
    assert set(losses) == {"answer", "name", "place", "key0", "key1"} | dense
    assert all(0 < loss.item() < 20 for loss in losses.values()) and 0 <= right <= 1
    sum(losses.values()).backward()
    taught = reader.tower.embeddings.patch_embedding.weight.grad
    assert (taught is None) if whole else taught.abs().sum() > 0


def test_answer_blocks_end_soon_after_the_longest_answer(reader, tiled, monkeypatch):
    blocks = []
    monkeypatch.setattr("shirg.nano.recipe.reader.lay_out", lambda *given: blocks.append(given[2]) or lay_out(*given))
    with torch.no_grad():
        step(reader, tiled, random.Random(0), torch.Generator().manual_seed(0), False, False)
    longest = int((tiled["answers"] != reader.end_id).sum(-1).max())
    assert blocks == [min(tiled["answers"].shape[-1], longest + PADDING)]

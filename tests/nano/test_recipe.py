"""The recipe of LaViDa-nano: its targets by hand, who sees whom, and all stages run for a few seconds."""

from __future__ import annotations

import random
import string
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shirg.data.pages import Page, Question, Word
from shirg.data.render import render_page
from shirg.lavida import Lavida
from shirg.nano.recipe import __main__ as recipe
from shirg.nano.recipe.export import as_lavida, nano_config
from shirg.nano.recipe.glyphs import IGNORE
from shirg.nano.recipe.lessons import PATCHES, POSITIONS, collate, whole_page, window
from shirg.nano.recipe.reader import Reader, attend, keep_patches, lay_out, mass, noise, train_reader, whole_mean
from shirg.nano.recipe.score import MEASURES, print_table, summarised
from shirg.nano.recipe.stage import Stage
from shirg.nano.recipe.tokenizer import build_tokenizer
from shirg.nano.recipe.tower import train_tower


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.manual_seed(0)
    return Reader()


def word(text: str, left: float, top: float, step: float) -> Word:
    edges = tuple(left + step * number for number in range(len(text) + 1))
    return Word(text, (left, top, edges[-1], top + 10), edges)


class TestTokenizer:
    def test_text_comes_back_as_it_went_in(self):
        tokenizer = build_tokenizer()
        for text in ("What is the Due Date?", "Totally 2019.50 A-12/7", string.printable[:95]):
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text

    def test_a_label_alone_is_one_token_and_inside_a_word_it_is_spelled(self):
        tokenizer = build_tokenizer()
        assert tokenizer.convert_ids_to_tokens(tokenizer("Total")["input_ids"]) == ["Total"]
        assert tokenizer.convert_ids_to_tokens(tokenizer("Totals")["input_ids"]) == list("Totals")


class TestLessons:
    page = Page(
        image=render_page("form", 0, size=384).image,
        words=[word("Total:", 14, 14, 7), word("42", 70, 14, 14)],
        questions=[Question("What is the Total?", ("42",), "field", 14.0, (1,), (0,))],
        kind="form",
        seed=0,
    )

    def test_answer_characters_and_label_are_found_on_the_grid(self):
        tokenizer = build_tokenizer()
        one = whole_page(self.page, tokenizer, random.Random(0))
        # "Total:" has its centres at x = 17.5 ... 52.5, columns 1 to 3; y middle 19, row 1. "4" is at x = 77, "2" at 91.
        assert np.flatnonzero(one.keys[0, 0]).tolist() == [POSITIONS + col for col in (1, 2, 3)]
        assert np.flatnonzero(one.places[0, 0]).tolist() == [POSITIONS + 5]
        assert np.flatnonzero(one.places[0, 1]).tolist() == [POSITIONS + 6]
        assert not one.places[0, 2:].any()
        prompt = tokenizer.convert_ids_to_tokens(one.prompts[0][: one.prompt_lengths[0]].tolist())
        assert [piece for piece, named in zip(prompt, one.named[0], strict=False) if named] == ["Total"]

    def test_a_window_holds_all_of_what_it_asks_for(self):
        page = render_page("table", 3, size=672, text_px=(10, 14))
        one = window(page, build_tokenizer(), random.Random(1))
        side, top, left = one.origin
        assert side == 48 and 0 <= top <= 48 - 27 and 0 <= left <= 48 - 27
        assert one.places[:, 0].any(-1).all()  # the first character of every answer
        labelled = one.named.any(-1)  # titles have no label
        assert labelled.any() and one.keys[labelled].any(-1).all()


class TestReader:
    def test_a_branch_is_read_as_if_it_were_alone(self, reader):
        """Rows of the second branch must not change when the first branch's answers or the third branch do."""
        torch.manual_seed(1)
        shared, prompt, block = 5, 4, 3
        lengths = torch.tensor([[4, 3, 2]])
        layout = lay_out(lengths, prompt, block, torch.ones(1, shared))
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

    def test_the_page_sees_the_first_question_and_no_other(self, reader):
        torch.manual_seed(2)
        layout = lay_out(torch.tensor([[2, 2]]), 2, 1, torch.ones(1, 3))
        hidden = torch.randn(1, 3 + 2 * 4, 192)
        page = attend(reader.language, hidden, layout, set())[0][:, :3]
        first, second = hidden.clone(), hidden.clone()
        first[:, 3:5] += 3.0
        second[:, 7:9] += 3.0
        assert not torch.allclose(attend(reader.language, first, layout, set())[0][:, :3], page, atol=1e-3)
        assert torch.allclose(attend(reader.language, second, layout, set())[0][:, :3], page, atol=1e-5)

    def test_one_branch_equals_the_shipped_language_model(self, reader):
        """The recipe's own attention against `LanguageModel.forward` with the prefix of a real prompt: copy A only."""
        torch.manual_seed(3)
        shared, prompt, block = 6, 3, 2
        layout = lay_out(torch.tensor([[prompt]]), prompt, block, torch.ones(1, shared))
        hidden = torch.randn(1, shared + prompt + 2 * block, 192)
        ours = attend(reader.language, hidden, layout, set())[0][:, : shared + prompt + block]
        length = shared + prompt
        sees = torch.ones(length + block, length + block, dtype=torch.bool)
        sees[:length, length:] = False  # the prefix does not see the answer
        theirs = reader.language(hidden[:, : length + block], attention_mask=sees[None, None])
        assert torch.allclose(ours, theirs, atol=1e-4)

    def test_a_row_that_stands_for_three_is_attended_as_three(self, reader):
        torch.manual_seed(4)
        few = lay_out(torch.tensor([[2]]), 2, 1, torch.tensor([[1.0, 3.0, 1.0]]))
        many = lay_out(torch.tensor([[2]]), 2, 1, torch.ones(1, 5))
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
    def test_the_patches_shown_speak_for_the_whole_page_or_a_part_of_it(self, seed, share, pages):
        inked = torch.rand(pages, POSITIONS**2, generator=torch.Generator().manual_seed(seed)) < share
        kept, counts = keep_patches(inked, random.Random(seed))
        assert (kept.diff() > 0).all()
        shown = torch.gather(inked, 1, kept)
        assert torch.equal(shown.sum(1), inked.sum(1))  # nothing that is written is left out
        assert (counts[shown] == 1).all() and (counts >= 1).all()
        assert (counts.sum(1) <= POSITIONS**2 + 0.01).all()

    def test_one_batch_in_two_is_a_page_seen_whole(self):
        inked = torch.zeros(2, POSITIONS**2, dtype=torch.bool)
        inked[0, :100] = inked[1, :20] = True
        sums = torch.stack([keep_patches(inked, random.Random(seed))[1].sum(1) for seed in range(40)])
        whole = (sums - POSITIONS**2).abs() < 0.01
        assert torch.equal(whole[:, 0], whole[:, 1]) and 10 <= whole[:, 0].sum() <= 30

    def test_noise_hides_about_half_and_is_seeded(self):
        answers = torch.zeros(40, 6, 16, dtype=torch.long)
        drawn = [noise(answers, torch.Generator().manual_seed(5)) for _ in range(2)]
        assert torch.equal(*drawn) and drawn[0].shape == answers.shape
        assert 0.4 < drawn[0].float().mean() < 0.6
        assert drawn[0].float().mean(-1).std() > 0.2  # a level for every answer, not one for all

    def test_mass_by_hand(self):
        look = torch.tensor([0.5, 0.25, 0.25]).log().view(1, 1, 1, 1, 3)
        target = torch.tensor([[[[False, True, True]]]])
        assert mass(look, target).item() == pytest.approx(-np.log(0.5))
        assert mass(look, torch.zeros_like(target)).item() == 0

    def test_a_token_names_a_word_by_pointing_where_its_embedding_points(self, reader):
        ids = reader.tokenizer.convert_tokens_to_ids
        table = reader.language.embed_tokens.weight.detach()
        total, spelled = table[ids("Total")], torch.zeros(len(table[0])).index_fill(0, torch.tensor(0), 1.0)
        page = torch.stack([3 * total, spelled])[None]
        words = torch.tensor([[ids("Total"), IGNORE]])
        right, exchanged = (reader.naming(page, asked, torch.zeros(1)) for asked in (words, words.flip(1)))
        assert right < exchanged - 3  # cosine 1 where none is to be, 0 where one is
        assert torch.allclose(reader.naming(page + 5, words, torch.full((1,), 5.0)), right, atol=1e-4)

    def test_blank_tokens_that_are_shown_speak_for_all(self):
        tokens = torch.tensor([[[1.0], [3.0], [10.0], [10.0], [10.0], [10.0]]])
        inked = torch.tensor([[True, True, False, False, False, False]])
        assert whole_mean(tokens[:, :3], torch.tensor([[0, 1, 2]]), inked).item() == pytest.approx(44 / 6)
        assert whole_mean(tokens, torch.arange(6)[None], inked).item() == pytest.approx(44 / 6)
        assert whole_mean(tokens[:, :2], torch.tensor([[0, 1]]), inked).item() == pytest.approx(2)  # none is shown

    def test_export_keeps_every_weight(self, reader):
        model = as_lavida(reader)
        pixels = torch.rand(1, 3, 384, 384) * 2 - 1
        patches = reader.tower.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        ours = reader.tower.encoder(inputs_embeds=patches + reader.tower.embeddings.position_embedding.weight)
        with torch.no_grad():
            assert torch.allclose(model.tower(pixels), ours.last_hidden_state, atol=1e-4)
        assert model.config.mask_token_id == nano_config(reader)["mask_token_id"] == reader.mask_id


def test_all_stages_run_stop_and_go_on(tmp_path, monkeypatch):
    """A step or a few of every stage, of few pages. The second call finds them finished and trains nothing, a third with more
    hours goes on with the last, and leaves the tower's first stage behind."""
    monkeypatch.setattr(recipe, "train_tower", partial(train_tower, batch=4))
    monkeypatch.setattr(recipe, "train_reader", partial(train_reader, batch=2))

    def run(seconds: float) -> dict[str, int]:
        monkeypatch.setattr("sys.argv", ["recipe", "--work", str(tmp_path), "--hours", str(seconds / 3600)])
        recipe.main()
        return {name: Stage(tmp_path / name, 1.0).steps for name in recipe.SHARES}

    steps = run(1)
    assert all(steps.values())
    assert run(1) == steps
    longer = run((Stage(tmp_path / "together", 1.0).spent + 0.2) / recipe.SHARES["together"])
    assert longer.pop("together") > steps.pop("together") and longer == steps
    model = Lavida.from_pretrained(tmp_path / "nano")
    page = render_page("form", 1, size=384)
    assert isinstance(model.answer(page.image, page.questions[0].question, mode="lowres", max_new_tokens=8), str)


def test_collate_stacks_all_fields():
    lesson = whole_page(TestLessons.page, build_tokenizer(), random.Random(0))
    batch = collate([lesson, lesson])
    assert batch["inked"].shape == (2, PATCHES) and batch["pixels"].shape == (2, 1, 384, 384, 3)


def test_a_single_page_is_scored_without_an_interval(capsys):
    rows = [{"page": "0", **dict.fromkeys(MEASURES, value)} for value in (1.0, 0.0)]
    found = summarised(rows)
    assert found == {"questions": 2, **{label: [0.5, None, None] for label in MEASURES}}
    print_table("pages | shown", {"form": {"right": found}})
    assert capsys.readouterr().out.splitlines()[-1] == "| form | right | 2 | 50.0% | 50.0% |"

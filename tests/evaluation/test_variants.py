"""Every way of showing a page, by name: what it looks at, what it keeps, and that nothing is left switched."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from shirg.errors import UserError
from shirg.evaluation.answering import Decoding, Page, answers, image_embeds
from shirg.evaluation.efficiency import computed_costs, measure_efficiency
from shirg.evaluation.evaluator import SHIRGEvaluator
from shirg.evaluation.variants import (
    ADAPTER,
    ALL_MODES,
    BASELINES,
    SELECTING_MODES,
    Variant,
    list_variants,
    named_modes,
    references,
)
from shirg.gate import GateConfig
from shirg.gate.selectors import SELECTORS
from shirg.lavida.tower import SigLipVisionTower
from tests.evaluation.conftest import RECORDS, adapted_model, small_config
from tests.tiny import name_a_token, tiny_model, tiny_page

BUDGET = 24
DECODING = Decoding(4, 4, 0.5)


def small_model(**overrides):
    model = tiny_model(**overrides)
    model.vision = replace(model.vision, resolution=168)  # 12 x 12 patches
    return model


def embeds_of(model, variant: Variant) -> torch.Tensor:
    page = Page(model, tiny_page(), [variant])
    ids = model.question_ids(model.prompt_ids("What is the total?"))
    return image_embeds(model, page.features(variant), variant, ids)


def test_all_is_every_path_and_every_rule_of_the_gate():
    assert {*BASELINES, "shirg"} == set(SELECTORS)
    assert named_modes(["all"], flat=False) == list(ALL_MODES)
    assert "hd-flat" not in named_modes(["all"], flat=True) and named_modes(["hd-flat"], flat=True) == ["hd-flat"]
    assert named_modes(["uniform", "all"], flat=False)[0] == "uniform"
    with pytest.raises(
        UserError, match=r"modes: got 'unifrom' \(did you mean uniform\?\), must be all, core or some of lowres"
    ):
        named_modes(["unifrom"], flat=False)


def test_every_rule_runs_at_every_budget_with_and_without_the_adapter():
    variants = list_variants(named_modes(["all"], flat=False), [24, 48], [ADAPTER])
    names = [variant.name for variant in variants]
    assert len(names) == len(set(names)) == 2 * (5 + 2 * len(SELECTING_MODES))
    assert {"lowres", "hd-flat", "multiview-all", "multiview-48+adapter", "shirg-24", "uniform-48+adapter"} <= set(
        names
    )


def test_core_is_nine_variants_at_two_budgets():
    variants = list_variants(named_modes(["core"], flat=False), [512, 768])
    assert len(variants) == 10 and {"lowres", "hd-flat", "highres", "shirg-512"} <= {one.name for one in variants}
    assert len(list_variants(named_modes(["core"], flat=True), [512, 768])) == 9


@pytest.mark.parametrize("rule", [*BASELINES, "shirg"])
def test_only_rules_that_look_at_the_question_choose_for_every_question(rule):
    model, variant = small_model(), Variant(rule, BUDGET)
    model.vision = replace(model.vision, relevance="llm", relevance_floor=-0.99)
    features, settings = Page(model, tiny_page(), [variant]).features(variant), variant.settings(model.vision)
    ids = [model.question_ids(model.prompt_ids(text)) for text in ("What is the total?", "Who?", "Which date is it?")]
    name_a_token(model, features, ids[0][-2:], 5)
    chosen = [model.select(features, BUDGET, asked, settings).tokens for asked in ids]
    alike = all(tokens.equal(chosen[0]) for tokens in chosen)
    assert alike == (not variant.uses_question)


@pytest.mark.parametrize("rule", BASELINES)
def test_a_rule_by_name_is_that_gate(rule):
    model, variant = small_model(), Variant(rule, BUDGET)
    own = model.vision
    found = embeds_of(model, variant)
    assert model.vision is own
    model.vision = replace(own, gate=GateConfig(selector=rule))
    ids = model.question_ids(model.prompt_ids("What is the total?"))
    assert found.equal(model.image_embeds(model.image_features(tiny_page(), "shirg"), "shirg", BUDGET, ids))
    assert len(found) <= BUDGET + 1


def test_early_is_encoded_apart_compared_with_shirg_and_the_same_for_every_question():
    model, variants = small_model(), [Variant("early", BUDGET), Variant("early", 30), Variant("shirg", BUDGET)]
    page, (early, other, shirg) = Page(model, tiny_page(), variants), variants
    assert page.features(early) is page.features(other) is not page.features(shirg)
    assert early.uses_question is False and shirg.uses_question
    for variant in variants:
        found = list(answers(model, variant, [(page, "What?"), (page, "Who?")], DECODING))
        assert [tokens for _, tokens in found] == [variant.budget + 1] * 2
    costs = measure_efficiency(
        model, tiny_page(), model.prompt_ids("What?"), variants, DECODING, repeats=1, advance=lambda *_: None
    )
    assert [row.tokens for row in costs.rows] == [BUDGET + 1, 31, BUDGET + 1]
    assert all(min(row.tower_ms, row.selection_ms, row.embedding_ms, row.total_ms) > 0 for row in costs.rows)
    computed = {row.variant: row for row in costs.computed.rows}
    assert computed[early.name].tower < computed[shirg.name].tower and computed[early.name].gate_projection == 0
    run = [Variant("hd"), Variant("highres"), *variants, Variant("shirg", 30)]
    assert references(early, run) == [Variant("hd"), Variant("highres"), shirg]
    assert references(shirg, run) == [Variant("hd"), Variant("highres")]
    names = [variant.name for variant in list_variants(named_modes(["core", "early"], flat=True), [512, 768])]
    assert names[-2:] == ["early-512", "early-768"] and len(names) == 11


def test_paths_that_lavida_has_not():
    model = small_model(mm_patch_merge_type="spatial_unpad")
    flat = small_model()
    assert len(embeds_of(model, Variant("hd-flat"))) == len(embeds_of(flat, Variant("hd")))
    assert embeds_of(flat, Variant("hd-flat")).equal(embeds_of(flat, Variant("hd")))
    assert len(embeds_of(model, Variant("hd"))) != len(embeds_of(model, Variant("hd-flat")))
    views = len(model.image_features(tiny_page(), "multiview").tokens)
    assert len(embeds_of(model, Variant("multiview-all"))) == views * 729
    assert len(embeds_of(model, Variant("multiview", BUDGET))) == BUDGET + 1


def test_rules_that_look_at_attention_share_the_towers_one_pass(monkeypatch):
    model, passes = small_model(), []
    for name in ("forward", "forward_with_input"):
        real = getattr(SigLipVisionTower, name)
        monkeypatch.setattr(
            SigLipVisionTower, name, lambda self, pixels, real=real: passes.append(1) or real(self, pixels)
        )
    variants = [Variant("shirg", BUDGET), Variant("visionzip", BUDGET), Variant("prumerge", BUDGET), Variant("highres")]
    assert any(variant.needs for variant in variants)
    page = Page(model, tiny_page(), variants)
    for variant in variants:
        ((text, tokens),) = answers(model, variant, [(page, "What?")], DECODING)
        assert tokens <= 144
    assert len(passes) == 1


def test_recomputing_the_towers_layer_is_part_of_the_selections_time(monkeypatch):
    model, calls = small_model(), []
    real = SigLipVisionTower.attention_and_keys

    def counting(self, *arguments):
        calls.append(1)
        return real(self, *arguments)

    monkeypatch.setattr(SigLipVisionTower, "attention_and_keys", counting)
    variant = next(Variant(rule, BUDGET) for rule in BASELINES if SELECTORS[rule].needs)
    found = measure_efficiency(
        *(model, tiny_page(), model.prompt_ids("What?"), [variant, Variant("uniform", BUDGET)]),
        *(DECODING, 1, lambda *_: None),
    )
    assert len(calls) > 3 * 2  # selection, embedding, whole answers: each warmed up and timed
    assert all(row.selection_ms > 0 and row.total_ms > 0 for row in found.rows) and len(found.rows) == 2


def test_shirg_is_compared_with_every_rule_at_its_own_budget():
    run = list_variants(["hd", "shirg", "uniform", "random"], [24, 48], [ADAPTER])
    assert [one.name for one in references(Variant("shirg", 48), run)] == ["hd", "random-48", "uniform-48"]
    names = [one.name for one in references(Variant("uniform", 24, ADAPTER), run)]
    assert names == ["hd", "uniform-24", "hd+adapter"]


def test_a_selection_is_compared_with_every_token_that_it_selects_from():
    run = list_variants(["highres", "multiview-all", "multiview", "shirg"], [24], [ADAPTER])
    assert [one.name for one in references(Variant("multiview", 24), run)] == ["highres", "multiview-all"]
    assert Variant("multiview-all", None, ADAPTER) in references(Variant("multiview", 24, ADAPTER), run)
    assert [one.name for one in references(Variant("shirg", 24), run)] == ["highres"]


def test_one_table_of_all(benchmark, tmp_path):
    benchmark(RECORDS[:2])
    model = adapted_model()
    config = small_config(
        tmp_path, modes=["shirg", "uniform", "visionzip"], token_budgets=[BUDGET], efficiency_repeats=1
    )
    results = SHIRGEvaluator(config, model).evaluate()
    report = (tmp_path / "evaluation_report.md").read_text(encoding="utf-8")
    for name in ("shirg-24", "uniform-24", "visionzip-24+adapter"):
        assert f"| {name} |" in report
    assert "| against uniform |" in report and "`uniform`, `visionzip`: the same large page" in report
    assert "The same paths at the size of llada-8b" in report
    pairs = {(entry.variant, entry.against) for entry in results.comparisons}
    assert ("shirg-24+adapter", "visionzip-24+adapter") in pairs
    assert model.vision.gate.selector == "shirg"


def test_computed_costs_are_those_of_the_published_shape():
    variants = [Variant(mode) for mode in ("lowres", "hd", "hd-flat", "highres", "multiview-all")]
    variants += [
        Variant("shirg", 768),
        Variant("uniform", 768),
        Variant("shirg", 5000),
        Variant("multiview", 512),
        Variant("shirg", "auto"),
    ]
    found = computed_costs(variants, 672)
    tokens = {row.variant: row.tokens for row in found.rows}
    assert tokens == {
        "lowres": 729,
        "hd": 1008,
        "hd-flat": 980,
        "highres": 2304,
        "multiview-all": 3645,
        "shirg-768": 769,
        "multiview-512": 513,
    }
    row = next(row for row in found.rows if row.variant == "shirg-768")
    assert row.kv_bytes == (769 + 64) * 2 * 32 * 4096 * 2
    assert row.total_cached < row.total_uncached / 4
    small = {row.variant: row.tokens for row in computed_costs(variants, 336).rows}
    assert small == {name: tokens[name] for name in ("lowres", "hd", "hd-flat", "multiview-all", "multiview-512")} | {
        "highres": 576
    }

"""Costs computed from a configuration, against the modules, torch's own count of operations, and real caches."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from shirg.errors import UserError
from shirg.lavida import Lavida, LavidaConfig, PrefixCache, adapter, costs
from shirg.lavida.shapes import PUBLISHED, published_config
from tests.tiny import tiny_config, tiny_model, tiny_page

CONFIGS = {
    "tiny llada": lambda: tiny_config("llada", mm_patch_merge_type="spatial_unpad"),
    "tiny dream": lambda: tiny_config("dream"),
    **{name: lambda name=name: published_config(name) for name in PUBLISHED},
}
PREFIX, ANSWER = 833, 32


@pytest.fixture(scope="module", params=CONFIGS)
def model(request) -> Lavida:
    """A model without memory: modules on the "meta" device have shapes and no content."""
    with torch.device("meta"):
        return Lavida(CONFIGS[request.param]()).eval()


@torch.no_grad()
def counted(action) -> int:
    """FLOPs by torch's count. It knows no fused attention for CPUs, so the plain products are asked for."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta")


# -------------------- parameters and bytes


def test_parameters_are_those_of_the_modules(model):
    found = costs.parameters(model.config)
    assert found["vision tower"] == sum(p.numel() for p in model.tower.parameters())
    assert found["projector"] == sum(p.numel() for p in model.mm_projector.parameters())
    assert found["language"] == sum(p.numel() for p in model.language.parameters())
    assert found["newline"] == (0 if model.image_newline is None else model.image_newline.numel())
    assert sum(found.values()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_adapter_is_the_default_one(name):
    with torch.device("meta"):
        model = Lavida(CONFIGS[name]())
        adapter.attach_lora(model)
    found = costs.adapter_parameters(model.config)
    assert found == sum(p.numel() for p in adapter.lora_parameters(model).values())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters())
    assert costs.describe(model.config, [512], costs.Scenario())["adapter"]["share"] == trainable / everything


def test_published_sizes_by_hand():
    llada, dream = published_config("llada-8b"), published_config("dream-7b")
    assert costs.adapter_parameters(llada) == 16 * (1152 + 4096) + 16 * (4096 + 4096) == 215_040
    assert costs.kv_bytes_per_token(llada) == 2 * 32 * 32 * 128 * 2 == 512 * 1024
    assert costs.kv_bytes_per_token(dream) == 2 * 28 * 4 * 128 * 2 == 56 * 1024
    assert costs.language_parameters(llada) == 8_015_581_184  # LLaDA-8B
    assert costs.language_parameters(dream) == 7_615_616_512  # Qwen2.5-7B, whose shape Dream-7B has


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_bytes_of_a_real_cache(family, dtype):
    model = tiny_model(family).to(getattr(torch, dtype))
    assert cache_of(model, "shirg", 100).nbytes == 137 * costs.kv_bytes_per_token(model.config, dtype)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_bytes_of_the_reference_models_cache(request, family):
    model = request.getfixturevalue(family)
    cache = cache_of(model, "lowres", None)
    assert (cache.length, cache.nbytes) == (729 + 36, 765 * costs.kv_bytes_per_token(model.config, "float32"))


@torch.no_grad()
def test_the_nano_agrees_with_its_formulas():
    model = Lavida.from_pretrained("nano")
    assert sum(costs.parameters(model.config).values()) == sum(p.numel() for p in model.parameters())
    scenario = costs.Scenario(prompt_tokens=36, dtype="float32")
    for mode in ("hd", "shirg"):
        shape = costs.vision_shape(model.config, mode)
        cost = costs.path_cost(model.config, shape, scenario)
        cache = cache_of(model, mode, shape.budget)
        assert (cache.length, cache.nbytes) == (cost.prefix_tokens, cost.kv_bytes)


@torch.no_grad()
def cache_of(model: Lavida, mode: str, budget: int | None) -> PrefixCache:
    """The cache of a page and 36 tokens of text."""
    embeds = model.image_embeds(model.image_features(tiny_page(800, 800), mode), mode, budget)
    ids = torch.tensor([*range(20), model.config.image_token_index, *range(16)])
    cache = PrefixCache()
    model.language(model.splice(ids, [embeds])[None], cache=cache)
    return cache


# -------------------- tokens


def test_pooled_tokens_are_the_official_ones(reference):
    geometry = reference.json("anyres_geometry")
    for entry in geometry["entries"]:
        size, (height, width) = tuple(entry["size_wh"]), entry["unpadded_hw"]
        for merge_type in ("flat", "spatial_unpad"):
            config = tiny_config(mm_patch_merge_type=merge_type, image_grid_pinpoints=geometry["pinpoints"])
            shape = costs.vision_shape(config, "hd", image_size=size)
            assert (shape.views, shape.tokens) == (entry["num_views"], entry[f"tokens_{merge_type}"])
        assert shape.layout == f"14x14 + {height}x({width}+1)"


def test_a_square_image_by_path():
    config = tiny_config(mm_patch_merge_type="spatial_unpad")
    counts = {mode: costs.path_tokens(config, mode) for mode in costs.PATH_ORDER}
    assert counts == {"lowres": 729, "hd": 1008, "shirg": 769, "highres": 2304, "multiview": 769}
    assert costs.path_tokens(tiny_config(), "hd") == 980
    assert costs.path_tokens(config, "shirg", budget=2304) == 2305
    assert costs.vision_shape(config, "multiview").encoded == 3645
    assert costs.vision_shape(config, "multiview", image_size=(100, 900)).encoded == 4 * 729


@torch.no_grad()
@pytest.mark.parametrize(
    ("size", "overrides"),
    [
        ((640, 480), {"mm_patch_merge_type": "spatial_unpad"}),
        ((200, 700), {"mm_patch_merge_type": "spatial", "mm_spatial_pool_mode": "average"}),
        ((90, 100), {"mm_patch_merge_type": "flat", "mm_spatial_pool_mode": "max"}),
    ],
)
def test_tokens_are_as_many_as_the_model_makes(size, overrides):
    model = tiny_model(shirg={"resolution": 224}, **overrides)
    for mode in costs.PATH_ORDER:
        (embeds,) = model.encode_images([tiny_page(*size)], mode, 100)
        assert len(embeds) == costs.path_tokens(model.config, mode, budget=100, image_size=size)


def test_mistakes_about_tokens_are_named():
    config = tiny_config(shirg={"resolution": 112})
    with pytest.raises(UserError, match="budget=65: expected a whole number from 1 to 64"):
        costs.path_tokens(config, "shirg", budget=65)
    with pytest.raises(UserError, match="mode='tiles' is unknown"):
        costs.path_tokens(config, "tiles")


# -------------------- operations


@pytest.mark.parametrize("mode", ["lowres", "hd", "highres"])
def test_tower_and_projector_as_torch_counts_them(model, mode):
    shape = costs.vision_shape(model.config, mode)
    pixels = meta(shape.views, 3, shape.side, shape.side)
    assert counted(lambda: model.tower(pixels)) == costs.tower_flops(
        model.config, shape.views, shape.encoded // shape.views
    )
    tokens = meta(shape.views, shape.encoded // shape.views, model.config.vision_hidden_size)
    assert counted(lambda: model.mm_projector(tokens)) == costs.projector_flops(model.config, shape.encoded)


def test_prefill_and_steps_as_torch_counts_them(model):
    """Published sizes and grouped queries included."""
    config, width, cache = model.config, model.config.hidden_size, PrefixCache()

    def prefill():
        model.language(meta(1, PREFIX, width), cache=cache, read_from=PREFIX - 1)

    assert counted(prefill) == costs.prefill_flops(config, PREFIX)
    assert cache.freeze().nbytes == PREFIX * costs.kv_bytes_per_token(config, "float32")

    def cached_step():
        model.language.logits(model.language(meta(1, ANSWER, width), cache=cache))

    def uncached_step():
        model.language.logits(model.language(meta(1, PREFIX + ANSWER, width), read_from=PREFIX - 1)[:, 1:])

    assert counted(cached_step) == costs.step_flops(config, PREFIX, ANSWER, cached=True)
    assert counted(uncached_step) == costs.step_flops(config, PREFIX, ANSWER, cached=False)


@pytest.mark.parametrize("prefix_lm", [True, False])
@pytest.mark.parametrize(
    ("family", "mode"), [("llada", "hd"), ("dream", "lowres"), ("llada", "shirg"), ("dream", "shirg")]
)
def test_a_whole_answer_as_torch_counts_it(family, mode, prefix_lm):
    """From page to tokens on a CPU. Of the gate torch counts the products with the question only, so it lies between the
    total without and with the gate's own arithmetic; Dream takes its first token from one more row of logits."""
    model, page, passes = tiny_model(family, shirg={"resolution": 336}), tiny_page(600, 600), []
    ids = model.prompt_ids("Total?")
    shape = costs.vision_shape(model.config, mode, budget=200, image_size=page.size)
    scenario = costs.Scenario(page.size, prompt_tokens=len(ids) - 1, answer_tokens=8, steps=4, dtype="float32")
    cost = costs.path_cost(model.config, shape, scenario)
    found = counted(
        lambda: model.generate(
            ids[None],
            [page],
            mode,
            200,
            max_new_tokens=8,
            steps=4,
            prefix_lm=prefix_lm,
            on_step=lambda number, _: passes.append(number),
        )
    )
    assert len(passes) == 4
    extra = costs.head_flops(model.config, 1) if family == "dream" and prefix_lm else 0
    total = (cost.total_cached if prefix_lm else cost.total_uncached) + extra
    assert total - cost.gate_arithmetic <= found <= total
    if mode != "shirg":
        assert cost.gate_arithmetic == cost.gate_projection == 0


def test_relevance_decides_what_the_gate_costs():
    config = published_config("llada-8b")
    assert costs.relevance_flops(config, 1, 2304) == 2 * 2304 * (1152 * 4096 + 4096**2)
    assert costs.relevance_flops(replace(config, vision=replace(config.vision, relevance="none")), 1, 2304) == 0
    shape = costs.vision_shape(config, "shirg")
    cost = costs.path_cost(config, shape, costs.Scenario())
    assert cost.gate_arithmetic < 0.07 * cost.gate_projection < 0.001 * cost.total_cached


def test_siglip_relevance_as_torch_counts_it():
    """The removed layer on each view, then the pooling head with every patch as its only key."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = published_config("llada-8b")
    config = replace(config, vision=replace(config.vision, relevance="siglip"))
    with torch.device("meta"):
        whole = SiglipVisionModel(SiglipVisionConfig(**config.vision_config, vision_use_head=True))
    whole.encoder.layers = whole.encoder.layers[-1:]
    head, tokens = whole.head, meta(5, 729, 1152)

    def compare():
        hidden = whole.encoder(inputs_embeds=tokens).last_hidden_state
        head.mlp(head.attention.out_proj(torch.nn.functional.linear(hidden, head.attention.in_proj_weight[-1152:])))

    assert counted(compare) == costs.relevance_flops(config, 5, 729)


# -------------------- savings and the whole


def test_savings_by_hand():
    config = published_config("llada-8b")
    assert costs.references(config) == {"hd": 1008, "hd flat": 980, "highres": 2304}
    assert costs.references(tiny_config()) == {"hd": 980, "highres": 2304}
    found = {(e["budget"], e["against"]): e for e in costs.savings(config, [512, 768, 1024], costs.Scenario())}
    assert found[768, "hd"]["visual"] == pytest.approx(0.2371, abs=5e-5)
    assert found[768, "hd flat"]["visual"] == pytest.approx(0.2153, abs=5e-5)
    assert found[768, "highres"]["visual"] == pytest.approx(0.6662, abs=5e-5)
    assert found[512, "hd"]["prefix"] == pytest.approx(1 - (513 + 64) / (1008 + 64))
    assert found[1024, "hd"]["visual"] < 0


@given(reference=st.integers(1, 5000), percent=st.integers(1, 99), prompt=st.integers(0, 300))
@settings(max_examples=100, deadline=None)
def test_largest_budget_is_the_last_that_saves_enough(reference, percent, prompt):
    def saves_enough(budget: int) -> bool:
        return 100 * (budget + 1 + prompt) <= (100 - percent) * (reference + prompt)

    budget = costs.largest_budget(reference, percent, prompt)
    assert not saves_enough(budget + 1)
    assert budget == 0 or saves_enough(budget)


def test_description_is_json_and_sums_up():
    found = json.loads(json.dumps(costs.describe(published_config("llada-8b"), [512, 768], costs.Scenario())))
    assert [row["path"] for row in found["paths"]] == [
        *("lowres", "hd", "shirg-512", "shirg-768", "highres", "multiview-512", "multiview-768"),
    ]
    for row in found["paths"]:
        vision = row["tower"] + row["gate_projection"] + row["gate_arithmetic"] + row["projector"]
        assert row["total_cached"] == vision + row["prefill"] + 16 * row["step_cached"]
        assert row["total_uncached"] == vision + 16 * row["step_uncached"]
        assert row["kv_bytes"] == row["prefix_tokens"] * 524_288 == (row["tokens"] + 64) * 524_288
    assert found["weight_bytes"]["total"] == 2 * found["parameters"]["total"]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"image_size": (0, 5)}, "image_size: 0x5"),
        ({"image_size": (10**5, 10**5)}, "80,000,000 pixels"),
        ({"prompt_tokens": 0}, "prompt_tokens: got 0"),
        ({"steps": 33}, "steps: got 33 for 32 answer tokens"),
        ({"dtype": "int8"}, "choose from bfloat16, float16, float32"),
    ],
)
def test_impossible_scenarios_are_named(keywords, message):
    with pytest.raises(UserError, match=message):
        costs.Scenario(**keywords)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"shirg": {"resolution": 670}}, "are 670 and 14"),
        (
            {"vision_config": {"hidden_size": 16, "num_attention_heads": 2, "patch_size": 14, "num_hidden_layers": 1}},
            "at least 2",
        ),
    ],
)
def test_impossible_sizes_are_named(raw, message):
    with pytest.raises(UserError, match=message):
        costs.check_sizes(tiny_config("llada", **raw))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_are_whole_configs(name, caplog):
    config = published_config(name)
    assert isinstance(config, LavidaConfig) and not caplog.records  # nothing had to be assumed
    assert costs.path_tokens(config, "hd") == 1008

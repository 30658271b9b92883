"""Costs from a configuration, against numbers worked by hand, the modules at full depth, and real caches."""

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
from tests.tiny import VISION, tiny_config, tiny_model, tiny_page

CONFIGS = {
    "tiny llada": lambda: tiny_config("llada", mm_patch_merge_type="spatial_unpad"),
    "tiny dream": lambda: tiny_config("dream"),
    **{name: lambda name=name: published_config(name) for name in PUBLISHED},
}
PREFIX, ANSWER = 833, 32


@pytest.fixture(scope="module", params=CONFIGS)
def config(request) -> LavidaConfig:
    return CONFIGS[request.param]()


@torch.no_grad()
def counted(action) -> int:
    """FLOPs by torch's count. It knows no fused attention for CPUs, so the plain products are asked for."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


# -------------------- parameters and bytes


def test_parameters_are_those_of_the_modules(config):
    with torch.device("meta"):
        model = Lavida(config)
    found = costs.parameters(config)
    assert found["vision tower"] == sum(p.numel() for p in model.tower.parameters())
    assert found["projector"] == sum(p.numel() for p in model.mm_projector.parameters())
    assert found["language"] == sum(p.numel() for p in model.language.parameters())
    assert found["newline"] == (0 if model.image_newline is None else model.image_newline.numel())
    assert sum(found.values()) == sum(p.numel() for p in model.parameters())


def test_building_without_memory_draws_nothing():
    """A run that forecasts its costs trains as one that does not."""
    before = torch.get_rng_state()
    costs.parameters(tiny_config(vocab_size=301, embedding_size=301))
    assert torch.equal(torch.get_rng_state(), before)


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
    assert costs.parameters(llada)["language"] == 8_015_581_184  # LLaDA-8B
    assert costs.parameters(dream)["language"] == 7_615_616_512  # Qwen2.5-7B, whose shape Dream-7B has
    assert costs.block_weights(llada) == 4 * 4096**2 + 3 * 4096 * 12288
    assert costs.block_weights(dream) == 2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18944


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
def test_the_nano_costs_what_is_computed():
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
    assert counts == {"lowres": 729, "hd": 1008, "shirg": 769, "early": 769, "highres": 2304, "multiview": 769}
    assert costs.path_tokens(tiny_config(), "hd") == 980
    assert costs.path_tokens(config, "shirg", budget=2304) == 2305
    assert costs.path_tokens(config, "early", budget=2304) == 2304  # nothing is dropped, so there is no summary
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


def test_the_resolution_of_a_run_is_not_the_checkpoints():
    config = tiny_config(shirg={"resolution": 112})
    assert costs.path_tokens(config, "highres") == 64
    run = replace(config, vision=replace(config.vision, resolution=896))
    assert costs.path_tokens(run, "highres") == 4096
    assert costs.path_tokens(run, "shirg", budget=3000) == 3001
    assert costs.path_tokens(run, "hd") == 980  # tiles are as large as the tower's images
    rows = costs.describe(run, [3000], costs.Scenario())
    assert {row["path"]: row["side"] for row in rows["paths"]}["shirg-3000"] == 896
    assert rows["savings"][-1]["reference_tokens"] == 4096


def test_mistakes_about_tokens_are_named():
    config = tiny_config(shirg={"resolution": 112})
    with pytest.raises(
        UserError, match="budget: got 65, must be a whole number from 1 to the tokens of the image, here 64"
    ):
        costs.path_tokens(config, "shirg", budget=65)
    with pytest.raises(UserError, match="mode='tiles' is unknown"):
        costs.path_tokens(config, "tiles")


# -------------------- operations


def test_flops_by_hand(config):
    """All of them; tokens N, tower of width D, MLP I and patches of p pixels, body of width H."""
    tower, body = costs.modules(config).tower.config, config.body
    width, inner, tokens = tower.hidden_size, tower.intermediate_size, 48 * 48
    layer = 2 * tokens * (4 * width**2 + 2 * width * inner) + 4 * tokens**2 * width
    patches = 2 * tokens * 3 * 14**2 * width
    assert costs.flops(config, "layer", 5, tokens) == 5 * layer
    assert costs.flops(config, "tower", 5, 672) == 5 * (patches + tower.num_hidden_layers * layer)
    hidden = body.hidden_size
    assert costs.flops(config, "projector", 769) == 2 * 769 * (width * hidden + hidden**2)
    assert costs.flops(config, "head", 32) == 2 * 32 * hidden * body.vocab_size
    keys = body.num_kv_heads * body.head_dim
    weights = 2 * hidden**2 + 2 * hidden * keys + 3 * hidden * body.intermediate_size

    def block(rows: int, seen: int) -> int:
        return 2 * rows * weights + 4 * rows * seen * hidden

    # Of positions that nobody reads the last block makes keys and values.
    whole = (body.num_layers - 1) * block(PREFIX, PREFIX) + block(1, PREFIX) + 4 * (PREFIX - 1) * hidden * keys
    assert costs.flops(config, "body", PREFIX, 1, 0) == whole
    assert costs.flops(config, "body", ANSWER, ANSWER, PREFIX) == body.num_layers * block(ANSWER, PREFIX + ANSWER)


def test_flops_are_those_of_all_layers(config):
    """Two layers are run and counted as many; here are all of them."""
    model, hidden = costs.modules(config), config.hidden_size
    shape = costs.vision_shape(config, "hd")
    pixels = costs.meta(shape.views, 3, shape.side, shape.side)
    assert counted(lambda: model.tower(pixels)) == costs.flops(config, "tower", shape.views, shape.side)
    cache = PrefixCache()

    def prefill():
        model.language(costs.meta(1, PREFIX, hidden), cache=cache, read_from=PREFIX - 1)

    assert counted(prefill) == costs.flops(config, "body", PREFIX, 1, 0)
    assert cache.freeze().nbytes == PREFIX * costs.kv_bytes_per_token(config, "float32")
    step = counted(lambda: model.language(costs.meta(1, ANSWER, hidden), cache=cache))
    assert step == costs.flops(config, "body", ANSWER, ANSWER, PREFIX)


@pytest.mark.parametrize("prefix_lm", [True, False])
@pytest.mark.parametrize(
    ("family", "mode"),
    [
        ("llada", "hd"),
        ("dream", "lowres"),
        ("llada", "shirg"),
        ("dream", "shirg"),
        ("llada", "early"),
        ("dream", "early"),
    ],
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
    extra = costs.flops(model.config, "head", 1) if family == "dream" and prefix_lm else 0
    total = (cost.total_cached if prefix_lm else cost.total_uncached) + extra
    assert total - cost.gate_arithmetic <= found <= total
    assert bool(cost.gate_arithmetic) == (mode in ("shirg", "early")) and bool(cost.gate_projection) == (
        mode == "shirg"
    )


def test_an_early_tower_by_hand(config):
    """The convolution of all patches, then every layer on the visual tokens alone."""
    shape, tower = costs.vision_shape(config, "early", budget=512), config.vision_config
    width, inner, layers = tower["hidden_size"], tower["intermediate_size"], tower["num_hidden_layers"] - 1
    embedded = 2 * 2304 * 3 * 14 * 14 * width
    layer = 2 * 513 * (4 * width**2 + 2 * width * inner) + 4 * 513**2 * width
    assert costs.tower_flops(config, shape) == embedded + layers * layer
    whole = costs.vision_shape(config, "early", budget=2304)
    assert costs.tower_flops(config, whole) == costs.tower_flops(config, costs.vision_shape(config, "highres"))


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
    head, tokens = whole.head, costs.meta(5, 729, 1152)

    def compare():
        hidden = whole.encoder(inputs_embeds=tokens).last_hidden_state
        head.mlp(head.attention.out_proj(torch.nn.functional.linear(hidden, head.attention.in_proj_weight[-1152:])))

    assert counted(compare) == costs.relevance_flops(config, 5, 729)


# -------------------- savings and the whole


def test_savings_by_hand():
    config = published_config("llada-8b")
    flat = costs.savings(tiny_config(), [512], costs.Scenario())
    assert {e["against"]: e["reference_tokens"] for e in flat} == {"hd": 980, "highres": 2304}
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
        *(
            "lowres",
            "hd",
            "shirg-512",
            "shirg-768",
            "early-512",
            "early-768",
            "highres",
            "multiview-512",
            "multiview-768",
        ),
    ]
    for row in found["paths"]:
        vision = row["tower"] + row["gate_projection"] + row["gate_arithmetic"] + row["projector"]
        assert row["total_cached"] == vision + row["prefill"] + 16 * row["step_cached"]
        assert row["total_uncached"] == vision + 16 * row["step_uncached"]
        assert row["kv_bytes"] == row["prefix_tokens"] * 524_288 == (row["tokens"] + 64) * 524_288
    assert found["weight_bytes"]["total"] == 2 * found["parameters"]["total"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"shirg": {"resolution": 670}}, "multiple of the patch size 14; got 670"),
        ({"vision_config": {**VISION, "num_attention_heads": 3}}, "config: vision_config: .*num_heads"),
        (
            {"vision_config": {"hidden_size": 16, "num_attention_heads": 2, "patch_size": 14, "num_hidden_layers": 1}},
            "at least 2",
        ),
    ],
)
def test_impossible_sizes_are_named(raw, message):
    with pytest.raises(UserError, match=message):
        costs.describe(tiny_config("llada", **raw), [1], costs.Scenario())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_are_whole_configs(name, caplog):
    config = published_config(name)
    assert isinstance(config, LavidaConfig) and not caplog.records  # nothing had to be assumed
    assert costs.path_tokens(config, "hd") == 1008

from __future__ import annotations

import pytest
import torch

from shirg.errors import ItemError, UserError
from shirg.lavida.diffusion import dream as dream_diffusion
from shirg.lavida.diffusion.generation import AnswerModel, GenerationSettings, denoise
from shirg.lavida.diffusion.schedule import transfer_counts
from shirg.lavida.prefix import Prefix
from tests.tiny import counted_gates, tiny_model, tiny_page

CASES = [
    "full_steps",
    "ratio_half",
    "ratio_q_shift_default",
    "ratio_half_shift_third",
    "ratio_q_cosine",
    "ratio_q_logit_normal",
    "ratio_q_linear",
    "blocks8_half_shift",
    "blocks16_stepperblock4",
    "blocks16_stepperblock_big",
    "nocache_half",
    "nocache_blocks16_q_shift",
    "entropy_half",
    "margin_half",
    "random_half_seeded",
    "temp_half_seeded",
    "draft_infill",
    "draft_infill_blocks16",
    "batch2_half_shift",
    "self_predicted_mask",
    "text_only_cache",
    "text_only_nocache",
]


def test_all_reference_cases_are_listed(reference):
    assert sorted(reference.json("generate")["cases"]) == sorted([*CASES, "steps_arg_ignored"])


@pytest.fixture(scope="module")
def expected(reference):
    return reference.arrays("generate")


@pytest.fixture(scope="module")
def image_embeds(reference, llada):
    with torch.no_grad():
        return {name: llada.encode_images([reference.image(name)], "hd")[0] for name in ("square", "wide")}


@pytest.mark.parametrize("case", CASES)
def test_llada_generation_equals_the_official_code(reference, llada, expected, image_embeds, case):
    listing = reference.json("generate")
    entry, image = listing["cases"][case], listing["image_of_case"][case]
    ids = expected["text_prompt_ids"] if image == "none" else torch.tensor([listing["prompts"][image]])
    if case.startswith("batch2"):
        ids = torch.cat([ids, expected["batch2_second_prompt_ids"]])
    embeds = [] if image == "none" else [image_embeds[image]] * len(ids)
    history = []
    if entry.get("torch_seed") is not None:
        torch.manual_seed(entry["torch_seed"])
    original = llada.config.mask_token_id
    llada.config.mask_token_id = entry.get("mask_id_used", original)
    try:
        tokens = llada.generate(
            ids.long(),
            image_embeds=embeds,
            draft_tokens=expected.get(f"{case}_draft"),
            on_step=lambda _passes, state: history.append(state),
            **entry["kwargs"],
        )
    finally:
        llada.config.mask_token_id = original
    assert len(history) == entry["nfe"]
    assert torch.equal(torch.stack(history), expected[f"{case}_history"].long())
    assert torch.equal(tokens, expected[f"{case}_tokens"].long())
    assert int((tokens == entry.get("mask_id_used", original)).sum()) == entry["masks_left"]


def test_steps_are_honoured_where_the_official_code_ignores_them(reference, llada, expected, image_embeds):
    listing = reference.json("generate")
    official = listing["cases"]["steps_arg_ignored"]
    assert (official["kwargs"]["steps"], official["nfe"]) == (5, 32)  # one step per token all the same

    def history(case, **keywords):
        image, states = listing["image_of_case"][case], []
        llada.generate(
            torch.tensor([listing["prompts"][image]]),
            image_embeds=[image_embeds[image]],
            on_step=lambda _passes, state: states.append(state),
            **keywords,
        )
        return torch.stack(states)

    ours = history("steps_arg_ignored", **official["kwargs"])
    by_block = history("steps_arg_ignored", **{**official["kwargs"], "steps": None, "step_per_block": 5})
    assert len(ours) == 5 and torch.equal(ours, by_block)
    # Eight steps for two blocks are the official code's four for each
    shared = history("blocks16_stepperblock4", max_new_tokens=32, block_length=16, steps=8)
    assert torch.equal(shared, expected["blocks16_stepperblock4_history"].long())


@pytest.mark.parametrize(
    ("steps", "block_length", "per_block"),
    [(8, 32, 8), (8, 8, 2), (10, 8, 2), (3, 8, 1), (32, 8, 8), (500, 8, 8), (5, 64, 5)],
)
def test_steps_are_shared_evenly_by_the_blocks(steps, block_length, per_block):
    settings = GenerationSettings(0, max_new_tokens=32, block_length=block_length, total_steps=steps)
    assert settings.steps == per_block


def test_schedules_may_be_spelled_with_a_hyphen():
    by_hyphen, by_underscore = (transfer_counts([32], 8, name) for name in ("logit-normal", "logit_normal"))
    assert by_hyphen == by_underscore != transfer_counts([32], 8)


DREAM_CASES = [
    "entropy_full",
    "margin_full",
    "maskgit_steps12",
    "margin_half_shift",
    "margin_half_noschedule",
    "entropy_half_cosine",
    "margin_shift_full_steps",
    "nocache_margin_half_shift",
    "nocache_entropy_steps12",
    "topp_entropy_half",
    "origin_seeded",
]


@pytest.fixture(scope="module")
def dream_prompts(reference, dream):
    arrays = reference.arrays("dream")
    names = {"square": arrays["prompt_ids"], "wide": arrays["prompt_wide_ids"]}
    with torch.no_grad():
        return {name: (ids, dream.encode_images([reference.image(name)], "hd")) for name, ids in names.items()}


@pytest.mark.parametrize("case", DREAM_CASES)
def test_dream_generation_equals_the_official_code(reference, dream, dream_prompts, case):
    arrays, cases = reference.arrays("dream"), reference.json("dream")["cases"]
    assert sorted(cases) == sorted([*DREAM_CASES, "temp_seeded"])
    entry, history = cases[case], []
    ids, embeds = dream_prompts[entry.get("image", "square")]
    if entry.get("torch_seed") is not None:
        torch.manual_seed(entry["torch_seed"])
    tokens = dream.generate(
        ids, image_embeds=embeds, on_step=lambda _passes, state: history.append(state), **entry["kwargs"]
    )
    if (
        "error" in entry
    ):  # the first token is given: after 23 of 24 steps the official code looks for a 24th and crashes
        assert (case, len(history)) == ("margin_shift_full_steps", 23)
        assert torch.equal(tokens, arrays["gen_margin_full_tokens"].long())  # one token per step there too
        return
    assert len(history) == entry["nfe"]
    assert torch.equal(torch.stack(history), arrays[f"gen_{case}_history"].long())
    assert torch.equal(tokens, arrays[f"gen_{case}_tokens"].long())


def test_dream_draws_are_the_official_ones(reference, dream, dream_prompts, monkeypatch):
    """In the steps of this case up to 19 positions have a confidence of exactly 1: only one entry is left in the nucleus.

    The values do not decide which of them are committed, and `torch.topk` does not repeat the recorded choice for them.
    So that choice is given: it must be among the best, and every draw must then be the recorded one.
    """
    entry, recorded = (
        reference.json("dream")["cases"]["temp_seeded"],
        reference.arrays("dream")["gen_temp_seeded_history"],
    )
    ids, embeds = dream_prompts[entry["image"]]
    masks = (recorded == dream.config.mask_token_id)[:, 0]
    before = torch.cat([masks.new_ones(1, masks.shape[1]), masks[:-1]])
    before[0, 0] = False  # the first token is given
    committed, history = iter(before & ~masks), []

    def recorded_choice(score, quota, _alg_temp, _generator):
        chosen = next(committed)
        assert int(quota) == int(chosen.sum())
        assert score[0, chosen].min() >= score[0, ~chosen].max()
        return chosen[None]

    monkeypatch.setattr(dream_diffusion, "_best", recorded_choice)
    torch.manual_seed(entry["torch_seed"])
    dream.generate(ids, image_embeds=embeds, on_step=lambda _passes, state: history.append(state), **entry["kwargs"])
    assert torch.equal(torch.stack(history), recorded.long())


def test_dream_prompt_embeddings_equal_the_official_code(reference, dream, dream_prompts):
    ids, embeds = dream_prompts["square"]
    ours = dream.splice(ids[0], embeds)
    torch.testing.assert_close(ours, reference.arrays("dream")["prompt_embeds"][0], rtol=0, atol=2e-5)


def test_dream_answers_and_draws_within_the_filters():
    model = tiny_model("dream")
    for remasking in ("low_confidence", "random", "entropy", "margin"):
        assert isinstance(model.answer(tiny_page(), "Total?", "lowres", 9, 4, remasking=remasking), str)
    ids, keywords = model.prompt_ids("Total?")[None], {"max_new_tokens": 12, "image_embeds": [torch.zeros(3, 32)]}
    greedy = model.generate(ids, **keywords)
    chance = torch.Generator().manual_seed(0)
    drawn = model.generate(ids, temperature=2.0, top_k=1, generator=chance, **keywords)
    assert torch.equal(drawn[:, 0], greedy[:, 0])
    assert not torch.equal(model.generate(ids, temperature=2.0, generator=chance, **keywords), greedy)
    assert (model.generate(ids, alg_temp=1.0, generator=chance, **keywords) != model.config.mask_token_id).all()


@pytest.mark.parametrize(
    ("family", "keywords", "message"),
    [
        ("dream", {"alg": "best"}, "alg='best'"),
        ("dream", {"top_p": 1.5}, "top_p=1.5"),
        ("dream", {"top_k": 0}, "top_k=0"),
        ("dream", {"temperature": -1.0}, "temperature: got -1.0"),
        ("dream", {"step_ratio": 0.001}, "at least one"),
        ("dream", {"step_ratio": 1.5}, "step_ratio: got 1.5, must be a number above 0 and at most 1"),
        ("dream", {"step_ratio": float("nan")}, "step_ratio: got nan"),
        ("dream", {"max_new_tokens": 10**13}, "max_new_tokens: got 10000000000000"),
        ("dream", {"steps": 0}, "steps: got 0"),
        ("dream", {"steps": 4, "step_ratio": 0.5}, "steps=4 and step_ratio=0.5 .*give one"),
        ("llada", {"top_p": 0.9, "alg": "entropy"}, "alg, top_p: only Dream"),
    ],
)
def test_dream_keywords_are_checked(family, keywords, message):
    with pytest.raises(UserError, match=message):
        tiny_model(family).generate(torch.tensor([[1, 2, 3]]), **keywords)


def test_prefix_and_gate_run_once_per_answer():
    model, prefixes, steps = tiny_model(), [], []
    model.language.layers[0].register_forward_pre_hook(
        lambda _module, arguments: prefixes.append(arguments[0].shape[1])
    )
    with counted_gates() as gates:
        model.answer(tiny_page(), "Total?", budget=40, max_new_tokens=8, on_step=lambda count, _: steps.append(count))
    assert len(gates) == 1
    length = len(model.prompt_ids("Total?")) - 1 + 41
    assert prefixes == [length] + [8] * len(steps)
    assert steps == list(range(1, 9))


def test_answer_is_generate_cut_and_decoded(monkeypatch):
    model = tiny_model()
    end = model.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    ids = model.tokenizer(" 12.50").input_ids + [261, end] + model.tokenizer("rest").input_ids
    monkeypatch.setattr(model, "generate", lambda *_a, **_k: torch.tensor([ids]))
    assert model.answer(tiny_page(), "Total?") == "12.50"


@pytest.mark.parametrize("mode", ["lowres", "hd", "highres", "shirg", "early", "multiview"])
def test_answers_come_from_every_path(mode):
    model = tiny_model()
    ids = model.prompt_ids("Total?")[None]
    tokens = model.generate(ids, [tiny_page()], mode, 30, max_new_tokens=4)
    assert tokens.shape == (1, 4)
    assert tokens.dtype == torch.long
    decoded = model.tokenizer.decode(tokens[0], skip_special_tokens=True)
    assert isinstance(model.answer(tiny_page(), "Total?", mode, 30, 4), str)
    assert decoded.strip().startswith(model.answer(tiny_page(), "Total?", mode, 30, 4))


@pytest.mark.parametrize("prefix_lm", [True, False])
def test_batch_of_unequal_prompts_equals_one_by_one(prefix_lm):
    model = tiny_model()
    rows = [torch.randn(length, 32) for length in (9, 14, 5)]
    keywords = {"mask_token_id": 261, "max_new_tokens": 8, "prefix_lm": prefix_lm}
    settings = GenerationSettings(**keywords)

    def run(prefix_rows):
        answer_model = AnswerModel(model.language, Prefix.of(prefix_rows), prefix_lm, 264)
        return denoise(answer_model, torch.full((len(prefix_rows), 8), 261), settings)

    with torch.no_grad():
        assert torch.equal(run(rows), torch.cat([run([row]) for row in rows]))


def test_images_are_taken_in_order_across_the_batch():
    model = tiny_model()
    one, two = tiny_page(text="one"), tiny_page(text="two", width=220)
    ids = model.prompt_ids("What?")[None].expand(2, -1)
    both = model.generate(ids, [one, two], "lowres", max_new_tokens=6)
    alone = [model.generate(ids[:1], [image], "lowres", max_new_tokens=6) for image in (one, two)]
    assert torch.equal(both, torch.cat(alone))


def test_draft_is_kept_and_not_edited():
    model = tiny_model()
    draft = torch.tensor([[65, 261, 66]])
    kept = draft.clone()
    tokens = model.generate(torch.tensor([[1, 2, 3]]), draft_tokens=draft, max_new_tokens=6)
    assert torch.equal(draft, kept)
    assert tokens[0, [0, 2]].tolist() == [65, 66]


def test_chance_repeats_with_the_generator():
    model = tiny_model()
    keywords = {"max_new_tokens": 16, "temperature": 1.0, "remasking": "random"}
    ids = torch.tensor([[1, 2, 3]])
    draws = [model.generate(ids, generator=torch.Generator().manual_seed(seed), **keywords) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_longer_than_the_model_was_made_for_is_refused():
    model = tiny_model(max_sequence_length=12)
    ids = torch.tensor([[1, 2, 3]])
    assert model.generate(ids, max_new_tokens=9).shape == (1, 9)
    with pytest.raises(
        ItemError,
        match="3 prefix tokens .* and 10 of the answer are more than this model's 12 positions; 1 fewer would fit",
    ):
        model.generate(ids, max_new_tokens=10)


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("temperature", [float("nan"), float("inf")])
def test_temperatures_are_numbers(family, temperature):
    with pytest.raises(UserError, match="temperature: got"):
        tiny_model(family).generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4, temperature=temperature)


def test_ids_the_tokenizer_does_not_know_are_never_generated():
    model = tiny_model(vocab_size=400, embedding_size=400)
    with torch.no_grad():
        model.language.lm_head.weight[264:] *= 100
    tokens = model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=16, temperature=1.0)
    assert tokens.max() < 264


def test_half_precision_generates():
    model = tiny_model().bfloat16()
    assert model.answer(tiny_page(), "Total?", budget=20, max_new_tokens=4) is not None
    with torch.autocast("cpu", torch.bfloat16):
        assert tiny_model().answer(tiny_page(), "Total?", "hd", max_new_tokens=4) is not None


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: got 0, must be a whole number from 1"),
        ({"max_new_tokens": 10**13}, "max_new_tokens: got 10000000000000, must be"),
        ({"step_ratio": float("nan")}, "step_ratio: got nan, must be a number above 0 and at most 1"),
        ({"step_ratio": -0.5}, "step_ratio: got -0.5"),
        ({"step_per_block": 0}, "step_per_block: got 0"),
        ({"max_new_tokens": 40}, "max_new_tokens=40 must be a multiple of block_length=32"),
        ({"step_ratio": 0.5, "step_per_block": 3}, "step_ratio=0.5 and step_per_block=3 .*give one"),
        ({"steps": 4, "step_ratio": 0.5}, "steps=4 and step_ratio=0.5 .*give one"),
        ({"steps": 4, "step_per_block": 3}, "steps=4 and step_per_block=3 .*give one"),
        ({"steps": 0}, "steps: got 0, must be a whole number from 1"),
        ({"step_ratio": 0.01}, "steps=0"),
        ({"schedule": "cubic"}, "cubic"),
        ({"remasking": "sure"}, "remasking='sure'"),
        ({"temperature": -1}, "temperature: got -1, must be a number from 0"),
        ({"draft_tokens": torch.zeros(2, 3)}, r"draft_tokens must be \[1 or 1"),
        ({"images": [tiny_page()]}, r"0 image placeholders \(-200\) for 1 images"),
        ({"image_embeds": [torch.zeros(2, 32)]}, r"0 image placeholders \(-200\) for 1 image_embeds"),
        ({"images": [], "image_embeds": []}, "not both"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(keywords, message):
    with pytest.raises(UserError, match=message):
        tiny_model().generate(torch.tensor([[1, 2, 3]]), **keywords)


@pytest.mark.parametrize("keywords", [{"block_length": -5}, {"block_length": 8}, {"step_per_block": 4}])
def test_dream_has_no_blocks(keywords):
    with pytest.raises(UserError, match="only LLaDA checkpoints take these"):
        tiny_model("dream").generate(torch.tensor([[1, 2, 3]]), max_new_tokens=16, **keywords)


def test_dream_accepts_one_block():
    model, prompt = tiny_model("dream"), torch.tensor([[1, 2, 3]])
    assert torch.equal(*(model.generate(prompt, max_new_tokens=16, block_length=block) for block in (16, None)))


def test_wrong_answers_are_refused():
    model = tiny_model()
    for keywords, message in [
        ({"question": " "}, "question"),
        ({"question": "Total?", "budget": 0}, "budget: got 0"),
        ({"question": "Total?", "budget": 2305}, "budget: got 2305.*2,304"),
        ({"question": "Total?", "mode": "best"}, "mode='best'"),
    ]:
        with pytest.raises(UserError, match=message):
            model.answer(tiny_page(), **keywords)
    for shape in ((3,), (1, 0)):
        with pytest.raises(UserError, match=rf"got shape \[{', '.join(map(str, shape))}\]"):
            model.generate(torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("prefix_lm", [True, False])
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_prompts_of_unequal_length_are_answered_as_if_each_were_alone(family, prefix_lm):
    """In float64, with a question-dependent choice of tokens, so that images differ in embeddings, too."""
    model = tiny_model(family).double()
    prompts = [model.prompt_ids(question) for question in ("Total?", "What is the date on this page?", "Who?")]
    pages = [tiny_page(text=str(number)) for number in range(3)]
    settings = {"mode": "shirg", "budget": 20, "max_new_tokens": 6, "block_length": 6, "prefix_lm": prefix_lm}
    together = model.generate(prompts, pages, **settings)
    for row, ids, page in zip(together, prompts, pages, strict=True):
        assert torch.equal(row[None], model.generate(ids[None], [page], **settings))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.long])
def test_a_padded_batch_with_a_mask_is_its_prompts(side, dtype):
    model = tiny_model()
    prompts = [model.prompt_ids(question) for question in ("Total?", "What is the date?")]
    pages = [tiny_page(text=str(number)) for number in range(2)]
    settings = {"mode": "shirg", "budget": 20, "max_new_tokens": 4}
    padded = torch.nn.utils.rnn.pad_sequence(
        prompts, batch_first=True, padding_value=model.config.pad_token_id, padding_side=side
    )
    ones = [torch.ones(len(prompt), dtype=dtype) for prompt in prompts]
    mask = torch.nn.utils.rnn.pad_sequence(ones, batch_first=True, padding_side=side)
    seen = []

    def keys(ids, **more):
        model.generate(ids, pages, on_prefix=lambda cache: seen.append(cache.keys[-1].clone()), **settings, **more)
        return seen[-1]

    assert torch.equal(keys(padded, attention_mask=mask), keys(prompts))
    assert not torch.equal(keys(padded), keys(prompts))


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (torch.ones(2, 3).long(), torch.ones(2, 4), r"got shape \[2, 4\], must be that of input_ids, \[2, 3\]"),
        (torch.ones(2, 3).long(), torch.tensor([[1, 0, 0], [0, 0, 0]]), "got a row without any id"),
        ([torch.ones(3).long()], torch.ones(1, 3), "a list of prompts has no padding; leave the mask out"),
    ],
)
def test_invalid_masks_are_refused(ids, mask, message):
    with pytest.raises(UserError, match=f"attention_mask: {message}"):
        tiny_model().generate(ids, attention_mask=mask)


@pytest.mark.parametrize(
    ("prompts", "shapes"), [([], "\\[\\]"), ([torch.ones(2, 3)], "2, 3"), ([torch.ones(4), torch.ones(0)], "4.*0")]
)
def test_lists_that_hold_no_prompts_are_refused(prompts, shapes):
    with pytest.raises(UserError, match=f"input_ids must be a list of prompts .length.*{shapes}"):
        tiny_model().generate(prompts)

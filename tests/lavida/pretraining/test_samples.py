"""Conversations, samples and padded batches."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from shirg.errors import UserError
from shirg.lavida.pretraining.samples import Sample, answer_ids, chat_sample, collate, image_first, plain_sample
from shirg.lavida.prompt import prompt_text, tokenize_with_images
from tests.tiny import tiny_tokenizer

FAMILIES = ["llada", "dream"]
TALK = [
    {"from": "human", "value": "<image>\nWhat is it?"},
    {"from": "gpt", "value": "A cat."},
    {"from": "human", "value": "What colour?"},
    {"from": "gpt", "value": "Red."},
    {"from": "human", "value": "How old?"},
    {"from": "gpt", "value": "Two."},
]


@pytest.fixture(scope="module")
def tokenizers(reference):
    return {
        family: PreTrainedTokenizerFast.from_pretrained(reference.folder / f"tokenizer_{family}") for family in FAMILIES
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_chat_samples_equal_the_official_code(reference, tokenizers, family):
    cases = reference.json("text")[family]
    assert len(cases) == 5 and {case["has_image"] for case in cases} == {True, False}
    for case in cases:
        before = copy.deepcopy(case["conversation"])
        sample = chat_sample(
            tokenizers[family],
            family,
            case["conversation"],
            has_image=case["has_image"],
            turn=case["selected_human_index"],
        )
        assert sample.input_ids.tolist() == case["input_ids"]
        assert sample.labels.tolist() == case["labels"]
        assert case["conversation"] == before


def test_plain_samples_equal_the_official_code(reference, tokenizers):
    cases = reference.json("text")["plain"]
    assert {case["tokenizer"] for case in cases} == set(FAMILIES)
    for case in cases:
        before = copy.deepcopy(case["conversation"])
        sample = plain_sample(tokenizers[case["tokenizer"]], case["conversation"])
        assert sample.input_ids.tolist() == case["input_ids"]
        assert sample.labels.tolist() == case["labels"]
        assert case["conversation"] == before


def test_collator_equals_the_official_code(reference, tokenizers):
    text = reference.json("text")
    samples = [Sample(torch.tensor(case["input_ids"]), torch.tensor(case["labels"])) for case in text["llada"]]
    assert {case["extra_pad"] > 0 for case in text["collate"]} == {True, False}
    for case in text["collate"]:
        members = [samples[number] for number in case["members"]]
        batch = collate(members, tokenizers["llada"].pad_token_id, extra_pad=case["extra_pad"])
        assert batch.input_ids.tolist() == case["input_ids"]
        assert batch.labels.tolist() == case["labels"]
        assert batch.attention_mask.dtype == torch.bool
        assert batch.attention_mask.long().tolist() == case["attention_mask"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sample_begins_as_the_prompt_of_inference(tokenizers, family):
    """Except the newline after the image, which LLaDA's prompt loses in inference: `tokenize_with_images`."""
    tokenizer = tokenizers[family]
    sample = chat_sample(tokenizer, family, TALK, turn=0)
    asked = sample.input_ids[sample.labels == -100].tolist()
    prompt = tokenize_with_images(tokenizer, prompt_text(tokenizer, TALK[0]["value"]), -200).tolist()
    if family == "llada":
        assert tokenizer.decode([asked.pop(asked.index(-200) + 1)]) == "\n"
    assert asked == prompt


def test_every_answered_question_is_drawn_and_no_other():
    tokenizer, draws = tiny_tokenizer(), torch.Generator().manual_seed(0)
    talk = [{"from": "gpt", "value": "Hello."}, *TALK, {"from": "human", "value": "Who?"}]

    def answers(generator, count):
        samples = [chat_sample(tokenizer, "llada", talk, generator=generator) for _ in range(count)]
        return [tokenizer.decode(sample.labels[sample.labels != -100]) for sample in samples]

    counts = {answer: 0 for answer in ("A cat.<|eot_id|>", "Red.<|eot_id|>", "Two.<|eot_id|>")}
    for answer in answers(draws, 150):
        counts[answer] += 1
    assert min(counts.values()) > 30
    assert answers(draws.manual_seed(1), 9) == answers(draws.manual_seed(1), 9)
    torch.manual_seed(1)
    assert answers(None, 9) == answers(draws.manual_seed(1), 9)


def test_an_image_is_put_before_a_question_that_marks_none():
    tokenizer = tiny_tokenizer()
    with_image, without = (chat_sample(tokenizer, "llada", TALK, turn=2, has_image=given) for given in (True, False))
    newline = tokenizer("\n").input_ids
    place = with_image.input_ids.tolist().index(-200)
    ids = with_image.input_ids.tolist()
    assert ids[:place] + ids[place + 1 + len(newline) :] == without.input_ids.tolist()
    assert ids[place + 1 : place + 1 + len(newline)] == newline
    literal = chat_sample(tokenizer, "llada", TALK, turn=0, has_image=False)
    assert (literal.input_ids >= 0).all() and "<image>" in tokenizer.decode(literal.input_ids)


def test_templates_that_always_open_an_answer_give_the_same_samples():
    """Some of LLaDA's do; also for Dream whatever a template puts before the first turn is taken off the later ones."""
    header = "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    system = "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    default = f"{{% if messages[0]['role'] != 'system' %}}{system}{{% endif %}}"
    for family, before, behind in (("llada", "", header), ("dream", default, "")):
        plain, other = tiny_tokenizer(family), tiny_tokenizer(family)
        other.chat_template = before + other.chat_template + behind
        ours, theirs = (chat_sample(tokenizer, family, TALK, turn=0) for tokenizer in (plain, other))
        assert torch.equal(ours.input_ids, theirs.input_ids)
        assert torch.equal(ours.labels, theirs.labels)
    beginning = tiny_tokenizer("dream")
    beginning.chat_template = "<|beginoftext|>" + beginning.chat_template
    sample = chat_sample(beginning, "dream", TALK, turn=0)
    assert beginning.decode(sample.input_ids.clamp(min=0)).count("<|beginoftext|>") == 1


@pytest.mark.parametrize(
    ("family", "header", "target"),
    [
        ("llada", "<|start_header_id|>assistant<|end_header_id|>\n\n", "Caf\u00e9.<|eot_id|>"),
        ("dream", "<|im_start|>assistant\n", "Caf\u00e9.<|im_end|>\n"),
    ],
)
def test_targets_are_the_ids_after_the_header(family, header, target):
    tokenizer = tiny_tokenizer(family)
    assert [tokenizer.decode(ids) for ids in answer_ids(tokenizer, family, "Caf\u00e9.")] == [header, target]


def test_extra_padding_is_drawn_from_minus_128_to_127():
    sample, draws = Sample(torch.arange(1, 4), torch.arange(1, 4)), torch.Generator().manual_seed(0)
    lengths = torch.tensor([collate([sample], 0, generator=draws).input_ids.shape[1] for _ in range(3000)])
    assert (lengths.min(), lengths.max()) == (3, 130)
    assert (lengths == 3).float().mean().item() == pytest.approx(129 / 256, abs=0.03)


def test_batch_by_hand():
    samples = [
        Sample(torch.tensor([5, 6, 7, 9]), torch.tensor([-100, -100, 7, 9])),
        Sample(torch.tensor([5, 0]), torch.tensor([-100, 0])),
    ]
    before = copy.deepcopy(samples)
    batch = collate(samples, 0, max_length=3, extra_pad=1)
    assert batch.input_ids.tolist() == [[5, 6, 7, 0], [5, 0, 0, 0]]
    assert batch.labels.tolist() == [[-100, -100, 7, -100], [-100, 0, -100, -100]]
    assert batch.attention_mask.tolist() == [[True, True, True, False], [True, False, False, False]]
    for old, new in zip(before, samples, strict=True):
        assert torch.equal(old.input_ids, new.input_ids) and torch.equal(old.labels, new.labels)


def test_the_mark_of_a_single_image_moves_to_the_front():
    def moved(text):
        return image_first([{"from": "human", "value": text}])[0]["value"]

    assert moved("What is it?\n<image>") == "<image>\nWhat is it?"
    assert moved("<image> What?") == "<image> What?"  # at the start already
    assert moved("Is <image> like <image>?") == "Is <image> like <image>?"
    assert moved("None.") == "None."
    assert moved("\n<image>\n What?\n") == "<image>\nWhat?"
    assert moved(" <image>") == "<image>"
    given = [{"from": "human", "value": "Here: <image>", "id": 3}]
    assert image_first(given) == [{"from": "human", "value": "<image>\nHere:", "id": 3}]
    assert given[0]["value"] == "Here: <image>"


def test_invalid_conversations_are_refused():
    tokenizer = tiny_tokenizer()
    with pytest.raises(UserError, match=r"turn=1 .*such are at \[0, 2, 4\]"):
        chat_sample(tokenizer, "llada", TALK, turn=1)
    with pytest.raises(UserError, match=r"\['human', 'human'\].*such are at \[\]"):
        chat_sample(tokenizer, "llada", [TALK[0], TALK[2]])
    with pytest.raises(UserError, match="6 entries: expected two"):
        plain_sample(tokenizer, TALK)
    with pytest.raises(UserError, match="<image> in its value"):
        plain_sample(tokenizer, TALK[2:4])
    with pytest.raises(UserError, match="samples: got none"):
        collate([], 0)

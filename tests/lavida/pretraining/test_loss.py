"""LaViDa's training forward, from ids and images to loss and gradients."""

from __future__ import annotations

import copy

import pytest
import torch

from shirg.errors import UserError
from shirg.lavida.checkpoint import official_name
from shirg.lavida.diffusion import draw_noise
from shirg.lavida.pretraining.batches import Rows, embed_batch, encode_for_training
from shirg.lavida.pretraining.loss import (
    noisy_rows,
    prefix_lengths,
    prefix_lm_mask,
    row_states,
    target_losses,
    training_loss,
)
from shirg.lavida.pretraining.samples import Batch, chat_sample, collate
from shirg.training.objective import answer_losses
from tests.tiny import tiny_model, tiny_page

LOGIT_NORMAL = {"policy": "logit_normal", "policy_args": {"logit_mean": 0.3, "logit_std": 0.8}}


@pytest.fixture(scope="module")
def train(reference):
    return reference.arrays("train")


@pytest.fixture(scope="module")
def rows(reference, llada, train):
    """Rows of the six runs, made of the images themselves."""
    theirs = reference.arrays("multimodal")
    with torch.no_grad():
        images = encode_for_training(llada, [reference.image("square"), reference.image("land5")])
        plain = embed_batch(llada, official_batch(theirs["input_ids"], theirs["labels"], llada), images)
        fim = embed_batch(llada, official_batch(train["fim_input_ids"], train["fim_input_labels"], llada), images)
    return {"fim": fim, **dict.fromkeys(("t1", "t2", "t3", "logitnormal", "prefixlm"), plain)}


def official_batch(ids, labels, model) -> Batch:
    return Batch(ids, labels, ids != model.config.pad_token_id)


RECORDED = {"seed", "masked_indices", "p_mask", "final_masked_indices", "labels_out", "logits_tail", "loss"}
RECORDED |= {"target_count_per_row"}  # and, of LLaDA's runs, token_ce_sum_per_row


def check_run(model, rows: Rows, theirs: dict, lengths: torch.Tensor | None = None, **keywords) -> None:
    """Everything recorded of a run (names without its own), drawn from its seed."""
    assert theirs.keys() - {"token_ce_sum_per_row"} == RECORDED
    torch.manual_seed(int(theirs["seed"]))
    drawn, probability = draw_noise(*rows.labels.shape, **keywords)
    assert torch.equal(drawn, theirs["masked_indices"])
    torch.testing.assert_close(probability, theirs["p_mask"])
    copies = noisy_rows(model, rows, drawn)
    assert torch.equal(copies.masked, theirs["final_masked_indices"])
    assert torch.equal(copies.labels, theirs["labels_out"])
    hidden = row_states(model, copies, lengths)
    tail = theirs["logits_tail"]
    torch.testing.assert_close(model.language.logits(hidden[:, -tail.shape[1] :]), tail, rtol=0, atol=2e-4)
    counts = (copies.labels != -100).sum(dim=1).tolist()
    assert counts == theirs["target_count_per_row"].tolist()
    if "token_ce_sum_per_row" in theirs:
        sums = torch.stack([row.sum() for row in target_losses(model, hidden, copies.labels).split(counts)])
        torch.testing.assert_close(sums, theirs["token_ce_sum_per_row"], rtol=1e-5, atol=0)
    torch.manual_seed(int(theirs["seed"]))
    loss = training_loss(model, rows, prefix_lm=lengths is not None, **keywords)
    torch.testing.assert_close(loss, theirs["loss"], rtol=1e-5, atol=0)


def of_run(arrays: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


@torch.no_grad()
@pytest.mark.parametrize("run", ["t1", "t2", "t3", "logitnormal", "fim", "prefixlm"])
def test_llada_training_equals_the_official_code(llada, train, rows, run):
    theirs, lengths = of_run(train, f"{run}_"), None
    if run == "prefixlm":
        lengths = prefix_lengths(rows[run].labels)
        assert torch.equal(lengths, theirs.pop("prompt_len"))
    if run == "fim":
        assert (rows[run].labels == llada.config.fim_token_id).sum() == 2
        assert theirs.pop("input_ids").shape == theirs.pop("input_labels").shape  # what the rows were made of
    assert len(theirs["token_ce_sum_per_row"]) == 4
    check_run(llada, rows[run], theirs, lengths, **(LOGIT_NORMAL if run == "logitnormal" else {}))


@torch.no_grad()
@pytest.mark.parametrize("run", ["t1", "t2"])
def test_dream_training_equals_the_official_code(reference, dream, run):
    theirs = reference.arrays("dream")
    images = encode_for_training(dream, [reference.image("square"), reference.image("land5")])
    batch = official_batch(theirs["train_input_ids"], theirs["train_labels_in"], dream)
    check_run(dream, embed_batch(dream, batch, images), of_run(theirs, f"train_{run}_"))


@pytest.mark.parametrize("run", ["t1", "t2", "t3"])
def test_gradients_equal_the_official_code(reference, llada, train, run):
    """All parameters but the tower's, which the official class freezes when it is built."""
    expected, theirs = reference.json("train_grad_norms")[run], reference.arrays("multimodal")
    parameters = {
        official_name(name, "llada"): parameter
        for name, parameter in llada.named_parameters()
        if not name.startswith("tower.")
    }
    assert parameters.keys() == expected.keys() and "model.image_newline" in expected
    images = llada.encode_images([reference.image("square"), reference.image("land5")], "hd")
    rows = embed_batch(llada, official_batch(theirs["input_ids"], theirs["labels"], llada), images)
    torch.manual_seed(int(train[f"{run}_seed"]))
    gradients = torch.autograd.grad(training_loss(llada, rows), list(parameters.values()))
    for name, gradient in zip(parameters, gradients, strict=True):
        assert gradient.norm().item() == pytest.approx(expected[name], rel=1e-3), name


def test_packed_rows_equal_the_official_prefix_loss_and_its_gradients(llada, train, rows):
    """The first row of the official prefix-LM run, whose answer reaches the end of the batch (the second is padded, which
    the official code attends to): its loss, and every gradient of its two copies, from one packed row. Of the embeddings
    only the prefix's, since the official rows come with those of the visible answer."""
    theirs, whole = of_run(train, "prefixlm_"), rows["prefixlm"]
    row = Rows(*(getattr(whole, name)[:1].clone() for name in ("embeds", "labels", "attention_mask", "input_ids")))
    row.embeds.requires_grad_()
    length = int(prefix_lengths(row.labels))
    assert (row.labels[:, length:] != -100).all()
    masked = theirs["masked_indices"][:1]
    copies = noisy_rows(llada, row, masked)
    official = target_losses(llada, row_states(llada, copies, torch.tensor([length])), copies.labels)
    packed = answer_losses(
        llada.language,
        [row.embeds[0, :length]],
        row.labels[:, length:],
        masked[:, length:],
        mask_token_id=llada.config.mask_token_id,
    )
    expected = theirs["token_ce_sum_per_row"][[0, 2]].sum()
    torch.testing.assert_close(packed.sum(), expected, rtol=1e-5, atol=0)
    weights = [value for name, value in llada.language.named_parameters() if name != "embed_tokens.weight"]
    ours, others = (
        [gradient[:, :length] if gradient.shape == row.embeds.shape else gradient for gradient in gradients]
        for gradients in (torch.autograd.grad(losses.mean(), [row.embeds, *weights]) for losses in (packed, official))
    )
    for one, other in zip(ours, others, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * max(other.abs().max().item(), 1))


def test_prefix_mask_by_its_definition(reference):
    forward = reference.arrays("forward")
    masks = prefix_lm_mask(forward["prefix_mask_lengths"], 9)
    assert torch.equal(masks[:, 0], forward["prefix_mask_dense"])


def test_prefix_ends_at_the_first_target():
    labels = torch.tensor([[-100, -100, 5, -100, 6], [0, 1, 2, 3, 4], [-100] * 5])
    assert prefix_lengths(labels).tolist() == [2, 0, 0]


def small_case(family: str) -> tuple:
    """A float64 model, one row of 7 prefix positions and 5 targets that wants a gradient."""
    model = tiny_model(family).double()
    draws = torch.Generator().manual_seed(2)
    prefix = torch.randn(7, 32, generator=draws, dtype=torch.float64)
    targets = torch.randint(0, 256, (1, 5), generator=draws)
    labels = torch.cat([torch.full((1, 7), -100), targets], dim=1)
    with torch.no_grad():
        embeds = torch.cat([prefix[None], model.language.embed_tokens(targets)], dim=1)
    return model, prefix, targets, Rows(embeds, labels, labels != -7, labels)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_without_padding_it_equals_the_loss_of_shirg_training(family):
    model, prefix, targets, rows = small_case(family)
    drawn, _ = draw_noise(1, 12, generator=torch.Generator().manual_seed(4))
    masked = drawn[:, -5:]
    assert 0 < masked.sum() < 5
    for prefix_lm, objectives in ((False, ["bidirectional"]), (True, ["prefix", "packed"])):
        ours = training_loss(model, rows, prefix_lm=prefix_lm, generator=torch.Generator().manual_seed(4))
        assert ours.dtype == torch.float32
        for objective in objectives:
            theirs = answer_losses(
                model.language,
                [prefix],
                targets,
                masked,
                mask_token_id=model.config.mask_token_id,
                objective=objective,
                shift=family == "dream",
            )
            torch.testing.assert_close(ours, theirs.mean().float())  # the small model computes in float64


@torch.no_grad()
def test_nothing_of_dream_predicts_the_first_position():
    for family, count in (("llada", 6), ("dream", 5)):
        model, _, _, rows = small_case(family)
        rows.labels[:, 0] = 9
        assert len(target_losses(model, model.language(rows.embeds), rows.labels)) == count


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_rows_without_a_target_are_refused(family):
    model, _, _, rows = small_case(family)
    rows.labels[:, 1:] = -100
    with pytest.raises(UserError, match="rows have no target"):
        training_loss(model, rows)


def test_rows_stay_as_they_are():
    model, _, _, rows = small_case("llada")
    before = copy.deepcopy(rows)
    training_loss(model, rows, prefix_lm=True).backward()
    for name in ("embeds", "labels", "attention_mask", "input_ids"):
        assert torch.equal(getattr(rows, name), getattr(before, name))


@torch.no_grad()
def test_chance_is_the_generators_or_torchs_own():
    model, _, _, rows = small_case("llada")

    def loss(**keywords):
        return training_loss(model, rows, **keywords).item()

    assert loss(generator=torch.Generator().manual_seed(1)) == loss(generator=torch.Generator().manual_seed(1))
    assert len({loss(generator=torch.Generator().manual_seed(seed)) for seed in range(8)}) > 2
    torch.manual_seed(3)
    assert loss() == loss(generator=torch.Generator().manual_seed(3))
    late = {"policy": "logit_normal", "policy_args": {"logit_mean": 20, "logit_std": 1e-3}}
    assert len({loss(**late) for _ in range(8)}) == 1  # all targets hidden in one copy, none in the other
    with pytest.raises(UserError, match="policy='cosine'"):
        loss(policy="cosine")


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_from_conversations_to_a_smaller_loss(family):
    """The whole way, on two conversations of which one has no image; half precision included."""
    model = tiny_model(family)
    talks = [
        ([{"from": "human", "value": "Total?"}, {"from": "gpt", "value": "12.50"}], True),
        ([{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Nobody at all."}], False),
    ]
    samples = [chat_sample(model.tokenizer, family, talk, has_image=has_image) for talk, has_image in talks]
    batch = collate(samples, model.tokenizer.pad_token_id, extra_pad=2)
    parameters = [*model.mm_projector.parameters(), *model.language.parameters()]
    optimizer, losses = torch.optim.SGD(parameters, lr=1e-3), []
    for _ in range(3):
        rows = embed_batch(model, batch, encode_for_training(model, [tiny_page()], "lowres"))
        with torch.autocast("cpu", torch.bfloat16):
            loss = training_loss(model, rows, generator=torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]

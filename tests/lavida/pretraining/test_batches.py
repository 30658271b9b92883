"""Ids and images to rows of embeddings, from the pixels on."""

from __future__ import annotations

import pytest
import torch

from shirg.errors import UserError
from shirg.images import to_rgb
from shirg.lavida.pretraining.batches import Rows, embed_batch, encode_for_training, end_of_text_targets, splice_batch
from shirg.lavida.pretraining.samples import Batch
from shirg.lavida.views import anyres_views
from tests.tiny import tiny_model, tiny_page


@pytest.fixture(scope="module")
def expected(reference):
    return reference.arrays("multimodal")


@pytest.fixture(scope="module")
def image_embeds(reference, llada):
    with torch.no_grad():
        return encode_for_training(llada, [reference.image("square"), reference.image("land5")])


def official_batch(expected) -> Batch:
    return Batch(*(expected[name].clone() for name in ("input_ids", "labels", "attention_mask_in")))


def assert_equal(rows: Rows, expected, name: str) -> None:
    assert torch.equal(rows.labels, expected[f"{name}_labels"])
    assert torch.equal(rows.attention_mask, expected[f"{name}_attention_mask"])
    assert torch.equal(rows.input_ids, expected[f"{name}_new_input_ids"])


@torch.no_grad()
def test_training_rows_equal_the_official_code(llada, expected, image_embeds):
    rows = embed_batch(llada, official_batch(expected), image_embeds)
    assert_equal(rows, expected, "train")
    torch.testing.assert_close(rows.embeds, expected["train_embeds"], rtol=0, atol=2e-5)


@torch.no_grad()
def test_rows_without_padding_targets_equal_the_official_code(llada, expected, image_embeds):
    rows = splice_batch(llada.language.embed_tokens, official_batch(expected), image_embeds)
    assert_equal(rows, expected, "plain")
    sums = rows.embeds.double().sum(dim=2)
    assert expected["plain_embed_rowsum"].dtype == sums.dtype
    torch.testing.assert_close(sums, expected["plain_embed_rowsum"], rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_mask_of_numbers_is_one_of_truth_values():
    ids, model = torch.tensor([[5, 6, -200, 7], [8, 9, 0, 0]]), tiny_model()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])  # as tokenizers give it
    truth, numbers = (
        embed_batch(model, Batch(ids.clone(), ids.clone(), one), [torch.ones(2, 32)]) for one in (mask.bool(), mask)
    )
    assert truth.input_ids.tolist() == [[5, 6, -200, -200, 7], [8, 9, -100, -100, -100]]
    for name in ("embeds", "labels", "attention_mask", "input_ids"):
        assert torch.equal(getattr(truth, name), getattr(numbers, name))


@torch.no_grad()
def test_left_padding_equals_the_official_code(llada, expected, image_embeds):
    rows = splice_batch(llada.language.embed_tokens, official_batch(expected), image_embeds, padding_side="left")
    assert_equal(rows, expected, "left")
    right = splice_batch(llada.language.embed_tokens, official_batch(expected), image_embeds)
    assert torch.equal(rows.embeds[rows.attention_mask], right.embeds[right.attention_mask])
    assert (rows.embeds[~rows.attention_mask] == 0).all()


@torch.no_grad()
def test_cut_rows_equal_the_official_code(llada, expected, image_embeds, caplog):
    rows = splice_batch(llada.language.embed_tokens, official_batch(expected), image_embeds, max_length=1000)
    assert torch.equal(rows.labels, expected["trunc1000_labels"])
    assert rows.embeds.shape[1] == expected["trunc1000_len"]
    assert "row 0 of the batch is truncated from 1043 to 1000" in caplog.text and "row 1" not in caplog.text


def test_the_callers_tensors_stay_as_they_are(llada, expected, image_embeds):
    """The official code edits labels and masks in place (llava_llada.py:131-132)."""
    batch, embeds = official_batch(expected), [image.clone() for image in image_embeds]
    rows = embed_batch(llada, batch, embeds)
    rows.embeds.data.zero_()
    rows.labels.zero_(), rows.attention_mask.zero_(), rows.input_ids.zero_()
    changed = end_of_text_targets(batch, llada.config.eos_token_id)
    assert not torch.equal(changed.labels, batch.labels)
    changed.labels.zero_(), changed.attention_mask.zero_()
    for now, name in (
        (batch.input_ids, "input_ids"),
        (batch.labels, "labels"),
        (batch.attention_mask, "attention_mask_in"),
    ):
        assert torch.equal(now, expected[name])
    assert all(torch.equal(now, then) for now, then in zip(embeds, image_embeds, strict=True))


def test_fixture_models_have_the_ids_that_the_fixtures_were_made_with(reference, llada, dream):
    meta = reference.json("meta")
    ours = llada.config
    assert meta["ids"] == {
        "mask": ours.mask_token_id,
        "eos": ours.eos_token_id,
        "fim": ours.fim_token_id,
        "image": ours.image_token_index,
        "eot": 283,
    }
    ours = dream.config
    ids = {"mask": ours.mask_token_id, "pad": ours.pad_token_id, "image": ours.image_token_index}
    assert meta["dream_ids"] == ids and ours.eos_token_id == ours.pad_token_id
    for name, entry in meta["preprocess"].items():
        mode, image = name.split("_")
        if mode == "anyres":
            views = anyres_views(to_rgb(reference.image(image)), llada.config.pinpoints, llada.tower.image_size)
            assert [1, len(views), 3, *views[0].size] == entry["shape"]
        assert list(reference.image(image).size) == entry["size_wh"]


def test_rows_by_hand(caplog):
    """Two images in the first sample, none in the second, one in the third; a pad inside the second."""
    embedding = torch.nn.Embedding.from_pretrained(torch.arange(10.0)[:, None])
    images = [torch.tensor([[20.0], [21.0]]), torch.tensor([[30.0]]), torch.tensor([[40.0], [41.0], [42.0]])]
    ids = torch.tensor([[1, -200, -200, 2], [3, 0, 4, 5], [-200, 6, 0, 0]])
    labels = torch.tensor([[-100, -200, -100, 2], [-100, 0, 4, 5], [-100, 6, 0, 0]])
    rows = splice_batch(embedding, Batch(ids, labels, ids != 0), images, max_length=4)
    assert rows.embeds[..., 0].tolist() == [[1, 20, 21, 30], [3, 4, 5, 0], [40, 41, 42, 6]]
    assert rows.labels.tolist() == [[-100, -100, -100, -100], [-100, 4, 5, -100], [-100, -100, -100, 6]]
    assert rows.input_ids.tolist() == [[1, -200, -200, -200], [3, 4, 5, -100], [-200, -200, -200, 6]]
    assert rows.attention_mask.tolist() == [[True] * 4, [True, True, True, False], [True] * 4]
    assert [record.getMessage() for record in caplog.records] == [
        "row 0 of the batch is truncated from 5 to 4 positions"
    ]


def test_end_of_text_is_a_target_at_every_position():
    ids = torch.tensor([[7, 9, 8, 9, 9]])
    batch = Batch(ids, torch.tensor([[-100, -100, 8, 9, -100]]), ids != 9)
    ended = end_of_text_targets(batch, 9)
    assert ended.labels.tolist() == [[-100, 9, 8, 9, 9]]
    assert ended.attention_mask.all() and torch.equal(ended.input_ids, ids)


def test_length_and_side_are_those_of_the_config():
    model = tiny_model(tokenizer_model_max_length=6, tokenizer_padding_side="left")
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 0, 0, 0, 0]])
    rows = embed_batch(model, Batch(ids, ids.clone(), ids != 0), [])
    assert rows.input_ids.tolist() == [[1, 2, 3, 4, 5, 6], [-100, -100, -100, 1, 2, 3]]
    plain = tiny_model()
    assert embed_batch(plain, Batch(ids, ids.clone(), ids != 0), []).input_ids[1].tolist() == [1, 2, 3] + [-100] * 4


def test_wrong_arguments_are_refused():
    model, ids = tiny_model(), torch.tensor([[1, -200, 2]])
    batch = Batch(ids, ids, ids != 0)
    with pytest.raises(UserError, match=r"1 image placeholders \(-200\) for 0 images"):
        embed_batch(model, batch, [])
    with pytest.raises(UserError, match="'both'.*'right' or 'left'"):
        splice_batch(model.language.embed_tokens, batch, [torch.zeros(1, 32)], padding_side="both")
    with pytest.raises(UserError, match="'middle'"):
        encode_for_training(model, [tiny_page()], "middle")


@pytest.mark.parametrize(("mode", "count"), [("hd", 980), ("lowres", 729)])
def test_images_are_encoded_as_ever_and_train_the_tower_unless_it_is_frozen(mode, count):
    model, page = tiny_model(), tiny_page(500, 480)
    (ours,) = encode_for_training(model, [page], mode)
    (theirs,) = model.encode_images([page], mode)
    assert len(ours) == count and torch.equal(ours, theirs)
    first = model.tower.vision_model.encoder.layers[0].mlp.fc1.weight
    ours.square().sum().backward()
    assert first.grad.abs().sum() > 0
    model.tower.requires_grad_(False)
    first.grad = None
    encode_for_training(model, [page], mode)[0].square().sum().backward()
    assert first.grad is None and model.mm_projector[0].weight.grad.abs().sum() > 0

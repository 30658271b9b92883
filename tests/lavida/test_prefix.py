from __future__ import annotations

import pytest
import torch

from shirg.errors import UserError
from shirg.lavida import prefix
from tests.tiny import tiny_model


def test_image_takes_the_place_of_the_placeholder():
    embedding = torch.nn.Embedding(4, 2)
    image = torch.tensor([[9.0, 9.0], [8.0, 8.0]])
    spliced = prefix.splice(embedding, torch.tensor([1, -200, 3]), [image], -200)
    torch.testing.assert_close(spliced, torch.cat([embedding.weight[1:2], image, embedding.weight[3:]]))
    with pytest.raises(UserError, match="1 image placeholders .* for 2 images"):
        prefix.splice(embedding, torch.tensor([1, -200, 3]), [image, image], -200)


def test_images_take_the_precision_of_the_words():
    model, ids = tiny_model().bfloat16(), torch.tensor([[1, -200, 3]])
    assert model.splice(ids[0], [torch.ones(2, 32)]).dtype == torch.bfloat16
    assert model.generate(ids, image_embeds=[torch.ones(2, 32)], max_new_tokens=2).shape == (1, 2)


def test_inference_prompt_embeddings_equal_the_official_code(reference, llada):
    theirs = reference.arrays("multimodal")
    with torch.no_grad():
        image = llada.encode_images([reference.image("square")], "hd")
        ours = llada.splice(theirs["prompt_square_ids"][0], image)
    torch.testing.assert_close(ours, theirs["prompt_square_embeds"][0], rtol=0, atol=2e-5)
    with torch.no_grad():
        wide = llada.splice(theirs["prompt_wide_ids"][0], llada.encode_images([reference.image("wide")], "hd"))
    assert len(wide) == theirs["prompt_wide_len"]

"""From examples to losses: what is masked, what is shared, and images of unequal numbers of tokens."""

from __future__ import annotations

import pytest
import torch

from shirg.lavida import adapter
from shirg.training.budgets import Component
from shirg.training.loss_model import Example, LossModel, draw_mask
from tests.tiny import name_a_token, printed_page, tiny_model, tiny_page
from tests.training.helpers import RESOLUTION


def test_mask_hides_at_least_one_and_half_on_average():
    masks = torch.stack([draw_mask(16, 0, "noise", number) for number in range(2000)])
    assert masks.any(dim=1).all()
    assert masks.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert torch.equal(draw_mask(16, 0, "noise", 3), masks[3])


def test_shared_tokens_are_chosen_by_the_image_alone():
    """With relevance on, where the same question changes what is kept if nothing is shared."""
    model = tiny_model(shirg={"resolution": RESOLUTION})
    adapter.attach_lora(model)
    features, prompt = model.image_features(tiny_page(), "shirg"), model.prompt_ids("Which total?")
    question, nothing = model.question_ids(prompt), torch.zeros(6, dtype=torch.long)
    name_a_token(model, features, question[-2:], 5)
    example = Example("r", "page", features, prompt, question, nothing, 6, nothing.bool())
    kept = {share: LossModel(model, "packed", share)._image(example, Component("shirg", 16)) for share in (True, False)}
    assert torch.equal(kept[True], model.image_embeds(features, "shirg", 16))
    assert torch.equal(kept[False], model.image_embeds(features, "shirg", 16, question))
    assert not torch.equal(kept[True], kept[False])


@pytest.mark.parametrize("share_prefix", [False, True])
@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("objective", ["packed", "prefix", "bidirectional"])
def test_images_of_unequal_budgets_have_the_losses_of_each_alone(objective, family, share_prefix):
    """`auto` keeps 64, 224 and 352 tokens of these pages; the shorter rows are padded, in float64."""
    model = tiny_model(family, shirg={"resolution": 336})
    adapter.attach_lora(model, rank=2, seed=1)
    model.double()
    examples = []
    for number, (lines, question) in enumerate(((1, "Total?"), (8, "Which items?"), (12, "How many of them?"))):
        prompt = model.prompt_ids(question)
        features = model.image_features(printed_page(lines), "shirg")
        target = torch.arange(number, number + 6)
        examples.append(
            Example(
                str(number),
                str(number),
                features,
                prompt,
                model.question_ids(prompt),
                target,
                6,
                draw_mask(6, 0, number),
            )
        )
    auto, loss_model = Component("shirg", "auto"), LossModel(model, objective, share_prefix)
    assert [len(loss_model._image(example, auto)) for example in examples] == [65, 225, 353]
    together, tokens = loss_model(examples, auto)
    alone = [loss_model([example], auto) for example in examples]
    torch.testing.assert_close(together, torch.cat([losses for losses, _ in alone]), atol=1e-9, rtol=1e-9)
    assert tokens == sum(count for _, count in alone)
    fixed = loss_model(examples[1:2], Component("shirg", 224))[0]
    assert torch.equal(fixed, alone[1][0])

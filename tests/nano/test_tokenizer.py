"""The nano's tokenizer: labels are tokens, the rest is spelled."""

from __future__ import annotations

import string

from shirg.nano.recipe.tokenizer import build_tokenizer


def test_text_comes_back_as_it_went_in():
    tokenizer = build_tokenizer()
    for text in ("What is the Due Date?", "Totally 2019.50 A-12/7", string.printable[:95]):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_label_alone_is_one_token_and_inside_a_word_it_is_spelled():
    tokenizer = build_tokenizer()
    assert tokenizer.convert_ids_to_tokens(tokenizer("Total")["input_ids"]) == ["Total"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("Totals")["input_ids"]) == list("Totals")

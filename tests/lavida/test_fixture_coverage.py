"""Which test compares which of the reference outputs, kept honest: nothing recorded is forgotten, no entry is stale.

Inputs (ids, seeds, drafts, noise) stand with the test whose result depends on them.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
HD = "test_vision.py::test_hd_path_equals_the_official_code"
MERGES = "test_vision.py::test_other_poolings_and_merges_equal_the_official_code"
FORWARD = "test_language.py::test_llada_forward_equals_the_official_code"
DREAM_FORWARD = "test_language.py::test_dream_forward_equals_the_official_code"
PROMPTS = "test_prefix.py::test_inference_prompt_embeddings_equal_the_official_code"
LLADA_TRAINING = "pretraining/test_loss.py::test_llada_training_equals_the_official_code"
DREAM_TRAINING = "pretraining/test_loss.py::test_dream_training_equals_the_official_code"
GENERATION = "test_generation.py::test_llada_generation_equals_the_official_code"
DREAM_GENERATION = "test_generation.py::test_dream_generation_equals_the_official_code"
RUN = "(seed|masked_indices|p_mask|final_masked_indices|labels_out|logits_tail|loss|target_count_per_row)"

IGNORED_STEPS = (
    "the official code ignores `steps` here, so the arrays are those of full_steps; ours honours the argument: "
    "test_generation.py::test_steps_are_honoured_where_the_official_code_ignores_them"
)
TIES = (
    "several confidences of this case are exactly 1, and the official code breaks such ties as `torch.topk` happens to; "
    "ours take the lower position. With the recorded choices among equals every state is the same: "
    "test_generation.py::test_dream_draws_are_the_official_ones"
)

TABLE = {
    "vision": {
        "(tower|projected|pooled|tokens_hd)_square": HD,
        "tower_(land5|wide|tall|small)_view1": HD,
        "(pooled|tokens_hd)_(land5|wide|tall|small)": HD,
        "pooled_square_view1_(average|max)": MERGES,
        "tokens_hd_flat_square_count": MERGES,
        "tokens_lowres_wide_(729|newline|pooled_197)": MERGES,
    },
    "multimodal": {
        "input_ids|labels|attention_mask_in": "pretraining/test_batches.py::test_training_rows_equal_the_official_code",
        "train_(embeds|labels|attention_mask|new_input_ids)": (
            "pretraining/test_batches.py::test_training_rows_equal_the_official_code"
        ),
        "plain_(labels|attention_mask|new_input_ids|embed_rowsum)": (
            "pretraining/test_batches.py::test_rows_without_padding_targets_equal_the_official_code"
        ),
        "left_(labels|attention_mask|new_input_ids)": "pretraining/test_batches.py::test_left_padding_equals_the_official_code",
        "trunc1000_(labels|len)": "pretraining/test_batches.py::test_cut_rows_equal_the_official_code",
        "prompt_square_(ids|embeds)": PROMPTS,
        "prompt_wide_(ids|len)": PROMPTS,
    },
    "forward": {
        "(answer|text)_ids": FORWARD,
        "(full|prefixlm)_logits_(answer|prompt_every8)": FORWARD,
        "prefill_logits_every8|cached_logits_answer|text_logits|hidden_last8": FORWARD,
        "prefix_mask_(lengths|dense)": "pretraining/test_loss.py::test_prefix_mask_by_its_definition",
    },
    "train": {
        f"(t1|t2|t3|logitnormal|fim|prefixlm)_{RUN}": LLADA_TRAINING,
        "(t1|t2|t3|logitnormal|fim|prefixlm)_token_ce_sum_per_row": LLADA_TRAINING,
        "fim_input_(ids|labels)": LLADA_TRAINING,
        "prefixlm_prompt_len": LLADA_TRAINING,
        "fp[012]_(t|noise|masked|p_mask)": "test_diffusion.py::test_forward_process_equals_the_official_code",
    },
    "generate": {
        "steps_arg_ignored_(tokens|history)": IGNORED_STEPS,
        "(?!steps_arg_ignored).*_(tokens|history)": GENERATION,
        "draft_infill(_blocks16)?_draft": GENERATION,
        "(batch2_second|text)_prompt_ids": GENERATION,
    },
    "dream": {
        "prompt(_wide)?_ids": DREAM_GENERATION,
        "prompt_embeds": "test_generation.py::test_dream_prompt_embeddings_equal_the_official_code",
        "answer_ids": DREAM_FORWARD,
        "full_logits_(answer|prompt_every8)|prefill_last_logits|cached_logits_answer": DREAM_FORWARD,
        "train_input_ids|train_labels_in": DREAM_TRAINING,
        f"train_(t1|t2)_{RUN}": DREAM_TRAINING,
        "gen_temp_seeded_history": "test_generation.py::test_dream_draws_are_the_official_ones",
        "gen_temp_seeded_tokens": TIES,
        "gen_(?!temp_seeded).*_(tokens|history)": DREAM_GENERATION,
    },
    "json": {
        "meta": "pretraining/test_batches.py::test_fixture_models_have_the_ids_that_the_fixtures_were_made_with",
        "anyres_geometry": "test_vision.py::test_token_counts_are_the_official_ones",
        "schedules": "test_diffusion.py::test_step_tables_equal_the_official_code",
        "generate": GENERATION,
        "dream": DREAM_GENERATION,
        "train_grad_norms": "pretraining/test_loss.py::test_gradients_equal_the_official_code",
        "text.(llada|dream)": "pretraining/test_samples.py::test_chat_samples_equal_the_official_code",
        "text.plain": "pretraining/test_samples.py::test_plain_samples_equal_the_official_code",
        "text.collate": "pretraining/test_samples.py::test_collator_equals_the_official_code",
        "text.prompts": "test_prompt.py::test_prompts_equal_the_official_code",
    },
    "views": {
        "lut.npy|anyres_(square|land5|wide|tall|small)_[0-4].png": (
            "test_views.py::test_anyres_views_are_the_official_ones"
        ),
        "(pad|square)_(wide|tall)_0.png": "test_views.py::test_square_views_are_the_official_ones",
    },
}
"""Kind -> pattern of names -> the test that compares them, or why none does."""


def recorded(reference, kind: str) -> list[str]:
    if kind == "views":
        return [path.name for path in (reference.folder / kind).iterdir()]
    if kind == "json":
        stems = [path.stem for path in reference.folder.glob("*.json")]
        return [stem for stem in stems if stem != "text"] + [f"text.{part}" for part in reference.json("text")]
    with np.load(reference.folder / f"{kind}.npz") as archive:
        return list(archive.files)


def functions_of_tests() -> set[str]:
    return {
        f"{path.relative_to(HERE).as_posix()}::{node.name}"
        for path in HERE.rglob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }


def test_every_archive_is_in_the_table(reference):
    assert {path.stem for path in reference.folder.glob("*.npz")} == TABLE.keys() - {"json", "views"}


@pytest.mark.parametrize("kind", TABLE)
def test_everything_recorded_is_compared_or_excused_once(reference, kind):
    names = recorded(reference, kind)
    for name in names:
        assert len([pattern for pattern in TABLE[kind] if re.fullmatch(pattern, name)]) == 1, name
    for pattern in TABLE[kind]:
        assert any(re.fullmatch(pattern, name) for name in names), f"{pattern} matches nothing"


def test_every_test_that_is_named_exists():
    named = {
        test for entries in TABLE.values() for text in entries.values() for test in re.findall(r"[\w/]+\.py::\w+", text)
    }
    assert len(named) > 20
    assert named <= functions_of_tests()


def test_steps_that_are_ignored_give_the_arrays_of_full_steps(reference):
    arrays = reference.arrays("generate")
    for part in ("tokens", "history"):
        assert arrays[f"steps_arg_ignored_{part}"].equal(arrays[f"full_steps_{part}"])

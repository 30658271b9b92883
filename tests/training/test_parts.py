"""The small parts of a run: seeds, rates, targets, cache, journal, checkpoints, settings."""

from __future__ import annotations

import logging
import math
import os
import signal

import pytest
import torch

from shirg.errors import UserError
from shirg.seeds import derived_seed, scoped_seed
from shirg.training import SHIRGLoRAConfig, checkpoints
from shirg.training.checkpoints import RunState
from shirg.training.features import FeatureCache
from shirg.training.interrupts import Preempted, StopRequest, deferred_interrupt, stopped_by
from shirg.training.journal import Journal, log_file
from shirg.training.loss_model import draw_mask
from shirg.training.report import best_in_words
from shirg.training.schedule import cosine_with_warmup
from shirg.training.targets import AnswerTargets
from tests.tiny import tiny_model, tiny_tokenizer
from tests.training.helpers import RESOLUTION, FakeRecord


def test_seeds_are_fixed_for_all_time():
    """Another number here would break every resume across versions."""
    assert derived_seed(0, "budget", 3) == 4518394564689097644
    assert derived_seed(0, "budget", 3) != derived_seed(0, "budget", 4) != derived_seed("0", "budget", 4)


def test_scoped_seed_repeats_inside_and_restores_outside():
    torch.manual_seed(5)
    expected = torch.rand(2).tolist()
    torch.manual_seed(5)
    got = []
    for step in (0, 0, 1):
        with scoped_seed(torch.device("cpu"), 7, step):
            got.append(torch.rand(2).tolist())
    assert got[0] == got[1] != got[2]
    assert torch.rand(2).tolist() == expected


def test_rate_warms_up_from_above_zero_and_falls_to_zero():
    rates = [cosine_with_warmup(step, 100, 2.0, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(2 / 11)
    assert rates[10] == max(rates) == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0)
    assert cosine_with_warmup(0, 1, 2.0, 0.03) == pytest.approx(1.0)


def test_mask_hides_at_least_one_and_half_on_average():
    masks = torch.stack([draw_mask(16, 0, "noise", number) for number in range(2000)])
    assert masks.any(dim=1).all()
    assert masks.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert torch.equal(draw_mask(16, 0, "noise", 3), masks[3])


@pytest.mark.parametrize(("family", "end"), [("llada", "<|eot_id|>"), ("dream", "<|im_end|>\n")])
def test_targets_are_answer_end_of_turn_and_padding(family, end):
    tokenizer = tiny_tokenizer(family)
    eos = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    end = tokenizer(end, add_special_tokens=False).input_ids
    length = 5 + len(end)
    targets = AnswerTargets(tokenizer, family=family, eos_token_id=eos, length=length)
    letters = tokenizer("abcdefgh", add_special_tokens=False).input_ids
    for answer, expected, cut in (
        (" ab ", [*letters[:2], *end, eos, eos, eos], False),
        ("abcde", [*letters[:5], *end], False),
        ("abcdefgh", letters[:length], True),
    ):
        ids, was_cut = targets(answer)
        assert ids.tolist() == expected and was_cut is cut


def test_cache_is_exact_bounded_and_forgets_the_least_used():
    model = tiny_model(shirg={"resolution": RESOLUTION})
    one, two, three = (FakeRecord(name, name) for name in ("one", "two", "three"))
    fresh = model.image_features(one.open_image(), "shirg")
    size = fresh.tokens.nbytes + fresh.pixels.nbytes
    cache = FeatureCache(model, max_bytes=2 * size)
    for record in (one, two, one, three, one, two):
        assert cache.get(record, "shirg").tokens.shape == (1, 64, 16)
        assert cache.nbytes <= 2 * size
    assert (cache.hits, cache.misses) == (2, 4)  # "two" was forgotten for "three"
    assert torch.equal(cache.get(one, "shirg").tokens, fresh.tokens)
    assert cache.get(one, "hd").views == "tiles"
    cache.clear()
    assert cache.nbytes == 0


def test_journal_survives_a_torn_line_and_rewinds(tmp_path):
    journal = Journal(tmp_path / "a.jsonl")
    for step in (1, 2, 3):
        journal.append({"step": step})
    with open(journal.path, "a") as handle:
        handle.write('{"step": 4, "lo')
    assert [entry["step"] for entry in journal.read()] == [1, 2, 3]
    journal.rewind(2)
    journal.append({"step": 3, "again": True})
    assert journal.read() == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]


def test_log_file_takes_what_the_package_says_and_only_then(tmp_path):
    package = logging.getLogger("shirg")
    before = (package.level, list(package.handlers))
    with log_file(tmp_path / "a.log"):
        logging.getLogger("shirg.training.test").info("inside")
    logging.getLogger("shirg.training.test").warning("outside")
    assert (package.level, package.handlers) == before
    assert (tmp_path / "a.log").read_text().count("inside") == 1
    assert "outside" not in (tmp_path / "a.log").read_text()


def test_second_ctrl_c_interrupts_at_once():
    handler = signal.getsignal(signal.SIGINT)
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupt(lines.append) as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.requested and "a second time stops at once" in lines[0]
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_signal_decides_how_a_saved_run_leaves():
    """Ctrl-C as a shell knows it; SIGTERM, and a process that stops with others, by a code to requeue on."""
    handler = signal.getsignal(signal.SIGTERM)
    for number, kind in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Preempted)):
        with deferred_interrupt() as request:
            os.kill(os.getpid(), number)
        assert request.requested and isinstance(stopped_by(request), kind)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert stopped_by(StopRequest()).code == 75


def test_latest_is_by_number_and_complete(tmp_path, caplog):
    files = (*checkpoints.ADAPTER_FILES, checkpoints.OPTIMIZER_FILE, checkpoints.STATE_FILE)
    for name in ("checkpoint-9", "checkpoint-100", "checkpoint-200", "checkpoint-x", "best_model"):
        (tmp_path / name).mkdir()
        for file in files[: 2 if name == "checkpoint-200" else None]:
            (tmp_path / name / file).touch()
    assert checkpoints.find_latest(tmp_path).name == "checkpoint-100"
    assert "checkpoint-200 is incomplete" in caplog.text
    checkpoints.rotate(tmp_path, None)
    checkpoints.rotate(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best_model", "checkpoint-200", "checkpoint-x"]
    assert checkpoints.find_latest(tmp_path / "nowhere") is None


def test_defaults_are_the_promised_ones():
    config = SHIRGLoRAConfig()
    assert (config.lora_rank, config.lora_alpha, config.lora_dropout) == (16, 32, 0.05)
    assert config.target_modules == ["mm_projector.0", "mm_projector.2"]
    assert config.token_budgets == [512, 768, 1024] and config.include_pooled
    assert (config.ratio_sampling, config.num_epochs, config.learning_rate) == ("uniform", 3, 1e-4)
    assert config.objective == "packed"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lora_rank", 0),
        ("lora_dropout", 1.0),
        ("num_epochs", 1.5),
        ("learning_rate", math.nan),
        ("mixed_precision", "fp8"),
        ("objective", "causal"),
        ("target_modules", []),
        ("save_total_limit", 0),
        ("validation_steps", 2.5),
        ("ratio_sampling", "random"),
        ("token_budgets", [0]),
    ],
)
def test_wrong_settings_are_named_with_their_value(name, value):
    with pytest.raises(UserError, match=name):
        SHIRGLoRAConfig(**{name: value})


@pytest.mark.parametrize(
    ("loss", "step", "says"),
    [
        (None, None, "no validation, the last adapter is kept"),
        (0.70616, 0, "best validation loss 0.7062 at step 0, before any training: it did not help"),
        (0.5, 20, "best validation loss 0.5000 at step 20"),
    ],
)
def test_the_kept_adapter_is_named(loss, step, says):
    assert best_in_words(RunState(best_loss=loss, best_step=step)) == says

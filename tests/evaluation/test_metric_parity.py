"""Our metrics against lmms-eval's own functions and the `anls` package, on hundreds of made-up answers each."""

from __future__ import annotations

import random
import string

import pytest

from shirg.evaluation import metrics, tasks

CASES = 600
PLAIN = """
total Total TOTAL the a An two none ten 3 3.0 3.1 0 0.0 12% $5 1,234 1,234.50 -7 1e3 dont don't couldnt've somebody'd
rock-n-roll U.S. 3.5 .5 yes! no? x/y a,b stop (c) 50 52 52.6 nan inf
"""
LISTED = [
    (guess, [truth] * 4)
    for guess, truth in (
        ("mcdonald 's", "mcdonald's"), ("ab", "a?b"), ("xy", "x,y"), ("x y", "x,y"), ("1,234 x-y", "1234 x y"),
    )
]  # fmt: skip
WORDS = (*PLAIN.split(), "12 %", "\u00e9t\u00e9", "St. Louis", "new\nline", "tab\tbed", "\uff21\uff22")
"""What the metrics treat each in its way: numbers, articles, contractions, punctuation, other scripts."""


def made_up(seed: int, answers: int) -> list[tuple[str, list[str]]]:
    """Predictions with accepted answers; a third of the predictions are an answer with a letter changed or added.

    Then as many of any signs at all, unfiltered, white space at both ends included.
    """
    chance, cases = random.Random(seed), []
    for _ in range(CASES):
        truth = [any_signs(chance) for _ in range(answers)]
        guess = chance.choice([any_signs(chance), chance.choice(truth), chance.choice(truth) + " "])
        cases.append((guess, truth))
    for _ in range(CASES):
        truth = [" ".join(chance.choices(WORDS, k=chance.randint(1, 3))) for _ in range(answers)]
        guess = " ".join(chance.choices(WORDS, k=chance.randint(1, 3)))
        if chance.random() < 2 / 3:
            guess = chance.choice(truth)
        if chance.random() < 1 / 2:
            place = chance.randrange(len(guess) + 1)
            guess = (
                guess[:place] + chance.choice(string.ascii_letters + "0.5% ") + guess[place + chance.randint(0, 1) :]
            )
        cases.append((guess, truth))
    return cases


def any_signs(chance: random.Random) -> str:
    """A few signs that some rule is about, or of the first 12,288 code points; sometimes more full stops than are removed."""
    if chance.random() < 1 / 4:
        return "".join(chr(chance.randrange(0x3000)) for _ in range(chance.randrange(8)))
    signs = "aAtTsS xy.,?!'%$-/12\n\t\u00a0\u00df\u0130;\"[](){}=+\\_><@`:*"
    return "".join(chance.choices(signs, k=chance.randrange(10))) + "." * chance.choice([0, 0, 0, 0, 40])


def both_ends_seen(scores: list[float]) -> bool:
    """Whether the cases tell anything: some right, some wrong."""
    return 0.05 < sum(score == 0 for score in scores) / len(scores) < 0.95


def test_anls_is_the_packages():
    package = pytest.importorskip("anls", reason="the package anls is not installed: scripts/check_lmms_eval.sh")
    scores = []
    for prediction, answers in made_up(seed=1, answers=3):
        guess = " ".join(prediction.split())  # the package leaves white space alone, the official scorer does not
        truth = [" ".join(answer.split()) for answer in answers]
        if any(len(text.upper()) != len(text.lower()) for text in (guess, *truth)):  # it counts other signs then
            continue
        scores.append(metrics.anls(guess, truth))
        if scores[-1] == metrics.ANLS_THRESHOLD:  # counts for the official scorer, and not for the package
            continue
        assert scores[-1] == pytest.approx(package.anls_score(prediction=guess, gold_labels=truth, threshold=0.5))
    assert both_ends_seen(scores)


@pytest.fixture
def lmms_tasks():
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: scripts/check_lmms_eval.sh")
    import lmms_eval.tasks as found

    return found


def test_anls_is_that_of_lmms_eval(lmms_tasks):
    from lmms_eval.api.metrics import anls

    scores = []
    for guess, truth in made_up(seed=2, answers=2):
        scores.append(metrics.anls(guess, truth))
        assert scores[-1] == anls(truth, [guess])["anls"], (guess, truth)
    assert both_ends_seen(scores)


def test_relaxed_accuracy_is_that_of_lmms_eval(lmms_tasks):
    from lmms_eval.tasks.chartqa.utils import relaxed_correctness

    scores = []
    for guess, (truth,) in made_up(seed=3, answers=1) + [(guess, [truth]) for guess in WORDS for truth in WORDS]:
        if {guess.lower(), truth.lower()} & {"nan", "inf"}:  # numbers there, words here: docs/evaluation.md
            continue
        scores.append(metrics.relaxed_accuracy(guess, [truth]))
        assert scores[-1] == float(relaxed_correctness(guess, truth)), (guess, truth)
    assert both_ends_seen(scores) and len(scores) > CASES


def test_vqa_accuracy_of_ten_answers_is_that_of_lmms_eval(lmms_tasks):
    from lmms_eval.tasks.textvqa.utils import textvqa_process_results

    scores = []
    for prediction, answers in made_up(seed=4, answers=4) + LISTED:
        ten = (answers[:1] * 3 + answers[1:2] * 4 + answers[2:] + answers[:1])[:10]
        doc = {"question_id": 0, "answers": list(ten)}
        scores.append(metrics.vqa_accuracy(prediction, ten))
        assert scores[-1] == pytest.approx(textvqa_process_results(doc, [prediction])["exact_match"]), (prediction, ten)
    assert both_ends_seen(scores)


def test_contains_match_is_ocrbenchs_of_lmms_eval(lmms_tasks):
    from lmms_eval.tasks.ocrbench.utils import ocrbench_process_results

    scores = []
    for prediction, answers in made_up(seed=5, answers=2):
        doc = {"answer": answers, "dataset": "made up", "question_type": "Doc-oriented VQA"}
        scores.append(metrics.contains_match(prediction, answers))
        assert scores[-1] == ocrbench_process_results(doc, [prediction])["ocrbench_accuracy"]["score"]
    assert both_ends_seen(scores)


def test_formulas_are_matched_as_in_ocrbench_of_lmms_eval(lmms_tasks):
    from lmms_eval.tasks.ocrbench.utils import ocrbench_process_results

    scores = []
    for prediction, answers in made_up(seed=6, answers=2):
        doc = {"answer": answers, "dataset": "HME100k", "question_type": tasks.FORMULAS}
        scores.append(tasks.find_task("OCRBench").scores(prediction, answers, tasks.FORMULAS)["contains_match"])
        assert scores[-1] == ocrbench_process_results(doc, [prediction])["ocrbench_accuracy"]["score"]
    assert both_ends_seen(scores)


def test_option_letter_is_ai2ds_of_lmms_eval(lmms_tasks):
    from lmms_eval.api.metrics import exact_match_hf_evaluate
    from lmms_eval.tasks.ai2d.utils import MultiChoiceRegexFilter

    chance, scores, extract = random.Random(7), [], MultiChoiceRegexFilter()
    for word in chance.choices(WORDS, k=CASES):
        truth, letter = chance.choice("ABCD"), chance.choice("ABCDabcd")
        said = chance.choice([letter, f"{letter}.", f"{letter}. {word}", f"({letter})", f"{letter} {word}", word])
        (kept,) = extract.apply([[said]], [{}])
        theirs = exact_match_hf_evaluate([kept], [truth], ignore_case=True, ignore_punctuation=True)["exact_match"]
        scores.append(metrics.option_letter(said, [truth]))
        assert scores[-1] == theirs, (said, truth)
    assert both_ends_seen(scores)


def test_ai2d_is_asked_as_by_lmms_eval(lmms_tasks):
    from pathlib import Path

    from lmms_eval.tasks.ai2d.utils import ai2d_doc_to_target, ai2d_doc_to_text

    from shirg.data.sources.values import lettered_choices

    keywords = prompts_of(Path(lmms_tasks.__file__).parent / "ai2d" / "ai2d.yaml")
    doc = {"question": "What comes first?", "options": ["egg", "larva", "pupa"], "answer": "2"}
    question, letter = lettered_choices(doc["question"], doc["options"], 2)
    assert tasks.prompt(tasks.find_task("AI2D"), question, "official") == ai2d_doc_to_text(doc, keywords)
    assert letter == ai2d_doc_to_target(doc, "mcq")


def prompts_of(path) -> dict:
    """The default prompts of one of lmms-eval's YAML files."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: None)
    return yaml.load(path.read_text(encoding="utf-8"), Loader)["lmms_eval_specific_kwargs"]["default"]


@pytest.mark.parametrize(
    ("name", "folder", "file"),
    [
        ("ChartQA", "chartqa", "chartqa.yaml"),
        ("DocVQA", "docvqa", "_default_template_docvqa_yaml"),
        ("InfoVQA", "infovqa", "_default_template_infovqa_yaml"),
        ("TextVQA", "textvqa", "_default_template_textvqa_yaml"),
        ("OCRBench", "ocrbench", "ocrbench.yaml"),
    ],
)
def test_prompts_are_lmms_evals(lmms_tasks, name, folder, file):
    import importlib
    from pathlib import Path

    keywords = prompts_of(Path(lmms_tasks.__file__).parent / folder / file)
    ask = getattr(importlib.import_module(f"lmms_eval.tasks.{folder}.utils"), f"{folder}_doc_to_text")
    question = "what Is the GDP of France?"
    assert tasks.prompt(tasks.find_task(name), question, "official") == ask({"question": question}, keywords)

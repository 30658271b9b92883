"""Settings have one declaration: what the commands have of them, and where their defaults differ from the library's."""

from __future__ import annotations

import pytest

from shirg.cli import evaluate, prepare, run, train
from shirg.data.config import DataSettings, SHIRGDatasetConfig
from shirg.evaluation.config import BenchmarkSettings, EvaluationSettings, SHIRGEvaluationConfig
from shirg.settings import settings_of
from shirg.training.config import BodySettings, SHIRGLoRAConfig, TrainingSettings

SMALLER_DATA = {"base_dataset_size": 1000, "ocr_enhancement_size": 200}
SHORTER = {"token_budgets": [512, 768], "num_epochs": 1}
FEWER = {"token_budgets": [512, 768], "sample_size": 60}


@pytest.mark.parametrize(
    ("command", "section", "config", "differs"),
    [
        (prepare, SHIRGDatasetConfig, SHIRGDatasetConfig, {**SMALLER_DATA, "output_dir": prepare.Flags().output_dir}),
        (train, TrainingSettings, SHIRGLoRAConfig, SHORTER),
        (train, BodySettings, SHIRGLoRAConfig, {}),
        (evaluate, EvaluationSettings, SHIRGEvaluationConfig, FEWER),
        (run, DataSettings, SHIRGDatasetConfig, SMALLER_DATA),
        (run, TrainingSettings, SHIRGLoRAConfig, SHORTER),
        (run, BenchmarkSettings, SHIRGEvaluationConfig, FEWER),
    ],
)
def test_a_flag_has_the_librarys_default_but_for_these(command, section, config, differs):
    flags, library = settings_of(section, command.Flags()), settings_of(section, config())
    if "modes" in library:
        library["modes"] = tuple(library["modes"])  # which the configuration made a list
    assert {name: value for name, value in flags.items() if value != library[name]} == differs


def test_a_sections_values_make_a_configuration():
    flags = train.Flags(lora_rank=8, token_budgets=[64], body_bits=4)
    config = SHIRGLoRAConfig(**settings_of(TrainingSettings, flags), **settings_of(BodySettings, flags))
    assert (config.lora_rank, config.token_budgets, config.body_bits, config.lora_dropout) == (8, [64], 4, 0.05)

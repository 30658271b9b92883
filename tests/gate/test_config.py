"""The settings: what is refused, and that they survive a JSON file."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from shirg.gate import GateConfig
from shirg.gate.config import PRESETS


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("alpha", 1.1, "alpha must be between 0 and 1, got 1.1"),
        ("alpha", math.nan, "alpha must be"),
        ("beta", -0.1, "beta must be a number of at least 0, got -0.1"),
        ("beta", math.inf, "beta must be"),
        ("clusters_per_budget", 2, "clusters_per_budget must be between 0 and 1, got 2"),
        ("max_cell", 0, "max_cell must be a whole number of tokens, at least 1, got 0"),
        ("max_cell", 2.0, "max_cell must be a whole number"),
        ("edge", "sobel", "edge must be one of gradient, density, strokes, print, runs, variance, got 'sobel'"),
        ("edge_spread", 1.5, "edge_spread must be between 0 and 1, got 1.5"),
        ("relevance_spread", -0.5, "relevance_spread must be between 0 and 1, got -0.5"),
        ("edge_spread", math.nan, "edge_spread must be"),
        ("coverage", "no", "coverage must be true or false, got 'no'"),
        ("summary", 0, "summary must be true or false, got 0"),
        ("edge_spread", True, "edge_spread must not be true or false, got True"),
        ("seed", 1.5, "seed must be a whole number, got 1.5"),
        ("min_cell", 0, "min_cell must be a whole number of tokens, at least 1, got 0"),
    ],
)
def test_invalid_values_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        GateConfig(**{name: value})


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_a_json_file(name):
    config = GateConfig.preset(name)
    assert GateConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_the_default_preset_is_the_default():
    assert GateConfig.preset("default") == GateConfig.preset("runs") == GateConfig()
    formula = GateConfig.preset("shirg-v2")
    assert (formula.alpha, formula.beta, formula.edge, formula.clusters_per_budget) == (0.25, 0.15, "gradient", 0.25)


def test_stored_settings_are_completed_by_those_of_the_formula():
    """What adapters hold that were trained before there were runs: all fields of their time, or the first few."""
    assert GateConfig.stored({"alpha": 0.25, "beta": 0.15}) == GateConfig.stored({}) == GateConfig.preset("shirg-v2")
    for name in PRESETS:
        config = GateConfig.preset(name)
        assert GateConfig.stored(dataclasses.asdict(config)) == config
    with pytest.raises(TypeError, match="gamma"):
        GateConfig.stored({"gamma": 1})


def test_an_unknown_preset_is_refused_with_the_list():
    with pytest.raises(ValueError, match="preset 'fast' is unknown; there are runs, default, shirg-v2, ocr"):
        GateConfig.preset("fast")

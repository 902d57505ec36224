"""Cautions about comparisons, and keys in which runs differ."""

from __future__ import annotations

import dataclasses
from typing import Any

import fabricated
import pytest

from ablation.analysis.comparability import cautions, configs
from ablation.analysis.results import Results

VALUES = {"concat": [[0.2], [0.3], [0.25]], "mi": [[0.7], [0.9], [0.8]]}


def with_keys(results: Results, **keys: dict[str, Any]) -> Results:
    """Adds the variant's value of each key to the configuration of its runs."""
    runs = (
        dataclasses.replace(run, config={**run.config, **{key: of[run.variant] for key, of in keys.items()}})
        for run in results.runs
    )
    return dataclasses.replace(results, runs=tuple(runs))


def test_equal_settings_give_no_caution() -> None:
    results = fabricated.results(VALUES)
    assert not list(cautions(results, configs(results)))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"parameters": 1011},
            "The smallest agent has 1,000 parameters and the largest 1,011: a difference may be one of size.",
        ),
        ({"frames": 98_000}, "different numbers of frames: 98,000 to 100,000"),
        ({"episodes": 7}, "different numbers of evaluation episodes: 7, 100"),
        ({"git": {"commit": "1" * 40, "dirty": False}}, "2 different commits: 111111111111, 000000000000"),
        ({"git": {"commit": "0" * 40, "dirty": True}}, "1 of 6 runs had changes that were not committed"),
        ({"versions": {"python": "3", "torch": "3"}}, "different versions: torch 3 or 2"),
        ({"machine": {"platform": "Linux", "processor": "Other"}}, "different machines: processor Other or Fabricated"),
        ({"config": {"fusion.name": "concat", "env.name": "fabricated", "core.size": 3}}, "than their seed: core.size"),
    ],
)
def test_each_difference_between_runs_gives_a_caution(change: dict[str, Any], expected: str) -> None:
    results = fabricated.results(VALUES)
    first, *others = results.runs
    if change.keys() & first.provenance.keys():
        change = {"provenance": {**first.provenance, **change}}
    results = dataclasses.replace(results, runs=(dataclasses.replace(first, **change), *others))
    (sentence,) = cautions(results, configs(results))
    assert expected in sentence


def test_variants_of_different_size_and_of_one_run() -> None:
    results = fabricated.results({"concat": [[0.2]], "mi": [[0.7], [0.9]]})
    expected = tuple(cautions(results, configs(results)))
    assert "different numbers of runs: concat 1, mi 2." in expected[0]
    assert "a single run has no intervals" in expected[1]


def test_keys_are_different_shared_or_of_one_run() -> None:
    results = with_keys(
        fabricated.results(VALUES),
        rank={"concat": 1, "mi": 2},
        tasks={"concat": ["a", "b"], "mi": ["a", "b"]},
        display={"concat": True, "mi": False},
    )
    found = configs(results)
    assert found.different == {"fusion.name": {"concat": "concat", "mi": "mi"}, "rank": {"concat": "1", "mi": "2"}}
    assert found.shared == {"env.name": "fabricated", "tasks": "[a,b]"}
    assert found.within == ()


def test_a_key_that_only_some_variants_have_is_a_difference() -> None:
    results = fabricated.results(VALUES)
    runs = (
        dataclasses.replace(run, config={**run.config, "fusion.rank": 4}) if run.variant == "mi" else run
        for run in results.runs
    )
    assert configs(dataclasses.replace(results, runs=tuple(runs))).different["fusion.rank"] == {"concat": "", "mi": "4"}

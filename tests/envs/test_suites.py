from __future__ import annotations

import dataclasses

import pytest
from omegaconf import OmegaConf

from envs.suite import EnvConfig
from envs.suites import SUITES, get_suite
from system.errors import InputError


@pytest.mark.parametrize("name", SUITES)
def test_rows_of_the_table_are_consistent(name: str) -> None:
    suite = get_suite(name)
    assert suite.config().name == name
    assert issubclass(suite.config, EnvConfig) and dataclasses.is_dataclass(suite.config)
    assert all(entry in suite.presets for entry in suite.config().tasks)


@pytest.mark.parametrize("name", SUITES)
def test_configs_are_schemas_that_omegaconf_reads(name: str) -> None:
    suite = get_suite(name)
    schema = OmegaConf.structured(suite.config)
    assert OmegaConf.to_object(schema) == suite.config()
    merged = OmegaConf.merge(schema, {"tasks": ["a", "b"]})
    assert OmegaConf.to_object(merged).tasks == ["a", "b"]
    with pytest.raises(Exception, match="no_such_option"):
        OmegaConf.merge(schema, {"no_such_option": 1})


def test_the_message_for_an_unknown_suite_lists_the_suites() -> None:
    with pytest.raises(InputError, match=r"env\.name=babyay is unknown: choose one of babyai, conditional"):
        get_suite("babyay")

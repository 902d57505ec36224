from __future__ import annotations

import dataclasses
import sys

import pytest
from omegaconf import OmegaConf

from envs.atari.suite import AtariConfig
from envs.babyai.suite import BabyAIConfig
from envs.dmlab2d.suite import DMLab2DConfig
from envs.spec import Slot, Split
from envs.suite import EnvConfig
from envs.suites import SUITES, get_suite, make_env, make_spec
from envs.vizdoom.suite import VizdoomConfig
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


@pytest.mark.parametrize(
    ("module", "config"),
    [
        ("envpool", BabyAIConfig(tasks=["BabyAI-GoToLocal-v0"], engine="envpool")),
        ("minigrid", BabyAIConfig(tasks=["BabyAI-GoToLocal-v0"], engine="minigrid")),
        # Tests share emulators of the usual length (tests/envs/conftest.py).
        ("ale_py", AtariConfig(tasks=["Pong"], max_episode_frames=1234)),
        ("vizdoom", VizdoomConfig(tasks=["basic"])),
        ("dmlab2d", DMLab2DConfig(tasks=["chase_eat"], processes=False)),
    ],
)
def test_an_installed_engine_that_cannot_be_imported_is_named(
    module: str, config: EnvConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a library of the system is missing: the specification finds the engine, the environment cannot import it."""
    pytest.importorskip(module)
    spec = make_spec(config)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"^{module} is installed but cannot be imported .*: install what it needs"):
        make_env(config, spec, [Slot(task=0, index=0)], 0, Split.TRAIN).reset()

"""The configuration: every choice composes, and every invalid override is refused in one sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from types import NoneType

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import conf
from agents.evaluation.probes import ALL, PROBES
from agents.fusion import FUSION_NAMES, FUSIONS, SITES
from agents.fusion.spatial import SPATIAL_FUSIONS
from agents.learning.losses import LOSSES, NORMALIZATIONS, VALUE_LOSSES
from agents.learning.optimizers import OPTIMIZERS
from agents.learning.rewards import REWARD_TRANSFORMS
from agents.learning.vtrace import PG_BOOTSTRAPS
from agents.network.core import CORES
from agents.network.instructions import READERS
from agents.network.torso import TORSOS
from agents.run.metrics import WINDOW
from agents.run.trackers.tracker import TRACKERS
from conf import composition, names
from conf.loading import (
    all_keys,
    changed_keys,
    compose_ablate,
    compose_evaluate,
    compose_train,
    to_dict,
    train_from_dict,
    train_part,
)
from conf.names import CONTEXTS, RUNTIMES
from envs.suites import SUITES
from system.errors import InputError

CONF = Path(conf.__file__).parent
TABLES = {
    "fusion": FUSION_NAMES,
    "context": CONTEXTS,
    "core": CORES,
    "torso": TORSOS,
    "runtime": RUNTIMES,
    "env": SUITES,
    "experiment": [file.stem for file in sorted((CONF / "experiment").glob("*.yaml"))],
}
CHOICES = [(group, name) for group, table in TABLES.items() for name in table]


def refusal(*overrides: str) -> str:
    """The sentence that refuses this command line."""
    with pytest.raises(InputError) as caught:
        compose_train(list(overrides))
    message = str(caught.value)
    assert "\n" not in message and message.endswith((".", "?")) and len(message) < 600
    return message


# Choices


@pytest.mark.parametrize(
    ("known", "table"),
    [
        (names.FLAT_FUSIONS, FUSIONS),
        (names.SPATIAL_FUSIONS, SPATIAL_FUSIONS),
        (names.FUSIONS, FUSION_NAMES),
        (names.SITES, SITES),
        (names.CORES, CORES),
        (names.TORSOS, TORSOS),
        (names.OPTIMIZERS, OPTIMIZERS),
        (names.REWARD_TRANSFORMS, REWARD_TRANSFORMS),
        (names.PG_BOOTSTRAPS, PG_BOOTSTRAPS),
        (names.LOSSES, LOSSES),
        (names.VALUE_LOSSES, VALUE_LOSSES),
        (names.ADVANTAGE_NORMALIZATIONS, NORMALIZATIONS),
        (names.PROBES, (*PROBES, ALL)),
        (names.LOGGERS, TRACKERS),
        (names.INSTRUCTION_ENCODERS, (*READERS, "table")),
    ],
)
def test_names_of_conf_equal_the_keys_of_the_tables(known: tuple[str, ...], table: Iterable[str]) -> None:
    assert tuple(known) == tuple(table)


def test_episode_window_of_conf_equals_that_of_the_statistics() -> None:
    assert names.EPISODE_WINDOW == WINDOW


def test_choices_are_the_names_of_the_tables() -> None:
    compose_train([])
    for group, table in TABLES.items():
        with initialize_config_module("conf", version_base="1.3"):
            assert set(composition._list_names(group)) == set(table)
        assert {file.stem for file in (CONF / group).glob("*.yaml")} <= set(table), group


@pytest.mark.parametrize(
    ("choice", "key", "value"),
    [
        *(("attention", "sites", ["torso"]), ("dynamic_conv", "sites", ["torso"])),
        *(("gated_attention", "sites", ["torso"]), ("hypernetwork", "hidden", 64), ("tucker", "rank", 32)),
    ],
)
def test_some_choices_set_more_than_the_name(choice: str, key: str, value: object) -> None:
    fusion = compose_train([f"fusion={choice}"]).fusion
    assert (fusion.name, getattr(fusion, key)) == (choice, value)


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_composes(group: str, name: str) -> None:
    suite = ["env=conditional", "context=task"] if group not in ("env", "context", "experiment") else []
    given = [*suite, f"{group}={name}"]
    config = train_part(compose_ablate(given)) if name.startswith("ablate_") else compose_train(given)
    if group != "experiment":
        assert getattr(config, group).name == name
    assert train_from_dict(to_dict(config), "itself") == config


@pytest.mark.parametrize(
    ("program", "overrides"),
    [
        ("train", []),
        ("train", ["seed=3", "env=atari", "env.tasks=[pong,breakout]", "fusion=mi", "core.size=8", "core=mogrifier"]),
        ("train", ["learner.learning_rate=1e-3", "experiment=dmlab30_mi", "run='a b=c'", "env.tasks=[]", "seed=4"]),
        ("ablate", ["experiment=ablate_conditional", "seeds=2", "total_frames=10", "episodes=20"]),
        ("population", ["members=3", "learning_rates=[1e-4,1e-2]", "env=conditional"]),
        ("evaluate", ["run=here", "greedy=true", "tasks=[map-0]"]),
        ("studies/synthetic_quick", ["dimensions=[1,2]", "seeds=2"]),
    ],
)
def test_cached_choices_compose_the_same_configuration(program: str, overrides: list[str]) -> None:
    """The result equals a composition by Hydra, and changing it does not change the cached configuration."""
    for _ in range(2):
        found = composition.compose_config(program, overrides)
        with initialize_config_module("conf", version_base="1.3"):
            whole = compose(program, overrides=overrides)
        assert OmegaConf.to_object(found) == OmegaConf.to_object(whole)
        assert OmegaConf.is_struct(found) == OmegaConf.is_struct(whole)
    if program == "train":
        with pytest.raises(InputError, match="core.sise is not a key"):
            composition.compose_config(program, [*overrides, "core.sise=4"])
        with pytest.raises(InputError, match="seed@here"):
            composition.compose_config(program, [*overrides, "seed@here=1"])


@pytest.mark.parametrize("value", ["{return: 3}", "{success: 0.5, return: 3}", "null"])
def test_a_mapping_of_a_preset_is_replaced_as_a_whole(value: str) -> None:
    preset = compose_train(["experiment=ponti8"]).stop_at
    given = compose_train(["experiment=ponti8", f"stop_at={value}"]).stop_at
    assert preset and given != preset and given == compose_train(["env=conditional", f"stop_at={value}"]).stop_at


def test_presets_of_grids_are_refused_by_train() -> None:
    with pytest.raises(InputError, match="experiment=ablate_conditional is unknown"):
        compose_train(["experiment=ablate_conditional"])


def test_spatial_fusion_is_refused_at_flat_sites() -> None:
    for name in set(FUSION_NAMES) - set(FUSIONS):
        message = refusal(f"fusion={name}", "fusion.sites=[torso,policy]")
        assert f"fusion={name}" in message and "fusion.sites=policy" in message and f"fusion.spatial={name}" in message


def test_every_key_is_listed_with_its_default() -> None:
    keys = all_keys("train", [])
    assert {
        "fusion.name",
        "fusion.sites",
        "learner.unroll_length",
        "runtime.slots_per_actor",
        "env.tasks",
        "seed",
    } <= keys.keys()
    assert keys["seed"] == 0


def test_changed_keys_include_explicit_defaults() -> None:
    """An explicit key counts even if its value is the default."""
    assert changed_keys(["seed=3", "fusion=gated", "resume=false"]) == {
        "seed": 3,
        "fusion.name": "gated",
        "resume": False,
    }
    assert changed_keys([]) == {}


# Invalid overrides


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("fusion.sise=3", ("fusion.sise", "fusion.size")),
        ("learner.learningrate=3", ("learner.learningrate", "learner.learning_rate")),
        ("learner.unrol_length=4", ("did you mean learner.unroll_length",)),
        ("learner.unroll_length=0", ("learner.unroll_length=0", "out of range")),
        ("learner.unroll_length=four", ("learner.unroll_length", "four")),
        ("runtime.inference=nothing", ("runtime.inference=nothing is unknown: choose one of auto, actor, server",)),
        ("fusion=nothing", ("fusion=nothing is unknown: choose one of attention, care, concat",)),
        ("total_frames=-1", ("total_frames=-1",)),
        ("sede=3", ("sede", "seed")),
        ("fusion=mii", ("fusion=mii", ", ".join(sorted(FUSION_NAMES)))),
        ("context=words", ("context=words", ", ".join(sorted(CONTEXTS)))),
        ("core=rnn", ("core=rnn", ", ".join(sorted(CORES)))),
        ("torso=vit", ("torso=vit", ", ".join(sorted(TORSOS)))),
        ("runtime=cloud", ("runtime=cloud", "local", "serial")),
        ("env=gridworld", ("env=gridworld", *SUITES)),
        ("experiment=nobel", ("experiment=nobel",)),
        ("fusion.name=mii", ("fusion=mii", *FUSION_NAMES)),
        ("fusion.spatial=mi", ("fusion.spatial=mi", *SPATIAL_FUSIONS)),
        ("fusion.spatial=film", ("fusion.spatial=film", "add torso to fusion.sites")),
        ("fusion.sites=[torso]", ("fusion=gated", "fusion.spatial=", *SPATIAL_FUSIONS)),
        ("fusion.rank=0", ("fusion.rank=0",)),
        ("fusion.hidden=0", ("fusion.hidden=0",)),
        ("fusion.experts=-1", ("fusion.experts=-1",)),
        ("fusion.kernel=2", ("fusion.kernel=2", "odd")),
        ("fusion.keys=where", ("fusion.keys=where", "content", "position")),
        ("match_params=mii", ("match_params=mii", "a number", *FUSION_NAMES)),
        ("match_params=-3", ("match_params=-3", "a number")),
        ("match=multiply_adds", ("match=multiply_adds is not used", "match_params=<fusion>")),
        ("match=flops", ("match=flops is unknown", "multiply_adds")),
        ("fusion.sites=[core]", ("fusion.sites=core", *SITES)),
        ("learner.optimizer=sgd", ("learner.optimizer=sgd", "adam")),
        ("learner.reduction=median", ("learner.reduction=median", "mean")),
        ("context.task_encoding=binary", ("context.task_encoding=binary", "one_hot")),
        ("precision=fp16", ("precision=fp16", "bf16")),
        ("core.size=big", ("core.size", "big")),
        ("core.size=null", ("core.size",)),
        ("total_frames=1.5", ("total_frames", "1.5")),
        ("learner.anneal=perhaps", ("learner.anneal", "perhaps")),
        ("fusion.sites=null", ("fusion.sites=null is not a list",)),
        ("env.tasks={a: 1}", ("env.tasks", "is not a list")),
        ("seed=" + "9" * 400, ("seed=999", "out of range")),
        ("core.size=0", ("core.size=0", "from 1 to")),
        ("core.rounds=0", ("core.rounds=0", "from 1 to")),
        ("core.rounds=2.5", ("core.rounds", "2.5")),
        ("seed=-1", ("seed=-1",)),
        ("seed=99999999999999999999", ("seed=",)),
        ("total_frames=0", ("total_frames=0",)),
        ("learner.learning_rate=nan", ("learner.learning_rate=nan",)),
        ("learner.learning_rate=inf", ("learner.learning_rate=inf",)),
        ("learner.learning_rate=-1e-3", ("learner.learning_rate",)),
        ("learner.discounting=1.1", ("learner.discounting=1.1",)),
        ("learner.max_gradient_norm=nan", ("learner.max_gradient_norm",)),
        ("learner.clip_rho=-1", ("learner.clip_rho",)),
        ("learner.adam_betas=[0.9]", ("learner.adam_betas",)),
        ("learner.adam_betas=[0.9,1.0]", ("learner.adam_betas",)),
        ("learner.max_refused=0", ("learner.max_refused",)),
        ("learner.replay_fraction=1.0", ("learner.replay_fraction=1.0", "below 1")),
        ("learner.replay_fraction=-0.5", ("learner.replay_fraction=-0.5",)),
        ("learner.replay_fraction=nan", ("learner.replay_fraction=nan",)),
        ("learner.replay_fraction=0.3", ("learner.replay_fraction=0.3", "16 columns", "learner.batch_size=16")),
        ("learner.replay_fraction=0.999", ("learner.replay_fraction=0.999", "no fresh one")),
        ("learner.replay_fraction=0.125", ("learner.replay_fraction=0.125", "14 fresh", "runtime.slots_per_actor=32")),
        ("learner.replay_size=-1", ("learner.replay_size=-1",)),
        ("stop_at_success=1.5", ("stop_at_success=1.5",)),
        ("stop_at=0.9", ("stop_at=0.9", "{success: 0.9}")),
        ("stop_at={sucess: 0.9}", ("stop_at=sucess", "success, return, score")),
        ("stop_at={return: many}", ("stop_at.return=many",)),
        ("learner.schedule=exponential", ("learner.schedule=exponential", "linear, constant, cosine")),
        ("torso.hidden=[0]", ("torso.hidden",)),
        ("runtime.slots_per_actor=0", ("runtime.slots_per_actor",)),
        ("runtime.learner_threads=-1", ("runtime.learner_threads",)),
        ("+fusion.sparsity=3", ("+fusion.sparsity=3", "adds or removes a key", "fusion.sparsity=3")),
        ("++sede=3", ("sede is not a key",)),
        ("~fusion", ("~fusion", "key=value")),
        ("seed=${oc.decode:HOME}", ("${oc.decode:HOME}", "interpolation")),
        ("run=${env.name}", ("interpolation",)),
        ("seed", ("seed", "key=value")),
        ("a b", ("a b", "key=value")),
        ("=3", ()),
        ("fusion=null", ()),
        ("fusion=concat,mi", ("fusion",)),
        ("env=[babyai,conditional]", ()),
        ("--multirun", ("--multirun",)),
    ],
)
def test_invalid_override_is_refused_in_one_sentence(override: str, fragments: tuple[str, ...]) -> None:
    message = refusal(override)
    for fragment in fragments:
        assert fragment in message


def test_batch_must_be_several_unrolls_or_an_even_part_of_one() -> None:
    for size in (65, 96, 24):
        assert f"learner.batch_size={size}" in refusal(f"learner.batch_size={size}", "runtime.slots_per_actor=64")
    for size in (128, 64, 16):
        assert compose_train([f"learner.batch_size={size}", "runtime.slots_per_actor=64"]).learner.batch_size == size


def test_replay_must_hold_the_columns_of_an_update() -> None:
    assert "at least 8" in refusal("learner.replay_fraction=0.5", "learner.replay_size=7")
    compose_train(["learner.replay_fraction=0.5", "learner.replay_size=8"])
    compose_train(["learner.replay_size=0"])


def test_evaluation_needs_a_run() -> None:
    for overrides in ([], ["run=x", "episodes=0"], ["run=x", "slot=3"]):
        with pytest.raises(InputError) as caught:
            compose_evaluate(overrides)
        assert "\n" not in str(caught.value)
    assert compose_evaluate(["run=x", "episodes=3"]).episodes == 3


def test_every_option_is_comparable_plain_data() -> None:
    plain = (bool, int, float, str, list, NoneType)
    for key, value in all_keys("train", []).items():
        assert isinstance(value, plain), key
    assert all(dataclasses.is_dataclass(suite.config) for suite in SUITES.values())

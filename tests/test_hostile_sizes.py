"""Excessive sizes in a foreign configuration are refused before memory is allocated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from saved_agents import CONDITIONAL, SMALL

from agents.evaluation.episodes import load_agent
from agents.setup import builder, machine, preflight
from agents.storage.checkpoint import load_checkpoint, save_checkpoint
from conf.loading import compose_train, to_dict, train_from_dict
from conf.schema import TrainConfig
from envs.suites import make_spec
from system.errors import InputError


def configured(**env: Any) -> dict[str, Any]:
    tree = to_dict(compose_train([*SMALL, *CONDITIONAL]))
    return tree | {"env": tree["env"] | env}


def largest_values(schema: type[Any], prefix: str = "") -> dict[str, float]:
    """By dotted key, the upper bound of each field of `schema` and its groups that has one."""
    found: dict[str, float] = {}
    for declared in dataclasses.fields(schema):
        key, group = prefix + declared.name, declared.default_factory
        if isinstance(group, type) and dataclasses.is_dataclass(group):
            found |= largest_values(group, f"{key}.")
        elif (most := getattr(declared.metadata.get("check"), "most", None)) is not None:
            found[key] = most
    return found


MOST = largest_values(TrainConfig)
assert len(MOST) > 20


@pytest.mark.parametrize("key", MOST)
def test_every_size_is_bounded(key: str) -> None:
    tree = configured()
    *groups, name = key.split(".")
    options = tree[groups[0]] if groups else tree
    options[name] = [MOST[key] + 1] if isinstance(options[name], list) else MOST[key] + 1
    with pytest.raises(InputError, match=f"{key}=.* is out of range: give .* to {MOST[key]}.|is even"):
        train_from_dict(tree, "here")


def test_the_number_of_layers_is_bounded() -> None:
    tree = configured()
    tree["torso"]["hidden"] = [1] * 101
    with pytest.raises(InputError, match="torso.hidden has 101 numbers: give 0 to 100"):
        train_from_dict(tree, "here")


@pytest.mark.parametrize("key", ["dimension", "num_tasks", "delay"])
def test_the_number_of_environments_is_bounded(key: str) -> None:
    with pytest.raises(InputError, match=f"env.{key}=.* is too large"):
        make_spec(train_from_dict(configured(**{key: 2**40}), "here").env)


def test_a_network_that_exceeds_the_free_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = train_from_dict(configured(), "here")
    env = make_spec(config.env)
    preflight.check_network(config, env)
    network = builder.build_network(config, env)
    preflight.check_fits(config, env, network)
    monkeypatch.setattr(machine, "free_memory", lambda: 1000)
    refused: list[Callable[[], object]] = [
        lambda: preflight.check_network(config, env),
        lambda: preflight.check_fits(config, env, network),
    ]
    for check in refused:
        with pytest.raises(InputError, match="MiB are free: lower"):
            check()


def test_a_checkpoint_whose_configuration_needs_other_weights_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """Without this check, the configuration could request a network of any size."""
    content = load_checkpoint(checkpoint)
    content["config"]["core"]["size"] = MOST["core.size"]
    agent = load_agent(save_checkpoint(tmp_path, 0, content))
    with pytest.raises(InputError, match="weights are those of another configuration"):
        agent.network(agent.env)


@pytest.mark.parametrize("damage", ["index", "name", "shape", "popart"])
def test_a_state_that_does_not_fit_the_learner_is_refused(damage: str) -> None:
    config = train_from_dict(configured(), "here")
    env = make_spec(config.env)
    learner = builder.build_learner(config, env, builder.build_network(config, env))
    shape = next(learner.network.parameters()).shape
    moments = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(shape), "exp_avg_sq": torch.zeros(shape)}
    state = learner.state_dict()
    state["optimizer"]["state"] = {0: moments}
    learner.load_state_dict(state)
    if damage == "index":
        state["optimizer"]["state"] = {10**6: moments}
    elif damage == "name":
        moments["max_exp_avg_sq"] = moments.pop("exp_avg_sq")
    elif damage == "shape":
        moments["exp_avg"] = torch.zeros(*shape, 2)
    else:
        state["popart"]["mu"] = torch.zeros(77)
    with pytest.raises(ValueError, match="optimiser's state of parameter|PopArt has moments of"):
        learner.load_state_dict(state)

"""match_params: the free dimension is found, the count is right, and an unreachable size is refused."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from agents.fusion import FREE_DIMENSIONS, FUSION_NAMES, FUSIONS
from agents.network import flops
from agents.network.core import CORES
from agents.network.flops import multiply_adds
from agents.setup.builder import build_network
from agents.setup.match_params import (
    TOLERANCE,
    count_multiply_adds,
    count_parameters,
    match_params,
    reference_count,
)
from conf.loading import compose_train, reference_fusion
from conf.schema import TrainConfig
from envs.spec import EnvSpec
from envs.suites import make_spec
from system.errors import InputError

BABYAI = ["env=babyai"]


def suite_of(fusion: str) -> list[str]:
    """The default suite, whose context is the instruction; with the task for a form that needs it."""
    return [*BABYAI, "context=both"] if getattr(FUSIONS.get(fusion), "needs_task", False) else BABYAI


@functools.cache
def composed(*overrides: str) -> tuple[TrainConfig, EnvSpec]:
    config = compose_train(list(overrides))
    return config, make_spec(config.env)


@pytest.mark.parametrize(
    ("fusion", "reference"),
    [
        *((fusion, "mi") for fusion in sorted(FUSIONS)),
        # A number uses the same search, so one case per free dimension suffices.
        *((fusion, "500000") for fusion in ("concat", "concat_mlp", "low_rank", "mixture")),
    ],
)
def test_every_flat_fusion_matches_the_size_of_another(fusion: str, reference: str) -> None:
    """Uses the default suite with its default sizes."""
    config, env = composed(*suite_of(fusion), f"fusion={fusion}", f"match_params={reference}")
    wanted = 500_000 if reference.isdecimal() else count_parameters(*composed(*suite_of(fusion), f"fusion={reference}"))
    assert reference_count(config, env, reference_fusion(config)) == wanted
    matched = match_params(config, env, reference_fusion(config))
    found = build_network(matched, env).num_parameters
    assert abs(found - wanted) <= TOLERANCE * wanted
    changed = {
        key
        for key in ("hidden", "rank", "experts", "size")
        if getattr(matched.fusion, key) != getattr(config.fusion, key)
    }
    assert changed <= {FREE_DIMENSIONS.get(fusion, "size"), "size"}
    if fusion == reference:
        assert not changed
    unmatched = compose_train([*suite_of(fusion), f"fusion={fusion}"])
    assert match_params(unmatched, env, None) == unmatched


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_every_flat_fusion_matches_the_multiply_adds_of_another(fusion: str) -> None:
    """A dimension that no acting step computes, such as the hidden layer of `hypernetwork`, keeps its value."""
    config, env = composed(*suite_of(fusion), f"fusion={fusion}", "match_params=tucker", "match=multiply_adds")
    reference, _ = composed(*suite_of(fusion), "fusion=tucker")
    wanted = multiply_adds(build_network(reference, env), env).apply
    assert reference_count(config, env, reference_fusion(config)) == wanted
    matched = match_params(config, env, reference_fusion(config))
    assert abs(multiply_adds(build_network(matched, env), env).apply - wanted) <= TOLERANCE * wanted
    if fusion in ("hypernetwork", "mixture", "paco"):
        key = FREE_DIMENSIONS[fusion]
        assert getattr(matched.fusion, key) == getattr(config.fusion, key)


@pytest.mark.parametrize("reference", FUSION_NAMES)
def test_every_fusion_can_be_the_reference(reference: str) -> None:
    config, env = composed(*suite_of(reference), "fusion=concat_mlp", f"match_params={reference}")
    wanted = count_parameters(*composed(*suite_of(reference), f"fusion={reference}"))
    assert reference_count(config, env, reference_fusion(config)) == wanted


def test_counting_parameters_allocates_nothing_and_draws_no_random_numbers() -> None:
    config, env = composed("env=conditional", "context=task", "fusion=mi")
    before = torch.get_rng_state()
    network = build_network(config, env)
    torch.set_rng_state(before)
    assert count_parameters(config, env) == network.num_parameters
    assert count_multiply_adds(config, env) == multiply_adds(network, env).apply
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "overrides",
    [
        ["match_params=10"],
        ["match_params=999999999999"],
        ["fusion=gated", "fusion.sites=[policy]", "match_params=mi"],
        ["fusion=attention", "match_params=mi"],
        ["fusion=mixture", "fusion.sites=[policy,value]", "match_params=1"],
        ["fusion=mixture", "fusion.sites=[policy,value]", "match_params=1", "match=multiply_adds"],
        ["match_params=10", "match=multiply_adds"],
    ],
)
def test_unreachable_size_is_refused(overrides: list[str]) -> None:
    config, env = composed(*BABYAI, *overrides)
    with pytest.raises(InputError, match="match_params=.* cannot be met") as caught:
        match_params(config, env, reference_fusion(config))
    assert "\n" not in str(caught.value)


def test_multiply_adds_equal_a_count_by_hand() -> None:
    """A feed-forward agent on vectors, counted by hand."""
    config, env = composed(
        *(
            "env=conditional",
            "env.num_tasks=3",
            "env.dimension=5",
            "context=task",
            "context.task_size=7",
            "core=feedforward",
        ),
        *("core.size=11", "fusion.size=13", "torso.hidden=[17]", "fusion=mi", "fusion.sites=[core_input,policy]"),
    )
    network = build_network(config, env)
    actions, x = env.num_actions, 17 + env.num_actions + 1
    vector = env.observation["vector"].shape[0]
    found = multiply_adds(network, env)
    # W'(z) and b'(z) at both sites; an embedding is looked up.
    assert found.condition == 7 * 13 * x + 7 * 13 + 7 * actions * 11 + 7 * actions
    # The value head, which is not counted here, reads the core's output.
    assert found.apply == vector * 17 + x * 13 + 13 * 11 + 11 * actions


def test_multiply_adds_include_lstms_and_convolutions() -> None:
    config, env = composed(*BABYAI, "fusion=concat", "fusion.size=8", "core.size=16", "torso.size=12")
    network = build_network(config, env)
    found = multiply_adds(network, env)
    words, z = 8, config.context.instruction_size
    assert found.condition == words * 4 * z * (config.context.word_size + z) + z * 8
    x = 12 + env.num_actions + 1
    maps = [
        (36, network.torso.convolutions[0]),
        (25, network.torso.convolutions[1]),
        (16, network.torso.convolutions[2]),
    ]  # type: ignore[index, union-attr]
    products = sum(places * layer.weight.numel() for places, layer in maps)
    assert found.apply == products + 16 * 64 * 12 + x * 8 + 4 * 16 * (8 + 16) + 16 * env.num_actions


class LibraryCount(FlopCounterMode):
    """torch's counter with the interface of the own one."""

    def __init__(self) -> None:
        super().__init__(display=False)

    @property
    def flops(self) -> int:
        return self.get_total_flops()


@pytest.mark.parametrize(
    "overrides",
    [
        *([f"fusion={name}", *suite_of(name)] for name in FUSION_NAMES),
        *([f"core={name}"] for name in CORES),
        ["env=conditional", "context=task"],
    ],
    ids="-".join,
)
def test_multiply_adds_are_those_of_torchs_counter(monkeypatch: pytest.MonkeyPatch, overrides: list[str]) -> None:
    config, env = composed(*overrides)
    network = build_network(config, env)
    found = multiply_adds(network, env)
    monkeypatch.setattr(flops, "_FlopCount", LibraryCount)
    assert found == multiply_adds(network, env)
    assert found.apply > 0

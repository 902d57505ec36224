"""Diagnostics on networks and gradients whose cosines, dead units, ranks and terms are known, and training that they do not change."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from fakes import fake_config, fake_env, fake_network
from small_learners import ENV, everything, flat, make_batch, make_learner
from torch import Tensor, nn

from agents.fusion import FUSIONS, OPTIONS
from agents.fusion.segments import Segments
from agents.fusion.spatial import SPATIAL_FUSIONS
from agents.learning.diagnostics.measurement import (
    MOST_TASKS,
    compared_parameters,
    effective_rank,
    task_cosines,
    term_sizes,
)
from agents.learning.diagnostics.recording import Recorded, record
from agents.network.agent import AgentNetwork

SIZES = {"rank": 3, "hidden": 5, "experts": 3, "heads": 2, "keys": "content", "kernel": 3}
AFFINE = sorted({name for forms in (FUSIONS, SPATIAL_FUSIONS) for name, form in forms.items() if form.affine_in_z})

# Gradients of tasks


def test_cosines_of_known_gradients() -> None:
    """Task k's gradient of `shared` is its row times its number of steps; only task 2 has one of `other`."""
    shared, other = torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True)
    directions = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0], [5.0, 5.0]])
    task = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3], [0, 0, 2, 1]])
    mask = torch.ones(3, 4, dtype=torch.bool)
    # The only steps of task 3.
    mask[:2, 3] = False

    def loss(steps: Tensor) -> Tensor:
        return ((directions[task] @ shared)[steps]).sum() + (other.sum() * (task == 2))[steps].sum()

    found = task_cosines(loss, task, mask, {"shared": [shared], "other": [other]})
    assert {key: float(value) for key, value in found.items()} == pytest.approx(
        {
            "cosine_mean/shared": -math.sqrt(2) / 3,
            "cosine_min/shared": -math.sqrt(0.5),
            "conflicts/shared": 2 / 3,
            "cosine_mean/other": 0,
            "cosine_min/other": 0,
            "conflicts/other": 0,
        },
        abs=1e-6,
    )


def test_cosines_need_two_tasks_and_compare_at_most_so_many() -> None:
    weight, calls = torch.ones(1, requires_grad=True), []

    def loss(steps: Tensor) -> Tensor:
        calls.append(int(task[steps][0]))
        return weight.sum() * steps.sum()

    task = torch.zeros(4, 5, dtype=torch.long)
    assert task_cosines(loss, task, torch.ones(4, 5, dtype=torch.bool), {"part": [weight]}) == {}
    task = torch.arange(MOST_TASKS + 4).repeat(2, 1)
    mask = torch.ones_like(task, dtype=torch.bool)
    # The first four tasks have one valid step, the others two.
    mask[0, :4] = False
    assert float(task_cosines(loss, task, mask, {"part": [weight]})["cosine_min/part"]) == pytest.approx(1)
    assert sorted(calls) == [*range(4, MOST_TASKS + 4)]


@pytest.mark.parametrize("loss", ["impala", "appo"])
@pytest.mark.parametrize("value_loss", ["mse", "hl_gauss"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_of_the_tasks_add_up_to_that_of_the_update(loss: str, value_loss: str, reduction: str) -> None:
    learner = make_learner(loss=loss, value_loss=value_loss, reduction=reduction, popart_step_size=0.1)
    batch = make_batch(learner)
    staged, parameters = learner.prefetcher.stage(batch), list(learner.network.parameters())
    total, _, targets = learner.objective(staged, 0.3)
    again = learner.objective.loss_of_steps(staged, targets, 0.3)
    by_task = [again(batch["mask"] & (batch["task"][:-1] == task)) for task in range(len(ENV.tasks))]
    torch.testing.assert_close(sum(by_task), total)
    assert len({round(part.item(), 6) for part in by_task}) == len(ENV.tasks)
    expected = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    found = torch.autograd.grad(sum(by_task), parameters, allow_unused=True, materialize_grads=True)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_value_outputs_of_single_tasks_are_not_compared() -> None:
    for popart in (True, False):
        network = make_learner(popart=popart, sites=("core_input",)).network
        heads = compared_parameters(network)["heads"]
        assert any(parameter is network.policy.weight for parameter in heads)
        assert any(parameter is network.value_head.weight for parameter in heads) != popart


# Dead units


def dead_units(network: AgentNetwork) -> dict[str, float]:
    learner = make_learner()
    batch = make_batch(learner)
    staged = learner.prefetcher.stage(batch)
    with record(network) as recorded:
        modulations = network.condition(staged.contexts)
        state = torch.zeros(batch["task"].shape[1], network.core_state_size)
        network.unroll(batch, state, modulations, staged.segments)
    assert network.observe is None
    return {key: float(value) for key, value in recorded.dead_units().items()}


@torch.no_grad()
def kill(layer: nn.Linear | nn.Parameter, units: int) -> None:
    """Gives the first units of a layer before a ReLU an output far below zero."""
    (layer.bias if isinstance(layer, nn.Linear) else layer)[:units] = -1e12


def test_the_share_of_dead_units_of_each_part() -> None:
    config = fake_config(fusion="concat_mlp", core="feedforward", sites=("core_input",), critic_width=2.0)
    network: Any = fake_network(ENV, config)
    # No unit is dead by chance: each bias exceeds what the layer before it can give.
    with torch.no_grad():
        network.torso.layers[0].bias.fill_(1e2)
        network.fusions["core_input"].c.fill_(1e4)
        network.core.linear.bias.fill_(1e6)
        network.critic.bias.fill_(1e8)
    assert dead_units(network) == {f"dead_units/{part}": 0 for part in ("fusion", "torso", "core", "heads")}
    kill(network.torso.layers[0], 3)
    kill(network.core.linear, 1)
    kill(network.critic, 4)
    kill(network.fusions["core_input"].c, 2)
    assert dead_units(network) == pytest.approx(
        {"dead_units/torso": 3 / 6, "dead_units/core": 1 / 5, "dead_units/heads": 4 / 10, "dead_units/fusion": 2 / 5}
    )


def test_a_unit_of_a_feature_map_is_a_channel() -> None:
    recorded, maps = Recorded(), torch.zeros(5, 4, 3, 2)
    maps[3, 1, 2, 0] = 1
    recorded.count_units("torso", maps)
    assert {key: float(value) for key, value in recorded.dead_units().items()} == {"dead_units/torso": 3 / 4}
    # A layer counts with its units.
    recorded.count_units("torso", torch.ones(5, 12))
    assert float(recorded.dead_units()["dead_units/torso"]) == pytest.approx(3 / 16)


@pytest.mark.parametrize("torso", ["shallow", "deep"])
def test_every_relu_of_a_convolutional_torso_is_counted(torso: str) -> None:
    env = fake_env(image=(24, 24, 3), kind="pixels")
    network = fake_network(env, fake_config(torso=torso))
    image = torch.randint(0, 255, (3, 24, 24, 3), dtype=torch.uint8)
    with record(network) as recorded:
        network.torso({"image": image})
    units = sum(len(dead) for dead in recorded._dead["torso"])
    # deep: two for each of six residual blocks, one behind them, and the linear layer.
    assert units == {"shallow": 16 + 32 + 6, "deep": 4 * 16 + 8 * 32 + 32 + 6}[torso]


# Effective rank


def test_effective_rank_of_known_singular_values() -> None:
    orthogonal = torch.linalg.qr(torch.randn(40, 6, dtype=torch.float64))[0]
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    for values, expected in (
        ([1.0] * 6, 6.0),
        ([7.0, 0, 0, 0, 0, 0], 1.0),
        ([3.0, 1.0, 0, 0, 0, 0], math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))),
    ):
        features = orthogonal @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ rotation
        assert float(effective_rank(features.view(8, 5, 6))) == pytest.approx(expected, rel=1e-4)
    assert math.isfinite(effective_rank(torch.full((3, 2), math.nan)))


# Terms of a fusion


@pytest.mark.parametrize("name", AFFINE)
def test_sizes_of_the_terms_are_those_of_the_full_form(name: str) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {option: SIZES[option] for option in OPTIONS.get(name, ())}
    if name in FUSIONS and FUSIONS[name].affine_in_z:
        tasks = {"num_tasks": 2} if FUSIONS[name].needs_task else {}
        check_terms(FUSIONS[name](5, 4, 6, **options, **tasks))
    if name in SPATIAL_FUSIONS:
        check_terms(SPATIAL_FUSIONS[name]((2, 3, 3), 4, **options))


def check_terms(fusion: Any) -> None:
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    x, z, index = torch.randn(9, fusion.x_size), torch.randn(3, fusion.z_size), torch.tensor([0, 2, 1] * 3)
    found = term_sizes(fusion, x.view(-1, *fusion.x_shape), z, Segments(index, 3))
    W, U, V, b = fusion.to_full_mi()
    multiplicative = torch.einsum("nz,zkx,nx->nk", z[index], W, x)
    additive = z[index] @ U + x @ V.t() + b
    expected = [term.detach().square().mean().sqrt() for term in (multiplicative, additive)]
    torch.testing.assert_close(list(found), expected, rtol=1e-4, atol=1e-5)
    assert expected[1] > 0.1


# Measurements of a learner


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fusion": "concat_mlp", "core": "gru", "sites": ("policy",), "loss": "appo"},
        {"fusion": "cross_attention", "core": "mingru", "context": "instruction", "popart": False},
        {"fusion": "gated", "context": "none", "core": "feedforward", "sites": ()},
    ],
)
def test_training_is_the_same_with_diagnostics_bit_for_bit(options: dict[str, Any]) -> None:
    plain, measured = make_learner(**options), make_learner(**options, diagnostics=2)
    torch.manual_seed(1)
    generator = torch.get_rng_state()
    for update in range(5):
        for learner in (plain, measured):
            learner.step(make_batch(learner, update))
        assert everything(plain) == everything(measured)
        assert measured.diagnostics
        figures = measured.diagnostics.take()
        assert bool(figures) == (update % 2 == 0)
        assert measured.diagnostics.take() == {}
    assert torch.equal(torch.get_rng_state(), generator)
    assert plain.diagnostics is None and not torch.equal(flat(plain), flat(make_learner(**options)))
    assert all(value.dim() == 0 and torch.isfinite(value) for value in figures.values())


def test_the_figures_of_a_measurement() -> None:
    learner = make_learner(diagnostics=1, critic_width=1.0, sites=("core_input", "policy"))
    learner.step(make_batch(learner))
    assert learner.diagnostics
    assert set(learner.diagnostics.take()) == {
        f"diagnostics/{name}"
        for name in (
            *(
                f"{figure}/{part}"
                for figure in ("cosine_mean", "cosine_min", "conflicts")
                for part in ("torso", "fusion", "core", "heads")
            ),
            *("dead_units/torso", "dead_units/heads", "effective_rank/core_input", "effective_rank/core"),
            *(f"{term}/{site}" for term in ("multiplicative", "additive") for site in ("core_input", "policy")),
        )
    }


def test_a_measurement_needs_no_other_learner() -> None:
    """A leader measures and its followers do not, so a measurement may not wait for their sums."""
    counts = []
    for every in (0, 1):
        learner, calls = make_learner(diagnostics=every), []
        learner._reduce = learner.objective._reduce = calls.append
        learner.step(make_batch(learner))
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0

"""HL-Gauss: histograms against the formula, values preserved while PopArt's moments and the support move, and updates with it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_learners import everything, make_batch, make_learner
from test_learner_loss import outputs_step_by_step

from agents.learning.losses import DEVIATION, histogram
from agents.learning.popart import MOST_RATIO, MOST_SHIFT, lagrange_weights, move_support, rescale_head, sigma
from agents.network.heads import HistogramHead
from conf.loading import compose_train
from conf.names import VALUE_LOSSES
from system.errors import InputError

TASKS, BINS, BOUND = 3, 51, 10.0
WIDTH = 2 * BOUND / BINS
TOLERANCE = 0.02
"""Of values behind a move of the support, in standard deviations of the targets."""


def normal_cdf(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def make_head(features: int = 4, seed: int = 0) -> HistogramHead:
    torch.manual_seed(seed)
    return HistogramHead(features, TASKS, bins=BINS, bound=BOUND).double()


def gaussian_head(deviation: float) -> HistogramHead:
    """Its feature x is the mean of a normal distribution: l_i = -(c_i - x)^2 / (2 deviation^2), up to a term without i."""
    head = make_head(1)
    with torch.no_grad():
        head.weight.copy_((head.centres / deviation**2).reshape(1, BINS, 1).expand_as(head.weight))
        head.bias.copy_((-head.centres.square() / (2 * deviation**2)).expand_as(head.bias))
    return head


@torch.no_grad()
def values(head: HistogramHead, mu: torch.Tensor, deviation: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """sigma n + mu for every task on the same features, [K, N]."""
    outputs = [head(features, torch.full((len(features),), task)) for task in range(TASKS)]
    return torch.stack(outputs) * deviation[:, None] + mu[:, None]


def move(head: HistogramHead) -> None:
    move_support(head.weight, head.bias, head.scale, head.shift, head.centres)


@given(targets=st.lists(st.floats(-15, 15), min_size=1, max_size=5))
def test_a_histogram_is_the_mass_of_a_gaussian_in_each_bin(targets: list[float]) -> None:
    centres = make_head().centres
    found = histogram(torch.tensor(targets, dtype=torch.float64), centres)
    for row, target in zip(found.tolist(), targets, strict=True):
        kept, width = min(max(target, -BOUND), BOUND), 2 * BOUND / BINS
        ends = [normal_cdf((-BOUND + number * width - kept) / (DEVIATION * width)) for number in range(BINS + 1)]
        expected = [(high - low) / (ends[-1] - ends[0]) for low, high in itertools.pairwise(ends)]
        np.testing.assert_allclose(row, expected, atol=1e-5)
        assert sum(row) == pytest.approx(1)
        if abs(target) < BOUND - 5 * DEVIATION * width:
            mean = sum(p * centre for p, centre in zip(row, centres.tolist(), strict=True))
            assert mean == pytest.approx(target, abs=1e-4 * width)


def test_a_histogram_is_exact_in_single_precision() -> None:
    centres = make_head().centres
    targets = torch.linspace(-12, 12, 97, dtype=torch.float64)
    found = histogram(targets.float(), centres.float())
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(found.double(), histogram(targets, centres), atol=2e-6, rtol=0)


@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_a_change_of_the_moments_leaves_every_value_unchanged(seed: int, scale: float) -> None:
    """Of any input, with any weights. Only the rounding remains."""
    rng, head = np.random.default_rng(seed), make_head(seed=seed)
    with torch.no_grad():
        head.weight.normal_()
    features = torch.randn(7, 4, dtype=torch.float64)
    mu, deviation = (torch.from_numpy(array) for array in (rng.normal(0, 3, TASKS), rng.uniform(0.1, 3, TASKS)))
    new_mu, new_deviation = (
        torch.from_numpy(array) for array in (rng.normal(0, scale, TASKS), rng.uniform(0.1, 3, TASKS) * scale)
    )
    before = values(head, mu, deviation, features)
    rescale_head(*head.output_layer, mu, deviation, new_mu, new_deviation)
    assert not torch.equal(head.scale, torch.ones_like(head.scale))
    torch.testing.assert_close(values(head, new_mu, new_deviation, features), before, rtol=1e-9, atol=1e-9 * scale)


def test_the_polynomial_through_four_values_is_exact_to_degree_three() -> None:
    x = torch.linspace(-0.5, 3.5, 9, dtype=torch.float64)
    nodes = torch.arange(4, dtype=torch.float64)
    for coefficients in np.random.default_rng(0).normal(size=(5, 4)):
        of_nodes, of_x = (sum(c * where**power for power, c in enumerate(coefficients)) for where in (nodes, x))
        torch.testing.assert_close(lagrange_weights(x) @ of_nodes, of_x)


@given(
    scale=st.floats(0.6, 1.8),
    shift=st.floats(-1.5, 1.5),
    mean=st.floats(-1.5, 1.5),
    deviation=st.sampled_from([DEVIATION * WIDTH, 0.5, 1.0]),
)
def test_a_move_of_the_support_keeps_learned_values(scale: float, shift: float, mean: float, deviation: float) -> None:
    """Distributions from the narrowest that is learned to a wide one, whose mass is inside of both supports."""
    head, still, one = gaussian_head(deviation), torch.zeros(TASKS).double(), torch.ones(TASKS).double()
    features = torch.tensor([[mean]], dtype=torch.float64)
    with torch.no_grad():
        head.scale.copy_(torch.tensor([[scale], [1.0], [1.0]]))
        head.shift.copy_(torch.tensor([0.0, shift, 0.5]))
    before, kept = values(head, still, one, features), head.weight.detach().clone()
    move(head)
    after = values(head, still, one, features)
    moved = [abs(math.log(scale)) > math.log(MOST_RATIO), abs(shift) > MOST_SHIFT, False]
    for task, is_moved in enumerate(moved):
        if is_moved:
            assert head.scale[task].item() == 1 and head.shift[task].item() == 0
        else:
            assert torch.equal(head.weight[task], kept[task]) and torch.equal(after[task], before[task])
    torch.testing.assert_close(after, before, rtol=0, atol=TOLERANCE)


def test_a_new_head_keeps_its_values_while_the_scale_grows_a_hundredfold() -> None:
    """Without learning: one support after the other fits badly and moves. A move changes values by at most 0.03 standard deviations."""
    rate = 1.1
    head, features = make_head(), torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mu, deviation = torch.zeros(TASKS).double(), torch.ones(TASKS).double()
    moves = 0
    while deviation[0] < 100:
        before = values(head, mu, deviation, features)
        rescale_head(*head.output_layer, mu, deviation, mu, deviation * rate)
        deviation = deviation * rate
        bins = head.weight.detach().clone()
        move(head)
        if torch.equal(head.weight, bins):
            torch.testing.assert_close(values(head, mu, deviation, features), before, rtol=1e-9, atol=1e-9)
        else:
            moves += 1
            assert (values(head, mu, deviation, features) - before).abs().max() <= 0.03 * deviation[0]
    assert 8 <= moves <= 12


@pytest.mark.parametrize("features", [4, BINS])
def test_the_first_values_are_close_to_zero(features: int) -> None:
    torch.manual_seed(0)
    head = HistogramHead(features, TASKS, bins=BINS, bound=BOUND, is_fused=features == BINS)
    task = torch.arange(300) % TASKS
    n = head(torch.randn(300, features), task).detach()
    assert 0.01 < float(n.std()) < 1 and abs(float(n.mean())) < 0.2


def test_the_head_learns_targets_whose_moments_move() -> None:
    """Its values reach targets far outside of its first support."""
    head = make_head()
    features = torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 1
    task = torch.arange(40) % TASKS
    targets = 30 + 5 * features[:, 0] * (task + 1)
    mu, deviation = torch.zeros(TASKS).double(), torch.ones(TASKS).double()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    for step in range(800):
        if step < 200:
            new_mu, new_deviation = mu + (30 - mu) / 20, deviation + (10 - deviation) / 20
            rescale_head(*head.output_layer, mu, deviation, new_mu, new_deviation)
            move(head)
            mu, deviation = new_mu, new_deviation
        normalised = (targets - mu[task]) / deviation[task]
        wanted = histogram((normalised - head.shift[task]) / head.scale[task, 0], head.centres)
        loss = -(wanted * head.logits(features, task).log_softmax(dim=-1)).sum(dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = head(features, task).detach() * deviation[task] + mu[task]
    assert float((found - targets).abs().mean()) < 0.2 * float(targets.std())


# Inside an update

SITES = {"plain": ("core_input",), "fused": ("core_input", "policy", "value")}


@pytest.mark.parametrize("sites", SITES)
@pytest.mark.parametrize("loss", ["impala", "appo"])
def test_the_loss_is_the_cross_entropy(sites: str, loss: str) -> None:
    learner = make_learner(value_loss="hl_gauss", value_bins=11, popart_step_size=0.0, loss=loss, sites=SITES[sites])
    batch = make_batch(learner)
    features = []
    head = learner.network.value_head
    assert isinstance(head, HistogramHead)
    with torch.no_grad():
        head.scale.fill_(1.2)
        head.shift.fill_(-0.3)
    head.register_forward_hook(lambda module, given, result: features.append(given))
    metrics = learner.step(batch)
    last = learner.objective.last
    assert last is not None
    # The first call of the head reads all T + 1 steps.
    twin = make_learner(value_loss="hl_gauss", value_bins=11, sites=SITES[sites]).network.value_head
    assert isinstance(twin, HistogramHead)
    logits = twin.logits(features[0][0][:-1], batch["task"][:-1]).detach().double()
    wanted = histogram((last.targets.double() + 0.3) / 1.2, head.centres.double())
    entropies = -(wanted * logits.log_softmax(dim=-1)).sum(dim=-1)
    expected = entropies[batch["mask"]].mean()
    assert float(metrics["loss/baseline"]) == pytest.approx(float(expected), rel=1e-4)
    n = 1.2 * (logits.softmax(dim=-1) @ head.centres.double()) - 0.3
    torch.testing.assert_close(last.baseline.double(), n, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("critic_width", [0.0, 2.0])
def test_popart_changes_moments_and_no_value(critic_width: float) -> None:
    """With learning rate 0 only PopArt changes the learner. V-trace and the log read the same values."""
    learner = make_learner(value_loss="hl_gauss", popart_step_size=0.1, learning_rate=0.0, critic_width=critic_width)
    batch = make_batch(learner)
    task = batch["task"].numpy()

    def unnormalised() -> np.ndarray:
        _, n = outputs_step_by_step(learner, batch)
        return sigma(learner.objective.popart).numpy()[task] * n + learner.objective.popart.mu.numpy()[task]

    before, mu = unnormalised(), learner.objective.popart.mu
    learner.step(batch)
    assert not torch.equal(learner.objective.popart.mu, mu)
    np.testing.assert_allclose(unnormalised(), before, rtol=1e-4, atol=1e-4)
    assert learner.objective.last is not None
    np.testing.assert_allclose(learner.objective.last.values.numpy(), before[:-1], rtol=1e-4, atol=1e-4)


def test_a_refused_update_leaves_bins_and_moments() -> None:
    learner = make_learner(value_loss="hl_gauss", popart_step_size=0.3)
    learner.step(make_batch(learner))
    before, batch = everything(learner), make_batch(learner, 1)
    batch["reward"][:] = 1e38
    batch["reward"][0, 0] = math.inf
    learner.objective._transform_rewards = lambda rewards: rewards  # type: ignore[assignment]
    learner.step(batch)
    assert learner.counters.refused == 1
    assert everything(learner) == before


def test_masked_steps_have_no_effect() -> None:
    """Also with rewards that are not finite."""
    results = []
    for garbage in (0.0, math.nan):
        learner = make_learner(value_loss="hl_gauss")
        batch = make_batch(learner)
        batch["reward"].masked_fill_(~batch["mask"], garbage)
        learner.step(batch)
        results.append(everything(learner))
    assert results[0] == results[1]


def test_it_needs_popart() -> None:
    assert compose_train(["learner.value_loss=hl_gauss"]).learner.value_bins == BINS
    assert VALUE_LOSSES[0] == compose_train([]).learner.value_loss == "mse"
    with pytest.raises(InputError) as caught:
        compose_train(["learner.value_loss=hl_gauss", "learner.popart=false"])
    assert "learner.value_loss=hl_gauss" in str(caught.value) and "learner.popart=true" in str(caught.value)

"""Distributions of actions against torch.distributions and numerical integration, and the agent with every kind of them."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from fakes import ACTIONS, fake_batch, fake_config, fake_env, fake_network
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from agents.acting.policy import Policy
from agents.fusion import FUSIONS
from agents.fusion.segments import Segments
from agents.learning.learner import Learner
from agents.network.actions import (
    LEAST_STD,
    ActionDistribution,
    Categorical,
    FactoredCategorical,
    TanhGaussian,
    action_distribution,
)
from agents.network.context import distinct_contexts
from agents.network.heads import ActionMask
from agents.setup.builder import build_learner
from agents.trajectory import OBSERVED, Trajectory

T, B, A = 4, 3, 5
SIZES = (2, 4, 3)
LOW, HIGH = (-1.0, 0.0, 5.0), (1.0, 10.0, 5.5)
DISTRIBUTIONS: list[ActionDistribution] = [Categorical(A), FactoredCategorical(SIZES), TanhGaussian(LOW, HIGH)]


def draws(width: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 2, (T, B, width))


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


# Discrete actions


def test_entropy_and_log_probabilities() -> None:
    logits, actions = draws(A), Categorical(A)
    p = softmax(logits)
    parameters = actions.parameters(torch.from_numpy(logits))
    np.testing.assert_allclose(actions.entropy(parameters), -(p * np.log(p)).sum(axis=-1))
    taken = np.random.default_rng(1).integers(0, A, (T, B))
    expected = np.log(np.take_along_axis(p, taken[..., None], axis=-1))[..., 0]
    np.testing.assert_allclose(actions.log_prob(parameters, torch.from_numpy(taken)), expected)


def test_removed_actions_have_no_probability_and_leave_everything_finite() -> None:
    logits = torch.from_numpy(draws(A).reshape(T * B, A)).float().requires_grad_()
    task = torch.arange(T * B) % 2
    masked = ActionMask((3, A), A)(logits, task)
    probabilities = masked.softmax(dim=-1)
    assert not probabilities[task == 0, 3:].any()
    torch.testing.assert_close(probabilities[task == 0, :3], logits[task == 0, :3].softmax(dim=-1))
    torch.testing.assert_close(probabilities[task == 1], logits[task == 1].softmax(dim=-1))
    entropy = Categorical(A).entropy(masked.log_softmax(-1))
    torch.testing.assert_close(entropy[task == 0], Categorical(3).entropy(logits[task == 0, :3].log_softmax(-1)))
    entropy.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert logits.grad[task == 0, :3].any() and not logits.grad[task == 0, 3:].any()


def test_entropy_of_a_certain_policy_is_zero() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    entropy = Categorical(3).entropy(logits.log_softmax(-1))
    entropy.sum().backward()
    assert entropy.item() == 0 and logits.grad is not None and logits.grad.isfinite().all()


def test_factored_actions_are_independent_choices() -> None:
    actions = FactoredCategorical(SIZES)
    logits = torch.from_numpy(draws(sum(SIZES)))
    parameters = actions.parameters(logits)
    components = [TorchCategorical(logits=part) for part in logits.split(SIZES, dim=-1)]
    taken = torch.stack([component.sample() for component in components], dim=-1)
    expected = sum(component.log_prob(taken[..., d]) for d, component in enumerate(components))
    torch.testing.assert_close(actions.log_prob(parameters, taken), expected)
    torch.testing.assert_close(actions.entropy(parameters), sum(component.entropy() for component in components))
    greedy = torch.stack([component.probs.argmax(-1) for component in components], dim=-1)
    assert torch.equal(actions.choose(parameters, None), greedy)


def test_factored_samples_follow_every_joint_probability() -> None:
    """Chi-square of 40,000 draws over all 24 joint actions; 23 degrees of freedom, so 65 has a chance of 1e-5."""
    actions, count = FactoredCategorical(SIZES), 40_000
    parameters = actions.parameters(torch.randn(1, sum(SIZES), generator=torch.Generator().manual_seed(3)))
    noise = actions.noise(1, count, torch.Generator().manual_seed(4))[0]
    taken = actions.choose(parameters.expand(count, -1), noise)
    joint = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))
    expected = count * actions.log_prob(parameters.expand(len(joint), -1), joint).exp()
    assert float(expected.sum()) == pytest.approx(count)
    found = torch.stack([(taken == row).all(dim=-1).sum() for row in joint])
    assert float(((found - expected).square() / expected).sum()) < 65


# Continuous actions


def gaussian(mean: list[float], std: list[float]) -> tuple[TanhGaussian, Tensor]:
    """In double precision."""
    actions = TanhGaussian((-1.0,) * len(mean), (1.0,) * len(mean))
    return actions, torch.tensor([*mean, *np.log(std)], dtype=torch.float64)


MEANS = st.floats(-5, 5)
STDS = st.floats(0.05, 30.0)


@given(MEANS, STDS)
def test_squashed_densities_integrate_to_one_and_have_this_entropy(mean: float, std: float) -> None:
    """Integrates over the action in (-1, 1), on a grid that is fine where tanh is flat."""
    actions, parameters = gaussian([mean], [std])
    u = torch.linspace(mean - 9 * std, mean + 9 * std, 20_001, dtype=torch.float64)
    log_density = actions.log_prob(parameters, u.unsqueeze(-1))
    # da = (1 - tanh(u)^2) du, from cosh, which the code does not use; where cosh overflows the term is 0.
    weight = log_density.exp() * torch.cosh(u.clamp(-300, 300)).square().reciprocal()
    assert float(torch.trapezoid(weight, u)) == pytest.approx(1, abs=1e-6)
    entropy = -float(torch.trapezoid(weight * log_density, u))
    assert float(actions.entropy(parameters)) == pytest.approx(entropy, abs=1e-5)


@pytest.mark.parametrize("std", [0.02, 0.05, 0.1, 0.3, 0.6, 1.0, 2.0, 3.0, 4.0, 6.0, 10.0, 25.0, 50.0, 200.0])
def test_entropy_and_its_gradient_are_the_integrals(std: float) -> None:
    """Compared with sums over 100,001 points in double precision: H, -2 E[tanh u] by the mean, 1 - 2 E[(u - mean) tanh u] by log std."""
    z = torch.linspace(-11, 11, 100_001, dtype=torch.float64)
    weight = torch.softmax(-0.5 * z.square(), dim=0)
    for mean in (-5.0, -2.0, -0.7, 0.0, 0.1, 0.5, 1.0, 3.0, 5.0, 40.0):
        u = mean + std * z
        slope = 2 * (math.log(2) - u.abs() - torch.log1p(torch.exp(-2 * u.abs())))
        entropy = math.log(std) + 0.5 * math.log(2 * math.pi * math.e) + float(weight @ slope)
        gradient = [-2 * float(weight @ u.tanh()), 1 - 2 * float(weight @ (std * z * u.tanh()))]
        for dtype, error in ((torch.float64, 1e-6), (torch.float32, 1e-4)):
            parameters = gaussian([mean], [std])[1].to(dtype).requires_grad_()
            found = TanhGaussian((-1.0,), (1.0,)).entropy(parameters)
            found.sum().backward()
            assert found.item() == pytest.approx(entropy, abs=error, rel=1e-6), mean
            assert parameters.grad is not None
            assert parameters.grad.tolist() == pytest.approx(gradient, abs=error, rel=1e-5), mean


def test_entropy_is_largest_for_a_nearly_uniform_squashed_action() -> None:
    """The entropy of a density on [-1, 1] is at most log 2."""
    parameters = torch.cartesian_prod(torch.linspace(-4, 4, 81), torch.linspace(-4, 6, 201))
    entropy = TanhGaussian((-1.0,), (1.0,)).entropy(parameters)
    assert 0.68 < float(entropy.max()) < math.log(2)
    assert float(parameters[entropy.argmax(), 1].exp()) == pytest.approx(0.88, abs=0.05)


@given(st.lists(st.tuples(MEANS, STDS, st.floats(-3, 3)), min_size=1, max_size=3))
def test_squashed_log_probabilities_are_those_of_torch(components: list[tuple[float, float, float]]) -> None:
    mean, std, u = (list(column) for column in zip(*components, strict=True))
    actions, parameters = gaussian(mean, std)
    pre_tanh = torch.tensor(u, dtype=torch.float64)
    base = Normal(torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64))
    expected = TransformedDistribution(base, TanhTransform(cache_size=1)).log_prob(pre_tanh.tanh()).sum()
    assert float(actions.log_prob(parameters, pre_tanh)) == pytest.approx(float(expected), abs=1e-6, rel=1e-6)


def test_saturated_actions_have_exact_finite_log_probabilities() -> None:
    """In single precision tanh(u) is 1 from u = 9.1 on, so no function of the squashed action could distinguish these."""
    actions, parameters = gaussian([0.0], [5.0])
    u = torch.tensor([-60.0, -30, -10, 10, 30, 60])
    found = actions.log_prob(parameters.float().expand(6, -1), u.unsqueeze(-1))
    # log(1 - tanh(u)^2) = log 4 - 2 |u| up to e^-20.
    expected = -0.5 * (u / 5) ** 2 - math.log(5) - 0.5 * math.log(2 * math.pi) - (math.log(4) - 2 * u.abs())
    torch.testing.assert_close(found, expected)
    logits = torch.tensor([[500.0, 100.0], [-500.0, -100.0]], requires_grad=True)
    certain = actions.parameters(logits)
    (actions.entropy(certain) + actions.log_prob(certain, torch.tensor([[30.0], [-30.0]]))).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert float(certain[1, 1].detach().exp()) == pytest.approx(LEAST_STD)


def test_squashed_samples_are_gaussian_before_and_within_bounds_after() -> None:
    actions, count = TanhGaussian(LOW, HIGH), 50_000
    logits = torch.tensor([[0.5, -1.0, 30.0, 0.0, 1.0, 2.0]])
    parameters = actions.parameters(logits)
    u = actions.choose(parameters.expand(count, -1), actions.noise(1, count, torch.Generator().manual_seed(0))[0])
    std = LEAST_STD + torch.nn.functional.softplus(logits[0, 3:])
    torch.testing.assert_close(u.mean(0), logits[0, :3], atol=0.05, rtol=0)
    torch.testing.assert_close(u.std(0), std, atol=0.03, rtol=0)
    taken = actions.for_env(u.numpy())
    assert taken.dtype == np.float32
    low, high = np.array(LOW, np.float32), np.array(HIGH, np.float32)
    assert (taken >= low).all() and (taken <= high).all()
    np.testing.assert_allclose(2 * (taken - low) / (high - low) - 1, np.tanh(u.numpy()), atol=1e-6)
    assert (taken[:, 2] == high[2]).all(), "a mean far outside of the range is at its end"
    greedy = actions.for_env(actions.choose(parameters, None).numpy())[0]
    np.testing.assert_allclose(greedy, np.median(taken, axis=0), atol=0.1)


# All distributions


@pytest.mark.parametrize("actions", DISTRIBUTIONS, ids=lambda actions: type(actions).__name__)
def test_no_action_is_zeros_to_the_core_and_an_action_is_not(actions: ActionDistribution) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        codes = actions.codes().to(dtype)
        nothing = actions.encode(actions.no_action(2), codes)
        assert nothing.dtype == dtype and not nothing.any()
    assert actions.no_action(2).shape == (2, *actions.shape)


def test_codes() -> None:
    def code(actions: ActionDistribution, action: list[float] | list[int] | int) -> list[float]:
        found: list[float] = actions.encode(torch.tensor([action]), actions.codes())[0].tolist()
        return found

    assert code(Categorical(3), 2) == [0, 0, 1]
    assert code(FactoredCategorical((2, 3)), [1, 0]) == [0, 1, 1, 0, 0]
    assert code(FactoredCategorical((2, 3)), [2, 2]) == [0, 0, 0, 0, 1], "the first component is none"
    assert code(TanhGaussian((5.0, 0.0), (6.0, 1.0)), [0.5, -20.0]) == pytest.approx([math.tanh(0.5), -1])


@pytest.mark.parametrize("actions", DISTRIBUTIONS, ids=lambda actions: type(actions).__name__)
def test_distributions_can_be_pickled(actions: ActionDistribution) -> None:
    actions.for_env(actions.no_action(1).numpy())
    assert pickle.loads(pickle.dumps(actions)) == actions


def test_the_action_kind_selects_the_distribution() -> None:
    found = {kind: action_distribution(fake_env(actions=kind)) for kind in ACTIONS}
    assert found == {
        "discrete": Categorical(4),
        "multi_discrete": FactoredCategorical((2, 3, 2)),
        "continuous": TanhGaussian((-1.0, 0.5), (1.0, 8.5)),
    }


# The agent


def learner_for(kind: str, fusion: str) -> Learner:
    env = fake_env(actions=kind)
    config = fake_config(fusion=fusion)
    return build_learner(config, env, fake_network(env, config))


def played(learner: Learner, kind: str, steps: int, columns: int) -> Trajectory:
    """Random observations with actions sampled from the learner's policy."""
    network = learner.network
    batch = fake_batch(fake_env(actions=kind), network.core_state_size, steps, columns)
    policy = Policy(network, columns)
    policy.core_state = batch["core_state"].clone()
    for t in range(steps):
        inputs = {key: value[t] for key, value in batch.items() if key in OBSERVED}
        batch["action"][t], batch["behaviour_log_probs"][t] = policy.act(inputs)
        batch["last_action"][t + 1] = torch.where(
            batch["reset"][t + 1].view(-1, *[1] * (batch["action"].dim() - 2)),
            network.actions.no_action(columns),
            batch["action"][t],
        )
    return batch


def log_rhos(learner: Learner, batch: Trajectory) -> Tensor:
    """As the learner computes them: over the whole unroll at once."""
    network = learner.network
    rows = network.context_encoder.context_rows(batch["task"].numpy(), batch["instruction"].numpy())
    distinct, index = distinct_contexts(rows)
    contexts = network.context_encoder.contexts_from_rows(distinct)
    segments = Segments(torch.from_numpy(index), len(contexts.task))
    output = network.unroll(batch, batch["core_state"], network.condition(contexts), segments)
    parameters = network.actions.parameters(output.policy_logits[:-1])
    return network.actions.log_prob(parameters, batch["action"]) - batch["behaviour_log_probs"]


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
@pytest.mark.parametrize("kind", ACTIONS)
def test_log_rhos_are_zero_on_policy(kind: str, fusion: str) -> None:
    learner = learner_for(kind, fusion)
    batch = played(learner, kind, 12, 5)
    found = log_rhos(learner, batch)
    torch.testing.assert_close(found, torch.zeros_like(found), atol=2e-4, rtol=0)
    with torch.no_grad():
        for parameter in learner.network.parameters():
            parameter.mul_(1.05)
    assert (log_rhos(learner, batch).abs() > 1e-3).any(), "this test cannot fail"


@pytest.fixture(params=ACTIONS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_an_update_reaches_every_parameter(kind: str) -> None:
    learner = learner_for(kind, "mi")
    before = [parameter.detach().clone() for parameter in learner.network.parameters()]
    metrics = learner.step(played(learner, kind, 12, 32))
    assert all(value.isfinite().all() for value in metrics.values())
    named = zip(learner.network.named_parameters(), before, strict=True)
    still = [name for (name, parameter), old in named if torch.equal(parameter, old)]
    assert not still


def test_the_size_of_the_policy_head_follows_the_actions(kind: str) -> None:
    env = fake_env(actions=kind)
    expected = {"discrete": 4, "multi_discrete": 7, "continuous": 4}[kind]
    plain, fused = (fake_network(env, fake_config(sites=sites)) for sites in ((), ("policy",)))
    assert plain.policy.out_features == expected == fused.fusions["policy"].out_size

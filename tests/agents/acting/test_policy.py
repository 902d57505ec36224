"""The acting policy: samples, log-probabilities, and the cache of modulations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import fake_batch, fake_config, fake_env, fake_network
from torch import Tensor

from agents.acting.policy import Policy
from agents.fusion import FUSIONS
from agents.network.agent import AgentNetwork, Modulations
from agents.network.context import Contexts
from agents.network.core import CORES
from agents.trajectory import OBSERVED

SLOTS, SEED = 6, 3
ENV = fake_env()


def make(fusion: str = "mi", **options: object) -> AgentNetwork:
    return fake_network(ENV, fake_config(fusion=fusion, **options))  # type: ignore[arg-type]


def inputs_at(network: AgentNetwork, steps: int = 1, seed: int = 0) -> list[dict[str, Tensor]]:
    batch = fake_batch(ENV, network.core_state_size, max(steps - 1, 1), SLOTS, seed)
    return [{key: value[t] for key, value in batch.items() if key in OBSERVED} for t in range(steps)]


def count_conditioned(network: AgentNetwork, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of contexts in each call of `condition`."""
    calls: list[int] = []
    original = network.condition

    def condition(contexts: Contexts) -> Modulations:
        calls.append(len(contexts.task))
        return original(contexts)

    monkeypatch.setattr(network, "condition", condition)
    return calls


def fresh_step(network: AgentNetwork, policy: Policy, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """One step of a policy without a cache."""
    other = Policy(network, SLOTS)
    other.core_state = policy.core_state.clone()
    other.seed(SEED)
    return other.act(inputs)


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_cached_modulations_equal_new_ones(fusion: str) -> None:
    """Instructions change, return, and repeat in other slots."""
    network = make(fusion)
    policy = Policy(network, SLOTS)
    for inputs in inputs_at(network, 12):
        expected = fresh_step(network, policy, inputs)
        policy.seed(SEED)
        action, log_probs = policy.act(inputs)
        assert torch.equal(action, expected[0])
        torch.testing.assert_close(log_probs, expected[1], rtol=1e-4, atol=1e-5)


def test_the_cache_holds_contexts_of_different_numbers_of_tokens() -> None:
    """Longer ones enlarge it. A row that a longer context had before is cleared for a shorter one."""
    network = make("cross_attention")
    policy = Policy(network, SLOTS)
    (inputs,) = inputs_at(network)
    shapes = []
    for step, length in enumerate((1, 3, 2, 4, 1, 1, 2, 1)):
        # New words in every slot at each step, so that the cache is emptied at every third step.
        inputs["instruction"] = torch.zeros_like(inputs["instruction"])
        for slot in range(SLOTS):
            words = torch.arange(length) + step + slot
            inputs["instruction"][slot, :length] = words % (len(ENV.vocabulary) - 1) + 1
        expected = fresh_step(network, policy, inputs)
        policy.seed(SEED)
        torch.testing.assert_close(policy.act(inputs)[1], expected[1], rtol=1e-4, atol=1e-5)
        shapes.append(policy.cache.stored["policy"][0].shape[1])
    assert shapes == [1, 3, 3, 4, 4, 4, 4, 4]


def test_conditions_only_on_new_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make()
    calls = count_conditioned(network, monkeypatch)
    policy = Policy(network, SLOTS)
    (inputs,) = inputs_at(network)
    inputs["task"][:] = torch.tensor([0, 0, 1, 1, 2, 2])
    inputs["instruction"][:] = torch.tensor([2, 3, 0, 0])
    policy.act(inputs)
    assert calls == [3]
    policy.act(inputs)
    assert calls == [3]
    inputs["instruction"][4] = torch.tensor([3, 2, 0, 0])
    policy.act(inputs)
    assert calls == [3, 1]
    inputs["instruction"][4] = torch.tensor([2, 3, 0, 0])
    policy.act(inputs)
    assert calls == [3, 1], "a context that came back was conditioned on again"


@pytest.mark.parametrize(("remember", "later"), [(True, [4]), (False, [2, 1])])
def test_contexts_are_remembered_over_a_change_of_weights(
    monkeypatch: pytest.MonkeyPatch, remember: bool, later: list[int]
) -> None:
    network = make()
    policy = Policy(network, SLOTS, remember=remember)
    (inputs,) = inputs_at(network)
    inputs["task"][:], inputs["instruction"][:] = 0, torch.tensor([2, 3, 0, 0])
    for word in (1, 3):
        inputs["instruction"][0, 0] = word
        policy.act(inputs)
    inputs["instruction"][0, 0], inputs["task"][1] = 1, 1
    policy.act(inputs)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    policy.weights_changed()
    calls = count_conditioned(network, monkeypatch)
    for task in (0, 1):
        inputs["task"][1] = task
        expected = fresh_step(network, policy, inputs)
        del calls[-1]
        policy.seed(SEED)
        torch.testing.assert_close(policy.act(inputs)[1], expected[1], rtol=1e-4, atol=1e-5)
    assert calls == later


def test_weights_changed_clears_the_cache() -> None:
    network = make(sites=("policy",))
    policy = Policy(network, SLOTS)
    (inputs,) = inputs_at(network)
    policy.act(inputs)
    with torch.no_grad():
        for parameter in network.fusions.parameters():
            parameter.add_(torch.randn_like(parameter))
    expected = fresh_step(network, policy, inputs)[1]
    state = policy.core_state.clone()
    policy.seed(SEED)
    assert not torch.allclose(policy.act(inputs)[1], expected), "this test changes nothing that is cached"
    policy.weights_changed()
    policy.core_state = state
    policy.seed(SEED)
    torch.testing.assert_close(policy.act(inputs)[1], expected)


def logits_of(network: AgentNetwork, inputs: dict[str, Tensor]) -> Tensor:
    """Computed with the network alone, from a zero core state."""
    from agents.fusion.segments import identity_segments

    encoder = network.context_encoder
    rows = encoder.context_rows(inputs["task"].numpy(), inputs["instruction"].numpy())
    modulations = network.condition(encoder.contexts_from_rows(rows))
    step = {key: value[None] for key, value in inputs.items()}
    state = torch.zeros(SLOTS, network.core_state_size)
    return network.unroll(step, state, modulations, identity_segments(SLOTS)).policy_logits[0].detach()


def test_reports_the_log_probability_of_the_action_it_took() -> None:
    network = make()
    (inputs,) = inputs_at(network)
    log_probs = logits_of(network, inputs).log_softmax(dim=-1)
    for seed in range(10):
        policy = Policy(network, SLOTS)
        policy.seed(seed)
        action, reported = policy.act(inputs)
        torch.testing.assert_close(reported, log_probs[torch.arange(SLOTS), action], rtol=1e-4, atol=1e-5)


def test_greedy_takes_the_most_probable_action() -> None:
    network = make()
    (inputs,) = inputs_at(network)
    logits = logits_of(network, inputs)
    action, reported = Policy(network, SLOTS, greedy=True).act(inputs)
    assert torch.equal(action, logits.argmax(dim=-1))
    torch.testing.assert_close(reported, logits.log_softmax(dim=-1).max(dim=-1).values, rtol=1e-4, atol=1e-5)


def test_samples_follow_the_softmax() -> None:
    """Chi-square of 12,000 draws in each slot; three degrees of freedom, so 25 has a chance of 2e-5."""
    network = make()
    (inputs,) = inputs_at(network)
    inputs["task"][:] = torch.tensor([0, 1, 2, 0, 1, 2])
    expected = logits_of(network, inputs).softmax(dim=-1).numpy()
    repeats = 12_000
    many = {key: value.repeat(repeats, *[1] * (value.dim() - 1)) for key, value in inputs.items()}
    policy = Policy(network, SLOTS * repeats)
    policy.seed(5)
    action, _ = policy.act(many)
    drawn = action.view(repeats, SLOTS).numpy()
    for slot in range(SLOTS):
        counts = np.bincount(drawn[:, slot], minlength=ENV.num_actions)
        possible = expected[slot] > 0
        assert not counts[~possible].any()
        chi_square = ((counts - repeats * expected[slot])[possible] ** 2 / (repeats * expected[slot])[possible]).sum()
        assert chi_square < 25, (slot, counts / repeats, expected[slot])


def test_the_seed_determines_the_sampled_actions() -> None:
    network = make()
    steps = inputs_at(network, 12)

    def actions(seed: int) -> Tensor:
        policy = Policy(network, SLOTS)
        policy.seed(seed)
        torch.manual_seed(int(torch.randint(0, 1000, ())))  # the global generator plays no part
        return torch.stack([policy.act(inputs)[0] for inputs in steps])

    assert torch.equal(actions(1), actions(1))
    assert not torch.equal(actions(1), actions(2))


def test_the_core_state_advances_and_is_reset() -> None:
    network = make()
    policy = Policy(network, SLOTS)
    first, second = inputs_at(network, 2)
    policy.act(first)
    carried = policy.core_state.clone()
    assert carried.any(dim=1).all()
    second["reset"][:] = torch.tensor([True, False] * 3)
    policy.act(second)
    other = Policy(network, SLOTS)
    other.act(second | {"reset": torch.ones(SLOTS, dtype=torch.bool)})
    same = torch.isclose(policy.core_state, other.core_state, atol=1e-6).all(dim=1)
    assert same.tolist() == [True, False] * 3


def test_the_cache_is_bounded_and_right_when_it_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every slot gets a new instruction at every step, and the cache holds twice as many contexts as there are slots."""
    network = make()
    policy = Policy(network, SLOTS)
    (inputs,) = inputs_at(network)
    for step in range(8):
        inputs["instruction"][:] = torch.tensor([step // 4, step % 4, 0, 0])
        inputs["instruction"][:, 2], inputs["instruction"][:, 3] = torch.arange(SLOTS) // 4, torch.arange(SLOTS) % 4
        expected = fresh_step(network, policy, inputs)
        policy.seed(SEED)
        torch.testing.assert_close(policy.act(inputs)[1], expected[1], rtol=1e-4, atol=1e-5)
        assert all(len(part) <= 2 * SLOTS for parts in policy.cache.stored.values() for part in parts)
    calls = count_conditioned(network, monkeypatch)
    policy.act(inputs)
    assert not calls, "the present contexts were forgotten"


@pytest.mark.parametrize(
    ("fusion", "core"), [*((fusion, "lstm") for fusion in sorted(FUSIONS)), *(("mi", core) for core in sorted(CORES))]
)
def test_acts_in_low_precision_with_the_weights_of_the_network(fusion: str, core: str) -> None:
    network = make(fusion, core=core)
    exact, rough = Policy(network, SLOTS, greedy=True), Policy(network, SLOTS, greedy=True, autocast=torch.bfloat16)
    for number, inputs in enumerate(inputs_at(network, 6)):
        if number == 3:
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.mul_(1.1)
            exact.weights_changed()
            rough.weights_changed()
        torch.testing.assert_close(rough.act(inputs)[1], exact.act(inputs)[1], rtol=0.1, atol=0.1)
    torch.testing.assert_close(rough.core_state, exact.core_state, rtol=0.1, atol=0.1)
    assert rough.core_state.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_memory_of_the_cache_is_constant(precision: torch.dtype) -> None:
    network = make("mi", sites=("core_input",))
    policy = Policy(network, SLOTS, autocast=None if precision == torch.float32 else precision)
    assert not policy.cache.stored
    fusion = network.fusions["core_input"]
    expected = 2 * SLOTS * fusion.out_size * (fusion.x_size + 1) * precision.itemsize  # type: ignore[operator]
    for inputs in inputs_at(network, 5):
        policy.act(inputs)
        assert sum(part.nbytes for parts in policy.cache.stored.values() for part in parts) == expected

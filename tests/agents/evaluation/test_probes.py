"""Probes replace the context of each slot and change nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from counting import COUNTING, CountingEngine, CountingNetwork
from fakes import fake_batch, fake_config, fake_env, fake_network
from torch import Tensor

from agents.acting.actor import Actor
from agents.acting.policy import ContextOverride, ContextRows, Policy, context_rows
from agents.evaluation.probes import PROBES, Record, Shuffle, Swap, zero
from agents.fusion.segments import Segments
from agents.network.agent import AgentNetwork, Modulations
from agents.network.context import CONTEXT_KEYS
from agents.trajectory import OBSERVED, Trajectory, allocate, trajectory_spec
from conf.names import CONTEXTS
from envs.spec import Slot
from envs.vector import MultitaskVectorEnv

SLOTS, STEPS = 6, 12
ENV = fake_env()
NEVER = np.zeros(1, bool)


def steps(seed: int = 0) -> list[dict[str, Tensor]]:
    """Observations of six slots of all three tasks, with instructions that also change inside episodes."""
    batch = fake_batch(ENV, 10, STEPS - 1, SLOTS, seed)
    batch["task"][:] = torch.tensor([0, 0, 1, 1, 2, 2])
    return [{key: value[t] for key, value in batch.items() if key in OBSERVED} for t in range(STEPS)]


def slow_log_probs(
    network: AgentNetwork, inputs: dict[str, Tensor], state: Tensor, modulations: Modulations
) -> tuple[Tensor, Tensor]:
    """One step of the network, with one modulation per slot: log-probabilities and the new state."""
    output = network.unroll(
        {key: value[None] for key, value in inputs.items() if key not in CONTEXT_KEYS},
        state,
        modulations,
        Segments(torch.arange(SLOTS), SLOTS),
    )
    return torch.log_softmax(output.policy_logits[0], dim=-1), output.core_state


@torch.no_grad()
def modulations_of(network: AgentNetwork, contexts: ContextRows) -> Modulations:
    """Row n is the modulation of slot n."""
    encoder = network.context_encoder
    rows = [network.condition(encoder.contexts_from_rows(row[None])) for row in contexts]
    return {site: tuple(map(torch.cat, zip(*(row[site] for row in rows), strict=True))) for site in rows[0]}


class Script:
    """A ContextOverride that returns given contexts and records its arguments."""

    def __init__(self, contexts: list[ContextRows]) -> None:
        self.contexts, self.seen = iter(contexts), []  # type: ignore[var-annotated]

    def __call__(self, true: ContextRows, reset: np.ndarray) -> ContextRows:
        self.seen.append((true.copy(), reset.copy()))
        return next(self.contexts)


# The override changes the context and nothing else


@pytest.mark.parametrize("context", CONTEXTS)
@torch.no_grad()
def test_a_policy_acts_on_the_overridden_context_and_keeps_the_mask_of_its_task(context: str) -> None:
    network = fake_network(ENV, fake_config(context=context)).eval()
    observed = steps()
    true = [context_rows(network, inputs) for inputs in observed]
    # Each slot gets the context of a slot of another task. The second task lacks an action that the others have.
    overrides = [rows[[2, 3, 4, 5, 0, 1]] for rows in true]
    script = Script(overrides)
    policy = Policy(network, SLOTS)
    policy.context_override = script
    state = torch.zeros(SLOTS, network.core_state_size)
    for inputs, rows in zip(observed, overrides, strict=True):
        before = {key: value.clone() for key, value in inputs.items()}
        expected, state = slow_log_probs(network, inputs, state, modulations_of(network, rows))
        action, log_prob = policy.act(inputs)
        assert all(torch.equal(inputs[key], value) for key, value in before.items())
        torch.testing.assert_close(log_prob, expected[range(SLOTS), action], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(policy.core_state, state, rtol=1e-4, atol=1e-5)
        assert (action[2:4] < 3).all()
    for (seen, reset), rows, inputs in zip(script.seen, true, observed, strict=True):
        np.testing.assert_array_equal(seen, rows)
        np.testing.assert_array_equal(reset, inputs["reset"].numpy())


def test_the_action_mask_follows_the_true_task_under_an_override() -> None:
    """The true tasks have an action that the overridden tasks lack, and the other way round."""
    network = fake_network(ENV, fake_config(context="task")).eval()
    inputs = steps()[0]
    contexts = np.array([[1], [1], [0], [0], [1], [1]], np.int32)
    taken: list[set[int]] = [set() for _ in range(SLOTS)]
    policy = Policy(network, SLOTS)
    policy.context_override = lambda true, reset: contexts
    for _ in range(300):
        for slot, action in enumerate(policy.act(inputs)[0].tolist()):
            taken[slot].add(action)
    assert [max(actions) for actions in taken] == [3, 3, 2, 2, 3, 3]


def unrolls(override: ContextOverride | None = None) -> list[Trajectory]:
    """Three unrolls of an actor in the counting environments, whose observations and instructions are known numbers."""
    policy = Policy(CountingNetwork(), 3)
    policy.context_override = override
    slots = [Slot(task=column % 2, index=column // 2) for column in range(3)]
    actor = Actor(
        MultitaskVectorEnv(CountingEngine(slots), COUNTING, slots, seed=0), policy, CountingNetwork.actions, seed=(0, 0)
    )
    made = []
    for _ in range(3):
        made.append(allocate(trajectory_spec(COUNTING, 5, 3, policy.core_state.shape[1])))
        actor.unroll(made[-1])
    return made


def test_an_override_reaches_neither_the_environment_nor_the_trajectory() -> None:
    """The counting network reads no context, so its actions are the same."""
    script = Script([np.full((3, 2), 77 + step, np.int32) for step in range(15)])
    plain, probed = unrolls(), unrolls(script)
    for one, other in zip(plain, probed, strict=True):
        for key, value in one.items():
            assert torch.equal(value.nan_to_num(-1), other[key].nan_to_num(-1)), key
    # The override is called once per step, in order.
    seen = np.stack([true for true, _ in script.seen])
    np.testing.assert_array_equal(seen, torch.cat([made["instruction"][:5] for made in plain]).numpy())
    resets = np.stack([reset for _, reset in script.seen])
    np.testing.assert_array_equal(resets, torch.cat([made["reset"][:5] for made in plain]).numpy())


# zero, and the table of probes


@pytest.mark.parametrize("fusion", ["mi", "cross_attention"])
@torch.no_grad()
def test_zero_encodes_every_context_as_zeros(fusion: str) -> None:
    """Of tokens each one is zero; cross_attention then reads zeros, whatever their number is."""
    network = fake_network(ENV, fake_config(context="both", fusion=fusion)).eval()
    zeros = {site: fusion.condition(torch.zeros(SLOTS, fusion.z_size)) for site, fusion in network.fusions.items()}
    policy = Policy(network, SLOTS)
    # One step with a context, so that the cache of modulations is not empty.
    policy.act(steps()[0])
    policy.core_state = torch.zeros(SLOTS, network.core_state_size)
    zero(policy)
    state = torch.zeros(SLOTS, network.core_state_size)
    for inputs in steps():
        expected, state = slow_log_probs(network, inputs, state, zeros)
        action, log_prob = policy.act(inputs)
        torch.testing.assert_close(log_prob, expected[range(SLOTS), action], rtol=1e-4, atol=1e-5)


def record_of(rows: np.ndarray) -> Record:
    """A record of [T, B, C]."""
    record = Record()
    for true in rows:
        # Copies, because an environment may reuse one array.
        np.testing.assert_array_equal(record(true.copy(), NEVER), true)
    return record


def apply(name: str, policy: Policy) -> None:
    """Makes six slots act under a probe. The source of each slot is the next slot of another recording."""
    network = policy.network
    if name == "swap":
        others = context_rows(network, steps(seed=2)[0])
        policy.context_override = Swap(others, network.context_encoder.instruction_columns, (0, 1))
    elif name == "shuffle":
        record = record_of(np.stack([context_rows(network, inputs) for inputs in steps(seed=1)]))
        policy.context_override = Shuffle([(record, (slot + 1) % SLOTS) for slot in range(SLOTS)])
    else:
        zero(policy)


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("context", CONTEXTS)
def test_every_probe_changes_every_agent_but_the_one_without_context(name: str, context: str) -> None:
    """A probe gives the same actions each time."""

    def play(probe: str) -> tuple[Tensor, Tensor]:
        network = fake_network(ENV, fake_config(context=context))
        policy = Policy(network, SLOTS)
        if probe:
            apply(probe, policy)
        policy.seed(5)
        played = [policy.act(inputs) for inputs in steps()]
        policy.weights_changed()
        return torch.stack([action for action, _ in played]), torch.stack([log_prob for _, log_prob in played])

    plain, probed, again = play(""), play(name), play(name)
    assert all(map(torch.equal, probed, again))
    assert all(map(torch.equal, probed, plain)) == (context == "none")


def test_instruction_columns_select_the_instruction() -> None:
    found = {context: fake_network(ENV, fake_config(context=context)).context_encoder for context in CONTEXTS}
    task, words = np.array([7], np.int32), np.array([[1, 2, 3, 4]], np.int32)
    vector = np.array([[5, 6]], np.int32)
    rows = {
        context: encoder.context_rows(task, words, vector.view(np.float32))[0] for context, encoder in found.items()
    }
    columns = {context: rows[context][encoder.instruction_columns].tolist() for context, encoder in found.items()}
    assert columns == {"task": [], "instruction": [1, 2, 3, 4], "both": [1, 2, 3, 4], "vector": [5, 6], "none": []}


@pytest.mark.parametrize("context", ["task", "instruction", "both"])
def test_swap_compares_the_columns_of_the_instruction(context: str) -> None:
    """For an agent that reads task and instruction, the drawn instruction differs, not only the task."""
    network = fake_network(ENV, fake_config(context=context))
    encoder = network.context_encoder
    own, other = np.array([[1, 2, 3, 0]], np.int32), np.array([[1, 2, 4, 0]], np.int32)
    number = np.zeros(1, np.int32)
    rows = encoder.context_rows(number, own)
    inputs = steps()[0]
    inputs["task"][:] = 1
    inputs["instruction"][:] = torch.from_numpy(own)
    others = np.concatenate([rows, encoder.context_rows(number, other)])
    drawn = Swap(others, encoder.instruction_columns, (0,))(context_rows(network, inputs), inputs["reset"].numpy())
    np.testing.assert_array_equal(drawn, np.repeat(encoder.context_rows(number, other), SLOTS, axis=0))

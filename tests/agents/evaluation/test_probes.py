"""Probes: what a slot is told in place of its own context, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from counting import COUNTING, CountingEngine, CountingNetwork
from fakes import fake_batch, fake_config, fake_env, fake_network
from torch import Tensor

from agents.acting.actor import ActingPolicy, Actor
from agents.acting.policy import Policy, context_rows
from agents.evaluation.probes import PROBES, Contexts, OverrideContextPolicy, Record, Scene
from agents.fusion import Segments
from agents.network.agent import AgentNetwork, Modulations
from agents.network.context import CONTEXTS
from agents.trajectory import OBSERVED, Trajectory, allocate, trajectory_spec
from envs.spec import Slot
from envs.vector import MultitaskVectorEnv

SLOTS, STEPS = 6, 12
ENV = fake_env()
NEVER = np.zeros(1, bool)


def steps(seed: int = 0) -> list[dict[str, Tensor]]:
    """What six slots of all three tasks observe, with instructions that also change inside episodes."""
    batch = fake_batch(ENV, 10, STEPS - 1, SLOTS, seed)
    batch["task"][:] = torch.tensor([0, 0, 1, 1, 2, 2])
    return [{key: value[t] for key, value in batch.items() if key in OBSERVED} for t in range(STEPS)]


def slow_log_probs(
    network: AgentNetwork, inputs: dict[str, Tensor], state: Tensor, modulations: Modulations
) -> tuple[Tensor, Tensor]:
    """One step from the network alone, with one modulation for each slot: log-probabilities and the new state."""
    output = network.unroll(
        {key: value[None] for key, value in inputs.items() if key != "instruction"},
        state,
        modulations,
        Segments(torch.arange(SLOTS), SLOTS),
    )
    return torch.log_softmax(output.policy_logits[0], dim=-1), output.core_state


@torch.no_grad()
def told_modulations(network: AgentNetwork, told: Contexts) -> Modulations:
    """Row n is for slot n."""
    encoder = network.context_encoder
    rows = [network.condition(encoder.contexts_from_rows(row[None])) for row in told]
    return {site: tuple(map(torch.cat, zip(*(row[site] for row in rows), strict=True))) for site in rows[0]}


class Script:
    """Tells what was decided beforehand, and keeps what it was shown."""

    def __init__(self, told: list[Contexts]) -> None:
        self.told, self.seen = iter(told), []  # type: ignore[var-annotated]

    def __call__(self, true: Contexts, reset: np.ndarray) -> Contexts:
        self.seen.append((true.copy(), reset.copy()))
        return next(self.told)


# What is told, and that it is all that changes


@pytest.mark.parametrize("context", CONTEXTS)
@torch.no_grad()
def test_a_told_policy_acts_on_what_it_is_told_and_keeps_the_mask_of_its_task(context: str) -> None:
    network = fake_network(ENV, fake_config(context=context)).eval()
    observed = steps()
    true = [context_rows(network, inputs) for inputs in observed]
    # Told is another slot's context, and of another task: the second task lacks an action that the others have.
    told = [rows[[2, 3, 4, 5, 0, 1]] for rows in true]
    script = Script(told)
    policy = OverrideContextPolicy(Policy(network, SLOTS), script)
    state = torch.zeros(SLOTS, network.core_state_size)
    for inputs, rows in zip(observed, told, strict=True):
        before = {key: value.clone() for key, value in inputs.items()}
        expected, state = slow_log_probs(network, inputs, state, told_modulations(network, rows))
        action, log_prob = policy.act(inputs)
        assert all(torch.equal(inputs[key], value) for key, value in before.items())
        torch.testing.assert_close(log_prob, expected[range(SLOTS), action], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(policy.core_state, state, rtol=1e-4, atol=1e-5)
        assert (action[2:4] < 3).all()
    for (seen, reset), rows, inputs in zip(script.seen, true, observed, strict=True):
        np.testing.assert_array_equal(seen, rows)
        np.testing.assert_array_equal(reset, inputs["reset"].numpy())


def test_the_mask_is_that_of_the_real_task_whatever_is_told() -> None:
    """With the real task's mask an action is missing that the told task has, and the other way round."""
    network = fake_network(ENV, fake_config(context="task")).eval()
    inputs = steps()[0]
    told = np.array([[1], [1], [0], [0], [1], [1]], np.int32)
    taken: list[set[int]] = [set() for _ in range(SLOTS)]
    policy = Policy(network, SLOTS)
    for _ in range(300):
        for slot, action in enumerate(policy.act(inputs, told)[0].tolist()):
            taken[slot].add(action)
    assert [max(actions) for actions in taken] == [3, 3, 2, 2, 3, 3]


def unrolls(policy: ActingPolicy) -> list[Trajectory]:
    """Three unrolls of an actor in the counting environments, whose observations, instructions included, are known numbers."""
    slots = [Slot(task=column % 2, index=column // 2) for column in range(3)]
    actor = Actor(
        MultitaskVectorEnv(CountingEngine(slots), COUNTING, slots, seed=0), policy, CountingNetwork.actions, seed=(0, 0)
    )
    made = []
    for _ in range(3):
        made.append(allocate(trajectory_spec(COUNTING, 5, 3, policy.core_state.shape[1])))
        actor.unroll(made[-1])
    return made


def test_an_actor_hands_over_the_same_under_a_probe_but_for_what_the_agent_makes_of_it() -> None:
    """The counting network reads no context: what it is told must reach neither the environment nor the trajectory."""
    script = Script([np.full((3, 2), 77 + step, np.int32) for step in range(15)])
    plain, probed = (
        unrolls(Policy(CountingNetwork(), 3)),
        unrolls(OverrideContextPolicy(Policy(CountingNetwork(), 3), script)),
    )
    for one, other in zip(plain, probed, strict=True):
        for key, value in one.items():
            assert torch.equal(value.nan_to_num(-1), other[key].nan_to_num(-1)), key
    # Nor did the actor's own record of what happened in between go past a step.
    seen = np.stack([true for true, _ in script.seen])
    np.testing.assert_array_equal(seen, torch.cat([made["instruction"][:5] for made in plain]).numpy())
    resets = np.stack([reset for _, reset in script.seen])
    np.testing.assert_array_equal(resets, torch.cat([made["reset"][:5] for made in plain]).numpy())


# zero, and the table


@torch.no_grad()
def test_zero_is_an_encoded_context_of_zeros_whatever_is_said() -> None:
    network = fake_network(ENV, fake_config(context="both")).eval()
    zeros = {site: fusion.condition(torch.zeros(SLOTS, fusion.z_size)) for site, fusion in network.fusions.items()}
    policy = Policy(network, SLOTS)
    # One step with a context, so that there is something to forget.
    policy.act(steps()[0])
    policy.core_state = torch.zeros(SLOTS, network.core_state_size)
    acting = PROBES["zero"].wrap(policy, scene(network))
    state = torch.zeros(SLOTS, network.core_state_size)
    for inputs in steps():
        expected, state = slow_log_probs(network, inputs, state, zeros)
        action, log_prob = acting.act(inputs)
        torch.testing.assert_close(log_prob, expected[range(SLOTS), action], rtol=1e-4, atol=1e-5)


def record_of(rows: np.ndarray) -> Record:
    """A record of [T, B, C]."""
    record = Record()
    for true in rows:
        # Told in one array that is written again and again, as an environment does.
        np.testing.assert_array_equal(record(true.copy(), NEVER), true)
    return record


def scene(network: AgentNetwork) -> Scene:
    """For six slots, which get each other's contexts of another stretch of time."""
    record = record_of(np.stack([context_rows(network, inputs) for inputs in steps(seed=1)]))
    others = context_rows(network, steps(seed=2)[0])
    return Scene(others=others, sources=[(record, (slot + 1) % SLOTS) for slot in range(SLOTS)], seed=(0, 1))


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("context", CONTEXTS)
def test_every_probe_changes_every_agent_but_the_one_without_context(name: str, context: str) -> None:
    """And does so in the same way every time."""

    def play(probe: str) -> tuple[Tensor, Tensor]:
        network = fake_network(ENV, fake_config(context=context))
        policy: ActingPolicy = Policy(network, SLOTS)
        if probe:
            policy = PROBES[probe].wrap(Policy(network, SLOTS), scene(network))
        policy.seed(5)
        played = [policy.act(inputs) for inputs in steps()]
        policy.weights_changed()
        return torch.stack([action for action, _ in played]), torch.stack([log_prob for _, log_prob in played])

    plain, probed, again = play(""), play(name), play(name)
    assert all(map(torch.equal, probed, again))
    assert all(map(torch.equal, probed, plain)) == (context == "none")


def test_which_columns_hold_the_instruction() -> None:
    found = {context: fake_network(ENV, fake_config(context=context)).context_encoder for context in CONTEXTS}
    task, words = np.array([7], np.int32), np.array([[1, 2, 3, 4]], np.int32)
    rows = {context: encoder.context_rows(task, words)[0] for context, encoder in found.items()}
    columns = {context: rows[context][encoder.instruction_columns].tolist() for context, encoder in found.items()}
    assert columns == {"task": [], "instruction": [1, 2, 3, 4], "both": [1, 2, 3, 4], "none": []}


@pytest.mark.parametrize("context", ["task", "instruction", "both"])
def test_swapped_instructions_are_read_from_the_right_columns(context: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an agent that reads task and words, the words must differ and not merely the number."""
    network = fake_network(ENV, fake_config(context=context))
    encoder, policy = network.context_encoder, Policy(network, SLOTS)
    own, other = np.array([[1, 2, 3, 0]], np.int32), np.array([[1, 2, 4, 0]], np.int32)
    number = np.zeros(1, np.int32)
    rows = encoder.context_rows(number, own)
    given = []
    act = policy.act
    monkeypatch.setattr(policy, "act", lambda inputs, told: given.append(told.copy()) or act(inputs, told))
    inputs = steps()[0]
    inputs["task"][:] = 1
    inputs["instruction"][:] = torch.from_numpy(own)
    others = np.concatenate([rows, encoder.context_rows(number, other)])
    PROBES["swap"].wrap(policy, Scene(others=others, sources=[], seed=(0,))).act(inputs)
    np.testing.assert_array_equal(given[0], np.repeat(encoder.context_rows(number, other), SLOTS, axis=0))

"""An environment and a network that only count, so that arithmetic can check every value of a trajectory.

Slot n plays episodes e = 0, 1, ... of n % 3 + e % 4 + 1 steps. Its observations are (n, e, age), where age counts the steps of the
episode from 0. Episodes with an even n + e terminate; the others are truncated.

The network's state counts the steps since the last reset. Its only parameter is the number of the weights. The action is deterministic:
(count + number) mod 8. So each action identifies the weights that chose it.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.acting.actor import Actor
from agents.acting.policy import Policy
from agents.fusion.segments import Segments
from agents.network.actions import Categorical
from agents.network.agent import AgentOutput, Modulations
from agents.network.context import Contexts
from agents.runtime.base import StreamPositions
from envs.engines.base import Arrays, Outcome
from envs.spec import ArraySpec, EnvSpec, Slot
from envs.vector import MultitaskVectorEnv

NUM_ACTIONS = 8
NUM_TASKS = 2
STATE_SIZE = 2
SLOTS = 3
"""Of each actor; number n of a slot is actor * SLOTS + column."""

COUNTING = EnvSpec(
    suite="counting",
    tasks=("even", "odd"),
    observation={"vector": ArraySpec(shape=(3,), dtype="float32")},
    instruction_length=2,
    vocabulary=("", "?"),
    num_actions=NUM_ACTIONS,
    action_counts=(NUM_ACTIONS,) * NUM_TASKS,
)


def episode_length(slot: int, episode: int) -> int:
    return slot % 3 + episode % 4 + 1


def reward_of(slot: int, episode: int, age: int, action: int) -> float:
    """Of the step that leads to `age`. Exact in float32."""
    return 1000.0 * slot + 10 * episode + age + action / 8


class CountingEngine:
    """See the module. `fault` is "raise", "exit", "segfault" or "hang", which happens at step `fault_step`."""

    def __init__(self, slots: Sequence[Slot], fault: str = "", fault_step: int = 20) -> None:
        self.number = np.array([slot.index * NUM_TASKS + slot.task for slot in slots])
        self.first = np.array([slot.episode for slot in slots])
        self.fault, self.fault_step = fault, fault_step
        self.steps = 0
        self.observation: Arrays = {
            "vector": np.zeros((len(slots), 3), np.float32),
            "instruction": np.zeros((len(slots), 2), np.int32),
        }

    def start(self, seed: int) -> None:
        self.episode, self.age = self.first.copy(), np.zeros_like(self.first)
        self._show()

    def step(self, actions: np.ndarray) -> Outcome:
        self.steps += 1
        if self.fault and self.steps == self.fault_step:
            if self.fault == "exit":
                os._exit(17)
            if self.fault == "segfault":
                ctypes.string_at(0)
            while self.fault == "hang":
                time.sleep(1)
            raise RuntimeError("the counting engine broke as it was told")
        size = len(self.number)
        reward, terminated, truncated = np.zeros(size, np.float32), np.zeros(size, bool), np.zeros(size, bool)
        for i, n in enumerate(self.number):
            length = episode_length(n, self.episode[i])
            if self.age[i] == length:
                self.episode[i] += 1
                self.age[i] = 0
                continue
            self.age[i] += 1
            reward[i] = reward_of(n, self.episode[i], self.age[i], actions[i])
            if self.age[i] == length:
                terminated[i] = (n + self.episode[i]) % 2 == 0
                truncated[i] = not terminated[i]
        self._show()
        return reward, terminated, truncated

    def _show(self) -> None:
        self.observation["vector"][:] = np.stack([self.number, self.episode, self.age], axis=1)
        self.observation["instruction"][:] = np.stack([self.number, self.age], axis=1)

    def render(self, slot: int) -> np.ndarray:
        raise NotImplementedError

    def close(self) -> None:
        pass


class _NoContext:
    """What the policy asks of a context encoder, for a network that reads none."""

    def context_rows(self, task: np.ndarray, instruction: np.ndarray | None, vector: None) -> np.ndarray:
        assert instruction is not None
        return instruction

    def contexts_from_rows(self, rows: np.ndarray) -> Contexts:
        return Contexts(torch.zeros(len(rows), dtype=torch.long), torch.from_numpy(rows).long())

    def refuse_unseen(self, contexts: Contexts) -> None:
        pass


class CountingNetwork(nn.Module):
    """See the module. The state is (steps since the reset, sum of the ages seen since the reset)."""

    core_state_size = STATE_SIZE
    actions = Categorical(NUM_ACTIONS)

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.zeros(1))
        self.filler = nn.Parameter(torch.zeros(50, 40))
        self.context_encoder = _NoContext()

    def condition(self, contexts: Contexts, samples: int | None = None) -> Modulations:
        """The modulation is the number of the weights: a cache that is not cleared shows in the actions."""
        return {"policy": (self.number.expand(len(contexts.task), 1).clone(),)}

    def unroll(
        self,
        inputs: Mapping[str, Tensor],
        core_state: Tensor,
        modulations: Modulations,
        segments: Segments,
        *,
        final_state: bool = True,
        values: bool = True,
    ) -> AgentOutput:
        length, batch = inputs["reset"].shape
        number = segments.rows(modulations["policy"][0]).expand(length * batch, 1).view(length, batch)
        logits = []
        for t in range(length):
            core_state = torch.where(inputs["reset"][t].unsqueeze(1), 0.0, core_state)
            core_state = core_state + torch.stack([torch.ones(batch), inputs["vector"][t, :, 2]], dim=1)
            action = (core_state[:, 0] + number[t]).long() % NUM_ACTIONS
            logits.append(1e4 * nn.functional.one_hot(action, NUM_ACTIONS).float())
        return AgentOutput(torch.stack(logits), torch.zeros(length, batch, 1), core_state)


@dataclass(frozen=True)
class MakeCountingActor:
    """Actor factory for the runtimes; see agents/runtime/base.py.

    Attributes:
        fault: Of all actors, or with commas between of each of them.
        first_episode: Of every slot.
    """

    fault: str = ""
    first_episode: int = 0

    def __call__(self, index: int, positions: StreamPositions, network: Any, policy: Any = None) -> Actor:
        numbers = [index * SLOTS + column for column in range(SLOTS)]
        last = positions.episodes.get(index, [self.first_episode - 1] * SLOTS)
        slots = [
            Slot(task=n % NUM_TASKS, index=n // NUM_TASKS, episode=episode + 1)
            for n, episode in zip(numbers, last, strict=True)
        ]
        env = MultitaskVectorEnv(
            CountingEngine(slots, self.fault.split(",")[index] if "," in self.fault else self.fault),
            COUNTING,
            slots,
            seed=0,
        )
        policy = policy or Policy(CountingNetwork() if network is None else network, SLOTS)
        return Actor(env, policy, Categorical(NUM_ACTIONS), seed=(0, index), unrolls=positions.unrolls.get(index, 0))


@dataclass(frozen=True)
class MakeCountingPolicy:
    """Policy factory for the inference server. `fault` is "raise", "exit" or "hang", which happens at step `fault_step`."""

    fault: str = ""
    fault_step: int = 20

    def __call__(self, slots: int) -> Policy:
        policy = Policy(CountingNetwork(), slots)
        if self.fault:
            unroll, steps = policy.network.unroll, itertools.count(1)

            def faulty(*args: Any, **kwargs: Any) -> AgentOutput:
                if next(steps) == self.fault_step:
                    if self.fault == "exit":
                        os._exit(18)
                    while self.fault == "hang":
                        time.sleep(1)
                    raise RuntimeError("the counting policy broke as it was told")
                return unroll(*args, **kwargs)

            policy.network.unroll = faulty  # type: ignore[method-assign]
        return policy


@dataclass
class Moment:
    """One observation of a slot's life and the step that follows it, as the rules say it must be handed over."""

    episode: int
    age: int
    reset: bool
    last_action: int
    last_reward: float
    state: tuple[float, float]
    action: int
    reward: float
    terminated: bool
    mask: bool
    ended: bool
    episode_return: float
    next_episode: int


def life(slot: int, versions: Sequence[int], first_episode: int = 0) -> list[Moment]:
    """A slot's moments, one for each entry of `versions`: the number of the weights that chose each action."""
    moments: list[Moment] = []
    episode, age, total = first_episode, 0, 0.0
    last_action, last_reward = NUM_ACTIONS, 0.0
    state = (0.0, 0.0)
    for version in versions:
        length = episode_length(slot, episode)
        before = state
        state = (1.0, 0.0) if age == 0 else (state[0] + 1, state[1] + age)
        action = int(state[0] + version) % NUM_ACTIONS
        mask = age < length
        reward = reward_of(slot, episode, age + 1, action) if mask else 0.0
        total = total + reward
        ended = age + 1 == length
        moments.append(
            Moment(
                episode=episode,
                age=age,
                reset=age == 0,
                last_action=last_action,
                last_reward=last_reward,
                state=before,
                action=action,
                reward=reward,
                terminated=ended and (slot + episode) % 2 == 0,
                mask=mask,
                ended=ended,
                episode_return=total,
                next_episode=episode if mask else episode + 1,
            )
        )
        if mask:
            age, last_action, last_reward = age + 1, action, reward
        else:
            episode, age, total, last_action, last_reward = episode + 1, 0, 0.0, NUM_ACTIONS, 0.0
    return moments

"""A trained agent that acts in environments of the caller."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from agents.acting.policy import Policy, Sampler
from agents.cli.terminal import warn
from agents.evaluation import episodes
from agents.evaluation.episodes import SavedAgent, evaluation_spec, make_task_env
from agents.setup.machine import resolve_device
from agents.storage.checkpoint import find_checkpoint
from envs.instructions import UNKNOWN, Tokenizer, split_words
from envs.vector import MultitaskVectorEnv
from mimpala.results import Run, checkpoint_of
from system.errors import InputError, unknown_name
from system.words import count

TEXTS = ("instruction", "mission")
"""Keys under which observations may have the instruction; BabyAI calls it `mission`."""


def load_agent(run: Run, which: Run, *, allow: Sequence[str] = (), device: str = "cpu") -> Agent:
    """See `mimpala.load`."""
    path = find_checkpoint(Path(checkpoint_of(run, which)), warn)
    saved = episodes.load_agent(path, allow)
    try:
        agent = Agent(saved, device=device)
        # A trial step: the file describes observations, and no suite has confirmed them.
        agent.act(
            {key: np.ones(array.shape, array.dtype) for key, array in agent.spec.observation.items()},
            task=0,
            instruction=agent._network.context_encoder.example_instruction(agent.spec.instruction_length),
        )
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError) as error:
        raise InputError(
            f"{path} is damaged or crafted (its agent cannot act: {type(error).__name__}): use another one."
        ) from error
    agent.reset()
    return agent


class Agent:
    """A trained agent in one or several environments at once, its slots. Call `reset`, and then `act` for every step.

    Attributes:
        spec: What the agent observes, its tasks, its vocabulary and its actions.
        updates, frames: Length of its training.
    """

    def __init__(self, saved: SavedAgent, *, device: str = "cpu") -> None:
        self._saved, self.spec = saved, saved.env
        self.updates, self.frames = saved.updates, saved.frames
        self._network = network = saved.network(saved.env).to(resolve_device(device))
        # Noise is a condition of an experiment, and the caller's contexts are meant as given.
        network.context_encoder.noise = network.context_encoder.dropout = 0.0
        self._reads_instructions = network.context_encoder.reads_instruction
        self._needs_task = len(self.spec.tasks) > 1 and (
            network.context_encoder.reads_task or network.action_mask.needed or network.normalizer is not None
        )
        self._tokenizer = Tokenizer(self.spec.vocabulary, self.spec.instruction_length)
        self._warned: set[str] = set()
        self.reset()

    def reset(self, slots: int = 1, *, seed: int = 0) -> None:
        """Begins new episodes in `slots` environments. `seed` starts the random numbers of sampled actions."""
        if slots < 1:
            raise InputError(f"slots={slots} is too small: give 1 or more.")
        self._slots = slots
        self._policy, self._sampler = Policy(self._network, slots), Sampler(self._network.actions)
        self._sampler.seed(seed)
        self._last_action = self._network.actions.no_action(slots)
        self._begins = np.ones(slots, np.bool_)

    def act(
        self,
        observation: Any,
        *,
        task: str | int | Sequence[str | int] | None = None,
        instruction: str | Sequence[str] | NDArray[np.int32] | None = None,
        reward: ArrayLike = 0.0,
        reset: ArrayLike = False,
        greedy: bool = False,
    ) -> Any:
        """One action per slot, as the environment takes it. The agent keeps its recurrent state and its last action from call to call.

        `task`, `instruction`, `reward` and `reset` are one for all slots, or one for each slot.

        Args:
            observation: A mapping with the arrays of `spec.observation`, or the array alone if there is one. Further keys are ignored,
                but for `instruction`, `mission` and `task`. Each array is [slots, ...], or [...] for one slot.
            task: Name or number of the task. By default the observation's; needed if the agent has several tasks and differs between them.
            instruction: Text or tokens. By default the observation's.
            reward: Of the last action, as the environment gave it.
            reset: Whether this is the first observation of an episode. The first call after the method `reset` need not say so.
            greedy: Takes the most probable action instead of a sample.

        Returns:
            For arrays [slots, ...] an array [slots, ...]; for [...] the single action, an int if actions are discrete.

        Raises InputError if the observation is another than the agent was trained on, or lacks its task or instruction.
        """
        seen = observation if isinstance(observation, Mapping) else {self._only_key(): observation}
        inputs, is_single = self._observed(seen)
        begins = self._begins | self._for_slots("reset", reset, np.bool_)
        inputs["task"] = self._tasks(seen, task)
        if self.spec.instruction_length:
            inputs["instruction"] = self._instructions(seen, instruction)
        inputs["last_reward"] = np.where(begins, np.float32(0), self._for_slots("reward", reward, np.float32))
        tensors = {key: torch.from_numpy(np.array(value)) for key, value in inputs.items()}
        tensors["reset"] = fresh = torch.from_numpy(begins)
        no_action = self._network.actions.no_action(self._slots)
        columns = fresh.view(-1, *[1] * (no_action.dim() - 1))
        tensors["last_action"] = torch.where(columns, no_action, self._last_action)
        self._sampler.greedy = greedy
        action, _ = self._sampler.sample(self._policy.distribution(tensors))
        self._last_action, self._begins = action, np.zeros(self._slots, np.bool_)
        taken = self._network.actions.for_env(action.numpy()).astype(self.spec.action.dtype)
        if not is_single:
            return taken
        return int(taken[0]) if self.spec.action_kind == "discrete" else taken[0]

    def make_env(self, task: str = "", *, slots: int = 1, seed: int = 0, engine: str = "") -> MultitaskVectorEnv:
        """Environments of a task of the agent's suite, by default its first one, whose observations `act` reads.

        It is a gymnasium `VectorEnv` with NEXT_STEP auto-reset. The step after an episode's end resets, so `reset` of `act` is True one
        step after that end.
        """
        spec = evaluation_spec(self._saved, [task] if task else [], engine)
        return make_task_env(self._saved, spec, task or spec.tasks[0], slots, seed)

    def _only_key(self) -> str:
        keys = list(self.spec.observation)
        if len(keys) > 1:
            raise InputError(f"the observation is no mapping: give one with the keys {', '.join(keys)}.")
        return keys[0]

    def _observed(self, seen: Mapping[str, Any]) -> tuple[dict[str, NDArray[Any]], bool]:
        """The arrays of `spec.observation`, [slots, ...] each, and whether they came as those of a single slot."""
        found, singles = {}, set()
        for key, array in self.spec.observation.items():
            if key not in seen:
                raise InputError(f"the observation has no {key}: give {array.dtype} {list(array.shape)}.")
            value = np.asarray(seen[key])
            is_single = self._slots == 1 and value.shape == array.shape
            if not is_single and value.shape != (self._slots, *array.shape):
                raise InputError(
                    f"the observation's {key} is {list(value.shape)}, and the agent reads {list(array.shape)} of each of "
                    f"{count(self._slots, 'slot')}: give what it was trained on, or call reset(slots=N) first."
                )
            converted = value.astype(array.dtype)
            if not np.isfinite(converted).all() if array.dtype == "float32" else (converted != value).any():
                raise InputError(
                    f"the observation's {key} holds numbers that are no {array.dtype}: give what it was trained on."
                )
            found[key] = converted[None] if is_single else converted
            singles.add(is_single)
        return found, singles == {True}

    def _for_slots(self, name: str, value: ArrayLike, dtype: type[np.generic]) -> NDArray[Any]:
        array = np.asarray(value, dtype)
        if array.shape not in ((), (1,), (self._slots,)):
            raise InputError(
                f"{name} has the shape {list(array.shape)}: give one, or one for each of {count(self._slots, 'slot')}."
            )
        return np.broadcast_to(array, self._slots)

    def _tasks(self, seen: Mapping[str, Any], task: str | int | Sequence[str | int] | None) -> NDArray[np.int32]:
        given = seen.get("task") if task is None else task
        if given is None:
            if self._needs_task:
                raise InputError(f"task= is missing: give one of {', '.join(self.spec.tasks)}.")
            given = 0
        names: list[str | int] = [given] if isinstance(given, str | int) else np.ravel(given).tolist()
        return self._for_slots("task", [self._task_id(name) for name in names], np.int32)

    def _task_id(self, task: str | int) -> int:
        if task in self.spec.tasks:
            return self.spec.tasks.index(str(task))
        if isinstance(task, str) or not 0 <= task < len(self.spec.tasks):
            raise unknown_name("task", task, self.spec.tasks)
        return int(task)

    def _instructions(
        self, seen: Mapping[str, Any], instruction: str | Sequence[str] | NDArray[np.int32] | None
    ) -> NDArray[np.int32]:
        """Tokens, int32 [slots, L]."""
        given = instruction if instruction is not None else next((seen[key] for key in TEXTS if key in seen), None)
        length = self.spec.instruction_length
        if given is None:
            if self._reads_instructions:
                raise InputError('instruction= is missing: give a text, as in instruction="go to the red ball".')
            return np.zeros((self._slots, length), np.int32)
        if not isinstance(given, str) and np.asarray(given).dtype.kind in "iu":
            tokens = np.asarray(given, np.int32)
            if tokens.shape[-1:] != (length,) or tokens.size not in (length, self._slots * length):
                raise InputError(
                    f"the instruction's tokens are {list(tokens.shape)}: give {length} for each slot, or a text."
                )
            if tokens.min() < 0 or tokens.max() >= len(self.spec.vocabulary):
                raise InputError(
                    f"the instruction has a token outside of the vocabulary of {count(len(self.spec.vocabulary), 'word')}."
                )
            return np.broadcast_to(tokens.reshape(-1, length), (self._slots, length))
        texts = [given] if isinstance(given, str) else [str(text) for text in given]
        if len(texts) not in (1, self._slots):
            raise InputError(
                f"instruction has {count(len(texts), 'text')}: give one, or one for each of {count(self._slots, 'slot')}."
            )
        return np.broadcast_to(np.stack([self._encode(text) for text in texts]), (self._slots, length))

    def _encode(self, text: str) -> NDArray[np.int32]:
        tokens = self._tokenizer.encode(text)
        if self._reads_instructions and text not in self._warned and (tokens == UNKNOWN).any():
            self._warned.add(text)
            words = [word for word, token in zip(split_words(text), tokens, strict=False) if token == UNKNOWN]
            warnings.warn(f"the agent does not know {', '.join(words)} in the instruction {text!r}", stacklevel=4)
        return tokens

"""Instructions that the agent cannot read, told once of each task."""

from __future__ import annotations

import numpy as np

from agents.trajectory import Trajectory
from envs.instructions import UNKNOWN, has_only_unknown_words
from envs.spec import EnvSpec
from envs.suite import EnvConfig

_KEYS = ("words", "vocabulary")
"""Options of suites to which words can be added."""


class UnknownInstructions:
    """Finds instructions that consist of unknown words only. The texts themselves stay in the environments' processes.

    Args:
        config, env: of the run, or of the evaluation.
    """

    def __init__(self, config: EnvConfig, env: EnvSpec) -> None:
        self._tasks = env.tasks
        self._reads = bool(env.instruction_length)
        key = next((f"env.{key}" for key in _KEYS if hasattr(config, key)), "")
        self._fix = f": add its words to {key}, from the start of a run" if key else ""
        self._reported: set[int] = set()

    def find_new(self, batch: Trajectory) -> list[str]:
        """A sentence for each task that has such an instruction in `batch` and had none before."""
        if not self._reads or len(self._reported) == len(self._tasks):
            return []
        tokens = batch["instruction"].numpy()
        # For every update: most vocabularies know every word.
        if not (tokens == UNKNOWN).any():
            return []
        unreadable = has_only_unknown_words(tokens)
        found = {int(task) for task in np.unique(batch["task"].numpy()[unreadable])} - self._reported
        self._reported |= found
        return [
            f"warning: task {self._tasks[task]} has an instruction without a single word that the agent knows, which it cannot tell from "
            f"any other such one{self._fix}."
            for task in sorted(found)
        ]

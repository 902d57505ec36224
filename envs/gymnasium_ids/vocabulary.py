"""The words of text observations: given, or collected in some seeded episodes of random actions."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.gymnasium_adapter.actions import first_components
from envs.gymnasium_adapter.extras import MASK, Extras, choices
from envs.gymnasium_adapter.spaces import Space
from envs.instructions import words
from envs.seeding import episode_seed
from envs.spec import Split
from system.errors import InputError

SPECIAL = ("<pad>", "<unk>")
"""The words of tokens 0 and 1."""

_EPISODES, _STEPS = 64, 32
"""Played for the words of a task, and the most steps of each."""
_MOST_WORDS, _MOST_LETTERS = 10_000, 40
_MOST_BYTES = 2**20
"""Of a file of words."""


class Words:
    """What was read while a vocabulary was collected.

    Attributes:
        longest: text, in words.
    """

    def __init__(self) -> None:
        self.longest = 0
        self._counts: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """Takes in one text."""
        found = words(text)
        self.longest = max(self.longest, len(found))
        self._counts.update(word for word in found if len(word) <= _MOST_LETTERS)

    def vocabulary(self) -> tuple[str, ...]:
        """The words, the most frequent _MOST_WORDS of them, by the alphabet: their order depends on nothing else."""
        ranked = sorted(self._counts, key=lambda word: (-self._counts[word], word))
        return tuple(sorted(ranked[:_MOST_WORDS]))

    @property
    def length(self) -> int:
        """Tokens of an instruction: the longest text, with a little room for longer ones."""
        return 8 * max(1, -(-self.longest // 8))


def collect(env: gymnasium.Env[Any, Any], task: str, found: Words, *, masked: bool) -> None:
    """Plays some episodes of a task with random legal actions, always the same, and adds what they show as text.

    An episode that fails ends there: what is wrong with an environment is told by a run of it.
    """
    for text in _sampled(env.observation_space):
        found.add(text)
    space = env.action_space
    player = Extras(env, task, size=sum(choices(space)) if masked else 0)
    space.seed(0)
    for episode in range(_EPISODES):
        with contextlib.suppress(Exception):
            player.reset(seed=episode_seed(0, Split.TRAIN, task, 0, episode))
            found.add(player.suite_extras.get("instruction", ""))
            for _ in range(_STEPS):
                mask = player.suite_extras.get(MASK)
                action = space.sample() if mask is None else space.sample(_mask_of(space, mask.astype(np.int8)))
                _, _, terminated, truncated, _ = player.step(action)
                found.add(player.suite_extras.get("instruction", ""))
                if terminated or truncated:
                    break


def _mask_of(space: Space, mask: NDArray[np.int8]) -> Any:
    """A mask in the form that `space.sample` takes; None where it takes none of that kind."""
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return tuple(np.split(mask, first_components(choices(space))[1:]))
    return mask if isinstance(space, spaces.Discrete) else None


def _sampled(space: Space) -> Iterable[str]:
    """Texts of spaces that know theirs, as minigrid's MissionSpace. Samples of a `Text` are letters at random."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for part in space.values() if isinstance(space, spaces.Dict) else space:
            yield from _sampled(part)
    elif not isinstance(space, spaces.Text) and space.dtype is not None and np.dtype(space.dtype).kind == "U":
        space.seed(0)
        with contextlib.suppress(Exception):
            yield from [str(space.sample()) for _ in range(_EPISODES)]


def given(vocabulary: Any) -> tuple[str, ...]:
    """The words of `env.vocabulary`: a list of words, or the path of a file with words between spaces or in lines of their own.

    Raises:
        InputError: it is neither, or holds what is no word.
    """
    if isinstance(vocabulary, str):
        try:
            with Path(vocabulary).open("rb") as file:
                read = file.read(_MOST_BYTES + 1)
            if len(read) > _MOST_BYTES:
                raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
            vocabulary = read.decode().split()
        except (OSError, ValueError) as error:
            raise InputError(
                f"env.vocabulary={vocabulary} cannot be read ({error}): give a list of words, or a file of words."
            ) from error
    if not isinstance(vocabulary, list | tuple):
        raise InputError(f"env.vocabulary={vocabulary} is neither a list of words nor a file: write [word,word].")
    for word in vocabulary:
        if not isinstance(word, str) or words(word) != [word.lower()]:
            raise InputError(f"env.vocabulary holds {word!r}, which is no single word: give words as text, in quotes.")
    if len(vocabulary) > _MOST_WORDS:
        raise InputError(f"env.vocabulary has {len(vocabulary):,} words: give at most {_MOST_WORDS:,}.")
    return tuple(dict.fromkeys(word.lower() for word in vocabulary))

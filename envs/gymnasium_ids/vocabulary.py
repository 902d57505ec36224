"""The vocabulary of text observations: configured, or collected in some seeded episodes of random actions."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium import spaces

from envs.gymnasium_adapter.actions import Actions, MaskReader, Space, sample_legal
from envs.gymnasium_adapter.observation import Parts, is_text
from envs.instructions import split_words
from envs.seeding import episode_seed
from envs.spec import Split
from system.errors import InputError
from system.files import read_bounded
from system.nested import leaves

SPECIAL = ("<pad>", "<unk>")
"""The words of tokens 0 and 1."""

_EPISODES, _STEPS = 64, 32
"""Number of episodes that are played for the words of a task, and their maximum length."""
_MOST_WORDS, _MOST_LETTERS = 10_000, 40
_MOST_BYTES = 2**20
"""Maximum size of a file of words."""


class Words:
    """The texts that were read while a vocabulary was collected; the longest has `longest` words."""

    def __init__(self) -> None:
        self.longest = 0
        self._counts: Counter[str] = Counter()

    def add(self, text: str) -> None:
        found = split_words(text)
        self.longest = max(self.longest, len(found))
        self._counts.update(word for word in found if len(word) <= _MOST_LETTERS)

    def vocabulary(self) -> tuple[str, ...]:
        """The most frequent _MOST_WORDS words in alphabetical order, which does not depend on their counts."""
        ranked = sorted(self._counts, key=lambda word: (-self._counts[word], word))
        return tuple(sorted(ranked[:_MOST_WORDS]))

    @property
    def length(self) -> int:
        """Number of tokens of an instruction: the length of the longest text, rounded up to a multiple of 8."""
        return 8 * max(1, -(-self.longest // 8))


def collect(
    env: gymnasium.Env[Any, Any], task: str, parts: Parts, actions: Actions, masks: MaskReader | None, found: Words
) -> None:
    """Plays some episodes of a task with random legal actions, the same in every call, and adds their texts to `found`.

    An exception ends its episode and is ignored, because `envs.gymnasium_ids.probe` reports it.
    """
    for text in _sampled(env.observation_space):
        found.add(text)
    actions.space.seed(0)
    for episode in range(_EPISODES):
        with contextlib.suppress(Exception):
            seen, info = env.reset(seed=episode_seed(0, Split.TRAIN, task, 0, episode))
            found.add(parts.text(seen))
            for _ in range(_STEPS):
                action = sample_legal(actions.space, masks.read(seen, info) if masks else None)
                seen, _, terminated, truncated, info = env.step(actions.decode(action))
                found.add(parts.text(seen))
                if terminated or truncated:
                    break


def _sampled(space: Space) -> Iterable[str]:
    """Texts of spaces that sample real ones, as minigrid's MissionSpace does. Samples of a `Text` are random letters."""
    for _, leaf in leaves(space):
        if is_text(leaf) and not isinstance(leaf, spaces.Text):
            leaf.seed(0)
            with contextlib.suppress(Exception):
                yield from [str(leaf.sample()) for _ in range(_EPISODES)]


def read_vocabulary(vocabulary: Any) -> tuple[str, ...]:
    """The words of `env.vocabulary`: a list of words, or the path of a file of words separated by white space; otherwise InputError."""
    if isinstance(vocabulary, str):
        try:
            vocabulary = read_bounded(Path(vocabulary), _MOST_BYTES).split()
        except (OSError, ValueError) as error:
            raise InputError(
                f"env.vocabulary={vocabulary} cannot be read ({error}): give a list of words, or a file of words."
            ) from error
    if not isinstance(vocabulary, list | tuple):
        raise InputError(f"env.vocabulary={vocabulary} is neither a list of words nor a file: write [word,word].")
    for word in vocabulary:
        if not isinstance(word, str) or split_words(word) != [word.lower()]:
            raise InputError(f"env.vocabulary holds {word!r}, which is no single word: give words as text, in quotes.")
    if len(vocabulary) > _MOST_WORDS:
        raise InputError(f"env.vocabulary has {len(vocabulary):,} words: give at most {_MOST_WORDS:,}.")
    return tuple(dict.fromkeys(word.lower() for word in vocabulary))

"""Writes the file of `context.encoder=table`: instructions of tasks and their words, with vectors of a sentence-transformers model.

    pip install sentence-transformers
    python examples/embed_sentences.py sentences.npz model=all-MiniLM-L6-v2 steps=20000 env=babyai env.tasks=[GoToLocal]
    python train.py context=instruction context.encoder=table context.table=sentences.npz env=babyai env.tasks=[GoToLocal]

It plays `steps` random steps in 64 environments and keeps every instruction that it meets; `texts=<file>` adds one instruction per line. A
rare instruction may be missed: play more steps, or train with context.unseen=words, which uses the vectors of the words.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conf.loading import compose_train
from envs.instructions import PADDING, UNKNOWN
from envs.spec import Slot, Split
from envs.suites import make_env, make_spec

SLOTS = 64


def main(arguments: Sequence[str], embed: Callable[[list[str]], Any] | None = None) -> None:
    """Writes the file. `embed` maps M texts to vectors [M, D]; None takes the model that the arguments name."""
    output, *keys = arguments
    own = {"model": "all-MiniLM-L6-v2", "steps": "20000", "texts": ""}
    given = dict(key.split("=", 1) for key in keys)
    own |= {key: given.pop(key) for key in own if key in given}
    if embed is None:
        from sentence_transformers import SentenceTransformer

        embed = SentenceTransformer(own["model"], device="cpu").encode
    texts = list(find_instructions([f"{key}={value}" for key, value in given.items()], int(own["steps"])))
    if own["texts"]:
        texts += Path(own["texts"]).read_text(encoding="utf-8").splitlines()
    texts = sorted(set(texts))
    vectors = np.asarray(embed(texts), np.float32)
    np.savez(output, sentences=np.array(texts), vectors=vectors)
    print(f"{output}: {len(texts):,} sentences and words, {vectors.shape[1]} features each")


def find_instructions(overrides: Sequence[str], steps: int) -> Iterable[str]:
    """The words of the environments' vocabulary, and the instructions of `steps` random steps."""
    config = compose_train(overrides)
    spec = make_spec(config.env)
    yield from spec.vocabulary[UNKNOWN + 1 :]
    slots = [Slot(task=number % len(spec.tasks), index=number) for number in range(SLOTS)]
    counts = np.array([spec.action_counts[slot.task] for slot in slots])
    env, rng, found = make_env(config.env, spec, slots, config.seed, Split.TRAIN), np.random.default_rng(0), set()
    observation, _ = env.reset()
    for _ in range(steps // SLOTS):
        found |= {tuple(row) for row in np.unique(observation["instruction"], axis=0).tolist()}
        observation, *_ = env.step(rng.integers(counts).astype(np.int32))
    env.close()
    for row in found:
        yield " ".join(spec.vocabulary[token] for token in row if token != PADDING)


if __name__ == "__main__":
    main(sys.argv[1:])

"""The table of a run with `context.encoder=table`: its file is read when the run starts, and its checkpoints hold it afterwards."""

from __future__ import annotations

from dataclasses import replace

import torch

from agents.network.agent import AgentNetwork
from agents.network.instructions import SentenceTable
from agents.storage.sentences import MOST_NUMBERS, read_sentences
from conf.schema import ContextConfig
from envs.spec import EnvSpec
from system.errors import InputError
from system.words import count


def build_table(context: ContextConfig, env: EnvSpec) -> SentenceTable | None:
    """The empty table of `context.encoder=table`, which `fill_table` or a checkpoint fills. None for other encoders."""
    if context.encoder != "table":
        return None
    if len(context.table_shape) != 2:
        raise InputError(f"context.table_shape={context.table_shape} is not the shape of a table: leave the key out.")
    sentences, features = context.table_shape
    by_words = context.unseen == "words"
    numbers = (sentences + by_words * len(env.vocabulary)) * features
    if numbers > MOST_NUMBERS:
        raise InputError(
            f"context.table={context.table} has {count(numbers, 'number')} in the vectors of {count(sentences, 'sentence')}, and "
            f"{MOST_NUMBERS:,} are allowed: leave out sentences, or use a model with fewer features."
        )
    size = context.instruction_size if context.project else 0
    return SentenceTable(context.table_shape, env.instruction_length, env.vocabulary, size=size, by_words=by_words)


def settle_context(context: ContextConfig, env: EnvSpec) -> ContextConfig:
    """The configuration with the shape of the table that it names. InputError if the file cannot be used.

    A resumed run has the shape already, and needs the file no longer.
    """
    if context.encoder != "table" or context.table_shape:
        return context
    found = read_sentences(context.table, env, words_needed=context.unseen == "words")
    return replace(context, table_shape=list(found.vectors.shape))


def fill_table(network: AgentNetwork, context: ContextConfig, env: EnvSpec) -> None:
    """Reads the table of a new run, whose shape is settled, into its network."""
    table = network.context_encoder.table
    if table is None:
        return
    found = read_sentences(context.table, env)
    if list(found.vectors.shape) != context.table_shape:
        raise InputError(f"context.table={context.table} was changed while the run started: start it again.")
    table.fill(*map(torch.from_numpy, found))

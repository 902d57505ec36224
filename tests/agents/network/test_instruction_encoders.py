"""Readers of instructions, and the table of sentences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agents.fusion.base import Tokens
from agents.network.context import ContextEncoder, Contexts
from agents.network.instructions import READERS, SentenceTable
from system.errors import InputError

TASKS, WORDS, LENGTH = 3, 9, 6
VOCABULARY = ("", "?", *(f"word-{token}" for token in range(2, WORDS)))


def encoder(name: str = "lstm", kind: str = "instruction", **options: object) -> ContextEncoder:
    torch.manual_seed(0)
    sizes = {"task_size": 4, "word_size": 5, "instruction_size": 8}
    return ContextEncoder(kind, TASKS, WORDS, encoder=name, **(sizes | options)).eval()  # type: ignore[arg-type]


def sentences(rows: int = 20, seed: int = 0) -> np.ndarray:
    """Instructions of 0 to LENGTH words."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros((rows, LENGTH), np.int32)
    for row in range(rows):
        tokens[row, : row % (LENGTH + 1)] = rng.integers(2, WORDS, row % (LENGTH + 1))
    return tokens


def contexts(tokens: np.ndarray, padding: int = 0) -> Contexts:
    tokens = np.pad(tokens, ((0, 0), (0, padding)))
    return Contexts(torch.arange(len(tokens)) % TASKS, torch.from_numpy(tokens).long())


def tokens_of(reader: ContextEncoder, given: Contexts) -> Tokens:
    found = reader(given, tokens=True)
    assert isinstance(found, Tokens)
    return found


@pytest.mark.parametrize("name", READERS)
def test_padding_changes_neither_the_instruction_nor_its_words(name: str) -> None:
    reader, rows = encoder(name, "both"), sentences()
    whole, words = reader(contexts(rows)), tokens_of(reader, contexts(rows))
    assert whole.shape == (20, reader.size) and words.values.shape == (20, LENGTH, reader.size)
    torch.testing.assert_close(reader(contexts(rows, 5)), whole)
    longer = tokens_of(reader, contexts(rows, 5))
    assert not longer.mask[:, LENGTH:].any() and longer.values.isfinite().all()
    torch.testing.assert_close(longer.values[:, :LENGTH][words.mask], words.values[words.mask])
    for row in range(1, len(rows)):
        count = max(1, int((rows[row] != 0).sum()))
        alone = Contexts(torch.tensor([row % TASKS]), torch.from_numpy(rows[row : row + 1, :count]).long())
        torch.testing.assert_close(reader(alone), whole[row : row + 1])
        assert int(words.mask[row].sum()) == count


@pytest.mark.parametrize("name", READERS)
def test_every_parameter_of_a_reader_learns(name: str) -> None:
    reader = encoder(name)
    z = reader(contexts(sentences()))
    gradients = torch.autograd.grad((z * torch.randn_like(z)).sum(), list(reader.parameters()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("name", "reads_order"), [("lstm", True), ("gru", True), ("transformer", True), ("bag", False)]
)
def test_the_order_of_the_words_matters_except_in_a_bag(name: str, reads_order: bool) -> None:
    z = encoder(name)(contexts(np.array([[2, 3, 4], [4, 3, 2]], np.int32)))
    assert torch.allclose(z[0], z[1], atol=1e-5) != reads_order


@pytest.mark.parametrize("name", READERS)
def test_instructions_differ_at_the_start(name: str) -> None:
    """Also with the sizes of the configuration."""
    rows = np.unique(sentences(60), axis=0)
    reader = encoder(name, word_size=32, instruction_size=64)
    with torch.no_grad():
        z = reader(contexts(rows))
    assert float(z.std(dim=0).mean()) > 0.3
    assert 0.5 < float(z.square().mean().sqrt()) < 2


def test_the_lstm_has_the_parameters_of_earlier_versions() -> None:
    """Names, order and initial values, as runs and checkpoints of those have them."""
    reader = encoder("lstm", "both")
    torch.manual_seed(0)
    parts = {
        "task_embedding": nn.Embedding(TASKS, 4),
        "word_embedding": nn.Embedding(WORDS, 5, padding_idx=0),
        "instruction_lstm": nn.LSTM(5, 8),
        "normalize": nn.LayerNorm(8),
    }
    expected = nn.ModuleDict(parts).state_dict()
    assert list(reader.state_dict()) == list(expected)
    for name, value in reader.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_the_tokens_of_both_have_the_task_beside_each_word() -> None:
    reader = encoder("lstm", "both")
    given = contexts(np.array([[2, 3, 0], [4, 5, 6]], np.int32))
    values, mask = tokens_of(reader, given)
    assert mask.tolist() == [[True, True, False], [True, True, True]]
    torch.testing.assert_close(values[:, :, :4], reader.task_embedding(given.task)[:, None].expand(-1, 3, -1))
    # The output at the last word is the whole instruction.
    torch.testing.assert_close(values[[0, 1], [1, 2]], reader(given))


@pytest.mark.parametrize("kind", ["task", "none"])
def test_a_context_without_an_instruction_is_one_token(kind: str) -> None:
    reader, given = encoder("lstm", kind), Contexts(torch.tensor([2, 0]), torch.zeros(2, 0, dtype=torch.long))
    values, mask = tokens_of(reader, given)
    assert mask.tolist() == [[True], [True]]
    torch.testing.assert_close(values[:, 0], reader(given))


def test_a_transformer_needs_a_size_for_its_heads() -> None:
    with pytest.raises(InputError, match=r"context\.instruction_size=6 .* multiple of 4"):
        encoder("transformer", instruction_size=6)


def filled(*, size: int = 0, by_words: bool = False) -> tuple[SentenceTable, Tensor, Tensor]:
    """A table with the 20 sentences, and its tokens and vectors."""
    torch.manual_seed(0)
    tokens = torch.from_numpy(np.unique(sentences(), axis=0))
    table = SentenceTable((len(tokens), 7), LENGTH, VOCABULARY, size=size, by_words=by_words)
    vectors, words = torch.randn(len(tokens), 7), torch.randn(WORDS, 7)
    words[:2] = 0
    table.fill(tokens, vectors, words)
    return table, tokens, vectors


def unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.square().mean(dim=1, keepdim=True).sqrt()


def test_a_table_returns_the_vectors_of_its_sentences() -> None:
    table, tokens, vectors = filled()
    order = torch.randperm(len(tokens))
    torch.testing.assert_close(table(tokens[order].long()), unit(vectors[order]))
    # Shorter padding, as the actors and the learner cut it.
    short = int((tokens[3] != 0).sum())
    torch.testing.assert_close(table(tokens[3:4, :short].long()), unit(vectors[3:4]))
    table.refuse_unseen(tokens.long())


def test_a_projected_table_learns_only_the_projection() -> None:
    table, tokens, vectors = filled(size=5)
    assert table.linear is not None
    torch.testing.assert_close(table(tokens.long()), table.linear(unit(vectors)))
    assert {name for name, parameter in table.named_parameters() if parameter.requires_grad} == {
        "linear.weight",
        "linear.bias",
    }


def test_an_unseen_sentence_is_refused_with_its_words() -> None:
    table, tokens, _ = filled()
    unseen = torch.cat([tokens[:2].long(), torch.full((1, LENGTH), 3)])
    with pytest.raises(InputError, match=r'has no sentence "word-3( word-3){5}".*context\.unseen=words'):
        table.refuse_unseen(unseen)


def test_an_unseen_sentence_is_the_mean_of_its_words() -> None:
    table, tokens, vectors = filled(by_words=True)
    assert table.words is not None
    unseen = torch.tensor([[5, 5, 2, 1]])
    table.refuse_unseen(unseen)
    mean = (2 * table.words[5] + table.words[2]) / 3
    torch.testing.assert_close(table(unseen), unit(mean[None]))
    torch.testing.assert_close(table(tokens.long()), unit(vectors))


def test_a_table_in_an_encoder_is_one_token() -> None:
    table, tokens, vectors = filled()
    reader = encoder(kind="both", table=table)
    given = Contexts(torch.zeros(len(tokens), dtype=torch.long), tokens.long())
    z = reader(given)
    assert reader.size == 4 + 7 and reader.context_norm == pytest.approx(11**0.5)
    torch.testing.assert_close(z[:, 4:], unit(vectors))
    torch.testing.assert_close(tokens_of(reader, given).values[:, 0], z)

"""`python -m studies.language`: the model, its training and evaluation, and a small study from the command line to its files."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from agents.fusion.multiplicative import LowRank
from conf.loading import compose_study
from conf.studies_schema import LanguageConfig
from studies.harness import jobs
from studies.harness.jobs import Checkpoint, Settings
from studies.harness.program import main, make_jobs
from studies.harness.report import over_seeds
from studies.language import STUDY, _comparison, play
from studies.language_training import Rows, evaluate, train, write
from studies.models import language_model
from studies.models.language_model import FORMS, LanguageModel

pytestmark = pytest.mark.usefixtures("process_settings")

TINY = [
    *("quick=true", "parallel=1", "display=false", "seeds=2", "size=10", "embedding_size=6", "rank=2", "steps=6"),
    *("batch_size=2", "length=16", "evaluations=2", "test_rows=1", "sample=20", "level=character"),
]


def model(name: str, symbols: int = 7, *, dropout: float = 0.0, tied: bool = False, size: int = 9) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(FORMS[name], symbols, embedding_size=5, size=size, rank=3, dropout=dropout, tied=tied)


def text(length: int, symbols: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(symbols, size=length).astype(np.uint8)


@pytest.mark.parametrize("name", FORMS)
def test_stretches_give_the_logits_of_the_whole_text(name: str) -> None:
    network, tokens = model(name), torch.from_numpy(text(24).astype(np.int64)).view(8, 3)
    whole, state = network(tokens, network.initial_state(3))
    assert whole.shape == (8, 3, 7)
    first, middle = network(tokens[:3], network.initial_state(3))
    second, end = network(tokens[3:], middle)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(end, state)
    # Later tokens do not change earlier logits.
    changed = tokens.clone()
    changed[5:] = (changed[5:] + 1) % 7
    other, _ = network(changed, network.initial_state(3))
    torch.testing.assert_close(other[:5], whole[:5])
    assert (other[5:] - whole[5:]).abs().amax() > 1e-3


@pytest.mark.parametrize("name", FORMS)
def test_initial_logits_differ_between_texts(name: str) -> None:
    """Standard deviation of the logits between texts."""
    torch.manual_seed(0)
    network = LanguageModel(FORMS[name], 100, embedding_size=32, size=64, rank=16, dropout=0.0, tied=True)
    with torch.no_grad():
        logits, _ = network(torch.randint(100, (6, 200)), network.initial_state(200))
    assert 0.03 <= float(logits[-1].std(dim=0).mean()) <= 2


def test_embeddings_are_modulated_by_the_state() -> None:
    """Computes the equations of the module step by step with the matrices W'(z) of both fusions."""
    network, tokens = model("multiplicative"), torch.tensor([[1], [4], [2]])
    assert isinstance(network.encoder, LowRank) and isinstance(network.decoder, LowRank) and network.outputs is not None
    with torch.no_grad():
        found, _ = network(tokens, network.initial_state(1))
        hidden, cell = torch.zeros(1, 9), torch.zeros(1, 9)
        for token, logits in zip(tokens, found, strict=True):
            matrix, shift = network.encoder.affine_form(hidden)
            read = matrix[0] @ network.embeddings.weight[token[0]] + shift[0]
            gates = [
                F.linear(read[None], w, b) for w, b in [(network.core.lstm.weight_ih_l0, network.core.lstm.bias_ih_l0)]
            ]  # type: ignore[union-attr]
            gates[0] += F.linear(hidden, network.core.lstm.weight_hh_l0, network.core.lstm.bias_hh_l0)  # type: ignore[union-attr]
            opening, forget, candidate, out = gates[0].chunk(4, 1)
            cell = forget.sigmoid() * cell + opening.sigmoid() * candidate.tanh()
            hidden = out.sigmoid() * cell.tanh()
            matrix, shift = network.decoder.affine_form(hidden)
            wanted = matrix[0] @ hidden[0] + shift[0]
            expected = network.outputs.weight @ wanted / math.sqrt(5) + network.bias
            torch.testing.assert_close(logits[0], expected)


def test_tied_embeddings_are_shared() -> None:
    apart, tied = model("lstm"), model("lstm", tied=True)
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (apart, tied)]
    assert sizes[0] - sizes[1] == 7 * 5
    logits, _ = tied(torch.tensor([[1]]), tied.initial_state(1))
    logits[0, 0, 3].backward()
    assert tied.embeddings.weight.grad is not None and tied.embeddings.weight.grad[3].abs().sum() > 0


def test_rows_start_where_the_previous_row_ends() -> None:
    rows = Rows(np.arange(24, dtype=np.uint8), 3)
    assert rows.width == 7
    np.testing.assert_array_equal(rows.read(0, 7).T, [range(8), range(7, 15), range(14, 22)])
    np.testing.assert_array_equal(rows.read(5, 2).T, [[5, 6, 7], [12, 13, 14], [19, 20, 21]])


@pytest.mark.parametrize("length", [4, 10, 100])
def test_evaluation_in_one_row_predicts_every_symbol_from_all_before(length: int) -> None:
    network, tokens = model("multiplicative", dropout=0.5), text(38)
    found = evaluate(network, tokens, 1, length)
    assert network.training
    network.eval()
    whole = torch.from_numpy(tokens.astype(np.int64)).unsqueeze(1)
    with torch.no_grad():
        logits, _ = network(whole[:-1], network.initial_state(1))
    assert found == pytest.approx(F.cross_entropy(logits[:, 0], whole[1:, 0]).item(), rel=1e-5)


class NoCheckpoint(Checkpoint):
    """Loads and saves nothing."""

    due = False

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"), {})

    def load(self) -> None:
        return None


def fit(network: LanguageModel, tokens: np.ndarray, validation: np.ndarray, **changes: Any) -> list[int]:
    settings = {"steps": 60, "batch_size": 4, "length": 10, "learning_rate": 0.03, "most_gradient": 1.0}
    settings |= {"evaluations": 6, "patience": 6, "checkpoint": NoCheckpoint()} | changes
    end = train(network, tokens, validation, generator=np.random.default_rng(0), **settings)  # type: ignore[arg-type]
    assert end.losses[end.steps.index(end.best_step)] == min(end.losses)
    assert evaluate(network, validation, 4, 10) == pytest.approx(min(end.losses), rel=1e-6)
    return [*end.steps, end.best_step]


@pytest.mark.parametrize("name", ["lstm", "multiplicative"])
def test_a_pattern_is_learnt_and_continued(name: str) -> None:
    tokens = np.tile(np.array([1, 2, 3, 1, 4], np.uint8), 80)
    network = model(name, size=16)
    fit(network, tokens[:300], tokens[300:])
    # The symbol after a 1 depends on the symbol before it.
    assert evaluate(network, tokens[300:], 1, 10) < 0.3
    written = write(network, tokens[:10], 10, temperature=0.1, generator=torch.Generator().manual_seed(0), never=None)
    assert written == [1, 2, 3, 1, 4] * 2


def test_training_ends_early_with_the_best_weights() -> None:
    """The validation text has other symbols than the training text, so that learning raises its cost."""
    *steps, best = fit(model("lstm"), text(200, 3), text(200, 3) + 4, patience=2)
    assert best == 0 and steps == [0, 10, 20]


def test_the_state_is_carried_from_stretch_to_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    network, heard = model("lstm"), []
    learn = network.learn

    def listen(tokens: torch.Tensor, state: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        after = learn(tokens, state, following)
        heard.append((len(tokens), state, after))
        return after

    monkeypatch.setattr(network, "learn", listen)
    # Rows of 24 tokens, read from a random position to the end and again from the start.
    fit(network, text(97), text(50), steps=8)
    ends = np.cumsum([length for length, _, _ in heard])
    carried = [torch.equal(before[2], after[1]) for before, after in itertools.pairwise(heard)]
    assert carried.count(False) >= 1 and carried.count(True) >= 3
    assert not heard[1 + carried.index(False)][1].any() and not any(state.requires_grad for _, state, _ in heard)
    start = 24 - ends[carried.index(False)]
    assert start == np.random.default_rng(0).integers(24)


@pytest.mark.parametrize("name", ["multiplicative", "mlstm"])
@pytest.mark.parametrize("stopped", [1, 13, 24])
def test_training_resumes_with_the_same_numbers(
    name: str, stopped: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, ends of rows, a best step before the last, and stops between two readings of the validation text."""
    texts = text(200, 3), text(200, 3) + 4
    undisturbed = model(name, dropout=0.3)
    expected = fit(undisturbed, *texts, steps=27, evaluations=9, patience=9)
    assert expected[-1] < expected[-2]
    after_all = torch.get_rng_state()

    monkeypatch.setattr(jobs, "CHECKPOINT_SECONDS", 0)
    checkpoint, saves = Checkpoint(tmp_path / "kept.pt", {}), itertools.count(1)
    save = checkpoint.save

    def die(content: dict[str, Any]) -> None:
        save(content)
        if next(saves) == stopped:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", die)
    with pytest.raises(KeyboardInterrupt):
        fit(model(name, dropout=0.3), *texts, steps=27, evaluations=9, patience=9, checkpoint=checkpoint)
    again = model(name, dropout=0.3)
    torch.manual_seed(5)
    kept = Checkpoint(tmp_path / "kept.pt", {})
    assert fit(again, *texts, steps=27, evaluations=9, patience=9, checkpoint=kept) == expected
    assert torch.equal(torch.get_rng_state(), after_all)
    for one, other in zip(again.parameters(), undisturbed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_training_reports_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "CHECKPOINT_SECONDS", 0)
    reports: list[float] = []

    def report(part: float) -> None:
        reports.append(part)
        if reports == [0, 0.25, 0.5]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model("lstm"), text(97), text(50), steps=4, checkpoint=Checkpoint(tmp_path / "kept.pt", {}, report))
    fit(model("lstm"), text(97), text(50), steps=4, checkpoint=Checkpoint(tmp_path / "kept.pt", {}, report))
    assert reports == [0, 0.25, 0.5, 0.5, 0.75]


def test_the_end_of_training_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed training that had ended makes no step."""
    monkeypatch.setattr(jobs, "CHECKPOINT_SECONDS", 0)
    checkpoint, texts = Checkpoint(tmp_path / "kept.pt", {}), (text(200, 3), text(200, 3) + 4)
    expected = fit(model("lstm"), *texts, patience=2, checkpoint=checkpoint)
    assert expected == [0, 10, 20, 0]
    again = model("lstm")
    monkeypatch.setattr(again, "learn", None)
    assert fit(again, *texts, patience=2, checkpoint=Checkpoint(tmp_path / "kept.pt", {})) == expected


HOSTILE: list[Callable[[dict[str, Any]], object]] = [
    lambda content: content.clear(),
    lambda content: content.update(model=[]),
    lambda content: content.update(moments=3),
    lambda content: content.update(step=0),
    lambda content: content.update(step=1000),
    lambda content: content.update(position=10**6),
    lambda content: content.update(losses=[0.5]),
    lambda content: content.update(best_step=7),
    lambda content: content.update(steps="all"),
    lambda content: content.pop("core_state"),
    lambda content: content["model"].update(more=torch.zeros(2)),
    lambda content: content.update(core_state=torch.zeros(4, 2)),
    lambda content: content.update(rng=torch.zeros(3, dtype=torch.uint8)),
    lambda content: content.update(rng=torch.zeros_like(content["rng"])),
    # The fused optimizer would write beyond the end of these tensors.
    lambda content: content["moments"][0].update(exp_avg=torch.zeros(2)),
    lambda content: content["moments"].pop(0),
    lambda content: content["model"].update(bias=torch.zeros(3)),
    lambda content: content["best"].update(bias=torch.zeros(7, dtype=torch.float64)),
]


@pytest.mark.parametrize("change", HOSTILE)
def test_a_hostile_checkpoint_is_not_loaded(
    change: Callable[[dict[str, Any]], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, short = (text(200, 3), text(200, 3)), {"steps": 9, "evaluations": 3}
    undisturbed = model("lstm", dropout=0.3)
    expected = fit(undisturbed, *texts, **short)
    monkeypatch.setattr(jobs, "CHECKPOINT_SECONDS", 0)
    fit(model("lstm", dropout=0.3), *texts, **short, checkpoint=Checkpoint(tmp_path / "kept.pt", {}))
    content = Checkpoint(tmp_path / "kept.pt", {}).load()
    assert content is not None
    change(content)
    Checkpoint(tmp_path / "kept.pt", {}).save(content)
    monkeypatch.undo()
    again = model("lstm", dropout=0.3)
    assert fit(again, *texts, **short, checkpoint=Checkpoint(tmp_path / "kept.pt", {})) == expected
    for one, other in zip(again.parameters(), undisturbed.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("most", "parts"), [(10**6, 1), (7 * 24, 1), (7 * 24 - 1, 2), (7 * 5, 5), (6, 24)])
@pytest.mark.parametrize("tied", [False, True])
def test_logits_of_many_symbols_are_computed_in_parts(
    most: int, parts: int, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cost, its gradient and the state equal those of all logits at once."""
    tokens = torch.from_numpy(text(32).astype(np.int64)).view(8, 4)[:, :3]
    following, network, made = (tokens + 1) % 7, model("multiplicative", tied=tied), []
    logits, expected_state = network(tokens, network.initial_state(3))
    expected = F.cross_entropy(logits.flatten(0, 1), following.flatten())
    gradients = torch.autograd.grad(expected, list(network.parameters()))

    def listen(wanted: torch.Tensor) -> torch.Tensor:
        made.append(len(wanted) * 7)
        return of_all(wanted)

    of_all = network._logits
    monkeypatch.setattr(network, "_logits", listen)
    monkeypatch.setattr(language_model, "MOST_LOGITS", most)
    cost, state = network.cost(tokens, network.initial_state(3), following)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert len(made) == parts and max(made) <= max(most, 7)
    assert cost == pytest.approx(expected.item())
    learnt = network.learn(tokens, network.initial_state(3), following)
    assert len(made) == 2 * parts and not learnt.requires_grad
    for found in (state, learnt):
        torch.testing.assert_close(found, expected_state)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_an_excluded_symbol_is_never_sampled() -> None:
    network = model("lstm", symbols=3)
    draws = [
        write(network, text(5, 3), 60, temperature=5.0, generator=torch.Generator().manual_seed(seed), never=0)
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2] and set(draws[0]) == {1, 2}


def settings(network: str, seed: int, *overrides: str) -> Settings:
    config = compose_study("language", [*TINY, *overrides])
    assert isinstance(config, LanguageConfig)
    (rate,) = config.learning_rates
    return make_jobs(STUDY, config, Path())[network, rate, seed].settings


def test_a_small_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "text"
    corpus.write_text("What a model has read changes what it expects.\n" * 80, encoding="utf-8")
    assert main(STUDY, [*TINY, f"folder={tmp_path}", f"corpus={corpus}"]) == 0
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    found, results = content["findings"], {name: cell["result"] for name, cell in content["cells"].items()}
    plain, multiplicative = found["networks"]
    assert plain["network"] == "lstm" and abs(plain["parameters"] / multiplicative["parameters"] - 1) < 0.02
    differences = [
        results[f"multiplicative-0.02-{seed}"]["bits"] - results[f"lstm-0.02-{seed}"]["bits"] for seed in (0, 1)
    ]
    assert multiplicative["bits_minus_plain"] == pytest.approx(list(over_seeds(differences)))
    assert plain["bits_minus_plain"] is None
    for result in results.values():
        assert result["nats"] == pytest.approx(result["bits"] * math.log(2)) and len(result["sample"]) == 20
    assert (tmp_path / "sample-lstm.txt").read_text(encoding="utf-8") == results["lstm-0.02-0"]["sample"] + "\n"
    assert (tmp_path / "figure.png").exists() and "| `multiplicative` |" in capsys.readouterr().out
    # A result depends on the settings alone.
    assert play(settings("multiplicative", 1, f"corpus={corpus}"), NoCheckpoint()) == results["multiplicative-0.02-1"]


def test_words_have_more_than_one_character(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        (tmp_path / f"wiki.{part}.tokens").write_text(" the cat sat on the mat \n" * 40, encoding="utf-8")
    result = play(settings("lstm", 0, f"corpus={tmp_path}", "level=word"), NoCheckpoint())
    # Seven words, counting the line end, and 25 characters.
    assert result["bits"] == pytest.approx(result["nats"] / math.log(2) * 7 / 25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["corpus=/nowhere"], "corpus=/nowhere does not exist"),
        (["batch_size=10000"], "the corpus is too short: its valid text has "),
        (["test_rows=1000000"], "test_rows=1000000 is out of range"),
        (["level=sentence"], "level=sentence is unknown"),
        (["dropout=1"], "dropout=1.0 is out of range"),
        (["temperature=0"], "temperature=0.0 is out of range"),
        (["sample=-1"], "sample=-1 is out of range"),
    ],
)
def test_bad_values_are_refused_in_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(STUDY, ["quick=true", f"folder={tmp_path}", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_the_comparison_states_the_direction() -> None:
    assert "(it takes fewer)" in _comparison("mlstm", over_seeds([-0.2, -0.21, -0.19]))
    assert "(it takes more)" in _comparison("mlstm", over_seeds([0.2, 0.21, 0.19]))
    assert "(no difference is shown)" in _comparison("mlstm", over_seeds([0.2, -0.21, 0.01]))

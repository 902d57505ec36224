"""Language models with context-dependent embeddings.

Usage:
    python -m studies.language [quick=true] [corpus=path] [key=value ...]

Every key: conf/studies_schema.py.

An LSTM with a multiplicative encoder and decoder (studies/models/language_model.py) against the plain one with as many parameters, and
against other cores. Measured: the cost of the test text for a model that reads it once from end to end, in bits per character and as
perplexity, exp(nats per symbol). The validation text chooses weights and learning rates. Corpora: studies/data/corpora.py.
"""

from __future__ import annotations

from agents.cli.signals import begin_program, run_program

if __name__ == "__main__":
    # The imports below take seconds.
    begin_program()

import math
from functools import partial

import numpy as np
import torch

from ablation.analysis.numbers import estimate as with_interval
from ablation.analysis.numbers import fixed
from ablation.analysis.results import Estimate
from ablation.report.drawing import Panel
from conf.studies_schema import LanguageConfig
from studies.data.corpora import UNKNOWN, Corpus, check_length, load
from studies.harness import report
from studies.harness.jobs import SIZE, Checkpoint, Result, Settings
from studies.harness.program import Findings, Results, Study, main, seeds_of
from studies.language_training import evaluate, train, write
from studies.models.ensembles import derived_seed
from studies.models.language_model import FORMS, LanguageModel
from studies.models.networks import matched_width, num_parameters
from system.errors import InputError
from system.plain_data import COUNT, FINITE, MEASURED, PlainDataError, Test, check_form

PLAIN = "lstm"
"""The reference of the comparisons. The other networks have as many parameters."""
_NATS = Test("nats for each symbol", lambda value: FINITE.passes(value) and 0 <= value <= 100)

_MODEL = ("embedding_size", "rank", "dropout", "tied")
_TRAINING = ("steps", "batch_size", "length", "most_gradient", "evaluations", "patience")


def check(config: LanguageConfig) -> None:
    """Raises InputError for a corpus that cannot be read or is too short."""
    corpus = load(config.corpus, config.level)
    check_length(corpus, config.corpus, config.batch_size, config.length)
    if config.test_rows >= len(corpus.parts["test"]):
        raise InputError(f"test_rows={config.test_rows} is out of range: the test text has fewer {corpus.level}s.")


def play(settings: Settings, checkpoint: Checkpoint) -> Result:
    """Trains one model, from the checkpoint on if there is one.

    Returns:
        `width`, `parameters`; `steps` and `validation`, the bits per character of the validation text after them; `best_step`, of the kept
        weights; for the test text `bits` per character and `nats` per symbol; `sample`, the model's continuation of the start of the
        validation text.
    """
    corpus, seed = load(settings["corpus"], settings["level"]), settings["seed"]
    make = partial(_model, settings, settings["network"], corpus.size)
    width = matched_width(make, num_parameters(partial(_model, settings, PLAIN, corpus.size), settings["size"]))
    text, validation, test = corpus.parts.values()
    with torch.random.fork_rng(devices=[]):
        # For the initial weights and dropout.
        torch.manual_seed(derived_seed(seed, "network"))
        model = make(width)
        trained = train(
            model,
            text,
            validation,
            generator=np.random.default_rng(derived_seed(seed, "training")),
            learning_rate=settings["learning_rate"],
            checkpoint=checkpoint,
            **{key: settings[key] for key in _TRAINING},
        )
    nats = evaluate(model, test, settings["test_rows"], settings["length"])
    written = write(
        model,
        validation[: settings["length"]],
        settings["sample"],
        temperature=settings["temperature"],
        generator=torch.Generator().manual_seed(derived_seed(seed, "sample")),
        # Bytes have no symbol for unknown ones.
        never=UNKNOWN if corpus.symbols else None,
    )
    return {
        "width": width,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": trained.steps,
        "validation": [_bits(loss, corpus, "valid") for loss in trained.losses],
        "best_step": trained.best_step,
        "bits": _bits(nats, corpus, "test"),
        "nats": nats,
        "sample": corpus.text(written),
    }


def _model(settings: Settings, network: str, symbols: int, width: int) -> LanguageModel:
    return LanguageModel(FORMS[network], symbols, size=width, **{key: settings[key] for key in _MODEL})


def _bits(nats: float, corpus: Corpus, part: str) -> float:
    """Converts nats per symbol of a part of the corpus to bits per character."""
    return nats / math.log(2) * len(corpus.parts[part]) / corpus.characters[part]


def check_result(settings: Settings, result: Result) -> None:
    """Raises PlainDataError for a result that `play` cannot return."""
    rows = {"steps": [COUNT], "validation": [MEASURED], "best_step": COUNT, "sample": str}
    check_form(result, {"width": SIZE, "parameters": SIZE, "bits": MEASURED, "nats": _NATS, **rows})
    if not result["steps"] or len(result["steps"]) != len(result["validation"]):
        raise PlainDataError("something else than one value of the validation text for each of its steps")


def find(config: LanguageConfig, results: Results) -> Findings:
    """The table: the cost of the test text by network, each with its best learning rate."""
    corpus = load(config.corpus, config.level)
    cells = {values[:2] for values in results}
    best = report.chosen_rates(config, {cell: [results[*cell, seed] for seed in seeds_of(config)] for cell in cells})
    rows, networks, sentences = [], [], []
    for network, (rate, seeds) in best.items():
        bits = report.over_seeds([result["bits"] for result in seeds])
        perplexity = report.over_seeds_geometric([math.exp(result["nats"]) for result in seeds])
        difference = None
        if PLAIN in best and network != PLAIN:
            # Seeds share text and initial weights between networks, so differences are taken by seed.
            pairs = zip(seeds, best[PLAIN][1], strict=True)
            difference = report.over_seeds([result["bits"] - plain["bits"] for result, plain in pairs])
            sentences.append(_comparison(network, difference))
        rows.append(
            (
                *report.network_columns(network, seeds[0], rate),
                f"{np.mean([result['best_step'] for result in seeds]):.0f}",
                with_interval(bits, fixed(4)),
                with_interval(perplexity, report.significant),
                with_interval(difference, fixed(4)) if difference else "-",
            )
        )
        networks.append(
            {"network": network, "learning_rate": rate}
            | {key: seeds[0][key] for key in ("width", "parameters")}
            | {"bits": bits, "perplexity": perplexity, "bits_minus_plain": difference}
        )
    return Findings(
        sentences=tuple(sentences),
        head=(
            *(*report.NETWORK_HEAD, "steps of the kept weights"),
            *("bits per character", "perplexity", f"bits per character minus `{PLAIN}`"),
        ),
        rows=rows,
        panels=_panels({network: seeds for network, (_, seeds) in best.items()}),
        variants=config.networks,
        numbers={
            "corpus": {
                "level": corpus.level,
                "symbols": corpus.size,
                "tokens": {part: len(tokens) for part, tokens in corpus.parts.items()},
                "characters": corpus.characters,
                "digest": corpus.digest,
            },
            "networks": networks,
        },
        texts={
            f"sample-{network}.txt": seeds[0]["sample"] + "\n" for network, (_, seeds) in best.items() if config.sample
        },
    )


def _panels(best: dict[str, list[Result]]) -> list[Panel]:
    """The cost of the validation text against steps. After an early end the curve continues with the kept weights."""
    steps = max((result["steps"] for seeds in best.values() for result in seeds), key=len)
    bits = {
        network: np.array(
            [result["validation"] + [min(result["validation"])] * (len(steps) - len(result["steps"])) for result in own]
        )
        for network, own in best.items()
    }

    def one(title: str, by_network: dict[str, np.ndarray]) -> Panel:
        none = [None] * (len(steps) - 1)
        curves = [
            [report.over_seeds(at) for at in by_network[name].T[1:]] if name in by_network else none for name in best
        ]
        return report.panel(title, steps[1:], curves, ("steps", "bits per character"), ("linear", "linear"))

    panels = [one("Validation text", bits)]
    if PLAIN in bits and len(bits) > 1:
        differences = {name: values - bits[PLAIN] for name, values in bits.items() if name != PLAIN}
        panels.append(one(f"Validation text, minus {PLAIN}", differences))
    return panels


def _comparison(network: str, difference: Estimate) -> str:
    """States whether a network takes fewer or more bits than the plain one."""
    verdict = "no difference is shown"
    if report.excludes_zero(difference):
        verdict = f"it takes {'fewer' if difference.value < 0 else 'more'}"
    return (
        f"`{network}` minus `{PLAIN}` at as many parameters: {with_interval(difference, fixed(4))} bits per character of the "
        f"test text ({verdict})."
    )


STUDY = Study(
    name="language",
    about=__doc__,
    axes={"network": "networks", "learning_rate": "learning_rates", "seed": "seeds"},
    choices={"networks": list(FORMS)},
    check=check,
    extra=lambda config: {"text": load(config.corpus, config.level).digest},
    # Seed by seed, so that a stopped study has complete seeds.
    order=lambda values: values[2],
    play=play,
    check_result=check_result,
    validation=lambda result: min(result["validation"]),
    find=find,
)

if __name__ == "__main__":
    run_program(lambda: main(STUDY))

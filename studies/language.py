"""Language models whose embeddings depend on what was read:  python -m studies.language [quick=true] [corpus=path] [key=value ...]
(every key: conf/studies_schema.py)

An LSTM with a multiplicative encoder and decoder (studies/models/language_model.py) against the plain one with as many parameters, and
against
other cores. Reported is what the test text costs a model that reads it once from end to end, in bits per character and as perplexity:
exp(nats per symbol). Weights and learning rates are chosen by the validation text. Corpora: studies/data/corpora.py.
"""

from __future__ import annotations

from agents.cli.signals import begin_program, run_program

if __name__ == "__main__":
    # The imports below take seconds.
    begin_program()

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch

from ablation.analysis.numbers import count, fixed
from ablation.analysis.results import Estimate
from conf.studies_schema import LanguageConfig
from studies.data.corpora import LEVELS, Corpus, check_length, load
from studies.harness.figures import Figure, band, curves
from studies.harness.program import Findings, Study, check_above_zero, check_names, check_rates, main, seeds_of
from studies.harness.running import SIZE, Cell, Checkpoint, Result, Settings
from studies.harness.tables import over_seeds, over_seeds_geometric, significant, with_interval
from studies.models.ensembles import derived_seed
from studies.models.language_model import FORMS, LanguageModel
from studies.models.language_training import evaluate, train, write
from studies.models.networks import matched_width, num_parameters
from system.errors import InputError
from system.plain_data import COUNT, FINITE, MEASURED, PlainDataError, Test, check_form

PLAIN = "lstm"
"""What the others are compared with, and have as many parameters as."""
_NATS = Test("nats for each symbol", lambda value: FINITE.passes(value) and 0 <= value <= 100)

_MODEL = ("embedding_size", "rank", "dropout", "tied")
_TRAINING = ("steps", "batch_size", "length", "most_gradient", "evaluations", "patience")
_READING = ("corpus", "level", "test_rows", "sample", "temperature")


def check(config: LanguageConfig) -> None:
    """Raises InputError for values that cannot be, or a corpus that is none."""
    check_names("networks", config.networks, FORMS)
    check_above_zero(config, "size", "embedding_size", "rank", *_TRAINING, "test_rows", "temperature")
    check_rates(config.learning_rates)
    if config.level:
        check_names("level", [config.level], LEVELS)
    if not 0 <= config.dropout < 1:
        raise InputError(f"dropout={config.dropout} is out of range: give a number from 0 up to and not including 1.")
    if config.sample < 0:
        raise InputError(f"sample={config.sample} is out of range: give a number of symbols, 0 for none.")
    corpus = load(config.corpus, config.level)
    check_length(corpus, config.corpus, config.batch_size, config.length)
    if config.test_rows >= len(corpus.parts["test"]):
        raise InputError(f"test_rows={config.test_rows} is out of range: the test text has fewer {corpus.level}s.")


def cells(config: LanguageConfig) -> list[Cell]:
    """One for each network, learning rate and seed; seed by seed, so that a study that is stopped has some of them whole."""
    shared = {key: getattr(config, key) for key in ("size", *_MODEL, *_TRAINING, *_READING)}
    shared["text"] = load(config.corpus, config.level).digest
    return [
        Cell(
            name=_cell(network, rate, seed),
            settings={"network": network, "learning_rate": rate, "seed": seed, **shared},
        )
        for seed in seeds_of(config)
        for rate in config.learning_rates
        for network in reversed(config.networks)
    ]


def _cell(network: str, rate: float, seed: int) -> str:
    return f"{network}-{rate:g}-{seed}"


def play(settings: Settings, checkpoint: Checkpoint) -> Result:
    """Trains one model, on from the checkpoint if there is one.

    Returns:
        `width`, `parameters`; `steps` and `validation`, bits per character there, in several rows; `best_step`, of the weights that were
        kept; for the test text `bits` per character and `nats` per symbol; `sample`, what the model writes after the beginning of the
        validation text.
    """
    corpus, seed = load(settings["corpus"], settings["level"]), settings["seed"]
    make = partial(_model, settings, settings["network"], corpus.size)
    width = matched_width(make, num_parameters(partial(_model, settings, PLAIN, corpus.size), settings["size"]))
    text, validation, test = corpus.parts.values()
    with torch.random.fork_rng(devices=[]):
        # The initial weights, and what is dropped out.
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
        never=corpus.unknown,
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
    """Nats per symbol of one of the texts as bits per character."""
    return nats / math.log(2) * len(corpus.parts[part]) / corpus.characters[part]


def sound(settings: Settings, result: Result) -> None:
    """Raises PlainDataError for a result that `play` does not give."""
    rows = {"steps": [COUNT], "validation": [MEASURED], "best_step": COUNT, "sample": str}
    check_form(result, {"width": SIZE, "parameters": SIZE, "bits": MEASURED, "nats": _NATS, **rows})
    if not result["steps"] or len(result["steps"]) != len(result["validation"]):
        raise PlainDataError("something else than one value of the validation text for each of its steps")


def find(config: LanguageConfig, results: Mapping[str, Result]) -> Findings:
    """The table: what the test text costs, by network, each with its best learning rate."""
    seeds, corpus = seeds_of(config), load(config.corpus, config.level)
    chosen: dict[str, tuple[float, list[Result]]] = {
        network: min(
            ((rate, [results[_cell(network, rate, seed)] for seed in seeds]) for rate in config.learning_rates),
            key=lambda pair: float(np.mean([min(result["validation"]) for result in pair[1]])),
        )
        for network in config.networks
    }
    test = {network: [result["bits"] for result in own] for network, (_, own) in chosen.items()}
    plain = test.get(PLAIN)
    behind: dict[str, Estimate] = {
        # The same seeds have the same stretches of text and initial numbers, so differences are taken by seed.
        network: over_seeds([mine - its for mine, its in zip(test[network], plain, strict=True)])
        for network in config.networks
        if plain and network != PLAIN
    }
    perplexity = {
        network: over_seeds_geometric([math.exp(result["nats"]) for result in own])
        for network, (_, own) in chosen.items()
    }
    rows = [
        (
            f"`{network}`",
            count(own[0]["parameters"]),
            str(own[0]["width"]),
            f"{rate:g}",
            f"{np.mean([result['best_step'] for result in own]):.0f}",
            with_interval(over_seeds(test[network]), fixed(4)),
            with_interval(perplexity[network], significant),
            with_interval(behind[network], fixed(4)) if network in behind else "-",
        )
        for network, (rate, own) in chosen.items()
    ]
    return Findings(
        sentences=tuple(_comparison(network, difference) for network, difference in behind.items()),
        head=(
            *("network", "parameters", "width", "learning rate", "steps of the kept weights"),
            *("bits per character", "perplexity", f"bits per character minus `{PLAIN}`"),
        ),
        rows=tuple(rows),
        figure=_figure(config, {network: own for network, (_, own) in chosen.items()}),
        numbers={
            "corpus": {
                "level": corpus.level,
                "symbols": corpus.size,
                "tokens": {part: len(tokens) for part, tokens in corpus.parts.items()},
                "characters": corpus.characters,
                "digest": corpus.digest,
            },
            "networks": [
                {
                    "network": network,
                    "learning_rate": rate,
                    "width": own[0]["width"],
                    "parameters": own[0]["parameters"],
                    "bits": over_seeds(test[network]),
                    "perplexity": perplexity[network],
                    "bits_minus_plain": behind.get(network),
                }
                for network, (rate, own) in chosen.items()
            ],
        },
        texts={
            f"sample-{network}.txt": own[0]["sample"] + "\n" for network, (_, own) in chosen.items() if config.sample
        },
    )


def _figure(config: LanguageConfig, chosen: Mapping[str, list[Result]]) -> Figure:
    """The validation text by steps; after an early end the weights that were kept go on."""
    steps = max((result["steps"] for own in chosen.values() for result in own), key=len)
    bits = {
        network: np.array(
            [result["validation"] + [min(result["validation"])] * (len(steps) - len(result["steps"])) for result in own]
        )
        for network, own in chosen.items()
    }
    x = np.array(steps[1:], np.float64)
    panels = [
        curves(
            "Validation text",
            x,
            {number: band([over_seeds(at) for at in bits[name].T[1:]]) for number, name in enumerate(config.networks)},
            "steps",
            "bits per character",
            ("linear", "linear"),
        )
    ]
    if PLAIN in bits and len(bits) > 1:
        panels.append(
            curves(
                f"Validation text, minus {PLAIN}",
                x,
                {
                    number: band([over_seeds(at) for at in (bits[name] - bits[PLAIN]).T[1:]])
                    for number, name in enumerate(config.networks)
                    if name != PLAIN
                },
                "steps",
                "bits per character",
                ("linear", "linear"),
            )
        )
    return Figure(panels, config.networks)


def _comparison(network: str, difference: Estimate) -> str:
    """Whether a network takes fewer or more bits than the plain one."""
    verdict = "no difference is shown"
    if difference.low is not None and difference.high is not None and not difference.low <= 0 <= difference.high:
        verdict = "fewer" if difference.high < 0 else "more"
        verdict = f"it takes {verdict}"
    return (
        f"`{network}` minus `{PLAIN}` at as many parameters: {with_interval(difference, fixed(4))} bits per character of the "
        f"test text ({verdict})."
    )


STUDY = Study(name="language", about=__doc__, check=check, cells=cells, play=play, sound=sound, find=find)

if __name__ == "__main__":
    run_program(lambda: main(STUDY))

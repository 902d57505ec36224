"""The schemas of the studies: every key of `python -m studies.<name>`. conf/studies holds the defaults of `quick=true`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from conf.fields import choice, number

_MOST = 2**20
"""Upper bound above every size in use."""


def _count(default: int) -> Any:
    """A field for a whole number above zero."""
    return number(default, least=1, most=_MOST)


def _positive(default: float) -> Any:
    """A field for a number above zero."""
    return number(default, above=0, most=_MOST)


@dataclass(kw_only=True, slots=True)
class StudyConfig:
    """The keys of all studies.

    Attributes:
        quick: Whether to use small defaults for the other keys, for a quick check of the program.
        folder: Output folder; empty = runs/study-<name>, or runs/study-<name>-quick. Stored results are not computed again.
        seeds: Number of seeds, which decide initial weights, data and all other random numbers.
        seed: The first seed.
        parallel: Number of processes; 0 = one per core.
        display: Whether to show progress.
    """

    quick: bool = False
    folder: str = ""
    seeds: int = number(5, least=1, most=1000)
    seed: int = number(0, least=0)
    parallel: int = number(0, least=0)
    display: bool = True


@dataclass(kw_only=True, slots=True)
class TunedConfig(StudyConfig):
    """The keys of the studies that choose the learning rate of each network, which is the one with the lowest validation cost.

    Attributes:
        tuning_seeds: Number of further seeds, from `seed` + 1000, on which learning rates are compared. The seeds of the study are then
            trained with the chosen rates alone. 0 = the rates are compared on the seeds of the study.
    """

    tuning_seeds: int = number(0, least=0, most=1000)


@dataclass(kw_only=True, slots=True)
class SyntheticConfig(StudyConfig):
    """Fitting functions of two inputs.

    Attributes:
        functions: Names of studies.data.targets.FUNCTIONS.
        networks: Names of studies.synthetic.NETWORKS.
        dimensions: Values of d, the size of each input.
        error: Mean squared error to reach; targets have variance 1.
        steps: Training steps.
        batch_size: Samples of each step, never repeated.
        learning_rate: Of the training.
        test_samples: Samples for the measured error.
        most_parameters: Number of parameters of the largest network that is tried.
    """

    functions: list[str] = field(default_factory=lambda: ["sum", "product", "dot", "bilinear", "teacher"])
    networks: list[str] = field(
        default_factory=lambda: ["concat", "concat_mlp", "diagonal", "low_rank", "mi", "mi_mlp"]
    )
    dimensions: list[int] = number([1, 2, 4, 8, 16, 32], least=1, most=256)
    error: float = _positive(0.1)
    steps: int = _count(800)
    batch_size: int = _count(128)
    learning_rate: float = _positive(0.02)
    test_samples: int = _count(2048)
    most_parameters: int = _count(200_000)


@dataclass(kw_only=True, slots=True)
class RegressionConfig(TunedConfig):
    """Many tasks of one family, and new tasks from few samples.

    Attributes:
        functions: Names of studies.data.families.FAMILIES.
        x_sizes: Numbers of features of x, and of y.
        networks: Names of studies.models.networks.PERCEPTRONS.
        tasks: Number of tasks that are learned together.
        task_size: Z, features of the learned vector of each task.
        width: Width of the network with `mi`. The others have the width with the nearest number of parameters.
        hidden_layers: Hidden layers of every network.
        rank: Rank of `low_rank`.
        steps: Numbers of training steps. Each is a training of its own, with its own learning rates.
        samples: Samples of each task in a step.
        learning_rates: Each network is trained with every rate and reported with the rate of the least validation error.
        test_samples: Samples of each task for the measured error.
        new_tasks: Number of tasks that are learned afterwards, by their vectors alone.
        shots: Numbers of samples of each new task.
        adaptation_steps, adaptation_rate: Training steps and learning rate for new tasks.
    """

    seeds: int = number(8, least=1, most=1000)
    functions: list[str] = field(default_factory=lambda: ["affine", "sine"])
    x_sizes: list[int] = number([1, 4], least=1, most=256)
    networks: list[str] = field(default_factory=lambda: ["concat", "multi_head", "film", "low_rank", "mi"])
    tasks: int = _count(32)
    task_size: int = _count(8)
    width: int = _count(24)
    hidden_layers: int = _count(2)
    rank: int = _count(8)
    steps: list[int] = number([2000], least=1, most=_MOST)
    samples: int = _count(8)
    learning_rates: list[float] = number([0.003, 0.01], above=0, most=_MOST)
    test_samples: int = _count(64)
    new_tasks: int = _count(16)
    shots: list[int] = number([2, 4, 8, 16], least=1, most=4096)
    adaptation_steps: int = _count(200)
    adaptation_rate: float = _positive(0.05)


@dataclass(kw_only=True, slots=True)
class NeuralProcessConfig(TunedConfig):
    """Functions of a Gaussian process, from a few of their points.

    Attributes:
        networks: Decoders, names of studies.neural_process.DECODERS.
        latent_size: Z, features of the latent variable.
        encoder_width: Width of the encoder's two hidden layers and of its output.
        width: Width of the decoder with `mi`. The others have the width with the nearest number of parameters.
        hidden_layers: Hidden layers of every decoder.
        rank: Rank of `low_rank`.
        steps: Numbers of training steps. Each is a training of its own, with its own learning rates.
        functions: Functions in each step.
        most_context: Largest number of context points in training, which draws from 1 to this.
        target_points: Further points of each function.
        learning_rates: Each decoder is trained with every rate and reported with the rate of the best validation bound.
        length_scale, noise: Of the Gaussian process. The noise is at least the least deviation of a decoder.
        test_functions: Functions of the evaluation.
        context_sizes: Numbers of context points of the evaluation.
        latent_samples: Latent samples of the evaluation.
    """

    networks: list[str] = field(default_factory=lambda: ["concat", "film", "low_rank", "mi"])
    latent_size: int = _count(16)
    encoder_width: int = _count(64)
    width: int = _count(24)
    hidden_layers: int = _count(2)
    rank: int = _count(16)
    steps: list[int] = number([4000], least=1, most=_MOST)
    functions: int = _count(16)
    most_context: int = _count(20)
    target_points: int = _count(20)
    learning_rates: list[float] = number([0.003, 0.01], above=0, most=_MOST)
    length_scale: float = _positive(0.5)
    noise: float = number(0.1, least=0.05, most=_MOST)
    test_functions: int = _count(256)
    context_sizes: list[int] = number([2, 5, 10, 20], least=1, most=1000)
    latent_samples: int = _count(64)


@dataclass(kw_only=True, slots=True)
class LanguageConfig(TunedConfig):
    """Language models, plain and multiplicative.

    Attributes:
        corpus: A text file (enwik8, text8), or a folder with one file each for train, valid and test (WikiText-103); empty = Python's
            own documentation.
        level: Level of symbols: byte, character or word; empty = bytes of a file, words of a folder, characters of the documentation.
        networks: Names of studies.models.language_model.FORMS.
        size: Size of the plain LSTM. The others have the width with the nearest number of parameters.
        embedding_size: E, features of a symbol.
        rank: Rank of the multiplicative encoder and decoder.
        tied: Whether input and output embeddings are the same parameters.
        dropout: Dropout of embeddings and of the core's outputs.
        steps: Training steps.
        batch_size: Rows of text that are read side by side.
        length: Symbols of each row in a step.
        learning_rates: Each network is trained with every rate and reported with the rate of the lowest validation cost.
        most_gradient: Norm to which gradients are clipped.
        evaluations: Number of evaluations on the validation text.
        patience: Evaluations without an improvement after which training ends.
        test_rows: Rows of the test text that are read side by side, each from an empty state. A single row takes hours for the
            five million bytes of enwik8.
        sample: Symbols that every trained model writes; 0 = none.
        temperature: Temperature of that sample; 1 samples the model's distribution.
    """

    corpus: str = ""
    level: str = choice("", ("byte", "character", "word"), optional=True)
    networks: list[str] = field(default_factory=lambda: ["lstm", "multiplicative", "mogrifier", "mlstm"])
    size: int = _count(128)
    embedding_size: int = _count(48)
    rank: int = _count(32)
    tied: bool = False
    dropout: float = number(0.1, least=0, below=1)
    steps: int = _count(400)
    batch_size: int = _count(64)
    length: int = _count(50)
    learning_rates: list[float] = number([0.005, 0.01, 0.02, 0.04, 0.08], above=0, most=_MOST)
    most_gradient: float = _positive(1.0)
    evaluations: int = _count(10)
    patience: int = _count(3)
    test_rows: int = _count(1)
    sample: int = number(400, least=0, most=_MOST)
    temperature: float = _positive(0.8)


STUDIES: dict[str, type[StudyConfig]] = {
    "synthetic": SyntheticConfig,
    "regression": RegressionConfig,
    "neural_process": NeuralProcessConfig,
    "language": LanguageConfig,
}
"""Schemas by name of the study."""

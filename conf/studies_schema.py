"""The schemas of the studies: every key of `python -m studies.<name>` with its default. conf/studies has the defaults of `quick=true`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class StudyConfig:
    """The keys of all studies.

    Attributes:
        quick: small defaults for the other keys, to see that everything works.
        folder: of the output; empty = runs/study-<name>, or runs/study-<name>-quick. Stored results are not computed again.
        seeds: number of seeds, of initial weights, data and everything else that is drawn.
        seed: the first seed.
        parallel: number of processes; 0 = one for each core.
        display: whether to show progress.
    """

    quick: bool = False
    folder: str = ""
    seeds: int = 5
    seed: int = 0
    parallel: int = 0
    display: bool = True


@dataclass(kw_only=True, slots=True)
class SyntheticConfig(StudyConfig):
    """Fitting functions of two inputs.

    Attributes:
        functions: names of studies.data.targets.FUNCTIONS.
        networks: names of studies.synthetic.NETWORKS.
        dimensions: d, the size of each input.
        error: the mean squared error to reach; targets have variance 1.
        steps, batch_size, learning_rate: of training; every batch is new.
        test_samples: for the measured error.
        most_parameters: larger networks are not tried.
    """

    functions: list[str] = field(default_factory=lambda: ["sum", "product", "dot", "bilinear", "teacher"])
    networks: list[str] = field(
        default_factory=lambda: ["concat", "concat_mlp", "diagonal", "low_rank", "mi", "mi_mlp"]
    )
    dimensions: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32])
    error: float = 0.1
    steps: int = 800
    batch_size: int = 128
    learning_rate: float = 0.02
    test_samples: int = 2048
    most_parameters: int = 200_000


@dataclass(kw_only=True, slots=True)
class RegressionConfig(StudyConfig):
    """Many tasks of one family, and new tasks from few samples.

    Attributes:
        functions: names of studies.data.families.FAMILIES.
        x_sizes: features of x, and of y.
        networks: names of studies.models.networks.PERCEPTRONS.
        tasks: number of tasks that are learnt together.
        task_size: Z, features of the learnt vector of each task.
        width, hidden_layers: of the network with `mi`. The others have the width with the nearest number of parameters.
        rank: of `low_rank`.
        steps, samples: of training; samples of each task in a step.
        learning_rates: each network is trained with all, and reported with the one of least validation error.
        test_samples: of each task, for the measured error.
        new_tasks: number of tasks that are learnt afterwards, each by its vector alone.
        shots: numbers of samples of each new task.
        adaptation_steps, adaptation_rate: steps and learning rate for new tasks.
    """

    seeds: int = 8
    functions: list[str] = field(default_factory=lambda: ["affine", "sine"])
    x_sizes: list[int] = field(default_factory=lambda: [1, 4])
    networks: list[str] = field(default_factory=lambda: ["concat", "multi_head", "film", "low_rank", "mi"])
    tasks: int = 32
    task_size: int = 8
    width: int = 24
    hidden_layers: int = 2
    rank: int = 8
    steps: int = 2000
    samples: int = 8
    learning_rates: list[float] = field(default_factory=lambda: [0.003, 0.01])
    test_samples: int = 64
    new_tasks: int = 16
    shots: list[int] = field(default_factory=lambda: [2, 4, 8, 16])
    adaptation_steps: int = 200
    adaptation_rate: float = 0.05


@dataclass(kw_only=True, slots=True)
class NeuralProcessConfig(StudyConfig):
    """Functions of a Gaussian process, from a few of their points.

    Attributes:
        networks: decoders, names of studies.neural_process.DECODERS.
        latent_size: Z.
        encoder_width: of the two hidden layers and the output of the encoder.
        width, hidden_layers: of the decoder with `mi`. The others have the width with the nearest number of parameters.
        rank: of `low_rank`.
        steps, functions: of training; functions in a step.
        most_context: training draws the number of context points from 1 to this.
        target_points: further points of each function.
        learning_rates: each decoder is trained with all, and reported with the one of the best validation bound.
        length_scale, noise: of the Gaussian process.
        test_functions, context_sizes, latent_samples: of the evaluation.
    """

    networks: list[str] = field(default_factory=lambda: ["concat", "film", "low_rank", "mi"])
    latent_size: int = 16
    encoder_width: int = 64
    width: int = 24
    hidden_layers: int = 2
    rank: int = 16
    steps: int = 4000
    functions: int = 16
    most_context: int = 20
    target_points: int = 20
    learning_rates: list[float] = field(default_factory=lambda: [0.003, 0.01])
    length_scale: float = 0.5
    noise: float = 0.1
    test_functions: int = 256
    context_sizes: list[int] = field(default_factory=lambda: [2, 5, 10, 20])
    latent_samples: int = 64


@dataclass(kw_only=True, slots=True)
class LanguageConfig(StudyConfig):
    """Language models, plain and multiplicative.

    Attributes:
        corpus: a text file (enwik8, text8), or a folder with one file each for train, valid and test (WikiText-103); empty = Python's
            own documentation.
        level: of symbols: byte, character or word; empty = bytes of a file, words of a folder, characters of the documentation.
        networks: names of studies.models.language_model.FORMS.
        size: of the plain LSTM. The others have the width with the nearest number of parameters.
        embedding_size: E.
        rank: of the multiplicative encoder and decoder.
        tied: whether input and output embeddings are the same.
        dropout: of embeddings and the core's outputs.
        steps, batch_size, length: of training; rows that are read side by side, and symbols of each in a step.
        learning_rates: each network is trained with all, and reported with the one of the cheapest validation text.
        most_gradient: norm to which gradients are clipped.
        evaluations, patience: number of readings of the validation text, and of readings without a gain after which training ends.
        test_rows: rows of the test text that are read side by side, each from an empty state. 1 reads it in one go, which takes hours
            for the five million bytes of enwik8.
        sample, temperature: number of symbols that every trained model writes, 0 for none; temperature 1 samples the model's distribution.
    """

    corpus: str = ""
    level: str = ""
    networks: list[str] = field(default_factory=lambda: ["lstm", "multiplicative", "mogrifier", "mlstm"])
    size: int = 128
    embedding_size: int = 48
    rank: int = 32
    tied: bool = False
    dropout: float = 0.1
    steps: int = 400
    batch_size: int = 64
    length: int = 50
    learning_rates: list[float] = field(default_factory=lambda: [0.005, 0.01, 0.02, 0.04, 0.08])
    most_gradient: float = 1.0
    evaluations: int = 10
    patience: int = 3
    test_rows: int = 1
    sample: int = 400
    temperature: float = 0.8


STUDIES: dict[str, type[StudyConfig]] = {
    "synthetic": SyntheticConfig,
    "regression": RegressionConfig,
    "neural_process": NeuralProcessConfig,
    "language": LanguageConfig,
}
"""Name of the study -> its schema."""

"""The schemas of the studies: every key of `python -m studies.<name>`, with its default. Those of `quick=true` are in conf/studies."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class StudyConfig:
    """What all studies have.

    Attributes:
        quick: a small setting, to see that everything works: smaller defaults for the other keys.
        folder: of what is written; empty = runs/study-<name>, and runs/study-<name>-quick. Cells that are there already are not run again.
        seeds: how many; of the networks' initial weights, of the data, and of whatever is drawn at random.
        seed: the first of them.
        parallel: processes; 0 = one for each core.
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
        dimensions: d, of either input.
        error: mean squared error to be reached, of targets with variance 1.
        steps, batch_size, learning_rate: of training; every batch is drawn afresh.
        test_samples: that the error is measured on.
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
    """Many tasks of one family, and new ones from few samples.

    Attributes:
        functions: names of studies.data.families.FAMILIES.
        x_sizes: features of x, and of y.
        networks: names of studies.models.networks.PERCEPTRONS.
        tasks: learnt together.
        task_size: Z, features of the vector that is learnt for each task.
        width, hidden_layers: of the network with `mi`; the others have the width that makes their number of parameters the nearest to its.
        rank: of `low_rank`.
        steps, samples: of training; samples of each task in a step.
        learning_rates: each network is trained with all of them, and reported with the one whose validation error is least.
        test_samples: of each task, for the error.
        new_tasks: that are learnt afterwards, each by its vector alone.
        shots: samples of each new task.
        adaptation_steps, adaptation_rate: of learning them.
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
        encoder_width: of the encoder's two hidden layers and its output.
        width, hidden_layers: of the decoder with `mi`; the others have the width that makes their number of parameters the nearest to its.
        rank: of `low_rank`.
        steps, functions: of training; functions in a step.
        most_context: context points in training, from 1 on; always another number.
        target_points: further points of each function.
        learning_rates: each decoder is trained with all of them, and reported with the one whose validation bound is best.
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
        corpus: a text file (enwik8, text8), a folder with one file each for train, valid and test (WikiText-103); empty = Python's own
            documentation.
        level: of symbols, byte, character or word; empty = bytes of a file, words of a folder, characters of the documentation.
        networks: names of studies.models.language_model.FORMS.
        size: of the plain LSTM; the others have the width that makes their number of parameters the nearest to its.
        embedding_size: E.
        rank: of the multiplicative encoder and decoder.
        tied: whether symbols have one embedding for input and output.
        dropout: of embeddings and the core's outputs.
        steps, batch_size, length: of training; texts that are read side by side, and symbols of each in a step.
        learning_rates: each network is trained with all of them, and reported with the one whose validation text costs least.
        most_gradient: norm to which gradients are clipped.
        evaluations, patience: how often the validation text is read, and after how many times without a gain training ends.
        test_rows: pieces of the test text that are read side by side, each from an empty state; 1 = in one go, which takes hours for the
            five million bytes of enwik8.
        sample, temperature: symbols that every model writes when it is trained, 0 for none; 1 = as likely as the model has them.
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

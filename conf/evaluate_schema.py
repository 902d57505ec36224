"""The schemas of the programs that read a checkpoint: evaluate.py and `mimpala export`."""

from __future__ import annotations

from dataclasses import dataclass, field

from conf import names
from conf.fields import choice, number


@dataclass(kw_only=True, slots=True)
class EvaluateConfig:
    """Options of evaluate.py.

    Attributes:
        run: A run folder, its best checkpoint as <run folder>/best, or a checkpoint file.
        episodes: Episodes per task.
        tasks: Other tasks of the same suite; empty = the tasks of the training.
        greedy: Whether the agent takes the most probable action instead of a sample.
        video: Whether to write one video per task into the run folder.
        video_episodes: Episodes in each video.
        watch: Whether to play in a window instead, where a person can type the instruction; nothing is written.
        slots: Environments per task; 0 = one per episode, at most 64.
        max_steps: Agent steps after which an episode counts as endless and the evaluation stops with the episodes played; 0 = 50,000,
            or the suite's own limit if that is larger.
        seed: Root of the evaluation seeds, which are disjoint from all training seeds.
        output: File for the result; empty = evaluation.json in the checkpoint's run folder.
        engine: Engine of the environments, as in env.engine; empty = as in training.
        contexts: Of an agent whose training left contexts out (`env.holdout`): play the contexts of training (`seen`), those that it left
            out (`unseen`), or `episodes` of each (`both`).
        threads: Compute threads; 0 = all cores, which is faster for large networks only.
        device: `cpu`, `cuda`, `cuda:N`, or `auto`: the first GPU that torch sees. Episodes repeat on the same device only.
        probe: One of agents.evaluation.probes.PROBES, or `all`: plays again with a changed context and reports the loss; empty = none.
        noise: Levels of noise on the encoded context, as context.noise, at each of which the agent plays again.
        logger: Trackers of the run that also show the result, its videos and the similarity of tasks (agents/run/trackers/tracker.py).
        similarity: Whether a probe also draws how similar the tasks are to the agent's context encoder.
        plugins: Modules with the user's own parts, which the agent or `probe` needs.
        allow: Modules, files and folders that the agent's configuration may name (conf/allowlist.py), in addition to those of `tasks`.
    """

    run: str = ""
    episodes: int = number(100, least=1)
    tasks: list[str] = field(default_factory=list)
    greedy: bool = False
    video: bool = False
    video_episodes: int = number(3, least=1)
    watch: bool = False
    slots: int = number(0, least=0)
    max_steps: int = number(0, least=0)
    seed: int = number(0, least=0)
    output: str = ""
    engine: str = ""
    contexts: str = choice("both", names.CONTEXT_GROUPS)
    threads: int = number(1, least=0)
    device: str = "cpu"
    probe: str = choice("", names.PROBES, optional=True)
    noise: list[float] = number([], least=0, most=1e3, longest=100)
    similarity: bool = True
    logger: list[str] = choice(["tensorboard"], names.LOGGERS)
    plugins: list[str] = field(default_factory=list)
    allow: list[str] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """Options of `mimpala export`.

    Attributes:
        run: A run folder, its best checkpoint as <run folder>/best, or a checkpoint file.
        output: The folder to write: a new or empty one, or an earlier export, which is replaced.
        plugins: Modules with the user's own parts, which the agent needs.
        allow: Modules, files and folders that the agent's configuration may name (conf/allowlist.py).
    """

    run: str = ""
    output: str = ""
    plugins: list[str] = field(default_factory=list)
    allow: list[str] = field(default_factory=list)

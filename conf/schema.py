"""The schema of every option, and the one way from the command line or a saved file to checked, plain objects.

Names are looked up in literal tables; nothing in a config is ever imported, instantiated or interpolated.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agents.files import write_whole
from agents.fusion import FUSIONS, SITES
from agents.learner import OPTIMIZERS
from agents.network.context import CONTEXTS, TASK_ENCODINGS
from agents.network.core import CORES
from agents.network.torso import TORSOS
from envs.contract import EnvConfig
from envs.errors import InputError, unknown_name
from envs.suites import SUITES

Config = TypeVar("Config")

RUNTIMES = ("serial", "local")
REDUCTIONS = ("mean", "sum")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(kw_only=True, slots=True)
class FusionConfig:
    """How observation and context meet.

    Attributes:
        name: one of agents.fusion.FUSIONS.
        sites: any of core_input, policy, value; none of them is an agent without context.
        size: output features at core_input.
        rank: rank of `low_rank`.
    """

    name: str = MISSING
    sites: list[str] = field(default_factory=lambda: ["core_input"])
    size: int = 128
    rank: int = 128


@dataclass(kw_only=True, slots=True)
class ContextConfig:
    """What the agent is told. See agents.network.context.ContextEncoder for the sizes."""

    name: str = MISSING
    task_encoding: str = "embedding"
    task_size: int = 32
    word_size: int = 32
    instruction_size: int = 64
    normalize: bool = True


@dataclass(kw_only=True, slots=True)
class CoreConfig:
    """The recurrent core: `lstm`, or `feedforward` for none."""

    name: str = MISSING
    size: int = 128


@dataclass(kw_only=True, slots=True)
class TorsoConfig:
    """The observation's network; `auto` takes the one that fits. `hidden` are the layers of `mlp`, `size` the output of the others."""

    name: str = MISSING
    size: int = 128
    hidden: list[int] = field(default_factory=lambda: [128])


@dataclass(kw_only=True, slots=True)
class LearnerConfig:
    """See agents.learner.Learner for the rest.

    Attributes:
        unroll_length: T.
        batch_size: B, columns of one update: several unrolls joined, or part of one; 0 = the slots of one actor.
        passes: how often each batch is learned from. V-trace corrects for the policy that changes meanwhile.
    """

    unroll_length: int = 20
    batch_size: int = 16
    passes: int = 1
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    anneal: bool = True
    rms_decay: float = 0.99
    epsilon: float = 1e-5
    adam_betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    max_gradient_norm: float = 1.0
    discounting: float = 0.99
    baseline_cost: float = 0.5
    entropy_cost: float = 0.01
    reward_clip: float = 1.0
    reduction: str = "mean"
    popart: bool = True
    popart_step_size: float = 3e-4
    clip_rho: float = 1.0
    clip_c: float = 1.0
    clip_pg_rho: float = 1.0
    lambda_: float = 1.0
    max_refused: int = 10


@dataclass(kw_only=True, slots=True)
class RuntimeConfig:
    """Where actors live.

    Attributes:
        name: `serial` (one process, reproducible) or `local` (actor processes on this machine).
        num_actors: actors; 0 = one for each processor core but one (serial: one).
        slots_per_actor: environments of each actor.
        actor_threads, learner_threads: compute threads; 0 for the learner = what the actors leave (serial: one).
        buffers_per_actor: unrolls an actor may be ahead.
    """

    name: str = MISSING
    num_actors: int = 0
    slots_per_actor: int = 64
    actor_threads: int = 1
    learner_threads: int = 0
    buffers_per_actor: int = 2


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """Everything about a run.

    Attributes:
        total_frames: env frames to train for (agent steps x action repeat).
        seed: root of all random numbers.
        run: the run folder; empty = runs/<env>-<fusion>-<context>-seed<seed>.
        resume: go on with the run in that folder.
        precision: `bf16` or `fp32` for torso and core, or `auto`: bf16 where the processor has it and the runtime is not serial.
        checkpoint_seconds, log_seconds: intervals. keep_checkpoints: the newest N stay.
        display: progress on the terminal.
    """

    env: EnvConfig = MISSING
    fusion: FusionConfig = field(default_factory=FusionConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    core: CoreConfig = field(default_factory=CoreConfig)
    torso: TorsoConfig = field(default_factory=TorsoConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    total_frames: int = 10_000_000
    seed: int = 0
    run: str = ""
    resume: bool = False
    precision: str = "auto"
    checkpoint_seconds: float = 60.0
    keep_checkpoints: int = 3
    log_seconds: float = 5.0
    display: bool = True


@dataclass(kw_only=True, slots=True)
class EvaluateConfig:
    """Options of evaluate.py.

    Attributes:
        run: a run folder or a checkpoint file.
        episodes: per task.
        tasks: other tasks of the same suite; empty = those the agent was trained on.
        greedy: most probable action instead of a sample.
        video: one video per task into the run folder.
        video_episodes: episodes in each video.
        slots: environments per task; 0 = one per episode, at most 64.
        seed: root of the evaluation seeds, which are disjoint from all training seeds.
        output: file for the result; empty = evaluation.json beside the checkpoint's run.
        engine: engine of the environments, as env.engine; empty = as in training.
        threads: compute threads; 0 = all cores, which pays for large networks only.
    """

    run: str = ""
    episodes: int = 100
    tasks: list[str] = field(default_factory=list)
    greedy: bool = False
    video: bool = False
    video_episodes: int = 3
    slots: int = 0
    seed: int = 0
    output: str = ""
    engine: str = ""
    threads: int = 1


MAY_CHANGE_ON_RESUME = (
    "total_frames",
    "run",
    "resume",
    "display",
    "log_seconds",
    "checkpoint_seconds",
    "keep_checkpoints",
    "precision",
    "runtime.name",
    "runtime.num_actors",
    "runtime.actor_threads",
    "runtime.learner_threads",
    "runtime.buffers_per_actor",
)
"""Keys whose change leaves the experiment what it is. `resume=true` refuses a different value of any other."""


def _store_schemas() -> None:
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    for name, suite in SUITES.items():
        store.store(group="env", name=f"{name}_schema", node=suite.config)


def compose_train(overrides: Sequence[str]) -> TrainConfig:
    """The configuration of `python train.py <overrides>`, checked.

    Raises:
        InputError: an unknown key or name, a value of the wrong type or out of range.
    """
    config = _to_object(_compose("train", overrides), TrainConfig)
    check_train(config)
    return config


def compose_evaluate(overrides: Sequence[str]) -> EvaluateConfig:
    """The configuration of `python evaluate.py <overrides>`, checked; InputError as `compose_train`."""
    config = _to_object(_compose("evaluate", overrides), EvaluateConfig)
    if not config.run:
        raise InputError("run= is missing: give the run folder or the checkpoint file to evaluate.")
    _require(config, {"episodes": 1, "slots": 0, "video_episodes": 1, "threads": 0, "seed": 0}, "")
    return config


def train_keys() -> dict[str, Any]:
    """Every key of train.py with its default, dotted."""
    return flatten(OmegaConf.to_container(_compose("train", [])))


def changed_keys(overrides: Sequence[str]) -> dict[str, Any]:
    """Dotted keys that `overrides` set, with their values: those that differ from the defaults, and those named outright."""
    given = flatten(OmegaConf.to_container(_compose("train", overrides)))
    default = flatten(OmegaConf.to_container(_compose("train", [])))
    # A value that happens to be the default was still asked for: `seed=0` must not pass silently for a run of seed 1.
    named = {override.key_or_group for override in OverridesParser.create().parse_overrides(list(overrides))}
    return {
        key: value
        for key, value in given.items()
        if key in named or key.removesuffix(".name") in named or key not in default or default[key] != value
    }


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested data of a config object."""
    return OmegaConf.to_container(OmegaConf.structured(config))  # type: ignore[return-value]


def train_from_dict(data: Any, source: str) -> TrainConfig:
    """A saved configuration, merged into the schema again and checked. `source` names it in messages.

    Raises:
        InputError: it is not a configuration of this program.
    """
    problem = f"{source} does not hold a configuration of this version of mimpala"
    if not isinstance(data, dict) or not isinstance(data.get("env"), dict):
        raise InputError(f"{problem}: it has no `env`.")
    if "${" in repr(data):
        raise InputError(f"{problem}: interpolations (${{...}}) are not read from files.")
    name = data["env"].get("name")
    if not isinstance(name, str) or name not in SUITES:
        raise unknown_name(f"{source}: env.name", name, SUITES)
    try:
        schema = OmegaConf.structured(TrainConfig)
        schema.env = OmegaConf.structured(SUITES[name].config)
        merged = OmegaConf.merge(schema, OmegaConf.create(data))
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise InputError(f"{problem}: {_first_line(error)}.") from error
    config = _to_object(merged, TrainConfig)
    check_train(config)
    return config


def load_train(path: Path) -> TrainConfig:
    """Reads a config.yaml; InputError when it cannot be read or is not one."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{path} cannot be read as YAML: {_first_line(error)}.") from error
    return train_from_dict(data, str(path))


def save_train(config: TrainConfig, path: Path) -> None:
    """Writes a config.yaml: plain, resolved data."""
    write_whole(path, OmegaConf.to_yaml(OmegaConf.structured(config)))


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def check_train(config: TrainConfig) -> None:
    """Names and ranges. What depends on the environments is checked where they are described (envs, agents.builder).

    Raises:
        InputError: one sentence with key, value and what would be right.
    """
    for key, value, names in (
        ("fusion", config.fusion.name, FUSIONS),
        ("context", config.context.name, CONTEXTS),
        ("context.task_encoding", config.context.task_encoding, TASK_ENCODINGS),
        ("core", config.core.name, CORES),
        ("torso", config.torso.name, TORSOS),
        ("runtime", config.runtime.name, RUNTIMES),
        ("learner.optimizer", config.learner.optimizer, OPTIMIZERS),
        ("learner.reduction", config.learner.reduction, REDUCTIONS),
        ("precision", config.precision, PRECISIONS),
    ):
        if value not in names:
            raise unknown_name(key, value, names)
    for site in config.fusion.sites:
        if site not in SITES:
            raise unknown_name("fusion.sites", site, SITES)
    _require(config, {"total_frames": 1, "seed": 0, "keep_checkpoints": 1, "log_seconds": 0, "checkpoint_seconds": 0}, "")
    _require(config.fusion, {"size": 1, "rank": 1}, "fusion.")
    _require(config.context, {"task_size": 1, "word_size": 1, "instruction_size": 1}, "context.")
    _require(config.core, {"size": 1}, "core.")
    _require(config.torso, {"size": 1}, "torso.")
    _require(config.learner, {"unroll_length": 1, "batch_size": 0, "passes": 1, "learning_rate": 0, "max_refused": 1}, "learner.")
    _require(config.learner, {"baseline_cost": 0, "entropy_cost": 0, "reward_clip": 0, "epsilon": 0}, "learner.")
    _require(config.learner, {"clip_rho": 0, "clip_c": 0, "clip_pg_rho": 0, "max_gradient_norm": 0}, "learner.")
    _require(config.runtime, {"learner_threads": 0}, "runtime.")
    _require(config.runtime, {"num_actors": 0, "slots_per_actor": 1, "actor_threads": 1, "buffers_per_actor": 1}, "runtime.")
    if config.seed >= 2**63:
        raise InputError(f"seed={config.seed} is out of range: give a number below 2**63.")
    if not all(size >= 1 for size in config.torso.hidden):
        raise InputError(f"torso.hidden={config.torso.hidden} is out of range: give numbers of at least 1.")
    for key in ("discounting", "rms_decay", "popart_step_size", "lambda_"):
        value = getattr(config.learner, key)
        if not 0 <= value <= 1:
            raise InputError(f"learner.{key}={value} is out of range: give a number from 0 to 1.")
    if len(config.learner.adam_betas) != 2 or not all(0 <= beta < 1 for beta in config.learner.adam_betas):
        raise InputError(f"learner.adam_betas={config.learner.adam_betas} is out of range: give two numbers from 0 to below 1.")
    batch, slots = config.learner.batch_size, config.runtime.slots_per_actor
    if batch and batch % slots and slots % batch:
        raise InputError(
            f"learner.batch_size={batch} does not fit runtime.slots_per_actor={slots}: give a multiple or a divisor of it."
        )


def _require(config: Any, least: dict[str, float], prefix: str) -> None:
    for key, bound in least.items():
        value = getattr(config, key)
        # Not `value < bound`: that would let NaN through.
        if not value >= bound or value == float("inf"):
            raise InputError(f"{prefix}{key}={value} is out of range: give a finite number of at least {bound}.")


def _compose(name: str, overrides: Sequence[str]) -> DictConfig:
    _store_schemas()
    for override in overrides:
        if "${" in override:
            raise InputError(f"{override} holds an interpolation: give the value itself.")
        if override.startswith(("+", "~")):
            raise InputError(f"{override} adds or removes a key: every key is there already, write key=value.")
    try:
        OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise InputError(f"The arguments cannot be read ({_first_line(error)}): write key=value.") from error
    GlobalHydra.instance().clear()
    with initialize_config_module("conf", version_base="1.3"):
        try:
            return compose(name, overrides=list(overrides))
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise _explain(error, name, overrides) from error


def _explain(error: Exception, name: str, overrides: Sequence[str]) -> InputError:
    """Hydra's error as one sentence."""
    message = "\n".join(str(part) for part in (error, error.__cause__) if part)
    choice = re.search(r"(?:Could not find|Could not load) '(?:conf/)?([\w/]+)/([^'/]*)'", message)
    if choice:
        group, value = choice.groups()
        names = GlobalHydra.instance().config_loader().get_group_options(group)
        return unknown_name(group, value, [option for option in names if not option.endswith("_schema")])
    key = next((o.split("=")[0] for o in overrides if o.split("=")[0] in message), "")
    if "not in struct" in message or "not in '" in message:
        unknown = key or _first_line(error)
        keys = list(flatten(OmegaConf.to_container(compose(name)))) if GlobalHydra.instance().is_initialized() else []
        near = difflib.get_close_matches(unknown, keys, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "see conf/schema.py for all keys."
        return InputError(f"{unknown} is not a key of the configuration: {hint}")
    return InputError(f"{key + ': ' if key else ''}{_first_line(error.__cause__ or error)}.")


def _to_object(config: Any, kind: type[Config]) -> Config:
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise InputError(f"{missing[0]} has no value: give {missing[0]}=...")
    result = OmegaConf.to_object(config)
    assert isinstance(result, kind)
    return result


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__).rstrip(".")

"""Reads checked, plain configuration objects from the command line or a file, and writes them to a file."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.ablate_schema import AblateConfig
from conf.checks import check_device, check_train
from conf.command_line import quote_text_value
from conf.fields import check_fields
from conf.population_schema import PopulationConfig
from conf.schema import EvaluateConfig, FusionConfig, TrainConfig
from conf.studies_schema import STUDIES, StudyConfig
from envs.suites import SUITES
from system.errors import InputError, unknown_name
from system.files import write_whole
from system.plain_data import PlainDataError, plain_copy
from system.plain_yaml import MOST_CONFIG_VALUES, read_yaml

Config = TypeVar("Config")


@functools.cache
def _store_schemas() -> None:
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="ablate_schema", node=AblateConfig)
    store.store(name="population_schema", node=PopulationConfig)
    for name, study in STUDIES.items():
        store.store(group="studies", name=f"{name}_schema", node=study)
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
    check_fields(config)
    check_device(config.device)
    return config


def compose_ablate(overrides: Sequence[str]) -> AblateConfig:
    """The configuration of `python ablate.py <overrides>` with one value for each key.

    Values are not checked here, because they are valid or invalid only together with the values of a cell on every axis.

    Raises:
        InputError: an unknown key or name, or a value of the wrong type.
    """
    return _to_object(_compose("ablate", overrides), AblateConfig)


def compose_population(overrides: Sequence[str]) -> PopulationConfig:
    """The configuration of `python population.py <overrides>`, with the keys of train.py checked; InputError as `compose_train`."""
    config = _to_object(_compose("population", overrides), PopulationConfig)
    check_train(config)
    return config


def compose_study(name: str, overrides: Sequence[str]) -> StudyConfig:
    """The configuration of `python -m studies.<name> <overrides>`; `quick=true` selects the small defaults.

    Numbers and names are not checked here; each study checks its own.

    Raises:
        InputError: an unknown key, or a value of the wrong type.
    """
    config = _to_object(_compose(f"studies/{name}", overrides), STUDIES[name])
    return _to_object(_compose(f"studies/{name}_quick", overrides), STUDIES[name]) if config.quick else config


def reference_fusion(config: TrainConfig) -> FusionConfig | None:
    """The fusion that `match_params` names, at its default sizes; None if `match_params` is empty or a number."""
    name = config.match_params
    return compose_train([f"fusion={name}"]).fusion if name and not name.isdecimal() else None


def split_axes(overrides: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The overrides with one value, and by key the values of overrides with several (`core=lstm,mlstm`).

    Raises:
        InputError: an override cannot be read, or an axis has one value twice.
    """
    single: list[str] = []
    axes: dict[str, list[str]] = {}
    # A text with a comma becomes an axis too, which the grid then refuses.
    typed = [override if "," in override else quote_text_value(override) for override in overrides]
    for text, override in zip(overrides, _parse(typed), strict=True):
        if not override.is_sweep_override():
            single.append(text)
            continue
        try:
            key, values = override.key_or_group, list(override.sweep_string_iterator())
        except HydraException as error:
            raise InputError(f"{text} cannot be read as a list of values: write key=a,b,c.") from error
        if key in axes or len(set(values)) < len(values):
            raise InputError(f"{text} repeats a value or an axis: give every value once.")
        axes[key] = values
    return single, axes


def train_part(config: TrainConfig) -> TrainConfig:
    """The part of `config` with the keys of train.py."""
    return TrainConfig(**{field.name: getattr(config, field.name) for field in dataclasses.fields(TrainConfig)})


def train_keys(overrides: Sequence[str]) -> dict[str, Any]:
    """Every key of `python train.py <overrides>` with its value, dotted."""
    return flatten(OmegaConf.to_container(_compose("train", overrides)))


def ablate_keys(overrides: Sequence[str]) -> dict[str, Any]:
    """Every key of `python ablate.py <overrides>` with its value, dotted; an axis has its first value."""
    single, axes = split_axes(overrides)
    first = [f"{key}={values[0]}" for key, values in axes.items()]
    return flatten(OmegaConf.to_container(_compose("ablate", [*single, *first])))


def population_keys(overrides: Sequence[str]) -> dict[str, Any]:
    """Every key of `python population.py <overrides>` with its value, dotted."""
    return flatten(OmegaConf.to_container(_compose("population", overrides)))


def changed_keys(overrides: Sequence[str]) -> dict[str, Any]:
    """Dotted keys that `overrides` set, with their values: keys that differ from the defaults, and explicit keys."""
    given = flatten(OmegaConf.to_container(_compose("train", overrides)))
    default = flatten(OmegaConf.to_container(_compose("train", [])))
    # Keys that only the chosen suite has take their defaults from its schema.
    suite: Any = SUITES[given["env.name"]].config
    default = flatten({"env": to_dict(suite())}) | default
    # An explicit value counts even if it is the default: `seed=0` must not resume a run of seed 1 silently.
    explicit = explicit_keys(overrides)
    return {
        key: value
        for key, value in given.items()
        if key in explicit or key.removesuffix(".name") in explicit or key not in default or default[key] != value
    }


def explicit_keys(overrides: Sequence[str]) -> set[str]:
    """Keys and groups that `overrides` name themselves, without the keys in the files of a group."""
    return {override.key_or_group for override in _parse([quote_text_value(override) for override in overrides])}


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration object as nested plain data."""
    return dataclasses.asdict(config)


def train_from_dict(data: Any, source: str) -> TrainConfig:
    """A saved configuration, merged into the schema and checked. `source` names its file in messages.

    Raises:
        InputError: it is not a configuration of this program.
    """
    problem = f"{source} does not hold a configuration of this version of mimpala"
    try:
        data = plain_copy(data, most=MOST_CONFIG_VALUES)
    except PlainDataError as error:
        raise InputError(f"{problem}: it holds {error}.") from error
    if not isinstance(data, dict) or not isinstance(data.get("env"), dict):
        raise InputError(f"{problem}: it has no `env`.")
    if "${" in repr(data):
        raise InputError(f"{problem}: interpolations (${{...}}) are not read from files.")
    name = data["env"].get("name")
    if not isinstance(name, str) or name not in SUITES:
        raise unknown_name(f"{source}: env.name", name, SUITES)
    data["env"] = dict(SUITES[name].legacy_defaults) | data["env"]
    try:
        schema = OmegaConf.structured(TrainConfig)
        schema.env = OmegaConf.structured(SUITES[name].config)
        merged = OmegaConf.merge(schema, OmegaConf.create(data))
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise InputError(f"{problem}: {_first_line(error)}.") from error
    config = _to_object(merged, TrainConfig)
    if "initialization" not in data:
        # Runs from before this key used torch's initialisation.
        config.initialization = "torch"
    if "pg_bootstrap" not in (data.get("learner") or {}) and config.learner.lambda_ != 1:
        # Runs from before this key used the paper's form. With lambda 1 both forms are equal.
        config.learner.pg_bootstrap = "paper"
    check_train(config)
    return config


def evaluate_from_dict(data: Any) -> EvaluateConfig:
    """A saved configuration of evaluate.py, merged into the schema. Raises ValueError or TypeError if `data` is not one."""
    data = plain_copy(data, most=MOST_CONFIG_VALUES)
    if "${" in repr(data):
        raise ValueError("interpolations are not read from files")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(EvaluateConfig), OmegaConf.create(data))
    except OmegaConfBaseException as error:
        raise ValueError(_first_line(error)) from error
    return _to_object(merged, EvaluateConfig)


def load_train(path: Path) -> TrainConfig:
    """Reads a config.yaml. Raises InputError if it cannot be read or is not a configuration."""
    return train_from_dict(read_yaml(path), str(path))


def save_train(config: TrainConfig, path: Path) -> None:
    """Writes a config.yaml: plain, resolved data."""
    write_whole(path, yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _compose(name: str, overrides: Sequence[str]) -> DictConfig:
    _store_schemas()
    for argument in overrides:
        if "${" in argument:
            raise InputError(f"{argument} holds an interpolation: give the value itself.")
        if argument.startswith("hydra"):
            raise InputError(
                f"{argument} is not a key of the configuration: Hydra only reads files here, it runs nothing."
            )
        if argument.startswith(("+", "~")):
            raise InputError(f"{argument} adds or removes a key: every key is there already, write key=value.")
    overrides = [quote_text_value(override) for override in overrides]
    parsed = _parse(overrides)
    GlobalHydra.instance().clear()
    with initialize_config_module("conf", version_base="1.3"):
        for override in parsed:
            names = [choice for choice in _choices(override.key_or_group) if name == "ablate" or not _is_grid(choice)]
            if names and override.value() not in names:
                raise unknown_name(override.key_or_group, override.get_value_string(), names)
        choices = [override for override in parsed if _choices(override.key_or_group)]
        values = [override for override in parsed if override not in choices]
        try:
            config = copy.deepcopy(_chosen(name, tuple(str(choice.input_line) for choice in choices)))
            for override in values:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except (HydraException, OmegaConfBaseException, ValueError):
            config = None
        if config is not None and not any(override.package for override in values):
            return config
        try:
            # Hydra composes all overrides, slowly, and raises the error with the reason.
            return compose(name, overrides=list(overrides))
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise _explain(error, name, overrides) from error


@functools.cache
def _chosen(name: str, groups: tuple[str, ...]) -> DictConfig:
    """The configuration for choices of files. It is cached, because Hydra takes 0.1 s and the cells of a grid share most choices."""
    return compose(name, overrides=list(groups))


def _parse(overrides: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except (HydraException, ValueError, RecursionError) as error:
        # ValueError comes from numbers with thousands of digits, RecursionError from as many brackets.
        quotes = ", and texts with brackets in quotes" if any("(" in argument for argument in overrides) else ""
        raise InputError(f"The arguments cannot be read ({_first_line(error)}): write key=value{quotes}.") from error


def _is_grid(choice: str) -> bool:
    """Whether a name under conf/ is a preset of ablate.py, which has keys that train.py lacks."""
    return choice.startswith("ablate_")


@functools.cache
def _choices(group: str) -> list[str]:
    """The names in a group of conf/; empty if `group` is not a group."""
    options = GlobalHydra.instance().config_loader().get_group_options(group)
    return [option for option in options if not option.endswith("_schema")]


def _explain(error: Exception, name: str, overrides: Sequence[str]) -> InputError:
    """Hydra's error as one sentence."""
    message = "\n".join(str(part) for part in (error, error.__cause__) if part)
    # The longest match, because both `core` and `core.size` are keys.
    key = max((key for key in (o.split("=")[0] for o in overrides) if key in message), key=len, default="")
    if "not in struct" in message or "not in '" in message:
        unknown = key or _first_line(error)
        keys = list(flatten(OmegaConf.to_container(compose(name)))) if GlobalHydra.instance().is_initialized() else []
        near = difflib.get_close_matches(unknown, keys, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"see conf/{_schema(name)}.py for all keys."
        return InputError(f"{unknown} is not a key of the configuration: {hint}")
    return InputError(f"{key + ': ' if key else ''}{_first_line(error.__cause__ or error)}.")


def _schema(name: str) -> str:
    """The module of conf/ with the keys of a program."""
    return "studies_schema" if name.startswith("studies/") else "schema"


def _to_object(config: Any, kind: type[Config]) -> Config:
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise InputError(f"{missing[0]} has no value: give {missing[0]}=...")
    result = OmegaConf.to_object(config)
    assert isinstance(result, kind)
    _check_lists(result, "")
    return result


def _check_lists(config: Any, prefix: str) -> None:
    """Checks the types of list members. OmegaConf checks single values, but accepts mappings and lists as members of any list."""
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, (member, *_) = getattr(config, field.name), (*get_args(hints[field.name]), object)
        if dataclasses.is_dataclass(value):
            _check_lists(value, f"{prefix}{field.name}.")
        elif (
            isinstance(value, list)
            and member in (int, float, str)
            and not all(isinstance(one, member) for one in value)
        ):
            raise InputError(f"{prefix}{field.name}={value} is not a list of type {member.__name__} only: give one.")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__).rstrip(".")

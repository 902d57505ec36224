"""Reads checked, plain configuration objects from the command line or a file, and writes them to a file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.ablate_schema import AblateConfig
from conf.allowlist import check_plugins
from conf.arguments.aliases import normalize
from conf.checks import check_device, check_train
from conf.command_line import quote_text_value
from conf.composition import compose_config, describe_misfit, flatten, parse_overrides
from conf.evaluate_schema import EvaluateConfig, ExportConfig
from conf.fields import check_fields
from conf.population_schema import PopulationConfig
from conf.schema import FusionConfig, TrainConfig
from conf.search_schema import Domain, SearchConfig
from conf.studies_schema import STUDIES, StudyConfig
from envs.suites import SUITES
from system.errors import InputError, unknown_name
from system.files import write_whole
from system.plain_data import PlainDataError, plain_copy
from system.plain_yaml import MOST_CONFIG_VALUES, read_yaml

Config = TypeVar("Config")


def compose_train(overrides: Sequence[str]) -> TrainConfig:
    """The configuration of `python train.py <overrides>`, checked. InputError for an unknown key or name, and for a bad value."""
    config = _to_object(compose_config("train", overrides), TrainConfig)
    check_train(config)
    return config


def compose_evaluate(overrides: Sequence[str]) -> EvaluateConfig:
    """The configuration of `python evaluate.py <overrides>`, checked; InputError as `compose_train`."""
    config = _to_object(compose_config("evaluate", overrides), EvaluateConfig)
    if not config.run:
        raise InputError("run= is missing: give the run folder or the checkpoint file to evaluate.")
    check_fields(config)
    check_device(config.device)
    if config.watch and (left := [key for key in ("video", "probe", "noise", "output") if getattr(config, key)]):
        raise InputError(f"watch=true writes no result: leave {left[0]}= out.")
    return config


def compose_export(overrides: Sequence[str]) -> ExportConfig:
    """The configuration of `mimpala export <overrides>`, checked; InputError as `compose_train`."""
    config = _to_object(compose_config("export", overrides), ExportConfig)
    for key, what in (("run", "the run folder or the checkpoint file to export"), ("output", "the folder to write")):
        if not getattr(config, key):
            raise InputError(f"{key}= is missing: give {what}.")
    return config


def compose_ablate(overrides: Sequence[str]) -> AblateConfig:
    """The configuration of `python ablate.py <overrides>` with one value for each key; InputError as `compose_train`.

    Only types are checked here, because values are valid or invalid only together with the values of a cell on every axis.
    """
    return _to_object(compose_config("ablate", overrides), AblateConfig)


def compose_population(overrides: Sequence[str]) -> PopulationConfig:
    """The configuration of `python population.py <overrides>`, with the keys of train.py checked; InputError as `compose_train`."""
    config = _to_object(compose_config("population", overrides), PopulationConfig)
    check_train(config)
    return config


def compose_search(overrides: Sequence[str]) -> SearchConfig:
    """The configuration of `python search.py <overrides>` with one value for each key, checked; InputError as `compose_train`."""
    config = _to_object(compose_config("search", overrides), SearchConfig)
    check_train(config)
    return config


def compose_study(name: str, overrides: Sequence[str]) -> StudyConfig:
    """The configuration of `python -m studies.<name> <overrides>`; `quick=true` selects the small defaults.

    Only keys and types are checked here; studies/harness/program.py checks values.
    """
    config = _to_object(compose_config(f"studies/{name}_schema", overrides), STUDIES[name])
    return _to_object(compose_config(f"studies/{name}_quick", overrides), STUDIES[name]) if config.quick else config


def compose_for(program: str, overrides: Sequence[str]) -> Any:
    """The configuration object of `python <program>.py <overrides>` with one value for each key; only keys and types are checked."""
    return _to_object(compose_config(program, overrides), object)


def reference_fusion(config: TrainConfig) -> FusionConfig | None:
    """The fusion that `match_params` names, at its default sizes; None if `match_params` is empty or a number."""
    name = config.match_params
    return compose_train([f"fusion={name}"]).fusion if name and not name.isdecimal() else None


def split_axes(overrides: Sequence[str], program: str = "ablate") -> tuple[list[str], dict[str, list[str]]]:
    """The overrides with one value, and by key the different values of overrides with several (`core=lstm,mlstm`), in the spelling of
    `conf.arguments.aliases`.
    """
    overrides = normalize(overrides, program)
    single: list[str] = []
    axes: dict[str, list[str]] = {}
    # A text with a comma becomes an axis too, which the grid then refuses.
    typed = [override if "," in override else quote_text_value(override) for override in overrides]
    for text, override in zip(overrides, parse_overrides(typed), strict=True):
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


def split_space(overrides: Sequence[str]) -> tuple[list[str], dict[str, Domain]]:
    """The overrides with one value, and by key the values that search.py is to try, in Hydra's words: `a,b`, `choice(a,b)`,
    `interval(low,high)`, `range(low,high,step)` (without high), and each of the last two in `tag(log,...)`.
    """
    overrides = normalize(overrides, "search")
    single: list[str] = []
    space: dict[str, Domain] = {}
    for text, override in zip(overrides, parse_overrides(list(map(quote_text_value, overrides))), strict=True):
        value: Any = override.value()
        if not override.is_sweep_override():
            single.append(text)
            continue
        if override.key_or_group in space:
            raise InputError(f"{text} repeats a key: give every key once.")
        log = "log" in getattr(value, "tags", ())
        if override.is_interval_sweep():
            domain = Domain(low=value.start, high=value.end, log=log)
        elif override.is_range_sweep() and value.stop is not None and value.step:
            last = math.ceil((value.stop - value.start) / value.step) - 1
            domain = Domain(low=value.start, high=value.start + last * value.step, step=value.step, log=log)
        else:
            try:
                domain = Domain(choices=tuple(override.sweep_string_iterator()))
            except HydraException as error:
                raise InputError(f"{text} cannot be read as a list of values: write key=a,b,c.") from error
        space[override.key_or_group] = domain
    return single, space


def train_part(config: TrainConfig) -> TrainConfig:
    """The part of `config` with the keys of train.py."""
    return TrainConfig(**{field.name: getattr(config, field.name) for field in dataclasses.fields(TrainConfig)})


def all_keys(program: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Every key of `python <program>.py <overrides>` with its value, dotted."""
    return flatten(OmegaConf.to_container(compose_config(program, overrides)))


def changed_keys(overrides: Sequence[str]) -> dict[str, Any]:
    """Dotted keys that `overrides` set, with their values: keys that differ from the defaults, and explicit keys."""
    given = all_keys("train", overrides)
    # Keys that only the chosen suite has take their defaults from its schema.
    suite: Any = SUITES[given["env.name"]].config
    default = flatten({"env": to_dict(suite())}) | all_keys("train", [])
    # An explicit value counts even if it is the default: `seed=0` must not resume a run of seed 1 silently.
    explicit = explicit_keys(overrides)
    return {
        key: value
        for key, value in given.items()
        if key in explicit or key.removesuffix(".name") in explicit or key not in default or default[key] != value
    }


def explicit_keys(overrides: Sequence[str]) -> dict[str, Any]:
    """Keys and groups that `overrides` name themselves, in this order and with their values, without the keys in the files of a group."""
    parsed = parse_overrides(list(map(quote_text_value, normalize(overrides, "train"))))
    return {override.key_or_group: override.value() for override in parsed}


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration object as nested plain data."""
    return dataclasses.asdict(config)


def train_from_dict(data: Any, source: str) -> TrainConfig:
    """A saved configuration, merged into the schema and checked. The InputError for any other data names `source`, its file."""
    problem = f"{source} does not hold a configuration of this version of mimpala"
    try:
        data = _plain_data(data)
    except ValueError as error:
        raise InputError(f"{problem}: {error}.") from error
    check_plugins(data, (), source)
    if not isinstance(data, dict) or not isinstance(data.get("env"), dict):
        raise InputError(f"{problem}: it has no `env`.")
    name = data["env"].get("name")
    if not isinstance(name, str) or name not in SUITES:
        raise unknown_name(f"{source}: env.name", name, SUITES)
    data["env"] = dict(SUITES[name].legacy_defaults) | data["env"]
    schema = OmegaConf.structured(TrainConfig)
    schema.env = OmegaConf.structured(SUITES[name].config)
    try:
        merged = OmegaConf.merge(schema, OmegaConf.create(data))
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise InputError(f"{problem}: {describe_misfit(error)}.") from error
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
    try:
        merged = OmegaConf.merge(OmegaConf.structured(EvaluateConfig), OmegaConf.create(_plain_data(data)))
    except OmegaConfBaseException as error:
        raise ValueError(describe_misfit(error)) from error
    return _to_object(merged, EvaluateConfig)


def _plain_data(data: Any) -> Any:
    """A copy of the data of a file. ValueError, with the reason, if it is no plain data or holds interpolations."""
    try:
        data = plain_copy(data, most=MOST_CONFIG_VALUES)
    except PlainDataError as error:
        raise ValueError(f"it holds {error}") from error
    if "${" in repr(data):
        raise ValueError("interpolations (${...}) are not read from files")
    return data


def load_train(path: Path) -> TrainConfig:
    """Reads a config.yaml. Raises InputError if it cannot be read or is not a configuration."""
    return train_from_dict(read_yaml(path), str(path))


def save_train(config: TrainConfig, path: Path) -> None:
    """Writes a config.yaml: plain, resolved data."""
    write_whole(path, yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))


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
        elif isinstance(value, list) and member in (int, float, str):
            if all(isinstance(one, member) for one in value):
                continue
            raise InputError(f"{prefix}{field.name}={value} is not a list of type {member.__name__} only: give one.")

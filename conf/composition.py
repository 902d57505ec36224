"""Composes the schemas, choices and files of conf/ with overrides through Hydra, and turns Hydra's errors into one sentence."""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from hydra import compose, initialize_config_module
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import BooleanNode, DictConfig, FloatNode, IntegerNode, ListConfig, OmegaConf, StringNode
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from conf.ablate_schema import AblateConfig
from conf.arguments.aliases import normalize
from conf.command_line import quote_text_value, shorten
from conf.evaluate_schema import EvaluateConfig, ExportConfig
from conf.names import CONTEXTS, CORES, FLAT_FUSIONS, FUSIONS, RUNTIMES, SPATIAL_FUSIONS, TORSO_SITE, TORSOS
from conf.population_schema import PopulationConfig
from conf.schema import TrainConfig
from conf.search_schema import SearchConfig
from conf.studies_schema import STUDIES
from envs.suites import SUITES
from system.errors import InputError, unknown_name

_PROGRAMS = {"train": TrainConfig, "ablate": AblateConfig, "population": PopulationConfig, "search": SearchConfig}
_WITHOUT_GROUPS = {"evaluate": EvaluateConfig, "export": ExportConfig}
_NAMES = {"fusion": FUSIONS, "context": CONTEXTS, "core": CORES, "torso": TORSOS, "runtime": RUNTIMES}
"""The choices of the groups without files: each sets its name, and what _FURTHER has."""
_FURTHER: dict[str, dict[str, Any]] = {
    **{fusion: {"sites": [TORSO_SITE]} for fusion in SPATIAL_FUSIONS if fusion not in FLAT_FUSIONS},
    "hypernetwork": {"hidden": 64},
    "tucker": {"rank": 32},
}

_SUITE_FILES = frozenset(SUITES)
"""Suites with a file in conf/env."""
_GROUPS = ("env", "experiment", *_NAMES)
PROGRAMS_WITH_GROUPS = tuple(_PROGRAMS)
"""The programs whose configuration has these groups."""


_config_dirs: dict[str, str] = {}


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a program, or of a file or schema of conf/, with `overrides`, typed by its schema but not checked.

    InputError for an unknown key or name, a value of the wrong type, or an override that cannot be read.
    """
    overrides = normalize(overrides, name)
    for argument in overrides:
        if argument.startswith("hydra"):
            raise InputError(
                f"{shorten(argument)} is not a key of the configuration: Hydra only reads files here, it runs nothing."
            )
    parsed = parse_overrides(list(map(quote_text_value, overrides)))
    with _initialized(name):
        groups = [override for override in parsed if name in PROGRAMS_WITH_GROUPS and override.key_or_group in _GROUPS]
        for override in parsed:
            _check_override(override, name, is_group=override in groups)
        # The last choice of a group counts, as the last value of a key.
        chosen = {override.key_or_group: override for override in groups}.values()
        try:
            composed = _compose_choices(name, tuple(str(choice.input_line) for choice in chosen))
        except (HydraException, OmegaConfBaseException, ValueError, OSError, yaml.YAMLError) as error:
            raise _explain_files(error, groups) from error
        config = copy.deepcopy(composed)
    if "${" in repr(OmegaConf.to_container(config)):
        given = " ".join(str(choice.input_line) for choice in chosen)
        raise InputError(
            f"{given} names a file with an interpolation: write values in files, and ${{oc.env:NAME}} on the command line."
        )
    for override in parsed:
        if override not in groups:
            if override.is_sweep_override():
                raise _several_values(override, name, config)
            set_value(config, override.key_or_group, override.value())
    return config


class _FoldersOfSettings(SearchPathPlugin):
    """Adds the folders of `use_config_dirs` behind conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for key, folder in _config_dirs.items():
            search_path.append(key, f"file://{folder}")


def use_config_dirs(folders: Mapping[str, str]) -> None:
    """Replaces the folders with further files of settings, by the flag or variable that names each.

    InputError for a folder that does not exist, or with a file that has the name of a choice.
    """
    found = {key: os.path.abspath(folder) for key, folder in folders.items()}
    if found == _config_dirs:
        return
    _config_dirs.clear()
    forget_choices()
    own = list_choices("ablate")
    for key, folder in found.items():
        if not os.path.isdir(folder):
            raise InputError(f"{key} {folder} is not a folder: give one with files such as experiment/mine.yaml.")
        for group, names in own.items():
            if taken := next((name for name in names if os.path.exists(f"{folder}/{group}/{name}.yaml")), None):
                raise InputError(
                    f"{key} has {group}/{taken}.yaml, which is a name of mimpala: give the file another name."
                )
    Plugins.instance().register(_FoldersOfSettings)
    _config_dirs.update(found)
    forget_choices()


@contextlib.contextmanager
def _initialized(name: str) -> Iterator[None]:
    """Hydra with the files of conf/, the choices, and the schema of a program or study."""
    _store_choices()
    _store_schema(name)
    GlobalHydra.instance().clear()
    with initialize_config_module("conf", version_base="1.3"):
        yield


def _check_override(override: Override, program: str, *, is_group: bool) -> None:
    """Raises InputError for a package, and for a group unless the override gives one of its names."""
    key = override.key_or_group
    if override.package is not None:
        raise InputError(
            f"{shorten(str(override.input_line))} holds @ in its key, and no key has a package: write key=value."
        )
    if is_group:
        if override.is_sweep_override():
            raise _several_values(override, program)
        names = _names_for(program, key)
        if override.value() not in names:
            raise unknown_name(key, shorten(override.get_value_string()), names)


def _several_values(override: Override, program: str, config: DictConfig | None = None) -> InputError:
    key, values = override.key_or_group, override.get_value_string()
    fix = "train.py -m trains each, and ablate.py compares them" if program in PROGRAMS_WITH_GROUPS else "give one"
    if config is not None and isinstance(OmegaConf.select(config, key), ListConfig):
        fix = f"write {key}=[{values}] for a list; {fix}"
    return InputError(shorten(f"{key}={values}") + f" gives several values where one is needed: {fix}.")


@functools.cache
def _compose_choices(name: str, groups: tuple[str, ...]) -> DictConfig:
    """The configuration for choices of files. It is cached, because Hydra takes 0.1 s and the cells of a grid share most choices."""
    return compose(name, overrides=list(groups))


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra reads them. Raises InputError if one cannot be read."""
    parser = OverridesParser.create()
    parsed = []
    for argument in overrides:
        try:
            parsed.append(parser.parse_override(argument))
        except (HydraException, ValueError, RecursionError) as error:
            # ValueError comes from numbers with thousands of digits, RecursionError from as many brackets.
            raise InputError(f"{shorten(argument)} cannot be read: {_why_unreadable(argument)}.") from error
    return parsed


def _why_unreadable(argument: str) -> str:
    """What to change in an argument that Hydra's grammar refuses."""
    key, _, value = argument.partition("=")
    if not re.fullmatch(r"[\w.@/-]+", key):
        return "write key=value"
    for opening, closing in ("[]", "{}", "()"):
        if value.count(opening) != value.count(closing):
            return f"{opening} and {closing} are not in pairs"
    if value.count("'") % 2 or value.count('"') % 2:
        return "a quote is not closed"
    if "(" in value:
        return f"write texts with brackets in quotes, as \"{key}=['a(1)']\""
    return f"write key=value, and a text with special characters in quotes, as \"{key}='...'\""


@functools.cache
def _list_names(group: str) -> list[str]:
    """The names in a group of conf/; empty if `group` is not a group."""
    options = GlobalHydra.instance().config_loader().get_group_options(group)
    return [option for option in options if not option.endswith("_schema")]


def _names_for(program: str, group: str) -> list[str]:
    """The names in a group that a program may have. Presets of ablate.py set keys that other programs lack."""
    return [choice for choice in _list_names(group) if program == "ablate" or not choice.startswith("ablate_")]


def list_choices(program: str) -> dict[str, list[str]]:
    """The groups of a program's command line, with their names."""
    with _initialized(program):
        return {group: _names_for(program, group) for group in _GROUPS}


def list_search_path(program: str) -> list[tuple[str, str]]:
    """Where files of settings are searched: the provider and the path of each place, in order."""
    with _initialized(program):
        places = GlobalHydra.instance().config_loader().get_search_path().get_path()
    return [(place.provider, place.path) for place in places]


def compose_hydra(name: str) -> DictConfig:
    """Hydra's own configuration beside that of a program. It has no effect, because only files are read."""
    with _initialized(name):
        config = compose(name, return_hydra_config=True)
    return OmegaConf.masked_copy(config, ["hydra"])


def set_value(config: DictConfig, key: str, value: Any) -> None:
    """Sets a key or a whole group. A whole float is an integer where one is needed, and one value is a list of one where a list is needed.

    InputError for an unknown key, and for a value of another type than the key's.
    """
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            raise _unknown_key(config, key)
        node = node._get_node(part)
    # The value of a key such as stop_at, and no group.
    is_mapping = isinstance(node, DictConfig) and node._metadata.object_type is dict
    if isinstance(node, DictConfig) and not is_mapping:
        if not isinstance(value, dict):
            raise InputError(f"{_assign(key, value)} is no value: {key} is a group of keys, write {key}.<key>=value.")
        for name, item in value.items():
            set_value(config, f"{key}.{name}", item)
        return
    try:
        OmegaConf.update(config, key, _fit(node, value), merge=not is_mapping)
    except (OmegaConfBaseException, ValueError, TypeError, ArithmeticError) as error:
        wanted = next((words for kind, words in _KINDS.items() if isinstance(node, kind)), "another value")
        raise InputError(f"{_assign(key, value)} is not {wanted}: give one.") from error


_KINDS: dict[type[Any], str] = {
    IntegerNode: "a whole number",
    FloatNode: "a number",
    BooleanNode: "true or false",
    StringNode: "a single text",
    ListConfig: "a list of plain values",
}
"""Node of a key -> what its value must be."""


def _fit(node: Any, value: Any) -> Any:
    """The value in the type of the key's node, if it is only written in another way."""
    if isinstance(node, ListConfig) and not isinstance(value, dict | type(None)):
        values = value if isinstance(value, list) else [value]
        return list(map(_whole, values)) if node._metadata.element_type is int else values
    return _whole(value) if isinstance(node, IntegerNode) else value


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _assign(key: str, value: Any) -> str:
    texts = {True: "true", False: "false", None: "null"}
    return shorten(f"{key}={texts[value] if isinstance(value, bool | type(None)) else value}")


def _unknown_key(config: DictConfig, key: str) -> InputError:
    keys = list(flatten(OmegaConf.to_container(config)))
    near = difflib.get_close_matches(key, keys, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "--help lists all keys."
    return InputError(f"{shorten(key)} is not a key of the configuration: {hint}")


def _explain_files(error: Exception, groups: Sequence[Override]) -> InputError:
    """The error of composing files as one sentence."""
    given = " ".join(str(choice.input_line) for choice in groups) or "the defaults"
    cause: BaseException | None = error
    while cause and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__ or cause.__context__
    key = getattr(cause, "full_key", None) or getattr(cause, "key", None)
    if key in _GROUPS:
        return InputError(
            f"{given} has keys that belong to no group: begin a file of {key}/ with `# @package _global_`."
        )
    reason = f", because of {shorten(str(key))}" if key else ""
    return InputError(f"{given} cannot be composed{reason}: check names, values and YAML of the files that it names.")


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def describe_misfit(error: Exception) -> str:
    """The end of a sentence: which key of a file is not in the schema, or has a value of another type."""
    key = getattr(error, "full_key", None) or getattr(error, "key", None)
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        return f"{shorten(str(key))} is not a key"
    return f"{shorten(str(key))} has a value of another type" if key else "it has a value of another type"


def forget_choices() -> None:
    """Lets the next composition see names that were added to the tables, and other folders of settings."""
    for cached in (_store_choices, _store_schema, _list_names, _compose_choices):
        cached.cache_clear()


@functools.cache
def _store_schema(name: str) -> None:
    """Stores the schema of a program, or of a study for a file or schema of studies."""
    store = ConfigStore.instance()
    if name in _PROGRAMS:
        store.store(name=f"{name}_schema", node=_PROGRAMS[name])
    elif name in _WITHOUT_GROUPS:
        store.store(name=name, node=_WITHOUT_GROUPS[name])
    else:
        study = name.removeprefix("studies/").rpartition("_")[0]
        store.store(group="studies", name=f"{study}_schema", node=STUDIES[study], package="_global_")


@functools.cache
def _store_choices() -> None:
    """Stores the choices of the groups."""
    store = ConfigStore.instance()
    for group, names in _NAMES.items():
        for name in names:
            store.store(group=group, name=name, node={"name": name, **_FURTHER.get(name, {})})
    for name, suite in SUITES.items():
        store.store(group="env", name=f"{name}_schema", node=suite.config)
        if name not in _SUITE_FILES:
            # The suite of a plugin, which has no file with settings for it.
            store.store(group="env", name=name, node=suite.config)

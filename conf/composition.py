"""Composes the schemas, choices and files of conf/ with overrides through Hydra, and turns Hydra's errors into one sentence."""

from __future__ import annotations

import copy
import difflib
import functools
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.ablate_schema import AblateConfig
from conf.command_line import quote_text_value
from conf.names import CONTEXTS, CORES, FLAT_FUSIONS, FUSIONS, RUNTIMES, SPATIAL_FUSIONS, TORSO_SITE, TORSOS
from conf.population_schema import PopulationConfig
from conf.schema import EvaluateConfig, ExportConfig, TrainConfig
from conf.studies_schema import STUDIES
from envs.suites import SUITES
from system.errors import InputError, unknown_name

_PROGRAMS = {"train": TrainConfig, "ablate": AblateConfig, "population": PopulationConfig}
_WITHOUT_GROUPS = {"evaluate": EvaluateConfig, "export": ExportConfig}
_NAMES = {"fusion": FUSIONS, "context": CONTEXTS, "core": CORES, "torso": TORSOS, "runtime": RUNTIMES}
"""The choices of the groups without files: each sets its name, and what _FURTHER has."""
_FURTHER: dict[str, dict[str, Any]] = {
    **{fusion: {"sites": [TORSO_SITE]} for fusion in SPATIAL_FUSIONS if fusion not in FLAT_FUSIONS},
    "hypernetwork": {"hidden": 64},
    "tucker": {"rank": 32},
}


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a program, or of a file or schema of conf/, with `overrides`, typed by its schema but not checked.

    InputError for an unknown key or name, a value of the wrong type, or an override that cannot be read.
    """
    _store_choices()
    _store_schema(name)
    for argument in overrides:
        if "${" in argument:
            raise InputError(f"{argument} holds an interpolation: give the value itself.")
        if argument.startswith("hydra"):
            raise InputError(
                f"{argument} is not a key of the configuration: Hydra only reads files here, it runs nothing."
            )
        if argument.startswith(("+", "~")):
            raise InputError(f"{argument} adds or removes a key: every key is there already, write key=value.")
    overrides = list(map(quote_text_value, overrides))
    parsed = parse_overrides(overrides)
    GlobalHydra.instance().clear()
    with initialize_config_module("conf", version_base="1.3"):
        for override in parsed:
            # Presets of ablate.py set keys that other programs lack.
            names = _list_names(override.key_or_group)
            if name != "ablate":
                names = [choice for choice in names if not choice.startswith("ablate_")]
            if names and override.value() not in names:
                raise unknown_name(override.key_or_group, override.get_value_string(), names)
        choices = [override for override in parsed if _list_names(override.key_or_group)]
        values = [override for override in parsed if override not in choices]
        try:
            config = copy.deepcopy(_compose_choices(name, tuple(str(choice.input_line) for choice in choices)))
            for override in values:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except (HydraException, OmegaConfBaseException, ValueError):
            config = None
        if config is not None and not any(override.package for override in values):
            return config
        try:
            # Hydra composes all overrides, slowly, and raises the error with the reason.
            return compose(name, overrides=overrides)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise _explain(error, name, overrides) from error


@functools.cache
def _compose_choices(name: str, groups: tuple[str, ...]) -> DictConfig:
    """The configuration for choices of files. It is cached, because Hydra takes 0.1 s and the cells of a grid share most choices."""
    return compose(name, overrides=list(groups))


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra reads them. Raises InputError if one cannot be read."""
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except (HydraException, ValueError, RecursionError) as error:
        # ValueError comes from numbers with thousands of digits, RecursionError from as many brackets.
        quotes = ", and texts with brackets in quotes" if any("(" in argument for argument in overrides) else ""
        raise InputError(f"The arguments cannot be read ({first_line(error)}): write key=value{quotes}.") from error


@functools.cache
def _groups() -> frozenset[str]:
    """The groups of conf/. Hydra takes 15 ms for this list, and as long to find that one key is no group."""
    return frozenset(GlobalHydra.instance().config_loader().list_groups(""))


@functools.cache
def _list_names(group: str) -> list[str]:
    """The names in a group of conf/; empty if `group` is not a group."""
    if group not in _groups():
        return []
    options = GlobalHydra.instance().config_loader().get_group_options(group)
    return [option for option in options if not option.endswith("_schema")]


def _explain(error: Exception, name: str, overrides: Sequence[str]) -> InputError:
    """Hydra's error as one sentence."""
    message = "\n".join(str(part) for part in (error, error.__cause__) if part)
    # The longest match, because both `core` and `core.size` are keys.
    key = max((key for key in (o.split("=")[0] for o in overrides) if key in message), key=len, default="")
    if "not in struct" in message or "not in '" in message:
        unknown = key or first_line(error)
        keys = list(flatten(OmegaConf.to_container(compose(name)))) if GlobalHydra.instance().is_initialized() else []
        near = difflib.get_close_matches(unknown, keys, n=3, cutoff=0.5)
        schema = "studies_schema" if name.startswith("studies/") else "schema"
        hint = f"did you mean {' or '.join(near)}?" if near else f"see conf/{schema}.py for all keys."
        return InputError(f"{unknown} is not a key of the configuration: {hint}")
    return InputError(f"{key + ': ' if key else ''}{first_line(error.__cause__ or error)}.")


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def first_line(error: BaseException) -> str:
    """The first line of the error's message without a full stop; the name of its type if it has no message."""
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__).rstrip(".")


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

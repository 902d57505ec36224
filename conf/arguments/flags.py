"""Flags of Hydra's command lines (--help, --cfg, --info, --version, --multirun, --shell-completion), and the texts that they print."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import NamedTuple

from omegaconf import OmegaConf

from conf.arguments.aliases import Answer
from conf.arguments.completion import bash_script
from conf.arguments.help import help_text
from conf.composition import PROGRAMS_WITH_GROUPS, compose_config, compose_hydra, list_choices, list_search_path
from conf.loading import compose_for, split_axes
from system.errors import InputError


class _Flag(NamedTuple):
    """A flag: its spellings, its meaning, and the values that it may have; an optional value has a default."""

    spellings: tuple[str, ...]
    meaning: str
    values: tuple[str, ...] = ()
    default: str | None = None
    takes_any: bool = False


_FLAGS = {
    "help": _Flag(("--help", "-h", "--hydra-help"), "this text"),
    "version": _Flag(("--version",), "the versions of mimpala and of what it is built on"),
    "cfg": _Flag(
        ("--cfg", "-c"),
        "the configuration as YAML: of this program (job), of Hydra, or both; nothing runs",
        ("job", "hydra", "all"),
    ),
    "info": _Flag(
        ("--info", "-i"),
        "where the configuration comes from: the folders that are searched, and the choice of each group",
        ("all", "searchpath", "defaults", "config"),
        "all",
    ),
    "multirun": _Flag(
        ("--multirun", "-m"), "train.py only: a run for each combination of values (fusion=concat,mi seed=0,1)"
    ),
    "completion": _Flag(
        ("--shell-completion", "-sc"),
        'prints a completion script: eval "$(python train.py -sc install=bash)"',
        ("install=bash",),
    ),
    "config_dir": _Flag(
        ("--config-dir", "-cd"),
        "a folder with further settings, as experiment/mine.yaml for experiment=mine; also MIMPALA_CONFIG_DIR",
        ("DIR",),
        takes_any=True,
    ),
    # Both are the case in every program.
    "run": _Flag(("--run", "-r"), "one run, as without this flag"),
    "resolve": _Flag(("--resolve",), "values instead of interpolations, as without this flag"),
}
_ANSWERS = {
    "--config-name": Answer("is not used: write experiment=<name> for a file of settings"),
    "-cn": Answer("is not used: write experiment=<name> for a file of settings"),
    "--config-path": Answer("is not used: the configuration of the program is its own"),
    "-cp": Answer("is not used: the configuration of the program is its own"),
    "--package": Answer("is not used: --cfg job prints the whole configuration"),
    "-p": Answer("is not used: --cfg job prints the whole configuration"),
    "--experimental-rerun": Answer("is not used: write run=<folder> resume=true to continue a run"),
}
"""Flags of Hydra that mean nothing here."""


@dataclass(frozen=True, slots=True)
class Typed:
    """A command line: its flags by name, with their values, and the other arguments, unchanged."""

    program: str
    flags: dict[str, str]
    overrides: list[str]


def read_arguments(arguments: Sequence[str], program: str) -> Typed:
    """Separates flags from other arguments; InputError for a flag without its value. `program` is its name in conf/."""
    spelled = {spelling: name for name, flag in _FLAGS.items() for spelling in flag.spellings}
    flags: dict[str, str] = {}
    overrides: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        head, equals, value = argument.partition("=")
        if head in _ANSWERS:
            raise InputError(f"{head} {_ANSWERS[head]}.")
        if head not in spelled:
            overrides.append(argument)
            continue
        flag = _FLAGS[spelled[head]]
        if flag.values and not equals and left and (left[0] in flag.values or flag.default is None):
            value = left.pop(0)
        value = value or flag.default or ""
        if (not value) if flag.takes_any else value not in (flag.values or ("",)):
            wanted = f"one of {', '.join(flag.values)}" if flag.values else "no value"
            raise InputError(f"{argument} takes {wanted}, as in {' '.join([flag.spellings[0], *flag.values[:1]])}.")
        flags[spelled[head]] = value
    if "multirun" in flags and program not in ("train", "ablate"):
        raise InputError(f"{' and '.join(_FLAGS['multirun'].spellings)} are flags of train.py: leave them out.")
    return Typed(program, flags, overrides)


def answer(typed: Typed, about: str | None) -> str | None:
    """The text that the flags ask for; None if the program is to run. InputError for arguments that do not compose.

    Of a key with several values the first one counts.
    """
    flags = typed.flags
    if "version" in flags:
        return _versions()
    if "completion" in flags:
        configs = {name: compose_for(name, []) for name in (*PROGRAMS_WITH_GROUPS, "evaluate")}
        return bash_script(configs | {"doctor": configs["train"]}, list_choices("train"))
    if not {"help", "cfg", "info"} & flags.keys():
        return None
    single, axes = split_axes(typed.overrides, typed.program)
    overrides = [*single, *(f"{key}={values[0]}" for key, values in axes.items())]
    config = compose_config(typed.program, overrides)
    choices = list_choices(typed.program) if typed.program in PROGRAMS_WITH_GROUPS else {}
    if "help" in flags:
        shown = {
            f"{', '.join(flag.spellings)} {'|'.join(flag.values)}".rstrip(): flag.meaning for flag in _FLAGS.values()
        }
        return help_text(about, compose_for(typed.program, overrides), choices, shown)
    job = OmegaConf.to_yaml(config).rstrip()
    if "cfg" in flags:
        hydra = OmegaConf.to_yaml(compose_hydra(typed.program)).rstrip()
        return {"job": job, "hydra": hydra, "all": f"{hydra}\n{job}"}[flags["cfg"]]
    sections = {
        "searchpath": [f"{provider}: {path}" for provider, path in list_search_path(typed.program)],
        "defaults": [f"{group}: {OmegaConf.select(config, f'{group}.name')}" for group in choices if group in config]
        + [text for text in overrides if text.startswith("experiment=")],
        "config": job.splitlines(),
    }
    wanted = sections if flags["info"] == "all" else (flags["info"],)
    return "\n".join(line for name in wanted for line in [f"{name}:", *(f"  {text}" for text in sections[name])])


def _versions() -> str:
    packages = ("mimpala", "torch", "hydra-core", "omegaconf", "gymnasium", "numpy")
    return "\n".join(
        [*(f"{name} {metadata.version(name)}" for name in packages), f"python {platform.python_version()}"]
    )

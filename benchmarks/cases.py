"""Named configurations to compare: `case="name: key=value key=value"`, or a list of them by name with `cases=`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence

from agents.fusion import FUSIONS
from benchmarks.options import Options
from conf.loading import compose_train
from conf.schema import TrainConfig
from envs.spec import EnvSpec
from envs.suites import make_spec
from system.errors import InputError, unknown_name

Cases = dict[str, list[str]]
"""Name -> arguments of train.py."""

_GO_TO_LOCAL = "env.tasks=[BabyAI-GoToLocal-v0]"
ENGINES: Cases = {
    "envpool": ["env=babyai", "env.engine=envpool"],
    "minigrid": ["env=babyai", "env.engine=minigrid"],
}
LISTS: dict[str, Cases] = {
    "suites": {**{f"babyai-{name}": case for name, case in ENGINES.items()}, "conditional": ["env=conditional"]},
    "engines": ENGINES,
    "fusions": {name: [f"fusion={name}"] for name in FUSIONS},
    # The targets in docs/performance.md.
    "p1": {"p1-default": ENGINES["envpool"], "p1-gotolocal": [*ENGINES["envpool"], _GO_TO_LOCAL]},
    "p2": {"p2-default": ENGINES["minigrid"], "p2-gotolocal": [*ENGINES["minigrid"], _GO_TO_LOCAL]},
    "p3": {
        "p3-breakout": [
            *("env=atari", "env.tasks=[Breakout]", "torso=shallow", "context=none", "fusion=concat"),
            *("torso.size=256", "core.size=256", "fusion.size=256"),
        ]
    },
    "default": {**ENGINES, **{f"fusion-{name}": [f"fusion={name}"] for name in ("concat", "gated", "mi")}},
}
"""The lists that `cases=` can name."""


def chosen(options: Options, default: str) -> Cases:
    """The cases of a command line, each with the common overrides; a key of the case replaces the common one.

    Cases of a list whose engine is not installed are left out, with a line on stderr.

    Raises:
        InputError: An unknown list, an unreadable case, or lists without any case that can run.
    """
    given = dict(named("case", text) for text in options.own.get("case", []))
    lists = options.words("cases", [] if given or options.own.keys() & {"command", "checkout"} else [default])
    cases: Cases = {}
    for name in lists:
        if name not in LISTS:
            raise unknown_name("cases", name, LISTS)
        cases |= {case: merged(options.overrides, own) for case, own in LISTS[name].items()}
    refused = {case: refusal for case, arguments in cases.items() if (refusal := _refusal(arguments))}
    if refused and len(refused) == len(cases) and not given:
        raise next(iter(refused.values()))
    for case, refusal in refused.items():
        print(f"left out: {case}: {refusal}", file=sys.stderr)
        del cases[case]
    return cases | {case: merged(options.overrides, own) for case, own in given.items()}


def named(key: str, text: str) -> tuple[str, list[str]]:
    """Splits `name: word word` into the name and its words."""
    name, colon, rest = text.partition(":")
    if not colon or not name.strip():
        raise InputError(f'{key}={text} cannot be read: write {key}="name: words".')
    try:
        return name.strip(), shlex.split(rest)
    except ValueError as error:
        raise InputError(f"{key}={text} cannot be read ({error}): close the quotation marks.") from error


def merged(overrides: Sequence[str], own: Sequence[str]) -> list[str]:
    """`own` and the overrides whose keys are not in `own`."""
    keys = {argument.partition("=")[0] for argument in own}
    return [*(argument for argument in overrides if argument.partition("=")[0] not in keys), *own]


def configured(arguments: Sequence[str]) -> tuple[TrainConfig, EnvSpec]:
    """The checked configuration of these arguments and its suite; InputError as in train.py."""
    config = compose_train(list(arguments))
    return config, make_spec(config.env)


def configurations(cases: Mapping[str, Sequence[str]]) -> dict[str, tuple[TrainConfig, EnvSpec]]:
    """`configured` of each case."""
    return {name: configured(arguments) for name, arguments in cases.items()}


def _refusal(arguments: Sequence[str]) -> InputError | None:
    """The error of a case that cannot run here; None if it can."""
    try:
        configured(arguments)
    except InputError as error:
        return error
    return None

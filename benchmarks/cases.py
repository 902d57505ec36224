"""What to compare: configurations `case="name: key=value ..."`, or a list of them by name with `cases=`; other checkouts of this project
`checkout="name: folder key=value ..."`; other programs `command="name: program ..."`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from agents.fusion import FUSIONS
from benchmarks.options import Options
from conf.loading import compose_train
from conf.schema import TrainConfig
from envs.spec import EnvSpec
from envs.suites import make_spec
from system.errors import InputError, unknown_name

ROOT = Path(__file__).parents[1]
Cases = dict[str, list[str]]
"""Name -> arguments of train.py."""
Checkouts = dict[str, tuple[Path, list[str]]]
"""Name -> folder of the checkout, arguments of its train.py."""
Given = Mapping[str, Sequence[str]]
"""Key of a benchmark -> its values on the command line; keys that were not given are absent."""
THIS_CHECKOUT = "this checkout"
"""The case beside another checkout if no case is given."""

_GO_TO_LOCAL = "env.tasks=[BabyAI-GoToLocal-v0]"
ENGINES: Cases = {
    "envpool": ["env=babyai", "env.engine=envpool"],
    "minigrid": ["env=babyai", "env.engine=minigrid"],
}
ENVPOOL: Cases = {
    "metaworld": ["env=metaworld"],
    "procgen": ["env=procgen", "env.tasks=[procgen16]"],
    "craftax-classic": ["env=craftax"],
    "craftax-classic-pixels": ["env=craftax", "env.observation=pixels"],
    "craftax": ["env=craftax", "env.tasks=[full]"],
}
LISTS: dict[str, Cases] = {
    "suites": {
        **{f"babyai-{name}": case for name, case in ENGINES.items()},
        "conditional": ["env=conditional"],
        **ENVPOOL,
    },
    "engines": ENGINES,
    "envpool": {"babyai": ENGINES["envpool"], **ENVPOOL},
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
    given = named("case", options.own)
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


def other_checkouts(given: Given, overrides: Sequence[str]) -> Checkouts:
    """The checkouts of `checkout=`, each with the common overrides; InputError unless its folder has a train.py."""
    found: Checkouts = {}
    for name, words in named("checkout", given).items():
        root = Path(words[0] if words else "").expanduser().resolve()
        if not words or not (root / "train.py").is_file():
            raise InputError(
                f'checkout="{name}: {" ".join(words)}" has no train.py: name the folder of a checkout of mimpala.'
            )
        found[name] = root, merged(overrides, words[1:])
    return found


def other_programs(given: Given, taken: Collection[str]) -> dict[str, list[str]]:
    """Name -> words of each `command=`; InputError if one has no program that exists, or a name in `taken`."""
    commands = named("command", given)
    for name, words in commands.items():
        if not words or name in taken:
            raise InputError(f'command="{name}: ..." needs a program and a name that no other case has.')
        # Programs start in ROOT, so a relative path is meant from there.
        if not shutil.which(ROOT / words[0] if os.sep in words[0] else words[0]):
            raise InputError(f'command="{name}: {words[0]} ..." cannot be started: {words[0]} is no program.')
    return commands


def refuse_shared_names(cases: Collection[str], checkouts: Collection[str]) -> None:
    """Raises InputError if a case and a checkout have the same name."""
    if both := {*cases} & {*checkouts}:
        raise InputError(f'checkout="{min(both)}: ..." has the name of a case: give it another.')


def pattern_of(given: Given, groups: Sequence[str] = ()) -> re.Pattern[str] | None:
    """The regular expression of `pattern=`, the last one if given twice.

    Args:
        groups: Names of groups that it must have; without any it must have one group.

    Raises:
        InputError: It is no regular expression, or a group is missing.
    """
    if "pattern" not in given:
        return None
    try:
        pattern = re.compile(given["pattern"][-1])
    except re.error as error:
        raise InputError(f"pattern= is no regular expression ({error}).") from error
    if not pattern.groups:
        raise InputError("pattern= has no group: put the number of steps in parentheses.")
    for group in groups:
        if group not in pattern.groupindex:
            raise InputError(f"pattern= has no group {group}: write the number as (?P<{group}>[0-9.]+).")
    return pattern


def named(key: str, given: Given) -> dict[str, list[str]]:
    """Name -> words of each `key="name: word word"`; InputError for a value of another form and for a name given twice."""
    found: dict[str, list[str]] = {}
    for text in given.get(key, ()):
        name, colon, rest = text.partition(":")
        name = name.strip()
        if not colon or not name:
            raise InputError(f'{key}={text} cannot be read: write {key}="name: words".')
        if name in found:
            raise InputError(f'{key}="{name}: ..." is given twice: give each a name of its own.')
        try:
            found[name] = shlex.split(rest)
        except ValueError as error:
            raise InputError(f"{key}={text} cannot be read ({error}): close the quotation marks.") from error
    return found


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

"""Completion of arguments in a shell: a script that holds all keys and names, because starting a program takes seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from conf.arguments.help import describe
from envs.suites import SUITES

_SCRIPT = """\
# Completes arguments of mimpala's programs in bash. For this shell: eval "$(python train.py --shell-completion install=bash)"
_mimpala_words() {{
    case "$1" in
{cases}
    esac
}}
_mimpala_complete() {{
    local line="${{COMP_LINE:0:COMP_POINT}}" program word
    COMPREPLY=()
    [[ "$line" =~ (^|[ /])({programs})(\\.py)?" " ]] || return 0
    program="${{BASH_REMATCH[2]}}" word="${{line##* }}"
    COMPREPLY=($(compgen -W "$(_mimpala_words "$program")" -- "$word"))
    # bash replaces only what follows the last = of the word.
    [[ "$word" != *=* ]] || COMPREPLY=("${{COMPREPLY[@]#"${{word%%=*}}="}}")
}}
complete -o default -o bashdefault -o nospace -F _mimpala_complete python python3"""


def bash_script(configs: Mapping[str, Any], choices: Mapping[str, Sequence[str]]) -> str:
    """The script for bash.

    Args:
        configs: The configuration object of each program.
        choices: Names of each group, for programs with an `env`.
    """
    cases = "\n".join(
        f"        {program}) echo '{' '.join(_words(config, choices))}' ;;" for program, config in configs.items()
    )
    return _SCRIPT.format(cases=cases, programs="|".join(configs))


def _words(config: Any, choices: Mapping[str, Sequence[str]]) -> list[str]:
    """What can begin an argument: `key=`, and `key=name` where the names are known."""
    keys = list(describe(config))
    words = []
    if hasattr(config, "env"):
        words += [f"{group}={name}" for group, names in choices.items() for name in names]
        # `Any`, because each suite has its own defaults.
        schemas: list[Any] = [suite.config for suite in SUITES.values()]
        keys += [key for schema in schemas for key in describe(schema(), "env.")]
    for key in keys:
        if key.name.removesuffix(".name") not in choices:
            words += [f"{key.name}={choice}" for choice in key.choices] or [f"{key.name}="]
    return list(dict.fromkeys(words))

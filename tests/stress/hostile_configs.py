"""Hostile configuration files and command lines. All choices come from a seeded random.Random."""

from __future__ import annotations

import random
from pathlib import Path

from tests.stress.hostile_checkpoints import flip, move, overwrite


def hostile_yaml(text: str, canary: Path, rng: random.Random) -> bytes:
    """A hostile config.yaml; most are made from `text`, a valid one."""
    kind = rng.random()
    if kind < 0.15:
        return rng.choice(_DOCUMENTS).replace("CANARY", str(canary)).encode("utf-8", "surrogatepass")
    if kind < 0.3:
        return rng.choice([flip, overwrite, move])(bytearray(text.encode()), rng)
    lines = text.splitlines()
    for _ in range(rng.choice([1, 1, 2, 4])):
        place = rng.randrange(len(lines))
        key, colon, _ = lines[place].partition(":")
        value = rng.choice(_YAML_VALUES).replace("CANARY", str(canary))
        action = rng.choice(["value", "value", "value", "drop", "double", "indent", "key"])
        if action == "value":
            lines[place] = f"{key}{colon or ':'} {value}"
        elif action == "drop":
            del lines[place]
            lines = lines or [""]
        elif action == "double":
            lines.insert(rng.randrange(len(lines)), lines[place])
        elif action == "indent":
            lines[place] = " " * rng.randrange(5) + lines[place]
        else:
            lines[place] = f"{rng.choice(_YAML_VALUES).replace('CANARY', str(canary))}: 1"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def hostile_arguments(canary: Path, rng: random.Random) -> list[str]:
    """A hostile command line of train.py."""
    count = rng.choice([1, 1, 2, 3])
    return [
        rng.choice(["", "", "", "+", "~", "++", "hydra.", " ", "-"])
        + rng.choice(_KEYS)
        + rng.choice(["=", "=", "=", "", ":", "@x=", "=="])
        + rng.choice(_ARGUMENT_VALUES).replace("CANARY", str(canary))
        for _ in range(count)
    ]


_TOUCH = "touch CANARY"
_DOCUMENTS = [
    "",
    "\0",
    "- 1",
    "!!python/object/apply:os.system ['touch CANARY']",
    "env: !!python/object/apply:os.system ['touch CANARY']",
    "env: {name: conditional, tasks: [!!python/name:os.system ]}",
    "env: {_target_: os.system, name: conditional, command: 'touch CANARY'}",
    "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)),
    "a: &a {env: *a}",
    "[" * 5000,
    "{" * 5000,
    "{a: " * 500 + "1" + "}" * 500,
    "- " * 3000 + "1",
    "? " * 3000 + "1",
    "env: {name: gymnasium, tasks: ['canary_module:Id-v0']}",
    "env: {name: conditional, tasks: [map-0]}\nfusion: {name: '${oc.env:HOME}'}",
    "%YAML 9.9\n---\nenv: 1",
    "--- 1\n--- 2",
    "env: !!binary aGVsbG8=",
    "env: !!int ''",
    "env: !!float ''",
    "env: !!bool x",
    "env: !!timestamp x",
    "env: !!set {a, b}",
    "env: !<tag:yaml.org,2002:python/object/apply:os.system> ['touch CANARY']",
    "<<: {env: {name: conditional}}",
    "env: {<<: [1, 2], name: conditional}",
    "seed: " + "9" * 6000,
    "seed: 0x" + "f" * 6000,
    "seed: " + ":".join(["59"] * 4000),
    "env: {name: conditional, name: gymnasium, tasks: [map-0]}",
    "env: {name: conditional, tasks: [map-0]}\nseed: 1\nseed: 2",
    "env: {name: conditional, tasks: [" + "map-0," * 40_000 + "]}",
    "env: {name: conditional, tasks: [map-0]}\ntorso: {hidden: [" + "1," * 60_000 + "]}",
    "env: {name: gymnasium, tasks: [x], vocabulary: [" + "x," * 60_000 + "]}",
    "env: {name: gymnasium, tasks: [x], options: {" + ",".join(f"{n}: 1" for n in range(20_000)) + "}}",
    "[" + "[]," * 60_000 + "]",
    "--- 1\n" * 40_000,
    "? " + "x" * 200_000 + "\n: 1",
    "\n" * 200_000,
    'env: {name: conditional, tasks: ["\\ud800"]}',
]
_YAML_VALUES = [
    *("", "null", "true", "-1", "0", "1", "1.5", ".nan", ".inf", "-.inf", "1e400", "9" * 30, "9" * 5000),
    *("0x" + "f" * 6000,),
    *("0b_", "0x_", "1:59:59", ":".join(["59"] * 3000), "2001-01-01", "2001-99-99", "0001-01-01 00:00:00+23:59", "="),
    *("<<",),
    *("x", "'${oc.env:HOME}'", "'${x}'", "'???'", "'../../../x'", "/etc/passwd", "'\\x1b[2J'", '"\\e[2J\\n"'),
    *('"\\ud800"', '"\\udcff"'),
    *("[]", "{}", "[1, 2]", "[[1], {a: [2]}]", "{a: 1}", "{1: 2}", "{null: 1}", "{[1]: 2}", "{{a: 1}: 2}"),
    *("{1.5: x, true: y}",),
    *("!!python/object/apply:os.system ['touch CANARY']", "!!python/name:os.system", "!!binary aGk=", "!!int ''"),
    *("!x y", "!!str 1"),
    *("&a 1", "*a", "{_target_: os.system}", "{name: conditional, _target_: os.system}", "[" * 200),
    *("{a: " * 100 + "1" + "}" * 100,),
    *("gymnasium", "dmlab30", "mi", "lstm", "serial", "auto", "100000000000", "'" + "x" * 3000 + "'", "@", "`", "%"),
    *("- 1", "? 1", "| \n  x"),
]
_KEYS = [
    *("env", "env.name", "env.tasks", "env.dimension", "env.options", "env._target_", "fusion", "fusion.name"),
    *("fusion.sites", "fusion.size"),
    *("core", "core.size", "torso.hidden", "learner", "learner.adam_betas", "learner.learning_rate", "runtime"),
    *("runtime.num_actors", "seed"),
    *("run", "resume", "allow", "total_frames", "precision", "experiment", "hydra", "hydra.run.dir"),
    *("hydra/launcher", "env/x", "env@y"),
    *("", "_target_", "x.y.z", "a b", "'env'", '"env"', "${x}", "defaults", "__class__", "package", "@package", "é"),
    *("\0", "env.", ".env"),
]
_ARGUMENT_VALUES = [
    *("", "null", "true", "-1", "0", "1.5", "nan", "inf", "-inf", "1e400", "9" * 30, "9" * 5000, "x", "conditional"),
    *("gymnasium", "mi", "lstm"),
    *("${oc.env:HOME}", "$\\{x}", "???", "../../x", "/etc/passwd", "[]", "{}", "[a,b]", "{a:1}", "{a:{b:[c]}}"),
    *("a,b", "[", "]", "{", "}", "("),
    *("range(1,5)", "choice(a,b)", "sort(3,1)", "glob(*)", "int(x)", "str(1)", "json_str({a:1})", "extend_list(1)"),
    *("eval(1)", "shuffle(a,b)"),
    *("{_target_:os.system,command:'touch CANARY'}", "os.system('touch CANARY')", "!!python/object/apply:os.system"),
    *("__import__('os')",),
    *("[" * 300, "[" * 100 + "]" * 100, "{a:" * 100 + "1" + "}" * 100, "'", '"', "'\\'", "\\", "\n", "\t", "\x1b[2J"),
    *("\udcff", "x" * 5000),
    *("[canary_module:Id-v0]", "=", "==", "a=b", "a:b", "#", "@", "~", "+", "*", "1,2,3", "[1,[2,[3]]]", "1e3"),
    *("0x10", "1_000", "2001-01-01"),
]

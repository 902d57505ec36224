"""Flags of Hydra's command lines: what they print, and that nothing of Hydra's parsers reaches a user."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import ablate
import evaluate
import population
import search
import train
from conf.arguments.flags import read_arguments
from conf.arguments.help import describe
from conf.loading import compose_for, compose_train, to_dict
from envs.suites import SUITES
from system.errors import InputError
from tests.stress.hostile_configs import hostile_arguments

PROGRAMS = {"train": train, "evaluate": evaluate, "ablate": ablate, "population": population, "search": search}

pytestmark = pytest.mark.usefixtures("process_settings")


def printed(capsys: pytest.CaptureFixture[str], program: str, *arguments: str) -> str:
    assert PROGRAMS[program].main(list(arguments)) == 0
    found = capsys.readouterr()
    assert not found.err
    return found.out


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_lists_flags_and_every_key_with_its_meaning(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, program, "--help").splitlines()
    assert "  --cfg, -c job|hydra|all" in lines
    for key in describe(compose_for(program, [])):
        (number,) = (number for number, line in enumerate(lines) if line.startswith(f"  {key.name}="))
        assert lines[number + 1].startswith("      "), key.name


def test_help_lists_the_choices_of_each_group(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "train", "-h", "env=atari").splitlines()
    assert lines[lines.index("  env") + 1].strip().split(", ") == sorted(SUITES)
    assert "few_frames" in lines[lines.index("  experiment") + 2] and "ablate_" not in "".join(lines)
    assert "  env.frame_stack=4" in lines and "  learner.popart=true" in lines


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_every_key_of_a_suite_has_a_meaning(suite: object) -> None:
    assert all(key.meaning for key in describe(suite.config()))  # type: ignore[attr-defined]


def test_cfg_prints_the_configuration(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED", "4")
    given = ["env=conditional", "seed=${oc.env:SEED}", "lr=0.5"]
    job = yaml.safe_load(printed(capsys, "train", *given, "--cfg", "job"))
    assert job == to_dict(compose_train(given)) and job["seed"] == 4
    hydra = yaml.safe_load(printed(capsys, "train", *given, "--cfg=hydra"))
    assert set(hydra) == {"hydra"} and "searchpath" in hydra["hydra"]
    assert yaml.safe_load(printed(capsys, "train", *given, "-c", "all")) == {**hydra, **job}
    assert yaml.safe_load(printed(capsys, "evaluate", "--cfg", "job", "runs/x"))["run"] == "runs/x"


def test_info_names_the_places_and_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(capsys, "train", "--info", "experiment=few_frames", "core=gru")
    assert "main: pkg://conf" in shown and "  core: gru" in shown and "experiment=few_frames" in shown
    assert (
        printed(capsys, "train", "-i", "searchpath").startswith("searchpath:\n")
        and "core" not in shown.split("defaults:")[0]
    )


def test_version_names_what_it_is_built_on(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(capsys, "evaluate", "--version")
    assert shown.startswith("mimpala ") and "\ntorch " in shown and "\nhydra-core 1.3." in shown


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        ("train", ["--cfg"], "--cfg takes one of job, hydra, all, as in --cfg job."),
        ("train", ["--cfg", "x"], "--cfg takes one of job, hydra, all, as in --cfg job."),
        ("train", ["--info=x"], "--info=x takes one of all, searchpath, defaults, config, as in --info all."),
        ("train", ["--help=x"], "--help=x takes no value, as in --help."),
        ("train", ["--shell-completion", "install=csh"], "--shell-completion takes one of install=bash"),
        ("evaluate", ["-m"], "--multirun and -m are flags of train.py: leave them out."),
        ("population", ["--multirun"], "--multirun and -m are flags of train.py: leave them out."),
        ("train", ["--config-name", "x"], "--config-name is not used: write experiment=<name>"),
        ("train", ["-cp", "x"], "-cp is not used: the configuration of the program is its own."),
        ("train", ["--package", "x"], "--package is not used: --cfg job prints the whole configuration."),
        ("train", ["--experimental-rerun", "x"], "--experimental-rerun is not used: write run=<folder> resume=true"),
    ],
)
def test_a_flag_without_a_meaning_is_answered(
    program: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert PROGRAMS[program].main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_flags_that_change_nothing_are_accepted() -> None:
    assert read_arguments(["--run", "--resolve", "seed=1"], "train").overrides == ["seed=1"]


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python train.py fusion=m", ["mi", "mixture", "moore", "multi_head"]),
        ("python ./train.py seed=1 learner.learning_r", ["learner.learning_rate="]),
        ("python train.py env.frame_st", ["env.frame_stack="]),
        ("python train.py learner.loss=", ["impala", "appo"]),
        ("python train.py learner.popart=f", ["false"]),
        ("python search.py tri", ["trials="]),
        ("python doctor.py runtime=s", ["serial"]),
        ("python evaluate.py vid", ["video=true", "video=false", "video_episodes="]),
        ("python evaluate.py fusion=", []),
        ("python other.py fu", []),
    ],
)
def test_the_shell_completes_keys_and_names(line: str, expected: list[str], completion: Path, tmp_path: Path) -> None:
    code = f'source {completion}; COMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}; _mimpala_complete; printf "%s\\n" "${{COMPREPLY[@]}}"'
    found = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert not found.stderr and found.stdout.split() == expected


@pytest.fixture(scope="module")
def completion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script."""
    from conf.arguments.flags import answer

    path = tmp_path_factory.mktemp("completion") / "script"
    path.write_text(answer(read_arguments(["-sc", "install=bash"], "train"), "") or "", encoding="utf-8")
    return path


# Nothing of Hydra's parsers

WORDS = (
    "antlr",
    "listconfig",
    "dictconfig",
    "choicesweep",
    "rangesweep",
    "intervalsweep",
    "omegaconf",
    "lexer",
    "full_key",
)
WORDS += (
    "mismatched",
    "extraneous",
    "viable",
    "token recognition",
    "object_type",
    "structured",
    "override:",
    "traceback",
)
SPECIAL = [
    *(
        "interval(1,2)",
        "range(1)",
        "range(3,1)",
        "choice()",
        "choice(a)",
        "sort(a,b)",
        "tag(x,choice(a,b))",
        "glob([a,b])",
    ),
    *(
        "shuffle(range(1,5))",
        "cast(x)",
        "float(a)",
        "bool(3)",
        "extend_list(a)",
        "a,,b",
        ",",
        ":",
        "a:b",
        "{a:1},{b:2}",
        "[a],[b]",
    ),
    *(
        "${x}",
        "${oc.env:X}",
        "$x",
        "\\,",
        "'a',\"b\"",
        "a=b,c",
        "tag(1,2)",
        "range(a,b)",
        "interval(a,b)",
        "null,1",
        "???",
    ),
]


@pytest.mark.parametrize("seed", range(8))
def test_no_word_of_a_parser_reaches_a_user(seed: int, tmp_path: Path) -> None:
    """Whatever is typed, it composes or is refused in one sentence of ours."""
    rng = random.Random(seed)
    keys = [
        *(
            "seed",
            "env",
            "fusion",
            "learner",
            "env.tasks",
            "core.size",
            "torso.hidden",
            "learner.popart",
            "run",
            "x.y",
            "env.name",
        )
    ]
    typed = [hostile_arguments(tmp_path / "canary", rng) for _ in range(60)]
    typed += [[rng.choice(keys) + rng.choice(["=", "=", ".0=", "@x=", ":"]) + rng.choice(SPECIAL)] for _ in range(60)]
    refused = 0
    for arguments in typed:
        for program in ("train", "evaluate", "search", "ablate"):
            try:
                flags = read_arguments(arguments, program)
                if program in ("search", "ablate"):
                    split_values(program, flags.overrides)
                else:
                    compose_for(program, flags.overrides)
            except InputError as error:
                refused += 1
                message = str(error)
                assert message.endswith((".", "?", "...")) and "\n" not in message, message
                said = message.lower()
                for argument in arguments:
                    said = said.replace(argument.lower(), "")
                assert not [word for word in WORDS if word in said], message
    assert refused > 100


def split_values(program: str, overrides: list[str]) -> None:
    from conf.loading import split_axes, split_space

    single, _ = split_axes(overrides) if program == "ablate" else split_space(overrides)
    compose_for(program, single)

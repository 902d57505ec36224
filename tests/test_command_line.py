"""Text values are read literally, and printed commands can be run in a shell."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saved_agents import CONDITIONAL, SMALL

import evaluate
import train
from agents.run.layout import default_run
from conf.allowlist import run_arguments
from conf.command_line import format_argument
from conf.loading import compose_ablate, compose_evaluate, compose_train, save_train
from envs.gymnasium_ids.suite import GymnasiumConfig
from system.errors import InputError

TEXTS = [
    *("a,b", "2024_01_01", "1e3", "runs/lr=0.1", "12", "null", "true", "a b", "größe", "实验", "[x]", "{x: 1}", "it's"),
    *(
        'say "x"',
        "a\\",
        "a\\'b",
        "x:y",
        "*",
        "~/runs",
        "a(b)",
        "#1",
        "%",
        "'",
        "0x10",
        "-",
        "a;b",
        "a$b",
        "inf",
        "1:30",
    ),
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_values_are_read_literally(text: str) -> None:
    assert compose_train([f"run={text}"]).run == text
    assert compose_evaluate([f"run={text}", f"output={text}"]).output == text
    assert compose_ablate([f"folder={text}"]).folder == text
    assert compose_train(["env=dmlab30", f"env.level_cache={text}"]).env.level_cache == text  # type: ignore[attr-defined]


def test_quotes_of_hydra_stay_quotes() -> None:
    assert compose_train(["run='a b'"]).run == "a b"
    assert compose_train(['run="it\'s"']).run == "it's"
    assert compose_train(["run="]).run == ""


def test_no_interpolation_is_read() -> None:
    with pytest.raises(InputError, match="interpolation"):
        compose_train(["run=${seed}"])


@given(text=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12))
def test_printed_command_can_be_run(text: str) -> None:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if "${" in text or quoted:
        return
    (typed,) = shlex.split(format_argument("run", text))
    assert compose_evaluate([typed]).run == text
    (typed,) = shlex.split(format_argument("allow", [text, "b"]))
    assert compose_evaluate(["run=x", typed]).allow == [text, "b"]


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize("name", [b"caf\xe9", b"\xff'\\x41\"$HOME", b"a\nb\x1b[2J", "größe\x7f".encode()])
def test_printed_command_escapes_unprintable_names(name: bytes) -> None:
    typed = format_argument("run", os.fsdecode(name))
    assert typed.isascii() and typed.isprintable()
    assert (
        subprocess.run(["bash", "-c", f"printf %s {typed}"], capture_output=True, check=True).stdout == b"run=" + name
    )


def test_printed_command_has_the_required_allow_argument() -> None:
    config = GymnasiumConfig(tasks=["a.b:X-v0"], options={"file": "my file.xml"})
    assert run_arguments("runs/x", config) == "run=runs/x 'allow=['\"'\"'my file.xml'\"'\"',a.b]'"
    assert run_arguments("a b", GymnasiumConfig(tasks=["CartPole-v1"])) == "'run=a b'"


def test_run_with_any_name_is_trained_and_evaluated_by_the_printed_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], process_settings: None
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = [*SMALL, *CONDITIONAL, "runtime.slots_per_actor=4", "learner.unroll_length=5", "total_frames=100"]
    assert train.main([*tiny, "run=a,b = 'c'"]) == 0
    assert (tmp_path / "a,b = 'c'" / "result.json").exists()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
    python, program, *words = shlex.split(line.removeprefix("next: "))
    assert (python, program) == ("python", "evaluate.py")
    assert evaluate.main([*words, "episodes=2"]) == 0


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "babyai-gated-instruction-seed0"),
        (["fusion=film", "context=task", "--seed=3", "total_frames=1e6", "display=false"], "babyai-film-task-seed3"),
        (["env=conditional", "core=gru"], "conditional-gated-task-core=gru-seed0"),
        (
            ["experiment=memory", "env.tasks=[MiniGrid-MemoryS7-v0, MiniGrid-MemoryS9-v0]"],
            "babyai-gated-instruction-memory-tasks=MiniGrid-MemoryS7-v0,MiniGrid-MemoryS9-v0-seed0",
        ),
        (["gamma=0.9", "match_params=mi"], "babyai-gated-instruction-learner.discounting=0.9-match_params=mi-seed0"),
        (
            ["learner.discounting=9e-1", "match_params=mi"],
            "babyai-gated-instruction-learner.discounting=0.9-match_params=mi-seed0",
        ),
    ],
)
def test_the_default_run_names_what_the_command_line_chooses(overrides: list[str], name: str) -> None:
    run = default_run(compose_train(overrides), overrides)
    assert run == f"runs/{name}"
    assert compose_train([f"run={run}"]).run == run


def test_long_default_runs_are_short_and_differ() -> None:
    tasks = [
        f"BabyAI-{level}-v0" for level in ("GoToLocal", "GoToObj", "GoToRedBall", "GoToRedBallGrey", "PutNextLocal")
    ]
    runs = []
    for chosen in (tasks, tasks[:2] + tasks[3:] + tasks[2:3]):
        overrides = [f"env.tasks=[{','.join(chosen)}]", "core=gru", "learner.batch_size=64"]
        runs.append(default_run(compose_train(overrides), overrides))
    assert runs[0] != runs[1]
    assert all(len(run) < 130 and run.endswith("learner.batch_size=64-seed0") for run in runs)


def test_a_default_run_can_be_given_without_its_key() -> None:
    """Its name has `=` in it."""
    overrides = ["core=gru", "learner.batch_size=64"]
    run = default_run(compose_train(overrides), overrides)
    for path in (run, run.removeprefix("runs/"), f"/data/{run}/best"):
        assert compose_evaluate([path, "episodes=3"]) == compose_evaluate([f"run={path}", "episodes=3"])


def test_the_default_run_does_not_depend_on_the_order_of_keys() -> None:
    overrides = ["learner.batch_size=64", "core=gru", "env.tasks=[BabyAI-GoToObj-v0]"]
    names = {default_run(compose_train(given), given) for given in (overrides, overrides[::-1])}
    assert names == {"runs/babyai-gated-instruction-core=gru-tasks=BabyAI-GoToObj-v0-learner.batch_size=64-seed0"}


def test_a_default_run_of_letters_of_several_bytes_is_a_file_name() -> None:
    overrides = ["env=gymnasium", f"env.tasks=['{'实' * 80}']"]
    name = default_run(compose_train(overrides), overrides).removeprefix("runs/")
    assert 100 < len(name.encode()) <= 120 and "~" in name and "实" in name


def test_a_run_of_an_earlier_version_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name had no further keys."""
    monkeypatch.chdir(tmp_path)
    earlier, own = "runs/babyai-gated-instruction-seed0", "runs/babyai-gated-instruction-core=gru-seed0"

    def resumed(*keys: str) -> str:
        return default_run(compose_train([*keys, "resume=true"]), [*keys, "resume=true"])

    assert resumed("core=gru") == own
    (tmp_path / earlier).mkdir(parents=True)
    save_train(compose_train(["core=gru", "learner.batch_size=64"]), tmp_path / earlier / "config.yaml")
    assert resumed("core=gru") == resumed("core=gru", "total_frames=5", "stop_at={success: 0.5}") == earlier
    assert default_run(compose_train(["core=gru"]), ["core=gru"]) == own
    assert resumed("core=mingru") != earlier
    assert resumed("learner.batch_size=32") != earlier
    (tmp_path / own).mkdir()
    save_train(compose_train(["core=gru"]), tmp_path / own / "config.yaml")
    assert resumed("core=gru") == own

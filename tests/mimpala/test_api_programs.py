"""mimpala.train and mimpala.evaluate in scripts of users: any folder, no main guard, child processes, interruptions, mistakes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from foreign_folders import HOOK, ROOT, make_folder, run_script
from processes import eventually, is_gone
from tiny_runs import TINY, result

import mimpala
from mimpala import programs

pytestmark = pytest.mark.slow

LOCAL = [argument for argument in TINY if not argument.startswith("runtime=")] + ["runtime.num_actors=1"]
"""A tiny run with an actor process."""

SMALL = '"runtime.slots_per_actor=8", "learner.batch_size=8", "core.size=16", "fusion.size=16"'

TEN_LINES = """
import gymnasium, minigrid
import mimpala
result = mimpala.train(["env.tasks=[BabyAI-GoToRedBall-v0]", "total_frames=2000", "runtime.num_actors=1", "run=run"])
agent = mimpala.load("run")
env = gymnasium.make("BabyAI-GoToRedBall-v0")
(observation, _), reward, reset = env.reset(seed=0), 0.0, True
for step in range(100):
    action = agent.act(observation, instruction="go to the red ball", reward=reward, reset=reset)
    observation, reward, terminated, truncated, _ = env.step(action)
    if reset := terminated or truncated:
        observation, _ = env.reset()
print(result.figures["frames"], agent.frames, step)
"""


@pytest.mark.parametrize(("packages", "runtime"), [(True, "local"), (False, "serial")])
def test_ten_lines_train_load_and_play_with_a_typed_instruction(tmp_path: Path, packages: bool, runtime: str) -> None:
    text = TEN_LINES.replace('"total_frames=2000"', f'"total_frames=500", "runtime={runtime}", {SMALL}')
    ended = run_script(make_folder(tmp_path / "own", packages=packages), text)
    trained, loaded, step = map(int, ended.stdout.splitlines()[-1].split())
    assert trained == loaded >= 500 and step == 99
    assert "Traceback" not in ended.stderr


def test_a_child_process_may_train(tmp_path: Path) -> None:
    """A daemonic one may have no children of multiprocessing."""
    ended = run_script(
        tmp_path,
        f"""
import multiprocessing, mimpala
def work():
    print("frames", mimpala.train({[*LOCAL, "total_frames=200", "run=run"]!r}).figures["frames"], flush=True)
for method in ("fork", "spawn"):
    if __name__ == "__main__":
        child = multiprocessing.get_context(method).Process(target=work, daemon=True)
        child.start()
        child.join()
        assert child.exitcode == (method == "spawn"), child.exitcode
""",
    )
    assert ended.stdout.count("\nframes ") == 1
    assert ended.stderr.rstrip().endswith(
        "InputError: run=run already holds a run: add resume=true to continue it, or give another run=."
    )


def test_the_loop_of_train_needs_no_guard(tmp_path: Path) -> None:
    """Actors do not import the script, which would begin the run again."""
    ended = run_script(
        tmp_path,
        f"""
import train
from conf.loading import compose_train
from envs.suites import make_spec
config = compose_train({[*LOCAL, "total_frames=200", "run=run"]!r})
assert train.train(config, make_spec(config.env)) == 0
""",
    )
    assert ended.stderr == "" and result(tmp_path / "run")["restarts"] == 0


def test_a_program_finds_its_packages_in_a_folder_with_others(tmp_path: Path) -> None:
    """Also its fork server and its actors, and the process of an environment of an agent in a script there."""
    own = make_folder(tmp_path / "own", packages=True)
    for name in ("conf", "envs", "agents", "system"):
        (own / name / "__init__.py").write_text("raise SystemExit('the wrong package')", encoding="utf-8")
    tasks = ["env=gymnasium", "env.tasks=[CartPole-v1]", "env.processes=true", "context=none", "run=run"]
    command = [sys.executable, str(ROOT / "train.py"), *tasks, "total_frames=500", "runtime.num_actors=1"]
    ended = subprocess.run(command, cwd=own, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "wrong" not in ended.stdout + ended.stderr and result(own / "run")["restarts"] == 0
    played = run_script(
        own,
        """
import mimpala
agent = mimpala.load("run")
env = agent.make_env()
observation, _ = env.reset()
for _ in range(5):
    observation, *_ = env.step(agent.act(observation))
env.close()
print(observation["vector"].shape)
""",
    )
    assert (played.stdout, played.stderr) == ("(1, 4)\n", "")


def test_results_are_read_back_and_output_reaches_a_replaced_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latter as in a notebook, where Jupyter claims a terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    arguments = [argument for argument in TINY if argument != "display=false"]
    trained = mimpala.train([*arguments, "total_frames=200", "log_frames=50", f"run={tmp_path / 'run'}"])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "finished: " in shown and f"next: mimpala evaluate run={tmp_path / 'run'}\n" in shown
    assert trained.folder == tmp_path / "run" and trained.figures == result(trained.folder)
    assert trained.agent.frames == trained.figures["frames"]
    assert [row["frames"] for row in mimpala.read_metrics(trained.folder)][-1] == trained.figures["frames"]
    found = mimpala.evaluate(trained.folder, ["episodes=7", "seed=3"])
    assert found.path == trained.folder / "evaluation.json"
    assert found.figures["provenance"]["seed"] == 3
    assert {task: row["episodes"] for task, row in found.tasks.items()} == {"map-0": 7, "memory-1": 7}
    other = mimpala.evaluate(trained.folder, [f"output={tmp_path / 'x.json'}", "episodes=1"], which="last")
    assert other.path == tmp_path / "x.json" and other.tasks["map-0"]["episodes"] == 1


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["nonsense=1"], "nonsense is not a key of the configuration"),
        ("seed=1", "overrides='seed=1' is no list of texts"),
        ([1], "overrides=[1] is no list of texts"),
        ([*TINY, "runtime.slots_per_actor=1"], "runtime.slots_per_actor=1 times 1 actor leaves some"),
    ],
)
def test_a_mistake_raises_one_sentence(tmp_path: Path, overrides: list[str], sentence: str) -> None:
    with pytest.raises(mimpala.InputError) as refused:
        mimpala.train(overrides)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(mimpala.InputError, match="has no metrics.jsonl"):
        mimpala.read_metrics(tmp_path)


def test_a_run_that_ends_without_an_outcome_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs.sys, "executable", "/bin/false")  # type: ignore[attr-defined]
    with pytest.raises(mimpala.RunError, match=r"ended without an outcome \(exit code 1\)"):
        mimpala.train([])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_caller_leaves_a_saved_run_and_no_process(tmp_path: Path, number: int) -> None:
    text = f"import mimpala\nmimpala.train({[*LOCAL, 'total_frames=100000000', 'run=run', 'log_frames=50']!r})"
    (tmp_path / "script.py").write_text(HOOK + text, encoding="utf-8")
    caller = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    eventually((tmp_path / "run" / "metrics.jsonl").exists)
    family = [process.pid for process in psutil.Process(caller.pid).children(recursive=True)]
    assert len(family) >= 3
    os.kill(caller.pid, number)
    _, errors = caller.communicate(timeout=240)
    eventually(lambda: all(map(is_gone, family)))
    assert caller.returncode == -number
    assert result(tmp_path / "run")["ended_by"] == "signal"
    if number == signal.SIGINT:
        assert errors.rstrip().endswith("KeyboardInterrupt")

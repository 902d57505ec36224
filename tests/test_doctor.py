"""doctor.py on machines with missing or broken parts."""

from __future__ import annotations

import importlib.util
import json
import os
import tomllib
from pathlib import Path
from typing import Any

import gym_tasks  # noqa: F401  (registers its environments)
import numpy as np
import pytest
import torch
from gymnasium import spaces

import doctor
import train
from agents.cli.exit_codes import BAD_INPUT
from agents.run.lock import sole_writer
from doctor import CAN_RUN, CANNOT_RUN, Engine, check_engines, main
from envs.gymnasium_ids.space_check import describe_misfit

SMALL = ["env=conditional", "context=task", "core.size=8", "fusion.size=8"]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory without runs."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits the examination to one engine and one suite, because all of them take seconds."""
    monkeypatch.setattr(doctor, "SUITES", ["conditional"])
    monkeypatch.setattr(doctor, "ENGINES", {"json": Engine("rich", "pip install json", ("numpy",))})


def examined(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["--json", *arguments])
    return code, json.loads(capsys.readouterr().out)


def test_engines_report_version_and_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loud_engine.py").write_text("print('hello'); import os; os.write(1, b'there')", encoding="utf-8")
    (tmp_path / "broken_engine.py").write_text("raise ImportError('libGL.so.1: cannot open')", encoding="utf-8")
    (tmp_path / "deadly_engine.py").write_text("import os; os._exit(3)", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    names = ["loud_engine", "broken_engine", "deadly_engine", "absent_engine"]
    found = check_engines({name: Engine("rich", f"pip install {name}", ()) for name in names})
    assert list(found) == names
    assert found["loud_engine"]["problem"] == "" and found["loud_engine"]["version"]
    assert found["broken_engine"]["problem"] == "ImportError: libGL.so.1: cannot open"
    assert "code 3" in found["deadly_engine"]["problem"]
    assert found["absent_engine"] == {"version": "", "problem": "not installed", "install": "pip install absent_engine"}


@pytest.mark.usefixtures("one_engine")
def test_doctor_reports_a_run_that_would_start(capfd: pytest.CaptureFixture[str]) -> None:
    code, found = examined(capfd, *SMALL, "runtime.num_actors=2", "runtime.slots_per_actor=16", "runtime=local")
    assert code == CAN_RUN
    assert found["run"]["problems"] == []
    assert (found["run"]["actors"], found["run"]["slots"], found["run"]["suite"]) == (2, 16, "conditional")
    assert 0 < found["run"]["needs"]["trajectories"] < 2**24 < found["run"]["needs"]["actors"]
    assert found["machine"]["cores"] >= 1
    assert found["suites"]["conditional"]["problem"] == ""
    # The table has the same content.
    assert main(SMALL) == CAN_RUN
    shown = capfd.readouterr().out
    assert "run env=conditional" in shown and "needs" in shown and "suite conditional" in shown
    assert "problem" not in shown


@pytest.mark.usefixtures("one_engine")
def test_doctor_reports_why_a_run_would_not_start(capfd: pytest.CaptureFixture[str]) -> None:
    code, found = examined(capfd, *SMALL, "runtime.slots_per_actor=2", "runtime=local", "runtime.num_actors=1")
    assert code == CANNOT_RUN
    assert "runtime.slots_per_actor=2" in found["run"]["problems"][0]
    code, found = examined(capfd, *SMALL, "env.tasks=[map-77]")
    assert code == CANNOT_RUN and "map-77" in found["run"]["problems"][0]


@pytest.mark.usefixtures("one_engine", "process_settings")
def test_doctor_refuses_what_train_refuses(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The message is that of train.py, and nothing is written."""

    def problems(*keys: str) -> list[str]:
        before = sorted(tmp_path.rglob("*"))
        code, found = examined(capfd, *SMALL, *keys)
        assert (code == CAN_RUN) == (not found["run"]["problems"]) and sorted(tmp_path.rglob("*")) == before
        problems: list[str] = found["run"]["problems"]
        return problems

    assert problems("device=cuda:77") == [
        f"device=cuda:77 is unavailable: torch sees {torch.cuda.device_count() or 'no'} GPUs; use device=auto or device=cpu."
    ]
    tiny = [
        "learner.unroll_length=4",
        "runtime=serial",
        "runtime.slots_per_actor=8",
        "total_frames=50",
        "display=false",
    ]
    assert problems("run=new/one") == []
    assert train.main([*SMALL, *tiny, "run=old"]) == 0
    capfd.readouterr()
    assert "run=old already holds a run: add resume=true" in problems("run=old")[0]
    assert problems("run=old", "resume=true", *tiny) == []
    assert "cannot change" in problems("run=old", "resume=true", "core.size=16")[0]
    (tmp_path / "file").touch()
    assert "run=file/x cannot be written" in problems("run=file/x")[0]
    with sole_writer(tmp_path / "old"):
        assert f"run=old is being written by process {os.getpid()}" in problems("run=old", "resume=true")[0]


@pytest.mark.usefixtures("one_engine")
def test_doctor_reports_too_little_memory(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.setup.machine.free_memory", lambda: 0)
    code, found = examined(capfd, *SMALL, "runtime=local")
    assert code == CANNOT_RUN
    assert found["machine"]["memory_free"] == 0
    assert "0 MiB are free: lower runtime.num_actors" in found["run"]["problems"][0]
    assert found["run"]["needs"]["actors"] > 0


def test_broken_engine_affects_only_its_suites(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "SUITES", [])
    broken = {"x": {"version": "1", "problem": "ImportError: no", "install": "pip install x"}}
    monkeypatch.setattr(doctor, "check_engines", lambda _: broken)
    for engine, expected in (("envpool", CAN_RUN), ("numpy", CANNOT_RUN)):
        monkeypatch.setattr(doctor, "ENGINES", {"x": Engine("x", "pip install x", (engine,))})
        code, found = examined(capfd, *SMALL)
        assert (code, found["run"]["engine"]) == (expected, "numpy")
    assert "ImportError: no" in found["run"]["problems"][0]
    # The table does not advise to install what is installed.
    assert main(SMALL) == CANNOT_RUN
    shown = capfd.readouterr().out
    assert "ImportError: no" in shown and "pip install x" not in shown


@pytest.mark.parametrize(
    ("argument", "answer"), [("env=nowhere", "env=nowhere"), ("--verbose", "--verbose is no flag")]
)
def test_bad_input(capfd: pytest.CaptureFixture[str], argument: str, answer: str) -> None:
    assert main([argument]) == BAD_INPUT
    assert answer in "".join(capfd.readouterr())


def test_unplayable_suite_reports_its_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ale_py" else find(name))
    assert 'pip install "mimpala[atari]"' in doctor.find_suite_problem("atari")


def test_every_engine_has_an_extra_or_a_page() -> None:
    project = tomllib.loads((Path(doctor.__file__).parent / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    for module, engine in doctor.ENGINES.items():
        if module == "deepmind_lab":  # of which there is no package
            assert "docs/dmlab.md" in engine.install
            continue
        name = engine.install.split("[")[1].split("]")[0]
        assert any(requirement.startswith(engine.package) for requirement in extras[name])


@pytest.mark.usefixtures("one_engine")
def test_a_few_steps_of_each_task_are_played_and_compared(capfd: pytest.CaptureFixture[str]) -> None:
    names = ["Match", "Forbidden", "StraysFar", "StraysBroken", "Breaks", "Spoken"]
    found, codes = {}, {}
    for name in names:
        keys = ["env=gymnasium", f"env.tasks=[gym_tasks:{name}-v0]"]
        codes[name], whole = examined(capfd, *keys)
        (found[name],) = whole["run"]["played"]
        assert main(keys) == codes[name]
        # One line for the task.
        row = next(line for line in capfd.readouterr().out.splitlines() if f"task gym_tasks:{name}" in line)
        assert (" no " in row) == (name.startswith("Strays") or name == "Breaks")
    assert found["Match"]["seen"].startswith("20 steps, ") and "vector [3] from 0 to 1" in found["Match"]["seen"]
    assert "1 to 4 of 4 choices legal" in found["Forbidden"]["seen"] and not found["Forbidden"]["differences"]
    assert 'instruction "press the' in found["Spoken"]["seen"]
    assert found["StraysFar"]["differences"] == ["step returns numbers from 7 to 7 where the space has -1 to 1"]
    assert "step returns 1 number that is not finite" in found["StraysBroken"]["differences"]
    assert found["Breaks"]["failure"] == "the wheel came off"
    # Differences from the spec do not stop a run, but an error does.
    assert {name for name, code in codes.items() if code} == {"Breaks"}


@pytest.mark.usefixtures("one_engine")
def test_tasks_of_other_suites_are_played_too(capfd: pytest.CaptureFixture[str]) -> None:
    _, found = examined(capfd, *SMALL, "env.tasks=[map-0,memory-0]")
    played = found["run"]["played"]
    assert [row["task"] for row in played] == ["map-0", "memory-0"]
    assert all(row["seen"].startswith("20 steps") and not row["failure"] for row in played)


@pytest.mark.parametrize(
    ("space", "value", "expected"),
    [
        (spaces.Box(0, 1, (2,)), [0.0, 1.0], ""),
        (spaces.Box(0, 1, (2,)), np.ones((3,)), "the shape [3] where the space has [2]"),
        (spaces.Box(0, 255, (2,), np.uint8), np.full(2, 0.5), "float64 where the space has uint8"),
        (spaces.Box(0, 1, (2,)), None, "NoneType where the space has numbers [2]"),
        (spaces.Discrete(3), 2, ""),
        (spaces.Discrete(3), 3, "3, which is not in Discrete(3)"),
        (spaces.Dict({"a": spaces.Discrete(2)}), {"b": 0}, "the entries b where the space has a"),
        (
            spaces.Dict({"a": spaces.Tuple((spaces.Box(0, 1, (1,)),))}),
            {"a": ([2.0],)},
            "numbers from 2 to 2 in a.0 where",
        ),
        (spaces.Tuple((spaces.Discrete(2),)), (1, 1), "2 parts where the space has 1 part"),
        (spaces.MultiDiscrete([2, 3]), [1, 2], ""),
        (spaces.MultiDiscrete([2, 3]), [2, 2], "[2, 2], which is not in MultiDiscrete"),
        (spaces.Text(3), "abcd", "4 letters where the space has 3 at most"),
        (spaces.Text(3), "a b", ""),
        (spaces.Text(3), 3, "int where the space has a text"),
    ],
)
def test_differences_from_a_space(space: Any, value: Any, expected: str) -> None:
    found = describe_misfit(space, value)
    assert found.startswith(expected) and bool(found) == bool(expected)


def test_doctor_names_levels_that_differ_or_cannot_always_be_solved(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("envpool")
    monkeypatch.setattr(doctor, "ENGINES", {})
    tasks = "env.tasks=[BabyAI-ActionObjDoor-v0,MiniGrid-ObstructedMaze-1Dlh-v0,BabyAI-GoToLocal-v0]"
    code, found = examined(capfd, "env=babyai", tasks, "env.engine=envpool")
    assert code == CAN_RUN
    (warning,), remarks = found["run"]["warnings"], found["run"]["remarks"]
    assert "BabyAI-ActionObjDoor-v0 cannot always be solved on envpool" in warning and "env.engine=minigrid" in warning
    assert len(remarks) == 2 and "boxes are blue on envpool" in remarks[1] and "GoToLocal" not in str(remarks)
    doctor.show(doctor.examine(["env=babyai", tasks, "env.engine=envpool"]), doctor.TextConsole())
    shown = " ".join(capfd.readouterr().out.split())
    assert "cannot always be solved" in shown and "ObstructedMaze-1Dlh-v0" in shown

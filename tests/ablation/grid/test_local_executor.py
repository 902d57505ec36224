"""Cells of this machine: which cores and GPU each of them gets. Processes and GPUs are replaced."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from ablation.grid import local_executor
from ablation.grid.grid import Cell
from ablation.grid.local_executor import LocalExecutor, start_process
from agents.setup.machine import visible_gpus
from conf.loading import compose_train


class Process:
    """A child process that ends when `code` is set."""

    code: int | None = None

    def poll(self) -> int | None:
        return self.code


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], str]]:
    """Cores and GPU of each process that was started, on a machine with four cores and two GPUs."""
    found: list[tuple[tuple[int, ...], str]] = []

    def start(folder: Path, threads: int, cores: tuple[int, ...], *, gpu: str) -> Process:
        assert threads == len(cores)
        found.append((cores, gpu))
        return Process()

    monkeypatch.setattr(local_executor, "start_process", start)
    monkeypatch.setattr(local_executor, "available_cores", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(local_executor, "visible_gpus", lambda: ["4", "6"])
    return found


def cell(folder: Path, *overrides: str) -> Cell:
    train = compose_train([f"run={folder}", *overrides])
    return Cell(name="cell", variant="mi", seed=0, train=train, evaluate=None)


def test_parallel_runs_have_a_gpu_each(started: list[Any], tmp_path: Path) -> None:
    executor, one = LocalExecutor(2), cell(tmp_path)
    running = [executor.start(one), executor.start(one)]
    assert executor.start(one) is None
    assert started == [((0, 2), "4"), ((1, 3), "6")]
    # The next run takes the part of the one that ended.
    running[1].process.code = 0  # type: ignore[union-attr, attr-defined]
    assert executor.start(one) and started[2] == started[1]


def test_more_runs_than_gpus_share_them_in_turn(started: list[Any], tmp_path: Path) -> None:
    executor, one = LocalExecutor(4), cell(tmp_path)
    while executor.start(one):
        pass
    assert [gpu for _, gpu in started] == ["4", "6", "4", "6"]


@pytest.mark.parametrize(
    ("override", "gpu"),
    [
        ("device=auto", "4"),
        ("device=cuda", "4"),
        # A number counts all GPUs, and several learners have one each.
        ("device=cuda:1", ""),
        ("learner.num_processes=2", ""),
    ],
)
def test_a_run_that_chooses_its_gpus_sees_all(started: list[Any], tmp_path: Path, override: str, gpu: str) -> None:
    LocalExecutor(2).start(cell(tmp_path, override, "runtime.num_actors=2"))
    assert started[0][1] == gpu


@pytest.mark.parametrize(("parallel", "gpus"), [(1, ["0", "1"]), (2, ["0"]), (2, [])])
def test_without_a_choice_a_run_sees_all_gpus(
    started: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parallel: int, gpus: list[str]
) -> None:
    monkeypatch.setattr(local_executor, "visible_gpus", lambda: gpus)
    LocalExecutor(parallel).start(cell(tmp_path))
    assert started[0][1] == ""


@pytest.mark.parametrize(
    ("variable", "count", "expected"),
    [
        (None, 0, []),
        (None, 3, ["0", "1", "2"]),
        ("", 0, []),
        ("5,3", 2, ["5", "3"]),
        # torch stops at the first name of a GPU that the machine lacks.
        ("5,3,77", 2, ["5", "3"]),
        ("MIG-1f,MIG-2f", 2, ["MIG-1f", "MIG-2f"]),
    ],
)
def test_gpus_have_their_names_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, count: int, expected: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if variable is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus() == expected


def test_the_process_of_a_cell_sees_its_gpu_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environments = []
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, env, **options: environments.append(env))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    start_process(tmp_path, 1, gpu="1")
    start_process(tmp_path, 1)
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == ["1", "0,1"]

"""A grid on a Ray cluster of several nodes on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from processes import alongside
from ray_cluster import NODE, one_node

import ablate
from ablation.grid import cell as cell_process
from ablation.grid import ray_executor
from ablation.grid.executors import open_executor
from ablation.grid.grid import Cell, make_cells, normalize_axes, save_cell, save_grid
from ablation.grid.scheduler import Exit
from agents.run.lock import is_locked
from agents.storage.checkpoint import list_checkpoints
from conf.ablate_schema import check_ablate
from conf.loading import compose_ablate, split_axes
from system.errors import InputError
from system.files import read_json

pytestmark = pytest.mark.usefixtures("process_settings")

ROOT = Path(ablate.__file__).parent
TINY = (
    *("env=conditional", "env.tasks=[map-0,map-1]", "seeds=1", "episodes=10", "display=false"),
    *("core.size=8", "fusion.size=8", "torso.hidden=[8]", "runtime.slots_per_actor=16"),
)
ONE_CPU = NODE | {"num_cpus": 1}
ON_NODES = ("runtime=cluster", "node_runtime=serial")
ENDLESS = ("total_frames=100000000", "checkpoint_seconds=0", "log_frames=1000")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head without CPUs and one node that runs cells; tests may add and remove others."""
    cluster = one_node(num_cpus=0)
    cluster.add_node(**ONE_CPU)
    yield cluster
    cluster.shutdown()


def cells_of(*arguments: str) -> list[Cell]:
    single, axes = split_axes([*TINY, *arguments])
    config = compose_ablate(single)
    normalize_axes(config, single, axes)
    check_ablate(config, cores=1)
    return make_cells(config, single, axes)


def played_here(folder: Path, *arguments: str) -> dict[str, Any]:
    """The report of the same grid, run in this process."""
    cells = cells_of("runtime=serial", f"folder={folder}", *arguments)
    folder.mkdir()
    save_grid(folder, cells, arguments)
    for cell in cells:
        save_cell(cell)
        assert cell_process.run(cell.folder, threads=1) == 0
    assert ablate.main([f"report={folder}"]) == 0
    return report_of(folder)


def report_of(folder: Path) -> dict[str, Any]:
    """analysis.json without values that depend on time, folder and machine."""
    content = read_json(folder / "analysis.json")
    assert content
    for key in ("timing", "command", "cautions"):
        del content[key]
    for run in content["runs"]:
        del run["provenance"]
    return content


def rows(run: Path) -> int:
    path = run / "metrics.jsonl"
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


@pytest.mark.ray
def test_a_grid_on_a_cluster_that_loses_a_node_gives_the_report_of_one_machine(
    nodes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ("fusions=[concat,mi]", "total_frames=16000", "checkpoint_seconds=0")
    expected = played_here(tmp_path / "here", *grid)
    there = tmp_path / "there"
    runs = [there / "concat-seed0", there / "mi-seed0"]
    lost = nodes.add_node(**ONE_CPU)
    capsys.readouterr()
    with alongside(lambda: all(rows(run) > 2 for run in runs), lambda: nodes.remove_node(lost)):
        assert ablate.main([*TINY, *ON_NODES, *grid, f"folder={there}", f"runtime.address={nodes.address}"]) == 0
    output = capsys.readouterr().out
    assert "-seed0: its machine was lost" in output
    assert "(2 of 2)" in output
    assert report_of(there) == expected
    for run in runs:
        config = (tmp_path / "here" / run.name / "config.yaml").read_text(encoding="utf-8")
        assert (run / "config.yaml").read_text(encoding="utf-8") == config.replace("here", "there")


@pytest.mark.ray
@pytest.mark.parametrize("lost", [0, 1])
def test_ctrl_c_saves_running_cells(
    nodes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """Also if Ray's first `lost` cancellations have no effect."""
    import ray

    cancel, calls = ray.cancel, list[None]()

    def cancelled(reference: object) -> None:
        calls.append(None)
        if len(calls) > lost:
            cancel(reference)

    monkeypatch.setattr(ray, "cancel", cancelled)
    run, queued = tmp_path / "concat-seed0", tmp_path / "mi-seed0"
    arguments = [*TINY, *ON_NODES, *ENDLESS, "fusions=[concat,mi]", f"folder={tmp_path}", "parallel=1"]
    with alongside(lambda: rows(run), lambda: os.kill(os.getpid(), signal.SIGINT)):
        assert ablate.main([*arguments, f"runtime.address={nodes.address}"]) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert list_checkpoints(run / "checkpoints")
    result = read_json(run / "result.json")
    assert result and result["ended_by"] == "signal"
    assert not is_locked(run)
    assert not queued.exists() or not (queued / "config.yaml").exists()


def test_a_task_that_is_interrupted_twice_interrupts_its_cell_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second signal would end the cell unsaved. SIGINT is ignored at the start, as in a background job."""
    signals: list[int] = []

    class Saving:
        def wait(self, timeout: float) -> int:
            signal.raise_signal(signal.SIGINT)
            if not signals:
                raise subprocess.TimeoutExpired("cell", timeout)
            return 130

        def send_signal(self, number: int) -> None:
            signals.append(number)

    (cell,) = cells_of("runtime=serial", "fusions=[mi]", f"folder={tmp_path}")
    save_cell(cell)
    monkeypatch.setattr(ray_executor, "start_process", lambda *arguments, **options: Saving())
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert ray_executor.run_task(str(cell.folder), read_json(cell.folder / "cell.json"), 1, str(tmp_path)) == (
            130,
            "",
        )
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert signals == [signal.SIGINT]


def test_a_task_that_is_interrupted_before_the_folder_arrives_starts_no_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ray_executor, "read_json", read)
    monkeypatch.setattr(
        ray_executor, "start_process", lambda *arguments, **options: pytest.fail("nobody wants it any more")
    )
    assert ray_executor.run_task(str(tmp_path), {"name": "mi-seed0"}, 1, str(tmp_path)) == (130, "")


def test_a_cell_whose_machines_are_all_lost_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray.exceptions import WorkerCrashedError

    def lost(reference: object) -> None:
        raise WorkerCrashedError

    monkeypatch.setattr(ray, "wait", lambda references, **_: (references, []))
    monkeypatch.setattr(ray, "get", lost)
    submitted: list[Cell] = []
    monkeypatch.setattr(ray_executor, "submit", submitted.append)
    (cell,) = cells_of("runtime=serial", "fusions=[mi]", f"folder={tmp_path}")
    said: list[str] = []
    task = ray_executor.RayCell(cell, None, said.append)
    ends = [task.poll() for _ in range(ray_executor.MOST_LOSSES + 1)]
    assert ends == [None] * ray_executor.MOST_LOSSES + [Exit(1, "its machine was lost 4 times (WorkerCrashedError)")]
    assert len(said) == len(submitted) == ray_executor.MOST_LOSSES


def test_a_machine_that_does_not_share_the_folder_says_so(tmp_path: Path) -> None:
    (cell,) = cells_of("runtime=serial", "fusions=[mi]", f"folder={tmp_path}")
    save_cell(cell)
    # Another machine may have a folder of the same name from an earlier grid, or no folder.
    for folder in (cell.folder, tmp_path / "elsewhere"):
        code, reason = ray_executor.run_task(str(folder), {"name": "another"}, 1, str(tmp_path), sync_seconds=0.05)
        assert code == 1
        assert reason.endswith(f"does not see {folder}: give a folder= on a file system that all machines share")


def test_configurations_on_a_cluster_equal_those_of_one_machine(tmp_path: Path) -> None:
    shared = ("fusions=[mi]", f"folder={tmp_path}", "runtime.num_actors=3")
    (here,) = cells_of("runtime=local", *shared, "runtime.learner_threads=1")
    (there,) = cells_of("runtime=cluster", "runtime.address=auto", *shared)
    assert there == here
    assert ray_executor.count_cpus(there.train) == 4
    (half,) = cells_of("runtime=cluster", "runtime.cpus_per_actor=0.5", *shared)
    assert ray_executor.count_cpus(half.train) == 3
    (serial,) = cells_of(*ON_NODES, *shared)
    assert ray_executor.count_cpus(serial.train) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["runtime=cluster"],
            "runtime.num_actors=0 leaves the number of actors to each machine, but a cluster must know how many CPUs a run takes",
        ),
        (["runtime=cluster", "node_runtime=remote"], "node_runtime=remote is unknown"),
        (
            ["runtime=serial,cluster"],
            "runtime=cluster plays the whole grid and cannot be one value of an axis: give runtime=cluster alone",
        ),
    ],
)
def test_a_grid_that_no_cluster_can_run_is_refused_in_one_sentence(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cells_of(*arguments)


def test_mistakes_about_the_cluster_are_answered_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import ray

    def refused(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    def connect(address: str) -> AbstractContextManager[object]:
        config = compose_ablate(["env=conditional", "runtime=cluster", f"runtime.address={address}"])
        return open_executor(config, [], print)

    monkeypatch.setattr(ray, "init", refused)
    with pytest.raises(InputError, match="runtime.address=auto cannot be joined"), connect("auto"):
        pass
    for address, fault in (("127.0.0.1:1", "does not answer"), ("nowhere", "is no address")):
        with pytest.raises(InputError, match=f"runtime.address={address} {fault}"), connect(address):
            pass
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    cells = cells_of("runtime=cluster", "runtime.num_actors=2", "fusions=[mi]", f"folder={tmp_path}")
    assert "a run takes 3 CPUs" in ray_executor.check_room(cells, alone=False)
    with pytest.raises(InputError, match="this machine has 2: lower runtime.num_actors"):
        ray_executor.check_room(cells, alone=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install \"mimpala\[ray\]\""), connect(""):
        pass

"""The cluster runtime: nodes that join and fail, a head that dies, and what a cluster on this machine leaves and exposes."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from counted import Lives, counting_pool, counting_runtime
from counting import SLOTS, CountingNetwork
from processes import PATIENCE, alongside, each, eventually
from ray_cluster import CPUS, NODE, one_node, ray_nodes

import train
from agents.cli.exit_codes import BAD_INPUT, DONE, FAILED
from agents.runtime.base import Runtime, StreamPositions
from agents.runtime.cluster import grouped
from agents.runtime.processes.actor_process import Unroll
from agents.runtime.processes.buffers import SharedArrays, SharedWeights
from agents.runtime.ray_groups import actor_group, bridge, connection
from agents.runtime.ray_groups.actor_group import ActorGroupHandle, FreeBuffer
from agents.runtime.ray_groups.connection import own_paths
from agents.runtime.restarts import Faults

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind")

UNDER_WAY = 2
"""Unrolls of an actor between its node and the learner at most, one per buffer."""

TINY = [
    *("env=conditional", "env.tasks=[map-0]", "runtime=cluster", "runtime.num_actors=1", "runtime.slots_per_actor=4"),
    *("learner.batch_size=4", "precision=fp32", "display=false", "context=task", "log_seconds=0.2"),
]


def play(runtime: Runtime, network: CountingNetwork, lives: Lives, until: Callable[[], bool]) -> None:
    """Collects unrolls, with new weights after each, until the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < deadline, "the condition did not become true"
        lives.add(runtime.collect())
        version = int(network.number) + 1
        with torch.no_grad():
            network.number.fill_(version)
        runtime.publish(version)
        time.sleep(0.01)


@pytest.mark.ray
def test_a_node_that_is_lost_costs_what_was_under_way_and_one_that_joins_is_used() -> None:
    """Five actors run on six CPUs. One or two lose their node; four CPUs are left, so one actor waits for the next node."""
    cluster, network, records = ray_nodes(), CountingNetwork(), []
    lives = Lives("cluster")
    faults = Faults(max_restarts=1000, record=records.append)
    runtime = counting_runtime("cluster", counting_pool(5), network, faults=faults)

    def lost() -> set[int]:
        return {int(record["where"].split()[1]) for record in records}

    def all_play(since: dict[int, int]) -> bool:
        """Whether the lost actors have restarted, and the others have sent more unrolls than were under way."""
        return all(
            lives.restarts(actor) >= 1 if actor in lost() else lives.unrolls(actor) > since[actor] + UNDER_WAY
            for actor in range(5)
        )

    try:
        play(runtime, network, lives, lambda: len(lives.of) == 5)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        play(runtime, network, lives, lambda: len(records) > 0)
        cluster.add_node(**NODE)
        since = {actor: lives.unrolls(actor) for actor in range(5)}
        play(runtime, network, lives, lambda: all_play(since))
    finally:
        runtime.close()
    lives.check()
    assert {record["cause"] for record in records} == {"lost"}
    assert 1 <= len(lost()) <= CPUS
    for actor in range(5):
        assert lives.restarts(actor) == (actor in lost()), (
            "an actor of a living node was restarted, or one of the lost node was not"
        )
    first = next(record for record in records if record["unrolls_dropped"])
    assert (first["unrolls_dropped"], first["episodes_dropped"]) == (1, SLOTS)


@pytest.mark.ray
def test_a_head_that_dies_ends_the_run_saved_and_the_run_goes_on_elsewhere(
    tmp_path: Path, process_settings: None, capsys: pytest.CaptureFixture[str]
) -> None:
    head, folder = one_node(), tmp_path / "run"
    log = folder / "metrics.jsonl"
    with alongside(
        lambda: log.exists() and log.stat().st_size,
        lambda: head.remove_node(head.head_node, allow_graceful=False),
    ):
        code = train.main([*TINY, f"runtime.address={head.address}", f"run={folder}", "total_frames=100000000"])
    said = capsys.readouterr().err
    assert code == FAILED and "the Ray cluster is gone" in said and "resume=true" in said
    saved = max(int(path.stem.split("-")[-1]) for path in (folder / "checkpoints").glob("*.pt"))
    assert saved > 0
    # With the serial runtime, because a cluster starts slowly.
    played = json.loads(log.read_text().splitlines()[-1])["frames"] + 10_000
    more = [*TINY, "runtime=serial", "runtime.address=''", f"run={folder}", "resume=true", f"total_frames={played}"]
    assert train.main(more) == DONE, capsys.readouterr().err


def folders_of_ray() -> set[Path]:
    """The folders in which a cluster on this machine keeps its files."""
    return {*Path("/tmp").glob("ray-*"), *Path("/tmp").glob("mimpala-*/ray-*")}


@pytest.mark.ray
@pytest.mark.parametrize("with_the_bridge", [False, True])
def test_a_cluster_of_this_machine_listens_to_it_alone_and_leaves_nothing_even_of_a_run_that_was_killed(
    tmp_path: Path, with_the_bridge: bool
) -> None:
    before, log = folders_of_ray(), tmp_path / "run" / "metrics.jsonl"
    command = [sys.executable, str(Path(train.__file__)), *TINY, f"run={tmp_path / 'run'}"]
    run = subprocess.Popen([*command, "total_frames=100000000"], start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (log.exists() and log.stat().st_size):
            assert run.poll() is None and time.monotonic() < deadline, "the run did not start"
            time.sleep(0.1)
        family = psutil.Process(run.pid).children(recursive=True)
        assert "raylet" in [name for _, name in each(family, psutil.Process.name)]
        connections = [found for _, every in each(family, lambda one: one.net_connections("inet")) for found in every]
        sockets = [found for found in connections if found.status == "LISTEN"]
        assert sockets and {found.laddr.ip.removeprefix("::ffff:") for found in sockets} == {"127.0.0.1"}
    finally:
        if with_the_bridge:
            os.killpg(run.pid, signal.SIGKILL)
        run.kill()
        run.wait()
    _, left = psutil.wait_procs(family, 60)
    assert not left
    eventually(lambda: folders_of_ray() <= before)


@pytest.mark.ray
def test_actors_stop_while_no_batch_is_collected() -> None:
    """After a pause there is at most one unroll per buffer with old weights; all later ones have the weights published meanwhile."""
    network, actors, buffers = CountingNetwork(), 2, 2
    pool = counting_pool(actors, buffers_per_actor=buffers)
    runtime = counting_runtime("cluster", pool, network, actors_per_group=2)
    try:
        for _ in range(10):
            runtime.collect()
        time.sleep(3)
        runtime.publish(1000)
        time.sleep(1)
        versions = [runtime.collect().weights_versions[0] for _ in range(4 * actors * buffers)]
        assert sum(version < 1000 for version in versions) <= actors * buffers
    finally:
        runtime.close()


@pytest.mark.ray
def test_learners_on_several_nodes_make_a_run_together(
    tmp_path: Path, process_settings: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss of one learner ends the run, saved."""
    folder, cluster = tmp_path / "run", ray_nodes()
    command = [*TINY, f"runtime.address={cluster.address}", "runtime.num_actors=2", "learner.num_processes=2"]
    command += ["learner.batch_size=8", f"run={folder}", "resume=true"]
    assert train.main([*command, "total_frames=2000"]) == DONE, capsys.readouterr().err
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["frames"] >= 2000 and "time/reduce" in rows[-1]

    log = folder / "metrics.jsonl"
    size = log.stat().st_size

    def kill_the_follower() -> None:
        # Ray names its workers after their class.
        named = each(psutil.Process().children(recursive=True), psutil.Process.name)
        (host,) = [process for process, name in named if name.startswith("ray::LearnerHo")]
        host.kill()

    with alongside(lambda: log.stat().st_size > size, kill_the_follower):
        assert train.main([*command, "total_frames=100000000"]) == FAILED
    said = capsys.readouterr().err
    assert "error: " in said and "resume=true continues it" in said


def test_positions_of_a_lost_group_skip_all_that_it_can_have_played() -> None:
    group = ActorGroupHandle([3, 4], StreamPositions({3: 10, 7: 1}, {3: [5, 6]}, {0: 99}))
    group.skip(buffers_per_actor=2, length=7, slots=2)
    # An unroll of seven steps starts at most four episodes.
    assert group.positions == StreamPositions({3: 12, 4: 2}, {3: [13, 14], 4: [7, 7]}, {0: 99})


def test_a_free_buffer_waits_for_its_weights() -> None:
    """The second unroll of an actor with one buffer must not begin with the weights of the first."""
    group, network = actor_group.ActorGroup(), CountingNetwork()
    shapes = [parameter.shape for parameter in network.parameters()]
    weights = np.zeros(sum(shape.numel() for shape in shapes), np.float32)
    group.begin(counting_pool(1, buffers_per_actor=1), [0], StreamPositions(), shapes, weights, 0)
    try:
        first, _ = group.unroll()
        group.give_back(FreeBuffer(0, 0, 5))
        # Newer than before, but still too old.
        group.publish(weights + 4, 4)
        publisher = threading.Timer(0.5, group.publish, (weights + 5, 5))
        publisher.start()
        second, _ = group.unroll()
        publisher.join()
    finally:
        group.close()
        assert group.unroll()[0] is None
    assert isinstance(first, Unroll) and isinstance(second, Unroll)
    assert [first.weights_version, second.weights_version] == [0, 5]


class FullStoreError(Exception):
    """Stands for an error of Ray's object store."""


def test_weights_that_ray_could_not_store_are_followed_by_the_next_ones() -> None:
    """A group without newer weights would wait for them for ever (FreeBuffer.version)."""
    network, stores = CountingNetwork(), iter([True, False, True])
    shapes = [parameter.shape for parameter in network.parameters()]
    weights, published = SharedWeights(shapes), asyncio.Queue[int]()
    pool = counting_pool(1)

    def put(flat: object) -> object:
        if next(stores):
            return flat
        raise FullStoreError

    async def publish(method: str, flat: object, version: int) -> None:
        published.put_nowait(version)

    async def run() -> list[int]:
        ray: Any = SimpleNamespace(put=put, exceptions=SimpleNamespace(RayError=FullStoreError))
        ours, _theirs = multiprocessing.Pipe()
        buffers = SharedArrays(pool.spec)
        tested = bridge.Bridge(ray, ours, [[0]], 1.0, pool, StreamPositions(), buffers, weights)
        [group] = tested._groups
        group.call, group.version = publish, 0  # type: ignore[method-assign]
        task, found = asyncio.create_task(tested._publish(group)), []
        for version in (1, 2, 3):
            weights.publish(network, version)
            group.published.set()
            if version != 2:
                found.append(await published.get())
            else:
                # It has failed to store these when it waits for the next ones.
                while group.published.is_set():
                    await asyncio.sleep(0)
        task.cancel()
        return found

    async def run_in_time() -> list[int]:
        return await asyncio.wait_for(run(), PATIENCE)

    assert asyncio.run(run_in_time()) == [1, 3]


def test_groups_are_neighbours() -> None:
    assert grouped(range(5), 2) == [[0, 1], [2, 3], [4]]


def test_nodes_get_the_paths_of_the_program_but_not_of_python() -> None:
    paths = own_paths()
    assert str(Path(train.__file__).resolve().parent) in paths
    assert not [path for path in paths if "site-packages" in path]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["runtime.address=nowhere"], "runtime.address=nowhere is no address"),
        (["runtime.address=127.0.0.1:1"], "runtime.address=127.0.0.1:1 does not answer"),
        (["runtime.address=auto", "runtime.num_actors=0"], "runtime.num_actors=0 leaves open how many actors"),
        (["runtime=local", "runtime.address=auto"], "runtime.address=auto is not used by runtime=local"),
        (["runtime.cpus_per_actor=-1"], "runtime.cpus_per_actor=-1.0 is out of range"),
        (["runtime.actors_per_group=0"], "runtime.actors_per_group=0 is out of range"),
    ],
)
def test_impossible_settings_are_refused(
    settings: list[str], sentence: str, tmp_path: Path, process_settings: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*TINY, *settings, f"run={tmp_path / 'run'}"]) == BAD_INPUT
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert sentence in line
    assert not (tmp_path / "run").exists()


def test_without_ray_the_error_names_the_package(
    tmp_path: Path,
    process_settings: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection.importlib.util, "find_spec", lambda name: None)
    assert train.main([*TINY, f"run={tmp_path / 'run'}"]) == BAD_INPUT
    assert 'pip install "mimpala[ray]"' in capsys.readouterr().err

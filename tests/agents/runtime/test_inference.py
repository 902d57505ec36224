"""The inference server: the same actions as actors that act by themselves, and an end to everything when one part ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.reduction import send_handle
from pathlib import Path

import numpy as np
import pytest
import torch
from counted import counting_pool
from counting import COUNTING, SLOTS, STATE_SIZE, CountingNetwork, MakeCountingPolicy
from fakes import ACTIONS, fake_batch, fake_config, fake_env, fake_network
from processes import PATIENCE

import agents.runtime.local
from agents.acting.policy import Policy
from agents.fusion import FUSIONS
from agents.runtime.base import ActorError, Runtime, StreamPositions
from agents.runtime.local import LocalRuntime
from agents.runtime.processes.buffers import SharedWeights
from agents.runtime.processes.inference_server import RemotePolicy, _Batcher, _serve, exchange_spec
from agents.setup import builder, machine
from agents.setup.plan import make_plan
from agents.trajectory import OBSERVED, Trajectory, allocate, trajectory_spec
from conf.loading import compose_train
from envs.suites import make_spec

T = 7
SPEC = trajectory_spec(COUNTING, T, SLOTS, STATE_SIZE)
ROOT = Path(agents.runtime.local.__file__).parents[2]

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind")


def counting_runtime(fault: str = "", actors: int = 2) -> LocalRuntime:
    """Counting actors and a server with `fault` (MakeCountingPolicy) at its twentieth batch."""
    pool = counting_pool(actors, make_policy=MakeCountingPolicy(fault))
    return LocalRuntime(pool, CountingNetwork())  # type: ignore[arg-type]


@pytest.fixture
def runtime(request: pytest.FixtureRequest) -> Iterator[LocalRuntime]:
    """A counting_runtime; the test's parameter is the fault."""
    runtime = counting_runtime(getattr(request, "param", ""))
    yield runtime
    runtime.close()
    runtime.close()


def collect(runtime: Runtime, times: int) -> None:
    for _ in range(times):
        runtime.collect()


def test_a_request_of_a_dead_actor_is_not_answered_for_its_successor() -> None:
    """The server receives the request and the connection to the successor at the same time."""
    calls: list[object] = []

    class Recorded:
        def begin(self, actor: int) -> None:
            calls.append(("begin", actor))

        def step(self, actors: list[int]) -> None:
            calls.append(("step", actors))

    learner, theirs = multiprocessing.Pipe()
    pairs = [multiprocessing.Pipe() for _ in range(2)]
    for number, (actor, server) in enumerate(pairs):
        learner.send(0)
        send_handle(learner, server.fileno(), os.getpid())
        if number == 0:
            actor.send_bytes(b"s")
    thread = threading.Thread(target=_serve, args=(Recorded(), theirs), daemon=True)
    thread.start()
    second = pairs[1][0]
    second.send_bytes(b"s")
    assert second.poll(PATIENCE) and second.recv_bytes() == b"a"
    learner.close()
    thread.join()
    assert calls == [("begin", 0), ("begin", 0), ("step", [0])]
    for connection in (theirs, *(end for pair in pairs for end in pair)):
        connection.close()


# Equal actions


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_a_batch_of_any_actors_equals_each_actor_alone(fusion: str) -> None:
    """Random subsets of three actors, with instructions that change, return and overflow the caches."""
    actors, slots, env = 3, 4, fake_env()
    config = fake_config(fusion=fusion)
    network, served = fake_network(env, config), fake_network(env, config, seed=1)
    spec = trajectory_spec(env, 60, slots, network.core_state_size)
    arrays = allocate(exchange_spec(spec, actors, network.actions))
    weights = SharedWeights([parameter.shape for parameter in network.parameters()])
    weights.publish(network, 3)
    batcher = _Batcher(Policy(served, actors * slots), arrays, weights)
    alone = [Policy(network, slots) for _ in range(actors)]
    episodes = [fake_batch(env, network.core_state_size, 60, slots, seed) for seed in range(actors)]
    rng = np.random.default_rng(0)
    for step in range(60):
        if step == 30:
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.mul_(1.1)
            weights.publish(network, 4)
            for policy in alone:
                policy.weights_changed()
        ready = np.flatnonzero(rng.random(actors) < 0.6).tolist() or [1]
        for actor in ready:
            inputs = {key: value[step] for key, value in episodes[actor].items() if key in OBSERVED}
            if step % 10 > 6:
                inputs["instruction"].copy_(torch.from_numpy(rng.integers(0, 4, inputs["instruction"].shape, np.int32)))
            for key, value in inputs.items():
                arrays[key][actor] = value
        batcher.step(ready)
        for actor in ready:
            inputs = {key: value[step] for key, value in episodes[actor].items() if key in OBSERVED}
            torch.testing.assert_close(arrays["distribution"][actor], alone[actor].distribution(inputs))
            batcher.show_state(actor)
            torch.testing.assert_close(arrays["core_state"][actor], alone[actor].core_state)
            assert int(arrays["weights_version"][actor]) == 3 + (step >= 30)


class Direct:
    """A connection to a batcher in this process."""

    def __init__(self, batcher: _Batcher) -> None:
        self.batcher = batcher

    def send_bytes(self, request: bytes) -> None:
        if request == b"s":
            self.batcher.step([0])
        else:
            self.batcher.show_state(0)

    def recv_bytes(self) -> bytes:
        return b"a"


@pytest.mark.parametrize("kind", ACTIONS)
def test_a_server_supports_every_kind_of_actions(kind: str) -> None:
    slots, env = 4, fake_env(actions=kind)
    network = fake_network(env, fake_config())
    spec = trajectory_spec(env, 5, slots, network.core_state_size)
    arrays = allocate(exchange_spec(spec, 1, network.actions))
    weights = SharedWeights([parameter.shape for parameter in network.parameters()])
    weights.publish(network, 0)
    batcher = _Batcher(Policy(fake_network(env, fake_config(), seed=1), slots), arrays, weights)
    remote = RemotePolicy(Direct(batcher), network.actions, [arrays], 0)  # type: ignore[arg-type]
    local = Policy(network, slots)
    batch = fake_batch(env, network.core_state_size, 5, slots)
    for policy in (remote, local):
        policy.seed(9)
    for t in range(5):
        inputs = {key: value[t] for key, value in batch.items() if key in OBSERVED}
        for found, expected in zip(remote.act(inputs), local.act(inputs), strict=True):
            torch.testing.assert_close(found, expected)
    torch.testing.assert_close(remote.core_state, local.core_state)


def trajectories(inference: str, unrolls: int, *overrides: str) -> list[list[Trajectory]]:
    """The first unrolls of each of two actors, with fixed weights."""
    config = compose_train(
        [
            *("env=conditional", "env.tasks=[map-0,memory-1]", "context=task", "precision=fp32", *overrides),
            *("runtime=local", "runtime.num_actors=2", f"runtime.inference={inference}", "runtime.slots_per_actor=4"),
            *("learner.unroll_length=6", "learner.batch_size=4", "core.size=16", "fusion.size=16", "torso.hidden=[16]"),
        ]
    )
    env = make_spec(config.env)
    torch.manual_seed(0)
    network = builder.build_network(config, env)
    found: list[list[Trajectory]] = [[], []]
    runtime = builder.build_runtime(config, env, network, StreamPositions(), 0)
    try:
        while min(len(unrolls_of) for unrolls_of in found) < unrolls:
            before = dict(runtime.positions.unrolls)
            batch = runtime.collect()
            (actor,) = (index for index, count in runtime.positions.unrolls.items() if count != before.get(index, 0))
            found[actor].append({key: value.clone() for key, value in batch.trajectory.items()})
    finally:
        runtime.close()
    return [unrolls_of[:unrolls] for unrolls_of in found]


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["mi"])
def test_actors_and_server_make_the_same_trajectories(fusion: str) -> None:
    """With equal seeds and weights, integers are equal and floats differ only by rounding."""
    made, served = (
        trajectories(name, 6, f"fusion={fusion}", "fusion.sites=[core_input,policy]") for name in ("actor", "server")
    )
    assert not torch.equal(made[0][0]["action"], made[1][0]["action"]), "the actors share a random stream"
    for actor in range(2):
        for one, other in zip(made[actor], served[actor], strict=True):
            assert one.keys() == other.keys()
            for key, value in one.items():
                if value.is_floating_point():
                    torch.testing.assert_close(value, other[key], rtol=1e-4, atol=1e-5, equal_nan=True, msg=key)
                else:
                    assert torch.equal(value, other[key]), key


# Failures


@pytest.mark.parametrize("runtime", ["raise"], indirect=True)
def test_a_server_that_raises_is_reported_with_its_traceback(runtime: LocalRuntime) -> None:
    with pytest.raises(ActorError, match=r"(?s)inference server failed.*Traceback.*counting\.py.*broke as it was told"):
        collect(runtime, 40)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["exit"], indirect=True)
def test_a_server_that_exits_is_reported_with_its_exit_code(runtime: LocalRuntime) -> None:
    with pytest.raises(ActorError, match=r"inference server exited: exit code 18"):
        collect(runtime, 40)


@pytest.mark.slow
def test_a_server_that_is_killed_is_reported(runtime: LocalRuntime) -> None:
    collect(runtime, 1)
    assert runtime._server
    runtime._server._process.kill()
    with pytest.raises(ActorError, match=r"inference server was killed: SIGKILL"):
        collect(runtime, 1_000_000)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["hang"], indirect=True)
def test_closing_ends_actors_that_wait_and_the_server_they_wait_for(
    runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect(runtime, 1)
    monkeypatch.setattr(agents.runtime.local, "_JOIN_SECONDS", 0.2)
    processes = [*(actor.process for actor in runtime._actors), runtime._server._process]  # type: ignore[union-attr]
    runtime.close()
    assert all(process.exitcode is not None for process in processes)


def test_closing_while_everything_works_ends_every_process_by_itself(
    runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents.runtime.local, "_JOIN_SECONDS", 120.0)
    while len(runtime.positions.unrolls) < 2:  # Both actors have started.
        runtime.collect()
    processes = [*(actor.process for actor in runtime._actors), runtime._server._process]  # type: ignore[union-attr]
    runtime.close()
    assert [process.exitcode for process in processes] == [0, 0, 0]


LEARNER = """
from test_inference import counting_runtime
runtime = counting_runtime()
runtime.collect()
print("collected", flush=True)
while True:
    runtime.collect()
"""


@pytest.mark.slow
def test_a_learner_that_is_killed_takes_the_server_and_the_actors_with_it() -> None:
    paths = os.pathsep.join(map(str, (ROOT, *Path(__file__).parents[:3])))
    environ = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", LEARNER], stdout=subprocess.PIPE, env=environ, text=True)
    assert process.stdout
    assert process.stdout.readline() == "collected\n"
    process.send_signal(signal.SIGKILL)
    # All processes hold this pipe as standard output, so it ends with the last one.
    process.communicate(timeout=120)


# The choice of runtime.inference=auto


def choice(*overrides: str, device: str = "") -> str:
    config = compose_train(["env=conditional", "context=task", "runtime=local", "runtime.num_actors=4", *overrides])
    env = make_spec(config.env)
    parameters = builder.build_network(config, env).num_parameters
    plan = make_plan(config, env)
    if device:
        plan = replace(plan, acting_device=torch.device(device))
    return plan.choose_inference(config.runtime, parameters)


def test_auto_chooses_actors_on_the_processor() -> None:
    assert choice() == choice("runtime=serial") == "actor"
    assert choice("runtime.inference=server") == "server"


def test_auto_chooses_a_server_on_another_device() -> None:
    assert choice(device="cuda") == "server"
    for word in ("runtime.inference=actor", "runtime=serial", "runtime.num_actors=1"):
        assert choice(word, device="cuda") == "actor"


def test_auto_chooses_a_server_if_copies_of_the_network_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose_train(["env=conditional", "context=task", "precision=fp32"])
    network = builder.build_network(config, make_spec(config.env))
    copies = 4 * 4 * network.num_parameters
    for memory, expected in ((4 * copies, "actor"), (4 * copies - 4, "server")):
        monkeypatch.setattr(machine, "memory", lambda memory=memory: memory)
        assert choice("precision=fp32") == expected

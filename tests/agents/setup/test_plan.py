"""The plan of a configuration on a machine."""

from __future__ import annotations

import pytest
from saved_agents import CONDITIONAL, SMALL

from agents.setup import machine
from agents.setup.builder import build_network
from agents.setup.plan import Plan, make_plan
from agents.setup.preflight import check_fits
from conf.loading import compose_train
from conf.schema import TrainConfig
from envs.suites import make_spec
from system.errors import InputError


def plan_of(config: TrainConfig) -> Plan:
    return make_plan(config, make_spec(config.env))


@pytest.mark.parametrize(
    ("batch", "slots", "fraction", "fresh", "replayed", "unrolls"),
    [
        (16, 64, 0.0, 16, 0, 1),
        (16, 64, 0.5, 8, 8, 1),
        (128, 64, 0.5, 64, 64, 1),
        (256, 64, 0.5, 128, 128, 2),
        (0, 64, 0.75, 16, 48, 1),
        (0, 64, 0.0, 64, 0, 1),
        (24, 8, 0.333, 16, 8, 2),
    ],
)
def test_update_has_fresh_and_replayed_columns(
    batch: int, slots: int, fraction: float, fresh: int, replayed: int, unrolls: int
) -> None:
    config = compose_train(
        [f"learner.batch_size={batch}", f"runtime.slots_per_actor={slots}", f"learner.replay_fraction={fraction}"]
    )
    workload = plan_of(config).run
    assert (workload.num_fresh, workload.num_replayed) == (fresh, replayed)
    assert workload.columns == fresh + replayed and workload.unrolls_per_batch == unrolls
    assert unrolls * slots % fresh == 0


def test_default_number_of_actors_depends_on_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.setup.machine.num_cores", lambda: 4)

    def actors(*overrides: str) -> int:
        return plan_of(compose_train(list(overrides))).run.num_actors

    assert actors("env.engine=envpool") == 3
    assert actors("env.engine=minigrid") == 4
    assert actors("env.engine=minigrid", "runtime.num_actors=2") == 2
    assert actors("env.engine=minigrid", "runtime=serial") == 1


def test_buffers_hold_a_batch_and_one_more_unroll() -> None:
    """With fewer buffers, actors would wait for the learner to return one, and the learner for the last unroll of its batch."""
    words = ["env=conditional", "runtime.num_actors=1", "runtime.slots_per_actor=4", "learner.batch_size=16"]
    config = compose_train(words)
    assert plan_of(config).run.unrolls_per_batch == 4
    assert plan_of(config).run.buffers_per_actor == 5
    config = compose_train([*words, "runtime.buffers_per_actor=9"])
    assert plan_of(config).run.buffers_per_actor == 9


def test_precision_without_a_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is refused before its first update, without a traceback."""
    monkeypatch.setattr(machine, "has_bf16_lstm", lambda: False)
    for core, refused in (("lstm", True), ("feedforward", False)):
        config = compose_train([*SMALL, *CONDITIONAL, "precision=bf16", "runtime.slots_per_actor=8", f"core={core}"])
        env = make_spec(config.env)
        network = build_network(config, env)
        if not refused:
            check_fits(config, env, network)
            continue
        with pytest.raises(InputError, match="^precision=bf16 needs an LSTM in bf16"):
            check_fits(config, env, network)

"""A follower: a learner that updates from its shard of every batch and reports statistics, positions and faults to the leader."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from agents.cli.exit_codes import DONE, FAILED
from agents.cli.signals import ignore_signals
from agents.distributed.process_group import LEADER, Group, LearnerError, meet_at_file, meet_at_torchrun, shard
from agents.learning.inner_loop import learn
from agents.learning.learner import Learner
from agents.runtime.base import Batch, StreamPositions
from agents.runtime.processes.process import configure_process
from agents.runtime.restarts import Faults
from agents.setup import builder
from agents.setup.plan import Plan, make_plan, resolve_config
from agents.storage.checkpoint import env_from_dict, env_to_dict
from agents.trajectory import COUNTED
from conf.loading import to_dict, train_from_dict
from conf.schema import TrainConfig
from envs.spec import EnvSpec
from envs.spec_changes import interface_changes, listed, task_changes
from envs.suites import make_spec
from system.errors import InputError


def follow(group: Group) -> int:
    """Runs a follower until the leader ends the run. Returns the exit code of the process."""
    try:
        if group.wait_for_all():
            group.join()
            train_shard(group)
        return DONE
    except LearnerError:
        # Another learner failed. The leader reports why, unless it is the one that failed.
        return FAILED
    except Exception as error:
        group.fail(error)
        return FAILED
    finally:
        group.leave()


def initial_message(
    config: TrainConfig, env: EnvSpec, plan: Plan, learner: Learner, positions: StreamPositions
) -> dict[str, Any]:
    """The leader's first message to the followers: configuration, environment, state of the learner, and positions of the run."""
    return {
        "config": to_dict(resolve_config(config, plan)),
        "env": env_to_dict(env),
        "learner": learner.state_dict(),
        "positions": asdict(positions),
    }


def train_shard(group: Group) -> None:
    """Trains from the leader's `initial_message` until its message that the run ends. Raises InputError if the environments on this node
    differ from the leader's.
    """
    initial = group.receive(LEADER)
    config = train_from_dict(initial["config"], "the leader's message")
    # Only the leader logs.
    config.learner.diagnostics = 0
    env, leader_env = make_spec(config.env), env_from_dict(initial["env"])
    if changes := [*task_changes(leader_env, env), *interface_changes(leader_env, env)]:
        raise InputError(
            f"learner {group.rank} has other environments than the leader: {listed(changes)}: install the same on every node."
        )
    plan = make_plan(config, env)
    configure_process(plan.learner_threads)
    network = builder.build_network(config, env).to(plan.device)
    learner = builder.build_learner(config, env, network, plan, reduce=group.reduce)
    learner.load_state_dict(initial["learner"])
    group.sum_on(learner.device)
    positions = shard(StreamPositions(**initial["positions"]), group.rank, group.size)
    records: list[dict[str, Any]] = []
    faults = Faults(
        max_restarts=config.runtime.max_restarts, window=config.runtime.restart_window, record=records.append
    )
    runtime = builder.build_runtime(
        config, env, network, positions, learner.counters.updates, plan=plan, faults=faults, rank=group.rank
    )
    replay = builder.build_replay(config, env, network, plan, learner.counters.updates, rank=group.rank)
    try:
        while True:
            batch = runtime.collect()
            group.send(report(batch, runtime.positions, records), LEADER)
            records.clear()
            order = group.receive(LEADER)
            if order["run_ends"]:
                break
            for _ in learn(
                learner,
                replay,
                batch.trajectory,
                batch.weights_versions,
                num_fresh=plan.shard.num_fresh,
                num_replayed=plan.shard.num_replayed,
                passes=config.learner.passes,
            ):
                pass
            # A follower logs nothing; reading the row drops the lags that the replay has recorded for it.
            replay.row(learner.counters.updates)
            runtime.publish(learner.counters.updates)
            runtime.positions.steps = order["steps"]
    finally:
        runtime.close()


def report(batch: Batch, positions: StreamPositions, records: list[dict[str, Any]]) -> dict[str, Any]:
    """A follower's message about one batch. Of the trajectory it holds only the keys in COUNTED."""
    # Cloned, because torch.save writes the whole storage of a view.
    trajectory = {key: batch.trajectory[key].clone() for key in COUNTED}
    return {
        "batch": {name: getattr(batch, name) for name in Batch.__dataclass_fields__} | {"trajectory": trajectory},
        "positions": asdict(positions),
        "faults": list(records),
    }


def follow_under_torchrun() -> int:
    """`follow`, in a process of torchrun. It ignores signals: the leader receives them too and ends the run."""
    ignore_signals()
    return follow(meet_at_torchrun())


def main(descriptor: int, rank: int, size: int) -> int:
    """Main function of a process that the leader has started (leader.py). `descriptor` is of the file for `meet_at_file`."""
    ignore_signals()
    return follow(meet_at_file(descriptor, rank, size))

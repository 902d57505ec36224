"""Trains one agent on many tasks:  python train.py [key=value ...]   (README.md; every key is explained in conf/schema.py)."""

from __future__ import annotations

from agents.cli.signals import InterruptedWait, begin_program, end_with_the_parent, raise_at_signals, run_program

# The imports below take seconds.
if __name__ == "__main__":
    begin_program()
elif __name__ == "__mp_main__":
    # A spawned actor imports the main module first.
    end_with_the_parent()

import sys
from collections.abc import Sequence
from pathlib import Path

from agents.cli.exit_codes import DONE, exit_code, print_text
from agents.cli.terminal import TextConsole, warn
from agents.distributed.follower import follow_under_torchrun
from agents.distributed.process_group import LearnerError, add_num_processes, dismiss_followers, torchrun_rank
from agents.learning.inner_loop import learn
from agents.learning.learner import NonFiniteError
from agents.run.checkpoint_saver import SaveError
from agents.run.folder import default_run, holds_run, is_finished, resumed_config
from agents.run.lock import MovedError, sole_writer
from agents.run.session import open_session
from agents.runtime.base import ActorError
from agents.setup.match_params import match_params
from agents.setup.plugins import prepare
from conf.arguments.aliases import normalize
from conf.arguments.flags import answer, read_arguments
from conf.loading import changed_keys, compose_train, explicit_keys, reference_fusion
from conf.schema import TrainConfig
from envs.spec import EnvSpec
from envs.suites import get_suite, make_spec, settle

FAILURES = (ActorError, LearnerError, MovedError, NonFiniteError, SaveError)
"""Exceptions that end a run after it has saved what it could."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The program: 0 done, 1 failed and saved, 2 bad input, 130 interrupted and saved."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    raise_at_signals()
    return exit_code(lambda: run(arguments), failures=FAILURES)


def train(config: TrainConfig, env: EnvSpec, *, pause_at: int = 0) -> int:
    """Trains from the start, or from the newest checkpoint, until the run ends, a signal arrives, or `pause_at` frames are played.

    Returns:
        The exit code.
    """
    with open_session(config, env, pause_at=pause_at) as session:
        learner, runtime, shard = session.learner, session.runtime, session.plan.shard
        while not session.ended_by():
            try:
                batch = runtime.collect(session.interruption.check)
            except InterruptedWait:
                break
            session.receive(batch)
            for update in learn(
                learner,
                session.replay,
                batch.trajectory,
                batch.weights_versions,
                num_fresh=shard.num_fresh,
                num_replayed=shard.num_replayed,
                passes=config.learner.passes,
            ):
                session.count_update(update)
            runtime.publish(learner.counters.updates)
            session.count_batch(batch)
            if session.log_is_due():
                session.log()
            if session.save_is_due():
                session.save()
        return session.finish()


def run(arguments: Sequence[str]) -> int:
    """Prints what the flags ask for, or trains: new runs, a resumed run, or as a follower of torchrun's first learner.

    Returns:
        The exit code.
    """
    typed = read_arguments(arguments, "train")
    prepare(typed)
    if (text := answer(typed, __doc__)) is not None:
        return print_text(text)
    if "multirun" in typed.flags:
        from ablation.grid.multirun import multirun

        return multirun(typed.overrides)
    arguments = normalize(typed.overrides, "train")
    if (launched := torchrun_rank()) and launched.rank > 0:
        return follow_under_torchrun()
    arguments = add_num_processes(arguments, launched)
    config = compose_train(arguments)
    config.run = config.run or default_run(config)
    with sole_writer(Path(config.run)):
        if config.resume and holds_run(Path(config.run)):
            config = resumed_config(config, changed_keys(arguments), explicit_keys(arguments))
            if is_finished(config):
                TextConsole().say(f"run={config.run} is finished: nothing to do. A larger total_frames= continues it.")
                if launched:
                    dismiss_followers(launched)
                return DONE
            return train(config, make_spec_with_warnings(config))
        env = make_spec_with_warnings(config)
        config.env = settle(config.env, env)
        return train(match_params(config, env, reference_fusion(config)), env)


def make_spec_with_warnings(config: TrainConfig) -> EnvSpec:
    """The spec of the run's environments. Warns of tasks that cannot always be solved."""
    env = make_spec(config.env)
    for sentence in get_suite(env.suite).warnings(env):
        warn(f"warning: {sentence}")
    return env


if __name__ == "__main__":
    run_program(main)

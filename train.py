"""Trains one agent on many tasks:  python train.py [key=value ...]   (README.md; every key is explained in conf/schema.py)."""

from __future__ import annotations

from agents.cli.signals import InterruptedWait, begin_program, raise_at_signals, run_program, slow_imports

# The imports below take a few tenths of a second.
if __name__ == "__main__":
    begin_program()

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from agents.cli.exit_codes import DONE, exit_code, print_text
from agents.cli.terminal import TextConsole, warn
from agents.distributed.torchrun import add_num_processes, torchrun_rank
from agents.run.layout import check_free, default_run, holds_run
from agents.run.lock import sole_writer
from agents.runtime.processes.fork_server import start_fork_server
from agents.setup.plugins import prepare
from conf.arguments.aliases import normalize
from conf.arguments.flags import answer, read_arguments
from conf.loading import changed_keys, compose_train, explicit_keys, reference_fusion
from conf.schema import TrainConfig
from envs.spec import EnvSpec
from envs.suites import get_suite, make_spec, settle
from system.errors import RunError

# What imports torch is imported inside functions, because that takes a second: bad input is refused before it, and the fork server,
# which imports the same, starts before it.


def main(arguments: Sequence[str] | None = None) -> int:
    """The program: 0 done, 1 failed and saved, 2 bad input, 130 interrupted and saved."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    raise_at_signals()
    return exit_code(lambda: run(arguments), failures=(RunError,))


def train(config: TrainConfig, env: EnvSpec, *, pause_at: int = 0) -> int:
    """Trains from the start, or from the newest checkpoint, until the run ends, a signal arrives, or `pause_at` frames are played.

    Returns:
        The exit code.
    """
    if config.runtime.name == "local":
        start_fork_server()
    with slow_imports():
        from agents.evaluation.during_training import Evaluations
        from agents.learning.inner_loop import learn
        from agents.run.session import open_session
    with open_session(config, env, pause_at=pause_at) as session, closing(Evaluations(session)) as evaluations:
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
            evaluations.advance()
        evaluations.finish()
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
        with slow_imports():
            from ablation.grid.multirun import multirun
        return multirun(typed.overrides)
    arguments = normalize(typed.overrides, "train")
    if (launched := torchrun_rank()) and launched.rank > 0:
        with slow_imports():
            from agents.distributed.follower import follow_under_torchrun
        return follow_under_torchrun()
    arguments = add_num_processes(arguments, launched)
    config = compose_train(arguments)
    config.run = config.run or default_run(config, arguments)
    with sole_writer(Path(config.run)):
        if config.resume and holds_run(Path(config.run)):
            with slow_imports():
                from agents.run.folder import is_finished, resumed_config
            config = resumed_config(config, changed_keys(arguments), explicit_keys(arguments))
            if is_finished(config):
                TextConsole().say(f"run={config.run} is finished: nothing to do. A larger total_frames= continues it.")
                if launched:
                    with slow_imports():
                        from agents.distributed.process_group import dismiss_followers
                    dismiss_followers(launched)
                return DONE
            return train(config, make_spec_with_warnings(config))
        check_free(Path(config.run), resume=config.resume)
        env = make_spec_with_warnings(config)
        config.env = settle(config.env, env)
        if config.context.encoder == "table":
            with slow_imports():
                from agents.setup.sentence_tables import settle_context
            config.context = settle_context(config.context, env)
        if config.match_params:
            with slow_imports():
                from agents.setup.match_params import match_params
            config = match_params(config, env, reference_fusion(config))
        return train(config, env)


def make_spec_with_warnings(config: TrainConfig) -> EnvSpec:
    """The spec of the run's environments. Warns of tasks that cannot always be solved."""
    env = make_spec(config.env)
    for sentence in get_suite(env.suite).warnings(env):
        warn(f"warning: {sentence}")
    return env


if __name__ == "__main__":
    run_program(main)

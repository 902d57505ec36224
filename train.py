"""Trains one agent on many tasks:  python train.py [key=value ...]   (README.md; every key is explained in conf/schema.py)."""

from __future__ import annotations

from agents.cli.signals import (
    INTERRUPTED,
    InterruptedWait,
    Interruption,
    begin_program,
    end_with_the_parent,
    raise_at_signals,
    run_program,
)

# The imports below take seconds.
if __name__ == "__main__":
    begin_program()
elif __name__ == "__mp_main__":
    # This is an actor, which imports the main module before anything else.
    end_with_the_parent()

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from agents.cli.exit_codes import DONE, asks_for_help, exit_code, overrides, show_help
from agents.cli.terminal import TextConsole, warn
from agents.distributed.follower import beginning, follow_under_torchrun
from agents.distributed.leader import DataParallelGroup
from agents.distributed.process_group import LearnerError, send_home, torchrun_place, with_learners
from agents.learning.learner import NonFiniteError
from agents.learning.replay import iterate_minibatches
from agents.network.flops import multiply_adds
from agents.run import banner
from agents.run.bottleneck import limited_by
from agents.run.checkpoint_saver import SaveError, Saver
from agents.run.folder import (
    ResumeState,
    claim,
    default_run,
    holds_run,
    is_finished,
    newest_checkpoint,
    restore,
    result,
    resumed_config,
    snapshot,
    write_agent,
    write_diagnosis,
    write_result,
)
from agents.run.lock import FolderLock, MovedError, sole_writer
from agents.run.metrics import MetricsLog, Statistics
from agents.run.progress import Display
from agents.run.timing import Clock
from agents.runtime.base import ActorError, StreamPositions
from agents.runtime.processes.fork_server import start_fork_server
from agents.runtime.processes.process import configure_process, memory_row
from agents.runtime.restarts import FaultRecord, Faults
from agents.setup import builder, plan
from agents.setup.match_params import match_params
from agents.setup.preflight import check_fits, check_network
from agents.setup.unknown_words import UnknownInstructions
from conf.allowlist import run_arguments
from conf.loading import changed_keys, compose_train, outright_keys, train_keys
from conf.schema import TrainConfig
from envs.scores import human_scores
from envs.spec import EnvSpec
from envs.suites import get_suite, make_spec, settle
from system.errors import InputError

FAILURES = (ActorError, LearnerError, MovedError, NonFiniteError, SaveError)
"""What ends a run that has saved what it could."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The program: 0 done, 1 failed and saved, 2 bad input, 130 interrupted and saved."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    raise_at_signals()
    return exit_code(lambda: begin(arguments), failures=FAILURES)


def begin(arguments: Sequence[str]) -> int:
    """The run that the arguments describe. Returns the exit code."""
    if asks_for_help(arguments):
        return show_help(__doc__, train_keys(overrides(arguments)))
    if (launched := torchrun_place()) and launched.rank > 0:
        return follow_under_torchrun()
    arguments = with_learners(arguments, launched)
    config = compose_train(arguments)
    config.run = config.run or default_run(config)
    with sole_writer(Path(config.run)):
        if config.resume and holds_run(Path(config.run)):
            config = resumed_config(config, changed_keys(arguments), outright_keys(arguments))
            if is_finished(config):
                TextConsole().say(
                    f"run={config.run} is finished: nothing to do. A larger total_frames= goes on with it."
                )
                if launched:
                    send_home(launched)
                return DONE
            return train(config, warned(make_spec(config.env)))
        env = warned(make_spec(config.env))
        config.env = settle(config.env, env)
        return train(match_params(config, env), env)


def warned(env: EnvSpec) -> EnvSpec:
    """The same, after its tasks that cannot always be solved were named."""
    for sentence in get_suite(env.suite).warnings(env):
        warn(f"warning: {sentence}")
    return env


def train(config: TrainConfig, env: EnvSpec, *, pause_at: int = 0) -> int:
    """One run, from its start or its newest checkpoint to its end, an interruption, or so many frames (0 = no pause). Returns the exit
    code.
    """
    with sole_writer(Path(config.run)) as lock:
        return _train(config, env, lock, pause_at)


def _train(config: TrainConfig, env: EnvSpec, lock: FolderLock, pause_at: int) -> int:
    interruption = Interruption()
    configure_process(plan.learner_threads(config, env))
    device = plan.device(config)
    torch.manual_seed(config.seed)
    check_network(config, env)
    network = builder.build_network(config, env).to(device)
    followers = DataParallelGroup(config.learner.num_processes)
    learner = builder.build_learner(config, env, network, reduce=followers.reduce)
    statistics, positions, restored = Statistics(env.tasks, human_scores(env)), StreamPositions(), ResumeState()
    saved = newest_checkpoint(Path(config.run), warn) if config.resume else None
    if saved:
        restored = restore(saved, config, env, learner, statistics, positions)
    check_fits(config, env, network)
    share = plan.share(config, env)
    fresh, replayed, passes = plan.fresh_columns(share), plan.replayed_columns(share), share.learner.passes
    folder = claim(config, env)
    if config.runtime.name == "local":
        start_fork_server()
    # What actors import and what this count imports takes seconds, so both at once.
    cost = multiply_adds(network, env)

    with Display(config.total_frames, enabled=config.display) as display:
        clock = Clock(restored.seconds, learner.counters, action_repeat=env.action_repeat)
        facts = banner.facts(config, env, learner)
        faults = Faults(
            max_restarts=config.runtime.max_restarts,
            window=config.runtime.restart_window,
            repeats=3,
            record=FaultRecord(folder, display.say),
        )
        faults.load_state_dict((saved or {}).get("faults", {}))
        faults.episodes_dropped += restored.episodes_dropped
        followers.start(beginning(config, env, learner, positions), learner.device, cluster=config.runtime.address)
        own_positions, updates = followers.shard(positions), learner.counters.updates
        own = builder.build_runtime(
            config, env, network, own_positions, updates, restored.runtime, faults=faults, say=display.say
        )
        runtime = followers.wrap_runtime(own, positions, faults)
        saver = Saver(
            folder, saved, display.say, keep=config.keep_checkpoints, milestone_frames=config.milestone_frames
        )
        with saver.attempt("agent.json"):
            write_agent(folder, network, cost)
        display.banner(f"mimpala: training in {folder}", banner.describe(config, env, learner, cost))
        log = MetricsLog(folder, learner.counters.updates)
        replay = builder.build_replay(config, env, network, learner.counters.updates)
        unknown = UnknownInstructions(config.env, env)

        def frames() -> int:
            return learner.counters.steps * env.action_repeat

        def save() -> None:
            learner.check_finite()
            with clock.disk():
                content = snapshot(
                    config,
                    env,
                    learner,
                    statistics,
                    runtime.positions,
                    clock.seconds,
                    runtime=runtime.state_dict(),
                    faults=faults.state_dict(),
                )
                saver.save(content, updates=learner.counters.updates, frames=frames(), standing=statistics.standing())

        def ended() -> str:
            """Why the run is over; empty while it goes on."""
            if interruption.wanted:
                return "signal"
            if frames() >= config.total_frames:
                return "total_frames"
            if 0 < pause_at <= frames():
                return "pause"
            return "stop_at_success" if 0 < config.stop_at_success <= statistics.success() else ""

        def report() -> None:
            row, tasks = clock.row(learner.counters, losses), statistics.summary(env.action_repeat)
            row |= replay.row(learner.counters.updates) | faults.row() | memory_row(runtime.processes())
            row |= {"saves_failed": saver.failed} | followers.row()
            for task, figures in tasks.items():
                figures["restarts"] = faults.restarts_of(task)
            verdict = limited_by(clock.shares, facts)
            with clock.disk(), saver.attempt("the log"):
                log.write(row, tasks, verdict.name)
            display.update(row, tasks, verdict.sentence)

        losses: dict[str, torch.Tensor] = {}
        try:
            while not ended():
                try:
                    batch = runtime.collect(interruption.check)
                except InterruptedWait:
                    break
                faults.batch_arrived()
                for sentence in unknown.told(batch.trajectory):
                    display.say(sentence)
                followers.signal_step(statistics.steps())
                before = []
                parts = iterate_minibatches(batch.trajectory, replay, fresh=fresh, replayed=replayed, passes=passes)
                for part, new in learner.staging.ahead(parts):
                    before.append(learner.counters.updates)
                    losses = learner.step(part, fresh=new)
                    if learner.counters.updates > before[-1]:
                        statistics.learned(learner.steps_by_task)
                        for sentence in statistics.surged(learner.surges):
                            display.say(sentence)
                replay.learned(before)
                replay.add(batch.trajectory, batch.weights_versions)
                runtime.publish(learner.counters.updates)
                batch = followers.gather(batch)
                statistics.update(batch.trajectory)
                runtime.positions.steps = statistics.steps()
                clock.tick(batch, before, learner.counters)
                if clock.passed(config.log_frames) if config.log_frames else clock.due("log", config.log_seconds):
                    lock.check()
                    report()
                if clock.due("checkpoint", config.checkpoint_seconds) or saver.milestone(frames()):
                    lock.check()
                    save()
            # An end may fall on a log step, and a row about no time at all would say nothing. With log_frames the rows of a run that
            # was interrupted or paused, and resumed, are those of one that was not.
            if learner.counters.updates > log.updates and not (ended() in ("signal", "pause") and config.log_frames):
                report()
            lock.check()
            save()
        except (ActorError, LearnerError, MovedError, NonFiniteError, InputError) as error:
            # The learner stands between two updates: nothing of what it has learned is lost.
            if place := lock.place():
                saver.folder = place
                with suppress(NonFiniteError):
                    save()
            error.add_note(saver.verdict(learner.counters.updates))
            if isinstance(error, NonFiniteError):
                with saver.attempt("diagnosis.json"):
                    error.add_note(f"What was not finite: {write_diagnosis(folder, error, config, env)}")
            raise
        finally:
            runtime.close()
            log.close()
        verdict = limited_by(clock.shares, facts)
        figures = result(learner, statistics, clock, env, verdict, ended_by=ended()) | faults.row()
        with saver.attempt("result.json"):
            write_result(folder, figures)
        display.finish(run_arguments(config.run, config.env), figures)
    saver.insist(learner.counters.updates)
    # Also of one that came after its end: whoever has asked shall not go on with an evaluation.
    return INTERRUPTED if interruption.wanted else DONE


if __name__ == "__main__":
    run_program(main)

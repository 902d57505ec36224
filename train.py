"""Trains one agent on many tasks:  python train.py [key=value ...]   (README.md; every key is explained in conf/schema.py)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from agents import builder, plan
from agents.bottleneck import limited_by
from agents.checkpoint import save_checkpoint
from agents.clock import Clock
from agents.display import Display
from agents.interruption import Interruption
from agents.learner import NonFiniteError
from agents.matching import match_params
from agents.metrics import MetricsLog, Statistics
from agents.network.cost import multiply_adds
from agents.replay import parts_of
from agents.run_folder import (
    claim,
    default_run,
    holds_run,
    newest_checkpoint,
    restore,
    result,
    resumed_config,
    snapshot,
    write_agent,
    write_result,
)
from agents.runtime.base import ActorError, Positions
from agents.runtime.process import configure_process
from conf.loading import changed_keys, compose_train, train_keys
from conf.schema import TrainConfig
from envs.errors import InputError
from envs.scores import human_scores
from envs.spec import EnvSpec
from envs.suites import make_spec

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The program: 0 done, 1 failed and saved, 2 bad input, 130 interrupted and saved."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if {"--help", "-h"} & set(arguments):
            keys = train_keys([argument for argument in arguments if not argument.startswith("-")])
            print(__doc__, *(f"  {key}={value}" for key, value in keys.items()), sep="\n")
            return DONE
        config = compose_train(arguments)
        config.run = config.run or default_run(config)
        if config.resume and holds_run(Path(config.run)):
            config = resumed_config(config, changed_keys(arguments))
            return train(config, make_spec(config.env))
        env = make_spec(config.env)
        return train(match_params(config, env), env)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except (ActorError, NonFiniteError) as error:
        print(f"error: {error}\nThe run was saved up to here: resume=true goes on with it.", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def train(config: TrainConfig, env: EnvSpec) -> int:
    """One run, from its start or its newest checkpoint to its end or an interruption. Returns the exit code."""
    interruption = Interruption()
    configure_process(plan.learner_threads(config, env))
    torch.manual_seed(config.seed)
    builder.check_network(config, env)
    network = builder.build_network(config, env)
    learner = builder.build_learner(config, env, network)
    statistics, positions, seconds = Statistics(env.tasks, human_scores(env)), Positions(), 0.0
    saved = newest_checkpoint(Path(config.run)) if config.resume else None
    if saved:
        seconds = restore(saved, env, learner, statistics, positions)
    builder.check_fits(config, env, network)
    fresh, replayed, passes = plan.fresh_columns(config), plan.replayed_columns(config), config.learner.passes
    folder = claim(config, env)

    with Display(config.total_frames, enabled=config.display) as display:
        clock = Clock(seconds, learner.state, action_repeat=env.action_repeat)
        facts = builder.facts(config, env, learner)
        runtime = builder.build_runtime(
            config, env, network, positions, learner.state.updates, saved.get("runtime") if saved else None
        )
        # Actors take seconds to start; what the learner's side needs is made meanwhile, and so is the count, whose imports take two.
        cost = multiply_adds(network, env)
        write_agent(folder, network, cost)
        display.banner(f"mimpala: training in {folder}", builder.describe(config, env, learner, cost))
        log = MetricsLog(folder, learner.state.updates)
        replay = builder.build_replay(config, env, network, learner.state.updates)

        def save() -> None:
            with clock.disk():
                content = snapshot(
                    config, env, learner, statistics, runtime.positions, clock.seconds, runtime=runtime.state_dict()
                )
                save_checkpoint(folder / "checkpoints", learner.state.updates, content, config.keep_checkpoints)

        def ended() -> str:
            """Why the run is over; empty while it goes on."""
            if interruption.wanted:
                return "signal"
            if learner.state.steps * env.action_repeat >= config.total_frames:
                return "total_frames"
            return "stop_at_success" if 0 < config.stop_at_success <= statistics.success() else ""

        def report() -> None:
            row, tasks = clock.row(learner.state, losses), statistics.summary(env.action_repeat)
            row |= replay.row(learner.state.updates)
            verdict = limited_by(clock.shares, facts)
            with clock.disk():
                log.write(row, tasks, verdict.name)
            display.update(row, tasks, verdict.sentence)

        losses: dict[str, torch.Tensor] = {}
        try:
            while not ended():
                batch = None
                with interruption.ends_waiting() if runtime.only_waits else nullcontext():
                    batch = runtime.collect()
                if batch is None:
                    break
                updates = learner.state.updates
                for part, new in parts_of(batch.trajectory, replay, fresh=fresh, replayed=replayed, passes=passes):
                    made = learner.state.updates
                    losses = learner.step(part, fresh=new)
                    if learner.state.updates > made:
                        statistics.learned(part)
                replay.add(batch.trajectory, batch.weights_versions)
                runtime.publish(learner.state.updates)
                statistics.update(batch.trajectory)
                clock.tick(batch, updates, learner.state)
                if clock.passed(config.log_frames) if config.log_frames else clock.due("log", config.log_seconds):
                    report()
                if clock.due("checkpoint", config.checkpoint_seconds):
                    save()
            # An end may fall on a log step, and a row about no time at all would say nothing. With log_frames the rows of a run that
            # was interrupted and resumed are those of one that was not.
            if learner.state.updates > log.updates and not (interruption.wanted and config.log_frames):
                report()
            save()
        except (ActorError, NonFiniteError):
            # The learner stands between two updates: nothing of what it has learned is lost.
            save()
            raise
        finally:
            runtime.close()
            log.close()
        verdict = limited_by(clock.shares, facts)
        figures = result(learner, statistics, clock, env, verdict, ended_by=ended())
        write_result(folder, figures)
        display.finish(folder, figures)
    return DONE if figures["finished"] else INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())

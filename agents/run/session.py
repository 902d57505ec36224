"""One run of training: assembles every object that the loop in train.py uses, and counts, logs and saves its updates."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from agents.cli.exit_codes import DONE
from agents.cli.signals import INTERRUPTED, Interruption
from agents.cli.terminal import warn
from agents.distributed.follower import initial_message
from agents.distributed.leader import DataParallelGroup
from agents.distributed.process_group import LEADER, LearnerError, shard
from agents.learning.inner_loop import Update
from agents.learning.nonfinite import NonFiniteError
from agents.network.flops import multiply_adds
from agents.run import banner, folder, layout
from agents.run.bottleneck import Bottleneck, find_bottleneck
from agents.run.checkpoint_saver import Saver
from agents.run.diagnostics import describe, to_host
from agents.run.lock import FolderLock, MovedError, sole_writer
from agents.run.metrics import MetricsLog, Performance, Statistics, mean_over_tasks, scores_of_suite
from agents.run.progress import Display
from agents.run.run_state import ResumeState, checkpoint_content, restore
from agents.run.timing import Clock
from agents.run.trackers.tracker import TrackedRun, Trackers, check_trackers
from agents.runtime.base import ActorError, Batch, StreamPositions
from agents.runtime.processes.process import configure_process, memory_row
from agents.runtime.restarts import Faults, record_faults
from agents.setup import builder
from agents.setup.plan import make_plan
from agents.setup.preflight import MAX_SLOTS, check_evaluation, check_fits, check_network, check_thresholds
from agents.setup.sentence_tables import fill_table
from agents.setup.transfer import start_from
from agents.setup.unknown_words import UnknownInstructions
from conf.allowlist import run_arguments
from conf.loading import to_dict
from conf.schema import TrainConfig
from envs.scores import normalising_scores
from envs.spec import EnvSpec
from system.errors import InputError
from system.files import write_json


@contextlib.contextmanager
def open_session(config: TrainConfig, env: EnvSpec, *, pause_at: int = 0) -> Iterator[Session]:
    """Yields the session of a run, new or resumed from its newest checkpoint, and closes it at the end.

    The run pauses at `pause_at` frames; 0 = never. Raises InputError if it cannot start here. If one of the errors that are named below
    ends the body, the run is saved, and a note of the error states whether that worked.
    """
    with sole_writer(Path(config.run)) as lock, contextlib.ExitStack() as stack:
        session = Session(config, env, lock, stack, pause_at=pause_at)
        try:
            session.record_origin()
            yield session
        except (ActorError, LearnerError, MovedError, NonFiniteError, InputError) as error:
            session.save_after(error)
            raise
        finally:
            session.close()


class Session:
    """A run that has started. See `open_session`.

    Attributes:
        config, env, plan, learner, replay, runtime: The parts of the run.
        interruption: Whether a signal has asked for the end.
        group: The group of learner processes, this one included.
        statistics: Statistics of the tasks over all learners.
    """

    def __init__(
        self, config: TrainConfig, env: EnvSpec, lock: FolderLock, stack: contextlib.ExitStack, *, pause_at: int
    ) -> None:
        self.config, self.env = config, env
        self._lock, self._pause_at, self._is_closed = lock, pause_at, False
        self.interruption = Interruption()
        self.plan = plan = make_plan(config, env)
        configure_process(plan.learner_threads)
        torch.manual_seed(config.seed)
        check_network(config, env)
        saved = folder.load_newest_checkpoint(Path(config.run), warn) if config.resume else None
        network = builder.build_network(config, env)
        if not saved:
            fill_table(network, config.context, env)
        network = network.to(plan.device)
        self.group = DataParallelGroup(config.learner.num_processes)
        self.learner = learner = builder.build_learner(config, env, network, plan, reduce=self.group.reduce)
        self.statistics, positions = Statistics(env.tasks, normalising_scores(env)), StreamPositions()
        restored = ResumeState()
        if saved:
            actors = plan.run.num_actors
            restored = restore(saved, config, env, learner, self.statistics, positions, num_actors=actors)
        self._origin = start_from(config, env, learner) if config.init and not saved else None
        check_fits(config, env, network)
        check_thresholds(config, env)
        check_trackers(config.logger)
        if config.evaluate_every:
            check_evaluation(config.env, min(config.evaluate_episodes, MAX_SLOTS), key="evaluate_episodes")
        self.folder = folder.create_run_folder(config, env)
        # Only now: a refusal of the configuration comes without a progress bar.
        self._display = display = stack.enter_context(Display(config.total_frames, enabled=config.display))
        tracked = TrackedRun(self.folder, to_dict(config), learner.counters.steps * env.action_repeat)
        trackers = Trackers(config.logger, tracked, display.say)
        stack.callback(trackers.close)
        self._clock = Clock(restored.seconds, learner.counters, action_repeat=env.action_repeat)
        self._facts = banner.collect_facts(config, env, plan, learner)
        self._faults = Faults(
            max_restarts=config.runtime.max_restarts,
            window=config.runtime.restart_window,
            repeats=3,
            record=record_faults(self.folder, display.say),
        )
        self._faults.load_state_dict((saved or {}).get("faults", {}))
        self._faults.episodes_dropped += restored.episodes_dropped
        message, updates = initial_message(config, env, plan, learner, positions), learner.counters.updates
        self.group.start(message, learner.device, cluster=config.runtime.address)
        own_runtime = builder.build_runtime(
            config,
            env,
            network,
            shard(positions, LEADER, config.learner.num_processes),
            updates,
            restored.runtime,
            plan=plan,
            faults=self._faults,
            say=display.say,
        )
        self.runtime = self.group.wrap_runtime(own_runtime, positions, self._faults)
        # Not before the actors start, because it takes 0.1 s.
        cost = multiply_adds(network, env)
        self._saver = Saver(
            self.folder, saved, display.say, keep=config.keep_checkpoints, milestone_frames=config.milestone_frames
        )
        with self._saver.tolerate_failure("agent.json"):
            agent = {"parameters": network.num_parameters, "multiply_adds": cost._asdict()}
            write_json(self.folder / layout.AGENT, agent)
        display.banner(f"mimpala: training in {self.folder}", banner.describe(config, env, plan, learner, cost))
        self._log = MetricsLog(self.folder, updates, trackers)
        self.replay = builder.build_replay(config, env, network, plan, updates)
        self._unknown_instructions = UnknownInstructions(config.env, env)
        self._losses: dict[str, torch.Tensor] = {}
        self._update_numbers: list[int] = []
        self._evaluation: dict[str, float] = {}

    def record_origin(self) -> None:
        """Writes init.json and a first checkpoint, from which the run resumes without the run that `init` names."""
        if self._origin:
            with self._saver.tolerate_failure("init.json"):
                write_json(self.folder / layout.INIT, self._origin)
            self.save()

    @property
    def frames(self) -> int:
        """Environment frames that all learners have learned from."""
        return self.learner.counters.steps * self.env.action_repeat

    def ended_by(self) -> str:
        """Why the run ends: `signal`, `pause`, or the key that ends it. Empty while it continues."""
        if self.interruption.wanted:
            return "signal"
        if self.frames >= self.config.total_frames:
            return "total_frames"
        if 0 < self._pause_at <= self.frames:
            return "pause"
        if self.statistics.reaches(folder.thresholds(self.config)):
            return "stop_at" if self.config.stop_at else "stop_at_success"
        return ""

    def receive(self, batch: Batch) -> None:
        """Reports unknown instructions of a new batch, and signals the other learners to make the same step."""
        self._faults.batch_arrived()
        for sentence in self._unknown_instructions.find_new(batch.trajectory):
            self._display.say(sentence)
        self.group.signal_step(self.statistics.steps())
        self._update_numbers.clear()

    def count_update(self, update: Update) -> None:
        self._update_numbers.append(update.number)
        self._losses = update.metrics
        if update.accepted:
            for sentence in self.statistics.count_update(self.learner.steps_by_task, self.learner.surges):
                self._display.say(sentence)

    def count_batch(self, batch: Batch) -> None:
        """Counts the episodes and the time of a batch, after its last update."""
        batch = self.group.gather(batch)
        self.statistics.update(batch.trajectory)
        self.runtime.positions.steps = self.statistics.steps()
        self._clock.count_batch(batch, self._update_numbers, self.learner.counters)

    def log_is_due(self) -> bool:
        """Whether log_frames, or else log_seconds, have passed since the last log step."""
        if self.config.log_frames:
            return self._clock.frames_passed(self.config.log_frames)
        return self._clock.seconds_passed("log", self.config.log_seconds)

    def log(self) -> None:
        """One log step: metrics.jsonl, TensorBoard and the terminal. Raises MovedError if the folder was moved or deleted."""
        self._lock.check()
        self._write_row()

    def _write_row(self) -> None:
        counters = self.learner.counters
        losses = describe(self.learner, self._losses, self.env.tasks)
        if self.learner.diagnostics:
            losses |= to_host(self.learner.diagnostics.take())
        row, tasks = self._clock.row(counters, losses), self.statistics.summary(self.env.action_repeat)
        row |= self.replay.row(counters.updates) | self._faults.row() | memory_row(self.runtime.processes())
        row |= {"saves_failed": self._saver.failed} | self.group.row()
        for task, figures in tasks.items():
            figures["restarts"] = self._faults.restarts_of(task)
        bottleneck = self._bottleneck()
        with self._clock.disk(), self._saver.tolerate_failure("the log"):
            self._log.write(row, tasks, bottleneck.name)
        self._display.update(row, tasks, bottleneck.sentence)

    def save_is_due(self) -> bool:
        """Whether checkpoint_seconds have passed since the last checkpoint, or the frames of a milestone are reached."""
        return self._clock.seconds_passed("checkpoint", self.config.checkpoint_seconds) or self._saver.milestone_is_due(
            self.frames
        )

    def save(self) -> Path | None:
        """Writes a checkpoint and returns its path; None if the disk refuses, which is reported.

        Raises NonFiniteError if the learner is not finite, MovedError if the folder was renamed or deleted.
        """
        self._lock.check()
        return self._save()

    def hold_checkpoint(self, updates: int | None) -> None:
        """Keeps the checkpoint of so many updates, which another process reads, and no longer an earlier one."""
        self._saver.held = updates

    def consider_best(self, updates: int, performance: Performance) -> bool:
        """Makes the checkpoint of an evaluation the best one, if it is. Returns whether it is."""
        return self._saver.consider(updates, performance)

    def track_evaluation(self, frames: int, values: Mapping[str, float]) -> None:
        """Logs the result of an evaluation at `frames` to the trackers, and keeps it for result.json."""
        self._evaluation = {"evaluation/frames": frames, **values}
        self._log.trackers.log(frames, values)

    def say(self, text: str) -> None:
        """Shows a line to the user."""
        self._display.say(text)

    def tolerate_failure(self, what: str) -> contextlib.AbstractContextManager[None]:
        """See Saver."""
        return self._saver.tolerate_failure(what)

    def finish(self) -> int:
        """Ends the run in order: last log step, checkpoint, result.json, result on the terminal. Returns the exit code.

        Raises SaveError if the disk refuses some of it.
        """
        ended_by = self.ended_by()
        # With log_frames the rows follow from the frames alone. So an interruption or a pause adds none, and the resumed run logs the
        # same rows as an uninterrupted one.
        if self.learner.counters.updates > self._log.updates and not (
            ended_by in ("signal", "pause") and self.config.log_frames
        ):
            self._write_row()
        self.save()
        self.close()
        result = self._result()
        with self._saver.tolerate_failure("result.json"):
            write_json(self.folder / layout.RESULT, result)
        self._display.finish(run_arguments(self.config.run, self.config.env, self.config.plugins), result)
        self._saver.raise_if_unsaved(self.learner.counters.updates)
        # A signal after the last update still returns 130, so that callers do not start the evaluation.
        return INTERRUPTED if self.interruption.wanted else DONE

    def save_after(self, error: Exception) -> None:
        """Saves a run that `error` ends, with the error in result.json, and adds a note to the error that states what was saved. Does
        nothing after `close`.

        The learner is between two updates, so the checkpoint has all of them.
        """
        if self._is_closed:
            return
        # A renamed folder is saved to under its new name. A deleted one is not made again.
        if place := self._lock.current_folder():
            self._saver.folder = place
            with contextlib.suppress(NonFiniteError):
                self._save()
            with self._saver.tolerate_failure("result.json"):
                ended = {"finished": False, "ended_by": "error", "error": str(error)}
                write_json(place / layout.RESULT, self._result() | ended)
        error.add_note(self._saver.describe_saved_state(self.learner.counters.updates))
        if isinstance(error, NonFiniteError):
            with self._saver.tolerate_failure("diagnosis.json"):
                path = folder.write_diagnosis(self.folder, error, self.config, self.env)
                error.add_note(f"What was not finite: {path}")

    def close(self) -> None:
        """Ends the actors and the other learners, and closes the log; may be called twice."""
        self._is_closed = True
        self.runtime.close()
        self._log.close()

    def _save(self) -> Path | None:
        self.learner.check_finite()
        # With evaluations, the best checkpoint is that of the best one.
        performance = None if self.config.evaluate_every else self.statistics.recent_performance()
        with self._clock.disk():
            content = checkpoint_content(
                self.config,
                self.env,
                self.learner,
                self.statistics,
                self.runtime.positions,
                self._clock.seconds,
                runtime=self.runtime.state_dict(),
                faults=self._faults.state_dict(),
            )
            updates = self.learner.counters.updates
            return self._saver.save(content, updates=updates, frames=self.frames, performance=performance)

    def _result(self) -> dict[str, Any]:
        """The content of result.json. Speed and time shares count from the end of the warm-up; before it they are 0 and empty."""
        state, clock, ended_by = self.learner.counters, self._clock, self.ended_by()
        tasks = self.statistics.summary(self.env.action_repeat)
        return {
            "finished": ended_by not in ("signal", "pause"),
            "ended_by": ended_by,
            "updates": state.updates,
            "updates_refused": state.refused,
            "frames": self.frames,
            "steps": state.steps,
            "seconds": clock.seconds,
            "frames_per_second": clock.steady_frames_per_second,
            "time": clock.shares._asdict() if clock.shares else {},
            "limited_by": self._bottleneck().sentence,
            "parameters": self.learner.network.num_parameters,
            "tasks": tasks,
            "mean": mean_over_tasks(tasks),
            "score": scores_of_suite(tasks),
            **({"evaluation": self._evaluation} if self._evaluation else {}),
            **self._faults.row(),
        }

    def _bottleneck(self) -> Bottleneck:
        return find_bottleneck(self._clock.shares, self._facts)

"""Evaluates a trained agent:  python evaluate.py run=<run folder or checkpoint file> [key=value ...]   (every key: conf/schema.py)."""

from __future__ import annotations

from agents.cli.signals import INTERRUPTED, begin_program, raise_at_signals, run_program

if __name__ == "__main__":
    # Handle signals first: the imports below take seconds.
    begin_program()

import contextlib
import itertools
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from agents.cli.exit_codes import DONE, exit_code, print_text
from agents.cli.terminal import TextConsole, warn
from agents.evaluation.earlier_files import keep_folder
from agents.evaluation.episodes import (
    Episodes,
    SavedAgent,
    StoppedError,
    evaluation_spec,
    load_agent,
    make_actor,
    play,
    quotas,
)
from agents.evaluation.noise_curve import noise_report, write_curve
from agents.evaluation.probe_report import (
    Probing,
    check_contexts,
    play_unseen,
    plays_unseen,
    probe_report,
    unseen_report,
)
from agents.evaluation.report import prepare_output, report, results_folder, write_report
from agents.evaluation.tables import result_tables
from agents.evaluation.tracking import track_evaluation
from agents.evaluation.video import check_video, file_names, picture_rates, record_all
from agents.evaluation.watch import check_watch, watch
from agents.run.trackers.tracker import Trackers, check_trackers
from agents.runtime.processes.process import configure_process
from agents.setup.machine import num_cores, resolve_device
from agents.setup.plugins import load_plugins, prepare
from agents.setup.preflight import check_evaluation
from agents.storage.checkpoint import find_checkpoint
from conf.arguments.flags import answer, read_arguments
from conf.evaluate_schema import EvaluateConfig
from conf.loading import compose_evaluate
from envs.spec import EnvSpec
from envs.suites import get_suite
from system.files import check_links
from system.words import count, shorten

_LONGEST_NAME = 24


def main(arguments: Sequence[str] | None = None) -> int:
    """The program: 0 done, 2 bad input, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    raise_at_signals()
    return exit_code(lambda: run(arguments), interrupted="interrupted: no result was written")


def run(arguments: Sequence[str]) -> int:
    """Prints what the flags ask for, or evaluates. Returns the exit code."""
    typed = read_arguments(arguments, "evaluate")
    prepare(typed)
    text = answer(typed, __doc__)
    return evaluate(compose_evaluate(typed.overrides)) if text is None else print_text(text)


def evaluate(config: EvaluateConfig) -> int:
    """One evaluation: plays, writes the result and prints it. Returns the exit code."""
    load_plugins(config.plugins)
    agent = load_agent(find_checkpoint(Path(config.run), warn), config.allow, config.tasks)
    check_contexts(agent, config)
    spec = evaluation_spec(agent, config.tasks, config.engine)
    for sentence in get_suite(spec.suite).warnings(spec):
        warn(f"warning: {sentence.replace('env.engine', 'engine')}")
    if config.watch:
        return _watch(agent, spec, config)
    folder = results_folder(Path(config.run), agent.path)
    output = Path(config.output) if config.output else folder / "evaluation.json"
    prepare_output(output, given=bool(config.output))
    check_links(folder, "videos", "probes")
    check_trackers(config.logger)
    if config.video:
        check_video()
    configure_process(config.threads or num_cores())
    resolve_device(config.device)
    slots = len(quotas(config.episodes, config.slots))
    check_evaluation(agent.config.env, slots)
    probing = Probing(agent, spec, config)

    console = TextConsole()
    how = "greedy" if config.greedy else "sampled"
    trained = f"{count(agent.updates, 'update')}, {count(agent.frames, 'frame')}"
    title = f"mimpala: evaluating {agent.path} ({trained}): {count(config.episodes, f'{how} episode')}"
    console.say(f"{title} of each of {count(len(spec.tasks), 'task')}, seed {config.seed}")
    moved = _keep_earlier_folders(agent, spec, config, folder, probing)
    pictures = probing.write_similarity(folder) if config.similarity else []
    episodes, unseen, probed, stopped = _play_all(agent, spec, config, probing, console)

    content = report(agent, spec, config, slots, episodes)
    if unseen is not None:
        content["unseen"] = unseen_report(agent, episodes, unseen)
    if stopped:
        content["stopped"] = str(stopped)
    if probes := {name: played for name, played in probed.items() if name in probing.names}:
        content["probes"] = probe_report(agent, episodes, probes)
    if noisy := {level: probed[name] for name, level in probing.levels.items() if name in probed}:
        content["noise"] = noise_report(agent, episodes, noisy)
    earlier = write_report(output, content)
    pictures += [write_curve(content["noise"], folder)] if noisy else []
    console.print(*result_tables(content), sep="\n", highlight=False)
    for written in (output, *pictures):
        console.say(f"written: {written}")
    for path in (earlier, *moved):
        if path:
            console.say(f"kept: {path}, an earlier evaluation with other settings")
    with contextlib.closing(track_evaluation(config.logger, agent, folder, content, pictures)) as trackers:
        if stopped:
            raise stopped
        # Last, so that an interrupted video does not lose the result.
        return _record_videos(agent, spec, config, folder, console, trackers) if config.video else DONE


def _watch(agent: SavedAgent, spec: EnvSpec, config: EvaluateConfig) -> int:
    check_watch()
    configure_process(config.threads or num_cores())
    check_evaluation(agent.config.env, slots=1)
    trained = f"{count(agent.updates, 'update')}, {count(agent.frames, 'frame')}"
    TextConsole().say(f"mimpala: watching {agent.path} ({trained})")
    watch(agent, spec, config)
    return DONE


def _keep_earlier_folders(
    agent: SavedAgent, spec: EnvSpec, config: EvaluateConfig, folder: Path, probing: Probing
) -> list[Path | None]:
    """Moves probes and videos of earlier evaluations with other settings aside, if this one writes its own."""
    settings = {"sha256": agent.sha256, "seed": config.seed}
    moved = []
    if (config.similarity and probing.names) or probing.levels:
        moved.append(keep_folder(folder / "probes", settings))
    if config.video:
        video = {"episodes": config.video_episodes, "greedy": config.greedy, "engine": spec.engine}
        moved.append(keep_folder(folder / "videos", settings | video))
    return moved


def _play_all(
    agent: SavedAgent, spec: EnvSpec, config: EvaluateConfig, probing: Probing, console: TextConsole
) -> tuple[dict[str, Episodes], dict[str, Episodes] | None, dict[str, dict[str, Episodes]], StoppedError | None]:
    """Plays all tasks, then on the contexts that training left out, then under each probe and each noise.

    Raises StoppedError if no task could be played.

    Returns:
        Episodes by task, the same on unseen contexts (None without), episodes by probe or noise and task, and the error that ended the
        evaluation early.
    """
    episodes: dict[str, Episodes] = {}
    unseen: dict[str, Episodes] | None = None
    too = plays_unseen(agent, config)
    probed: dict[str, dict[str, Episodes]] = {name: {} for name in (*probing.names, *probing.levels)}
    columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, expand=True, transient=True) as progress:
        bar = progress.add_task("", total=config.episodes * len(spec.tasks) * (1 + too + len(probed)))
        advance = partial(progress.advance, bar)

        def begin(task: str, what: str) -> None:
            progress.update(bar, description=escape(f"{shorten(task, _LONGEST_NAME)}{what}"))

        task = ""
        try:
            for task in spec.tasks:
                begin(task, "")
                episodes[task] = play(agent, spec, task, config, advance, probing.record(task), warn)
            if too:
                unseen = play_unseen(agent, spec, config, advance, partial(begin, what=": unseen"))
            for probe, task in itertools.product(probed, spec.tasks):
                begin(task, f": {probe}")
                probed[probe][task] = play(agent, spec, task, config, advance, probing.prepare(probe, task))
        except StoppedError as error:
            if task not in episodes and error.episodes:
                episodes[task] = error.episodes
            # A drop compares all tasks, so incomplete probes are discarded.
            if not episodes:
                raise
            complete = {probe: tasks for probe, tasks in probed.items() if len(tasks) == len(spec.tasks)}
            return episodes, unseen, complete, error
    return episodes, unseen, probed, None


def _record_videos(
    agent: SavedAgent, spec: EnvSpec, config: EvaluateConfig, folder: Path, console: TextConsole, trackers: Trackers
) -> int:
    make = partial(make_actor, agent, spec, slots=1, config=config)
    names, rates = file_names(spec.tasks), picture_rates(spec)
    try:
        for drawn in record_all(names, make, agent.env, config.video_episodes, folder / "videos", rates):
            if isinstance(drawn, str):
                warn(drawn)
                continue
            console.say(f"written: {drawn}")
            trackers.video(agent.frames, f"evaluation/video/{drawn.stem}", drawn)
    except KeyboardInterrupt:
        warn("interrupted: the result is written, and not every video")
        return INTERRUPTED
    return DONE


if __name__ == "__main__":
    run_program(main)

"""Writes an agent as a folder in the layout of the Hugging Face hub:  mimpala export run=<run folder or checkpoint file> output=<folder>

The folder holds the weights as safetensors, configuration, vocabulary, videos and a model card. `mimpala.load` and `mimpala evaluate`
read it.
"""

from __future__ import annotations

from agents.cli.signals import begin_program, raise_at_signals, run_program

if __name__ == "__main__":
    # The imports below take seconds.
    begin_program()

import dataclasses
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from agents.cli.exit_codes import DONE, exit_code, print_text
from agents.cli.terminal import TextConsole, warn
from agents.evaluation.episodes import SavedAgent, load_agent
from agents.evaluation.report import results_folder
from agents.setup.plugins import load_plugins, prepare
from agents.storage.checkpoint import env_to_dict, find_checkpoint
from agents.storage.exported import ABOUT, FORMAT, write_exported
from conf.allowlist import run_arguments
from conf.arguments.flags import answer, read_arguments
from conf.command_line import command_of
from conf.evaluate_schema import ExportConfig
from conf.loading import compose_export, to_dict
from mimpala.model_card import CARD, find_evaluation, model_card
from system.errors import InputError
from system.files import check_links, open_ordinary, read_json, write_whole

VIDEOS, REPLAY = "videos", "replay.mp4"
"""The folder of the videos, and the name under which the hub plays one of them."""

_VIDEO = re.compile(r"[A-Za-z0-9._-]+\.(mp4|gif)")


def main(arguments: Sequence[str] | None = None) -> int:
    """The program: 0 done, 2 bad input, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    raise_at_signals()
    return exit_code(lambda: run(arguments), interrupted="interrupted: the output is incomplete")


def run(arguments: Sequence[str]) -> int:
    """Prints what the flags ask for, or exports. Returns the exit code."""
    typed = read_arguments(arguments, "export")
    prepare(typed)
    if (text := answer(typed, __doc__)) is not None:
        return print_text(text)
    return export_agent(compose_export(typed.overrides))


def export_agent(config: ExportConfig) -> int:
    """Writes the folder. Returns the exit code."""
    load_plugins(config.plugins)
    run, output = Path(config.run), Path(config.output)
    agent = load_agent(find_checkpoint(run, warn), config.allow)
    # Raises if the weights are those of another configuration.
    parameters = agent.network(agent.env).num_parameters
    folder = results_folder(run, agent.path)
    check_links(folder, VIDEOS)
    evaluation = find_evaluation(folder, agent.sha256, warn)
    _prepare(output)
    try:
        videos = _copy_videos(folder, output, agent.sha256)
        write_whole(output / CARD, model_card(agent, parameters, evaluation, videos, folder))
        write_exported(output, _content(agent))
    except OSError as error:
        raise InputError(
            f"output={output} cannot be written ({error.strerror}): make room, or give another output=."
        ) from error
    console = TextConsole()
    console.say(f"written: {output}, which mimpala.load reads")
    if not evaluation:
        named = run_arguments(config.run, agent.config.env, agent.config.plugins)
        console.say("Its model card has no scores, because this checkpoint is not evaluated.")
        console.verbatim(f"next: {command_of('evaluate')} {named}")
    return DONE


def _content(agent: SavedAgent) -> dict[str, object]:
    """The agent in the form of a checkpoint's content, without names of folders on this machine."""
    config = dataclasses.replace(agent.config, run="", resume=False, allow=[])
    counters = {"updates": agent.updates, "steps": agent.frames // agent.env.action_repeat}
    return {
        "config": to_dict(config),
        "env": env_to_dict(agent.env),
        "learner": {"network": agent.weights, "counters": counters},
        "versions": agent.versions,
    }


def _prepare(output: Path) -> None:
    """Makes the folder. InputError if it holds something that is no export, or cannot be made."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        has_files = any(output.iterdir())
    except OSError as error:
        raise InputError(f"output={output} cannot be written ({error.strerror}): give another output=.") from error
    if has_files and (read_json(output / ABOUT) or {}).get("format") != FORMAT:
        raise InputError(f"output={output} holds files that are no exported agent: give a new folder as output=.")


def _copy_videos(folder: Path, output: Path, sha256: str) -> list[str]:
    """Replaces the videos in `output` by those of this checkpoint. Returns their paths there."""
    shutil.rmtree(output / VIDEOS, ignore_errors=True)
    (output / REPLAY).unlink(missing_ok=True)
    if (read_json(folder / f"{VIDEOS}.json") or {}).get("sha256") != sha256 or not (folder / VIDEOS).is_dir():
        return []
    found = sorted(path for path in (folder / VIDEOS).iterdir() if _VIDEO.fullmatch(path.name))
    (output / VIDEOS).mkdir()
    for path in found:
        _copy(path, output / VIDEOS / path.name)
    if replay := next((path for path in found if path.suffix == ".mp4"), None):
        _copy(replay, output / REPLAY)
    return [f"{VIDEOS}/{path.name}" for path in found]


def _copy(source: Path, target: Path) -> None:
    with os.fdopen(open_ordinary(source), "rb") as video, target.open("wb") as copy:
        shutil.copyfileobj(video, copy)


if __name__ == "__main__":
    run_program(main)

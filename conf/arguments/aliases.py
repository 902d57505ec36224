"""Arguments as other programs spell them: each is read as ours, or answered with the right spelling.

Interpolations of environment variables are replaced here, before anything reads or saves the arguments.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence

from conf import names
from conf.command_line import shorten
from envs.suites import SUITES
from system.errors import InputError


class Answer(str):
    """The end of the sentence that refuses an argument; it begins with the argument."""

    __slots__ = ()


_FRAMES = Answer("is no key: training is counted in env frames (agent steps times action repeat): write total_frames=N")
_TRACKER = Answer(
    "is no key: metrics.jsonl is always in the run folder, and logger=[tensorboard,wandb,mlflow,csv] names trackers"
)
_RESUME = Answer("is no key: a run continues from its folder: write run=<folder> resume=true")
_NETWORK = Answer("is no key: the network is chosen by torso=, core= and fusion=; --help lists their names")
_LAUNCHER = Answer("is refused, because Hydra would build it through _target_: write runtime=cluster or parallel=N")

ALIASES: dict[str, str] = {
    # The task. The first pattern that matches counts.
    "env=BabyAI-*": Answer("names a task: write env=babyai env.tasks=[{value}]"),
    "env=MiniGrid-*": Answer("names a task: write env=babyai env.tasks=[{value}]"),
    "env=minigrid": Answer(
        "is no suite: write env=babyai env.tasks=[MiniGrid-...], and env.engine=minigrid for its engine"
    ),
    "env=ALE/*": Answer("names a task: write env=atari env.tasks=[Pong], with the name of the game alone"),
    "env=*-v[0-9]*": Answer("names a task: write env=gymnasium env.tasks=[{value}]"),
    "env=gym": "env=gymnasium",
    "env=dmlab": "env=dmlab30",
    "env_id=*": Answer("is no key: write env=<suite> env.tasks=[{value}]"),
    "env_name=*": Answer("is no key: write env=<suite> env.tasks=[{value}]"),
    "task=*": "env.tasks={value}",
    "tasks=*": "env.tasks={value}",
    # The length of a run, and its folder.
    "steps=*": _FRAMES,
    "num_steps=*": _FRAMES,
    "total_steps=*": _FRAMES,
    "max_steps=*": _FRAMES,
    "timesteps=*": _FRAMES,
    "total_timesteps=*": _FRAMES,
    "frames=*": "total_frames={value}",
    "num_frames=*": "total_frames={value}",
    "max_frames=*": "total_frames={value}",
    "output_dir=*": "run={value}",
    "log_dir=*": "run={value}",
    "logdir=*": "run={value}",
    "savedir=*": "run={value}",
    "hydra.run.dir=*": "run={value}",
    "hydra.sweep.dir=*": "run={value}",
    "hydra/launcher=*": _LAUNCHER,
    "hydra/sweeper=*": _LAUNCHER,
    "checkpoint=*": _RESUME,
    "load=*": _RESUME,
    "resume_from=*": _RESUME,
    # Trackers.
    "wandb=*": _TRACKER,
    "use_wandb=*": _TRACKER,
    "track=*": _TRACKER,
    "tensorboard=*": _TRACKER,
    "use_tensorboard=*": _TRACKER,
    "mlflow=*": _TRACKER,
    "tracker=*": "logger={value}",
    "trackers=*": "logger={value}",
    "loggers=*": "logger={value}",
    "eval_every=*": "evaluate_every={value}",
    "eval_episodes=*": "evaluate_episodes={value}",
    # The learner.
    "lr=*": "learner.learning_rate={value}",
    "learning_rate=*": "learner.learning_rate={value}",
    "learner.lr=*": "learner.learning_rate={value}",
    "schedule=*": "learner.schedule={value}",
    "lr_schedule=*": "learner.schedule={value}",
    "learner.lr_schedule=*": "learner.schedule={value}",
    "warmup_frames=*": "learner.warmup_frames={value}",
    "anneal=*": "learner.anneal={value}",
    "anneal_lr=*": "learner.anneal={value}",
    "learner.anneal_lr=*": "learner.anneal={value}",
    "gamma=*": "learner.discounting={value}",
    "discount=*": "learner.discounting={value}",
    "discounting=*": "learner.discounting={value}",
    "learner.gamma=*": "learner.discounting={value}",
    "learner.discount=*": "learner.discounting={value}",
    "lambda=*": "learner.lambda_={value}",
    "gae_lambda=*": "learner.lambda_={value}",
    "learner.lambda=*": "learner.lambda_={value}",
    "learner.gae_lambda=*": "learner.lambda_={value}",
    "batch_size=*": "learner.batch_size={value}",
    "unroll_length=*": "learner.unroll_length={value}",
    "rollout_length=*": "learner.unroll_length={value}",
    "learner.rollout_length=*": "learner.unroll_length={value}",
    "optimizer=*": "learner.optimizer={value}",
    "ent_coef=*": "learner.entropy_cost={value}",
    "entropy_coef=*": "learner.entropy_cost={value}",
    "entropy_cost=*": "learner.entropy_cost={value}",
    "learner.ent_coef=*": "learner.entropy_cost={value}",
    "learner.entropy_coef=*": "learner.entropy_cost={value}",
    "vf_coef=*": "learner.baseline_cost={value}",
    "baseline_cost=*": "learner.baseline_cost={value}",
    "learner.vf_coef=*": "learner.baseline_cost={value}",
    "max_grad_norm=*": "learner.max_gradient_norm={value}",
    "learner.max_grad_norm=*": "learner.max_gradient_norm={value}",
    "learner.epochs=*": "learner.passes={value}",
    "num_epochs=*": "learner.passes={value}",
    "algo=*": Answer("is no key: the loss is learner.loss=impala, or learner.loss=appo for PPO's clipped surrogate"),
    # The network and the machine.
    "model=*": _NETWORK,
    "network=*": _NETWORK,
    "policy=*": _NETWORK,
    "sites=*": "fusion.sites={value}",
    "device=gpu": "device=cuda",
    "cuda=*": Answer("is no key: write device=cuda, or device=cpu"),
    "use_gpu=*": Answer("is no key: write device=cuda, or device=cpu"),
    "precision=bfloat16": "precision=bf16",
    "precision=float32": "precision=fp32",
    "num_actors=*": "runtime.num_actors={value}",
    "num_workers=*": "runtime.num_actors={value}",
    "runtime=ray": "runtime=cluster",
    "num_envs=*": Answer(
        "is no key: there are runtime.num_actors times runtime.slots_per_actor environments: write these"
    ),
}
"""Pattern of `key=value` -> our argument, or an Answer; `{value}` is the typed value. For train.py and programs with its keys."""

_OF_SAVED_AGENTS = ("evaluate", "export")
"""Programs without the keys of train.py."""

_EVALUATE_ALIASES = ("device=gpu",)
"""Rows that hold for them as well."""

_CHOICES = {"env": SUITES, "fusion": names.FUSIONS, "core": names.CORES, "runtime": names.RUNTIMES}
_VARIABLE = re.compile(r"\$\{oc\.env:\s*([A-Za-z_][A-Za-z0-9_]*)\s*(?:,([^{}]*))?\}")


def normalize(arguments: Sequence[str], program: str) -> list[str]:
    """The arguments in this project's spelling, each `key=value`, without interpolations. Normalizing twice changes nothing.

    `program` is the name in conf/ of the configuration: train, evaluate, ablate, ..., or studies/<name>. InputError for an argument that
    has no key, adds or removes one, names a variable that is not set, or is answered by ALIASES.
    """
    return [_normalize(argument, program) for argument in arguments]


def _normalize(argument: str, program: str) -> str:
    shown = shorten(argument)
    text = _VARIABLE.sub(_variable, argument)
    if "${" in text:
        raise InputError(
            f"{shown} holds an interpolation: give the value itself; only ${{oc.env:NAME}} is replaced, by an environment variable."
        )
    if text.startswith("--"):
        text = text[2:]
        if "=" not in text:
            # A switch that ALIASES answers, such as --wandb.
            _alias(f"{text}=true", program, shown)
            raise InputError(
                f"{shown} is no flag: write {text or 'key'}=value, without dashes; --help lists flags and keys."
            )
    elif text.startswith("-"):
        raise InputError(f"{shown} is no flag: every setting is key=value; --help lists flags and keys.")
    text = text.removeprefix("++")
    if text.startswith(("+", "~")):
        hint = f"write {text[1:]}" if text.startswith("+") and "=" in text else "write key=value"
        raise InputError(f"{shown} adds or removes a key: every key is there already, {shorten(hint)}.")
    # The default name of a run has `=` in it. No key has a slash or a dash.
    names_run = program in _OF_SAVED_AGENTS and re.search("[/-]", text.partition("=")[0])
    if "=" not in text[1:] or names_run:
        return _without_key(text, program)
    return _alias(text, program, shown)


def _variable(found: re.Match[str]) -> str:
    value = os.environ.get(found[1], found[2])
    if value is None:
        raise InputError(
            f"{shorten(found[0])} names an environment variable that is not set: set {found[1]}, or give the value."
        )
    return value.strip()


def _without_key(text: str, program: str) -> str:
    if program in _OF_SAVED_AGENTS and text and text == text.strip():
        return f"run={text}"
    _alias(f"{text}=true", program, text)
    group = next((group for group, choices in _CHOICES.items() if text in choices), "")
    example = f"{group}={text}" if group else "key=value"
    if not group and "/" in text:
        example = f"run={text}"
    raise InputError(f"{shorten(text)} has no key: write {shorten(example)}.")


def _alias(text: str, program: str, shown: str) -> str:
    """What ALIASES has for `key=value`; without a row the text itself."""
    if program.startswith("studies"):
        return text
    value = text.partition("=")[2]
    for pattern, meaning in ALIASES.items():
        if fnmatch.fnmatchcase(text, pattern) and (program not in _OF_SAVED_AGENTS or pattern in _EVALUATE_ALIASES):
            meant = meaning.replace("{value}", shorten(value) if isinstance(meaning, Answer) else value)
            if isinstance(meaning, Answer):
                raise InputError(f"{shown} {meant}.")
            return meant
    return text

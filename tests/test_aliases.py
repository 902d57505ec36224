"""Other spellings of arguments: every row of ALIASES works, or is answered in one sentence with a spelling that works."""

from __future__ import annotations

import fnmatch
import re

import pytest

from conf.arguments.aliases import ALIASES, Answer, normalize
from conf.loading import all_keys, changed_keys, compose_evaluate, compose_train, explicit_keys, to_dict
from envs.suites import SUITES
from system.errors import InputError

FRAMES = "is no key: training is counted in env frames (agent steps times action repeat): write total_frames=N."
TRACKER = (
    "is no key: metrics.jsonl is always in the run folder, and logger=[tensorboard,wandb,mlflow,csv] names trackers."
)
RESUME = "is no key: a run continues from its folder: write run=<folder> resume=true."
NETWORK = "is no key: the network is chosen by torso=, core= and fusion=; --help lists their names."
LAUNCHER = "is refused, because Hydra would build it through _target_: write runtime=cluster or parallel=N."
SEVERAL = "gives several values where one is needed:"
COMPARE = "train.py -m trains each, and ablate.py compares them."
SUITE = "is no key: write env=<suite> env.tasks=[X]."

WORKS = {
    **dict.fromkeys(("lr=0.01", "learning_rate=0.01", "learner.lr=0.01"), "learner.learning_rate=0.01"),
    **{f"{key}=0.9": "learner.discounting=0.9" for key in ("gamma", "discount", "discounting")},
    **{f"learner.{key}=0.9": "learner.discounting=0.9" for key in ("gamma", "discount")},
    **dict.fromkeys(
        ("lambda=0.5", "gae_lambda=0.5", "learner.lambda=0.5", "learner.gae_lambda=0.5"), "learner.lambda_=0.5"
    ),
    **dict.fromkeys(("schedule=cosine", "lr_schedule=cosine", "learner.lr_schedule=cosine"), "learner.schedule=cosine"),
    "warmup_frames=100": "learner.warmup_frames=100",
    **dict.fromkeys(("anneal=false", "anneal_lr=false", "learner.anneal_lr=false"), "learner.anneal=false"),
    **{f"{key}=csv": "logger=[csv]" for key in ("tracker", "trackers", "loggers")},
    "eval_every=1000": "evaluate_every=1000",
    "eval_episodes=5": "evaluate_episodes=5",
    "batch_size=32": "learner.batch_size=32",
    **dict.fromkeys(("unroll_length=8", "rollout_length=8", "learner.rollout_length=8"), "learner.unroll_length=8"),
    "optimizer=rmsprop": "learner.optimizer=rmsprop",
    **{f"{key}=0.1": "learner.entropy_cost=0.1" for key in ("ent_coef", "entropy_coef", "entropy_cost")},
    **{f"learner.{key}=0.1": "learner.entropy_cost=0.1" for key in ("ent_coef", "entropy_coef")},
    **dict.fromkeys(("vf_coef=0.1", "baseline_cost=0.1", "learner.vf_coef=0.1"), "learner.baseline_cost=0.1"),
    **dict.fromkeys(("max_grad_norm=2", "learner.max_grad_norm=2"), "learner.max_gradient_norm=2"),
    **dict.fromkeys(("learner.epochs=3", "num_epochs=3"), "learner.passes=3"),
    **dict.fromkeys(("frames=1e5", "num_frames=1e5", "max_frames=1e5"), "total_frames=1e5"),
    **{
        f"{key}=a,b": "run=a,b"
        for key in ("output_dir", "log_dir", "logdir", "savedir", "hydra.run.dir", "hydra.sweep.dir")
    },
    **dict.fromkeys(("task=X", "tasks=[X]", "tasks=X"), "env.tasks=[X]"),
    "sites=policy": "fusion.sites=[policy]",
    "device=gpu": "device=cuda",
    "precision=bfloat16": "precision=bf16",
    "precision=float32": "precision=fp32",
    "num_actors=2": "runtime.num_actors=2",
    "num_workers=2": "runtime.num_actors=2",
    "runtime=ray": "runtime=cluster",
    "env=gym": "env=gymnasium",
    "env=dmlab": "env=dmlab30",
}
ANSWERED = {
    "env=BabyAI-GoToObj-v0": "names a task: write env=babyai env.tasks=[BabyAI-GoToObj-v0].",
    "env=MiniGrid-Empty-5x5-v0": "names a task: write env=babyai env.tasks=[MiniGrid-Empty-5x5-v0].",
    "env=minigrid": "is no suite: write env=babyai env.tasks=[MiniGrid-...], and env.engine=minigrid for its engine.",
    "env=ALE/Pong-v5": "names a task: write env=atari env.tasks=[Pong], with the name of the game alone.",
    "env=CartPole-v1": "names a task: write env=gymnasium env.tasks=[CartPole-v1].",
    "env_id=X": SUITE,
    "env_name=X": SUITE,
    **{
        f"{key}=5": FRAMES for key in ("steps", "num_steps", "total_steps", "max_steps", "timesteps", "total_timesteps")
    },
    **{f"{key}=x": RESUME for key in ("checkpoint", "load", "resume_from")},
    **{f"{key}=true": TRACKER for key in ("wandb", "use_wandb", "track", "tensorboard", "use_tensorboard", "mlflow")},
    **{f"{key}=x": NETWORK for key in ("model", "network", "policy")},
    **{f"hydra/{key}=x": LAUNCHER for key in ("launcher", "sweeper")},
    "algo=ppo": "is no key: the loss is learner.loss=impala, or learner.loss=appo for PPO's clipped surrogate.",
    "cuda=true": "is no key: write device=cuda, or device=cpu.",
    "use_gpu=1": "is no key: write device=cuda, or device=cpu.",
    "num_envs=8": "is no key: there are runtime.num_actors times runtime.slots_per_actor environments: write these.",
}


def sentence(*arguments: str) -> str:
    """The refusal of a command line."""
    with pytest.raises(InputError) as caught:
        compose_train(list(arguments))
    return str(caught.value)


@pytest.mark.parametrize(("typed", "ours"), WORKS.items())
def test_another_spelling_is_read_as_ours(typed: str, ours: str) -> None:
    suite = [] if "env=" in typed else ["env=conditional", "context=task"]
    found, wanted = (compose_train([*suite, argument]) for argument in (typed, ours))
    assert to_dict(found) == to_dict(wanted)
    assert changed_keys([*suite, typed]) == changed_keys([*suite, ours])
    assert [*explicit_keys([typed])] == [*explicit_keys([ours])]


@pytest.mark.parametrize(("typed", "answer"), ANSWERED.items())
def test_an_argument_is_answered_with_the_right_spelling(typed: str, answer: str) -> None:
    assert sentence(typed) == f"{typed} {answer}"
    keys = all_keys("train", [])
    for suggested in re.findall(r"(?<![\w.])([a-z_.]+)=[\w\[<]", answer):
        assert suggested in keys or suggested in ("env", "parallel", "env.engine", "runtime"), suggested


def test_one_tracker_needs_no_brackets() -> None:
    assert compose_train(["logger=wandb"]).logger == compose_evaluate(["run=x", "logger=wandb"]).logger == ["wandb"]


def test_every_row_has_a_test() -> None:
    def row(argument: str) -> str:
        return next(pattern for pattern in ALIASES if fnmatch.fnmatchcase(argument, pattern))

    assert {row(typed) for typed in (*WORKS, *ANSWERED)} == set(ALIASES)
    assert {row(typed) for typed in ANSWERED} == {
        key for key, meaning in ALIASES.items() if isinstance(meaning, Answer)
    }


def test_no_row_hides_a_key() -> None:
    """A key or a name of this project is never read as something else."""
    for suite in SUITES:
        for key in all_keys("train", [f"env={suite}", "context=task"]):
            assert normalize([f"{key}=x"], "train") == [f"{key}=x"]
        assert normalize([f"env={suite}"], "train") == [f"env={suite}"]
    for program in ("ablate", "population", "search"):
        for key in all_keys(program, []):
            assert normalize([f"{key}=x"], program) == [f"{key}=x"]


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("--seed", "--seed is no flag: write seed=value, without dashes; --help lists flags and keys."),
        ("-v", "-v is no flag: every setting is key=value; --help lists flags and keys."),
        ("--wandb", f"--wandb {TRACKER}"),
        ("wandb", f"wandb {TRACKER}"),
        ("conditional", "conditional has no key: write env=conditional."),
        ("mi", "mi has no key: write fusion=mi."),
        ("runs/mine", "runs/mine has no key: write run=runs/mine."),
        ("+seed=3", "+seed=3 adds or removes a key: every key is there already, write seed=3."),
        ("seed=1,2", f"seed=1,2 {SEVERAL} {COMPARE}"),
        ("fusion=glob(*)", f"fusion=glob(*) {SEVERAL} {COMPARE}"),
        ("env.tasks=A,B", f"env.tasks=A,B {SEVERAL} write env.tasks=[A,B] for a list; {COMPARE}"),
        ("learner=3", "learner=3 is no value: learner is a group of keys, write learner.<key>=value."),
        ("total_frames=1.5", "total_frames=1.5 is not a whole number: give one."),
        ("total_frames=1e400", "total_frames=inf is not a whole number: give one."),
        ("seed=[", "seed=[ cannot be read: [ and ] are not in pairs."),
        ("seed='", "seed=' cannot be read: a quote is not closed."),
    ],
)
def test_habits_of_a_command_line_are_answered(typed: str, answer: str) -> None:
    assert sentence(typed) == answer


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        ("--seed=3", "seed", 3),
        ("++seed=3", "seed", 3),
        ("seed=3.0", "seed", 3),
        ("total_frames=1e6", "total_frames", 1_000_000),
        ("torso.hidden=[64.0,3e1]", "torso.hidden", [64, 30]),
        ("torso.hidden=64", "torso.hidden", [64]),
        ("env.tasks=map-0", "env.tasks", ["map-0"]),
        ("--env.tasks=map-0", "env.tasks", ["map-0"]),
        ("learner={learning_rate: 1}", "learner.learning_rate", 1.0),
    ],
)
def test_habits_of_a_command_line_that_work(typed: str, key: str, value: object) -> None:
    found = all_keys("train", ["env=conditional", "context=task", typed])[key]
    assert found == value and type(found) is type(value)


def test_the_run_of_an_evaluation_needs_no_key() -> None:
    assert compose_evaluate(["runs/a,b", "device=gpu", "tasks=map-0"]) == compose_evaluate(
        ["run=runs/a,b", "device=cuda", "tasks=[map-0]"]
    )


def test_variables_of_the_environment_are_replaced_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAMES", "1e5")
    monkeypatch.setenv("FOLDER", "/data/a,b")
    arguments = [
        "total_frames=${oc.env:FRAMES}",
        "run=${oc.env:FOLDER}/${oc.env:ABSENT,x}",
        "fusion=${oc.env:ABSENT,mi}",
    ]
    config = compose_train(arguments)
    assert (config.total_frames, config.run, config.fusion.name) == (100_000, "/data/a,b/x", "mi")
    assert normalize(arguments, "train")[0] == "total_frames=1e5"
    assert sentence("run=${oc.env:ABSENT}").startswith("${oc.env:ABSENT} names an environment variable that is not set")
    monkeypatch.setenv("TRAP", "${oc.env:FOLDER}")
    for trap in ("${oc.env:TRAP}", "${seed}", "${oc.decode:1}", "${oc.env:${oc.env:FOLDER}}"):
        assert "holds an interpolation" in sentence(f"run={trap}")


def test_answers_are_short_for_long_arguments() -> None:
    for argument in (
        "x" * 5000,
        "x" * 5000 + "=1",
        "seed=" + "x" * 5000,
        "seed=[" + "x" * 5000,
        "fusion=" + "x" * 5000,
    ):
        assert len(sentence(argument)) < 600

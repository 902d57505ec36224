"""Names of gymnasium tasks with options."""

from __future__ import annotations

import gym_tasks  # noqa: F401  (registers its environments)
import numpy as np
import pytest
from test_gymnasium_suite import bare, config, opened

from conf.allowlist import check_external_names, external_names
from conf.loading import compose_train
from envs.gymnasium_ids.suite import GymnasiumConfig
from envs.gymnasium_ids.tasks import module_of, parse_task
from envs.suites import make_spec
from system.errors import InputError


def test_tasks_may_have_options() -> None:
    tasks = ["Level-v0(level=1)", "Level-v0(level=-2, name='a:b(c)')", "Level-v0"]
    settings = config(*tasks, options={"level": 7, "end": 2})
    env = opened(settings, 3)
    assert env.spec_of_suite.tasks == tuple(f"gym_tasks:{task}" for task in tasks)
    env.reset()
    _, reward, *_ = env.step(np.zeros(3))
    assert reward.tolist() == [1, -2, 7]
    assert env.step(np.zeros(3))[2].all()
    assert bare(env, 1).name == "a:b(c)"


def test_the_command_line_accepts_options_of_tasks() -> None:
    train = compose_train(["env=gymnasium", 'env.tasks=["Level-v0(level=1)","gym_tasks:Level-v0(level=2,name=\'x\')"]'])
    assert train.env.tasks == ["Level-v0(level=1)", "gym_tasks:Level-v0(level=2,name='x')"]
    with pytest.raises(InputError, match="write texts with brackets in quotes"):
        compose_train(["env=gymnasium", "env.tasks=[Level-v0(level=1)]"])


@pytest.mark.parametrize(
    "task",
    [
        *("X-v0(1)", "X-v0(a=b)", "X-v0(a=1", "X-v0(a=__import__('os'))", "X-v0(a=1)(b=2)", "X-v0(a=1) or f()"),
        *("X-v0(a=1, a=2)", "X-v0(**{'a': 1})", f"X-v0(a={'[' * 400}{']' * 400})", f"X-v0(a='{'x' * 2000}')", "X-v0("),
    ],
)
def test_options_are_literals(task: str) -> None:
    with pytest.raises(InputError, match=r"^env\.tasks=X-v0"):
        make_spec(GymnasiumConfig(tasks=[task]))


def test_options_of_a_task_are_named_as_others_are() -> None:
    settings = GymnasiumConfig(tasks=["a.b:X-v0(file='y:z', deep=[('w',)])", "Y-v0(file='c:d')"])
    assert [module_of(task) for task in settings.tasks] == ["a.b", ""]
    assert parse_task(settings.tasks[0]).options == {"file": "y:z", "deep": [("w",)]}
    assert external_names(settings) == dict.fromkeys(("y:z", "w", "c:d", "a.b"), "env.tasks")
    check_external_names(settings, ["a", "y:z", "w", "c:d"], "here")
    with pytest.raises(InputError, match="names a.b, which is a module"):
        check_external_names(settings, ["y:z", "w", "c:d"], "here")

"""If torch.compile fails, training continues without it."""

from __future__ import annotations

import pytest
import torch
from fakes import fake_batch, fake_env, fake_network
from gpu_agents import B, T, assert_equal_parameters, config_of
from torch import Tensor

from agents.learning.compile import Compiled
from agents.setup.builder import build_learner

# The compiler raises these warnings about PyTorch itself.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def test_a_failing_compiler_warns_once_and_the_function_runs_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> Tensor:
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", lambda function, dynamic: broken)
    env, config = fake_env(image=(24, 28, 3), kind="pixels"), config_of(torso="shallow", compile="true")
    plain = build_learner(config_of(torso="shallow"), env, fake_network(env, config))
    compiled = build_learner(config, env, fake_network(env, config))
    batch = fake_batch(env, plain.network.core_state_size, T, B)
    with pytest.warns(UserWarning, match=r"torch.compile fails here .*: set learner.compile=false") as warned:
        compiled.step(batch)
    # The torso and V-trace, once each.
    assert len(warned) == 2
    plain.step(batch)
    for learner in (plain, compiled):
        learner.step(batch)
    assert_equal_parameters(plain, compiled, rtol=0.0, atol=0.0)


def test_an_error_of_the_function_itself_is_raised_unchanged() -> None:
    def refuses(x: int) -> int:
        raise ValueError("not this one")

    function = Compiled(refuses)
    function._compiled = refuses
    with pytest.raises(ValueError, match="not this one"):
        function(1)

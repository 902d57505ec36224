"""The device of a run, and the switches that depend on it."""

from __future__ import annotations

import pytest
import torch

from agents.setup import machine, plan
from agents.setup.plan import make_plan
from conf.loading import compose_train
from envs.suites import make_spec
from system.errors import InputError


def chosen(*overrides: str) -> torch.device:
    config = compose_train(["env=conditional", "context=task", *overrides])
    return make_plan(config, make_spec(config.env)).device


def test_auto_device_is_the_first_gpu_if_one_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen() == chosen("device=cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    # A plan asks its device for bf16, which a build of torch without CUDA cannot answer.
    monkeypatch.setattr(machine, "has_bf16", lambda device=None: False)
    assert chosen() == chosen("device=cuda") == torch.device("cuda:0")
    assert chosen("device=cuda:1") == torch.device("cuda:1")
    assert chosen("device=cpu") == chosen("runtime=serial") == torch.device("cpu")
    assert chosen("device=cuda", "runtime=serial") == torch.device("cuda:0")
    with pytest.raises(InputError, match=r"device=cuda:2 is unavailable: torch sees 2 GPUs"):
        chosen("device=cuda:2")


@pytest.mark.parametrize("name", ["tpu", "cuda:", "cuda:x", "CUDA", "meta", "cuda:-1"])
def test_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"device={name} is not a device"):
        chosen(f"device={name}")


def test_missing_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        InputError, match=r"device=cuda is unavailable: torch sees no GPUs; use device=auto or device=cpu"
    ):
        chosen("device=cuda")


@pytest.mark.parametrize("key", ["learner.compile", "learner.staging", "runtime.cuda_graphs"])
def test_switches_are_auto_true_or_false(key: str) -> None:
    field = key.rpartition(".")[2]
    automatic = key != "learner.compile"
    for value, expected in (("auto", automatic), ("true", True), ("false", False)):
        config = compose_train([f"{key}={value}"])
        assert getattr(make_plan(config, make_spec(config.env)), field) == expected
    with pytest.raises(InputError, match=rf"{key}=maybe is unknown"):
        compose_train([f"{key}=maybe"])


def test_auto_precision_depends_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose_train(["env=conditional", "context=task"])
    monkeypatch.setattr(machine, "has_bf16", lambda device: device.type == "cuda")
    assert plan.autocast_dtype(config) is None
    assert plan.autocast_dtype(config, torch.device("cuda:0")) == torch.bfloat16

"""Configurations in files: they are read back unchanged, and invalid files are refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from conf import loading
from conf.loading import compose_train, load_train, save_train, to_dict, train_from_dict
from conf.schema import TrainConfig
from envs.suites import SUITES
from system.errors import InputError
from system.plain_yaml import read_yaml


def test_saved_configuration_is_loaded_unchanged(tmp_path: Path) -> None:
    config = compose_train(
        [
            *("env=conditional", "env.dimension=5", "env.tasks=[map-1,memory-0]", "fusion=low_rank"),
            *("fusion.sites=[policy,value]", "seed=7", "learner.learning_rate=1e-7", "learner.adam_betas=[0.5,0.6]"),
            *("run='a run: with # signs'", "torso.hidden=[]"),
        ]
    )
    path = tmp_path / "config.yaml"
    save_train(config, path)
    loaded = load_train(path)
    assert loaded == config
    assert [type(part) for part in (loaded, loaded.env, loaded.fusion)] == [
        TrainConfig,
        SUITES["conditional"].config,
        type(config.fusion),
    ]
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == to_dict(config)


def hostile(**changes: str) -> str:
    text = yaml.safe_dump(to_dict(compose_train(["env=conditional"])))
    return text + "".join(f"{key}: {value}\n" for key, value in changes.items())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "[1, 2]",
        "just words",
        "env: conditional",
        "{env: {name: conditional}, surprise: 1}",
        "{env: {name: conditional, surprise: 1}}",
        "{env: {name: [conditional]}}",
        "{env: {name: gridworld}}",
        "{env: {name: conditional}}",
        "{env: {name: conditional, tasks: [map]}, seed: '${oc.env:HOME}'}",
        "{env: {name: conditional, tasks: ['${oc.env:HOME}']}}",
        "!!python/object/apply:os.system ['touch trace']",
        "{env: {name: conditional}, run: !!python/object/apply:os.system ['touch trace']}",
        "{env: {name: conditional}, torso: {hidden: [{a: 1}]}}",
        "{env: {name: conditional, tasks: [[map-0]]}}",
        "seed: " + "9" * 6000,
        "seed: 0x" + "f" * 6000,
        "seed: " + ":".join(["59"] * 4000),
        "seed: !!int ''",
        "a: &a [x, x]\nb: [*a, *a]",
        "[" * 5000,
        "seed: 0001-01-01 00:00:00+23:59",
        "{env: {name: conditional}, _target_: os.system}",
        "env: {name: conditional",
        "\t- : :",
        "&a [*a]",
        "x: &x {env: *x}",
        "\x00\x01",
        hostile(seed="many"),
        hostile(seed="-4"),
        hostile(fusion="{name: exec}"),
        hostile(learner="3"),
        hostile(run="${run}"),
        hostile(surprise="1"),
        hostile(run='"\\ud800"'),
        hostile(device='"\\ud83d"'),
        hostile(seed="5"),
        hostile(run="{a: 1, a: 2}"),
        "env: {name: conditional, name: conditional}",
        "[{a: 1, a: 2}]",
        "<<: {env: {name: conditional, tasks: [map]}}",
        "? [a]\n: 1",
        "? {a: 1}\n: 1",
        "--- 1\n" * 40_000,
        "[" + "1," * 60_000 + "]",
        "{env: {name: conditional, tasks: [map]}, torso: {hidden: [" + "1," * 60_000 + "]}}",
        "{env: {name: gymnasium, tasks: [CartPole-v1], options: {" + "".join(f"{n}: 1," for n in range(20_000)) + "}}}",
        "[" + "[]," * 60_000 + "]",
    ],
)
def test_invalid_configuration_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode())
    with pytest.raises(InputError) as caught:
        load_train(path)
    message = str(caught.value)
    assert "\n" not in message and message.endswith((".", "?"))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("twice", ["seed", "env"])
def test_duplicate_key_is_refused_by_name(tmp_path: Path, twice: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(hostile() + f"{twice}: 0\n", encoding="utf-8")
    with pytest.raises(InputError, match=f"the key {twice} is given twice: keep one of the two"):
        load_train(path)
    # The same name in another mapping, or as a value, is not a duplicate.
    path.write_text("a: {seed: seed}\nseed: [seed, seed]\nb: {seed: {seed: 1}}", encoding="utf-8")
    assert read_yaml(path)["b"] == {"seed": {"seed": 1}}


def test_too_large_file_is_refused_before_omegaconf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = to_dict(compose_train(["env=gymnasium", "env.tasks=[CartPole-v1]", "context=none", "fusion.sites=[]"]))
    words = [f"word{number}" for number in range(60_000)]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree | {"env": tree["env"] | {"vocabulary": words[:10_000]}}), encoding="utf-8")
    # The largest allowed vocabulary.
    assert len(read_yaml(path)["env"]["vocabulary"]) == 10_000
    monkeypatch.setattr(loading, "OmegaConf", None)
    with pytest.raises(InputError, match="more than 20,000 values"):
        train_from_dict(tree | {"env": tree["env"] | {"vocabulary": words}}, "here")


def test_run_name_that_is_not_utf_8_round_trips(tmp_path: Path) -> None:
    config = compose_train(["env=conditional", "run=runs/\udcff"])
    save_train(config, tmp_path / "config.yaml")
    assert load_train(tmp_path / "config.yaml") == config


def test_unreadable_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing.yaml", tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(InputError, match="cannot be read") as caught:
            load_train(path)
        assert "\n" not in str(caught.value)

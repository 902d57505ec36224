"""Modules and files in a saved configuration are not imported, read or written unless the command names them, too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from saved_agents import make_checkpoint

import evaluate
import train
from ablation.grid.grid import make_cells
from ablation.load import reference_scores
from agents.evaluation.episodes import load_agent
from agents.run.folder import resumed_config
from agents.storage.checkpoint import load_checkpoint, save_checkpoint
from conf.ablate_schema import AblateConfig
from conf.allowlist import check_external_names, external_names
from conf.loading import compose_ablate, compose_train, save_train
from envs.dmlab30.config import DMLab30Config
from envs.gymnasium_ids.suite import GymnasiumConfig
from system.errors import InputError

GYM = ["env=gymnasium", "env.tasks=[gym_tasks:Match-v0]", "context=none", "fusion.sites=[]"]


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder whose configuration names a module that writes a file when it is imported."""
    path = make_checkpoint(tmp_path / "run" / "checkpoints", *GYM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "stranger.py").write_text("import gym_tasks\nopen('canary', 'w').close()\n", encoding="utf-8")
    content = load_checkpoint(path)
    content["config"]["env"]["tasks"] = ["stranger:Match-v0"]
    content["env"]["tasks"] = ("stranger:Match-v0",)
    save_checkpoint(path.parent, 0, content)
    config = compose_train([*GYM, "env.tasks=[stranger:Match-v0]"])
    save_train(config, tmp_path / "run" / "config.yaml")
    yield tmp_path / "run"
    sys.modules.pop("stranger", None)


def test_a_run_of_another_user_imports_nothing(stranger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for program, arguments in ((evaluate, []), (train, ["resume=true"])):
        assert program.main([f"run={stranger}", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "env.tasks names stranger" in error and "add allow=[stranger]" in error
    assert not Path("canary").exists()


@pytest.mark.usefixtures("tests_keep_their_threads")
def test_it_is_imported_if_the_command_names_it(stranger: Path) -> None:
    assert evaluate.main([f"run={stranger}", "episodes=1", "allow=[stranger]"]) == 0
    assert Path("canary").exists()


def test_naming_it_in_its_own_key_is_enough(stranger: Path) -> None:
    path = next((stranger / "checkpoints").iterdir())
    assert load_agent(path, (), ["stranger:Match-v0"]).env.tasks == ("stranger:Match-v0",)
    given = [*GYM, "env.tasks=[stranger:Match-v0]", f"run={stranger}", "resume=true"]
    config = resumed_config(compose_train(given), {})
    assert config.env.tasks == ["stranger:Match-v0"]
    # A permission in the saved configuration does not count.
    config.allow = ["stranger"]
    save_train(config, stranger / "config.yaml")
    with pytest.raises(InputError, match="allow="):
        resumed_config(compose_train([f"run={stranger}", "resume=true"]), {})


def test_task_names_are_checked_like_the_configuration(stranger: Path) -> None:
    path = next((stranger / "checkpoints").iterdir())
    content = load_checkpoint(path)
    content["config"]["env"]["tasks"] = ["CartPole-v1"]
    save_checkpoint(path.parent, 0, content)
    with pytest.raises(InputError, match="stranger"):
        load_agent(path)


def test_a_report_imports_nothing(stranger: Path) -> None:
    config = compose_train([*GYM, "env.tasks=[stranger:Match-v0]"])
    assert reference_scores(config) == {} and not Path("canary").exists()


def test_cells_of_a_grid_may_import_modules_that_its_command_names() -> None:
    arguments = ["env=gymnasium", "env.tasks=[gym_tasks:Match-v0]", "fusion.sites=[]", "context=none", "seeds=1"]
    config = compose_ablate(arguments)
    assert isinstance(config, AblateConfig)
    config.fusions = ["concat"]
    (cell,) = make_cells(config, arguments, {})
    assert cell.evaluate.allow == ["gym_tasks"]


def test_collected_names() -> None:
    config = GymnasiumConfig(
        tasks=["CartPole-v1", "a.b:X-v0"],
        wrappers=["c.d:E", "gymnasium.wrappers:TimeAwareObservation"],
        options={"gravity": 5, "files": ["x.xml", {"deep": "y"}]},
    )
    assert external_names(config) == {
        "a.b": "env.tasks",
        "c.d": "env.wrappers",
        "x.xml": "env.options",
        "y": "env.options",
    }
    check_external_names(config, ["a", "c.d", "x.xml", "y"], "here")
    for allowed in (["a.b.c", "c.d", "x.xml", "y"], ["a", "c", "x.xml"], []):
        with pytest.raises(InputError, match=r"here: env\.\w+ names .* add allow=\["):
            check_external_names(config, allowed, "here")
    maze = DMLab30Config(tasks=["contributed/x", "/tmp/evil", "a/../../x"], level_cache="~", dataset_path="dummy")
    assert external_names(maze) == {"~": "env.level_cache", "/tmp/evil": "env.tasks", "a/../../x": "env.tasks"}
    assert external_names(compose_train(["env=conditional"]).env) == {}

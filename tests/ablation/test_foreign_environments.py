"""A report of runs does not create, import or read the environments, options and modules that their configurations name."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from run_folders import TASKS, write_run

import ablate
from ablation.load import reference_scores
from agents.run.layout import CONFIG
from conf.loading import compose_train, save_train
from envs.suites import SUITES, make_spec

pytestmark = pytest.mark.usefixtures("process_settings")

GYMNASIUM = ["env=gymnasium", "context=none", "fusion.sites=[]"]
CONFIGURATIONS = {
    "a module of a task": [*GYMNASIUM, "env.tasks=[stranger:Match-v0]"],
    "a module of a wrapper": [*GYMNASIUM, "env.tasks=[Trap-v0]", "env.wrappers=[stranger:Wrapper]"],
    "options": [*GYMNASIUM, "env.tasks=[Trap-v0]", "env.options={path: here, size: 7}"],
    "options of a task": [*GYMNASIUM, """env.tasks=["Trap-v0(path='here')"]"""],
    "an entry point": [*GYMNASIUM, "env.tasks=[Elsewhere-v0]"],
    "a file of words": [*GYMNASIUM, "env.tasks=[Trap-v0]", "env.vocabulary=words"],
    "a file of actions": ["env=dmlab30", "env.tasks=[rooms_watermaze]", "env.action_set=words.json"],
    "a level": ["env=dmlab30", "env.tasks=[/tmp/evil]", "env.level_cache=words"],
    "a preset of games": ["env=atari", "env.tasks=[atari5]"],
    "an engine": ["env=babyai", "env.tasks=[BabyAI-Unknown-v0]"],
    "an action set": ["env=dmlab2d"],
    "a scenario": ["env=vizdoom"],
}


@pytest.fixture
def traps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Working directory with traps: importing its module or creating its environments leaves a file, reading its FIFOs blocks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "stranger.py").write_text("open('canary', 'w').close()\n", encoding="utf-8")
    for name in ("words", "words.json"):
        os.mkfifo(tmp_path / name)

    def trap(**options: Any) -> Any:
        (tmp_path / "canary").touch()
        raise AssertionError(options)

    gymnasium.register("Trap-v0", trap)
    gymnasium.register("Elsewhere-v0", "stranger:Match")
    yield tmp_path
    for name in ("Trap-v0", "Elsewhere-v0"):
        del gymnasium.registry[name]
    sys.modules.pop("stranger", None)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_a_report_imports_nothing_that_a_configuration_names(
    traps: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(config: Any) -> Any:
        raise AssertionError(config)

    for name, suite in SUITES.items():
        monkeypatch.setitem(SUITES, name, suite.__class__(**{**vars(suite), "make_spec": never, "make_engine": never}))
    for seed in (0, 1):
        run = write_run(traps / "runs" / f"seed{seed}")
        save_train(compose_train([*arguments, f"seed={seed}", "total_frames=1000"]), run / CONFIG)
    before = set(sys.modules)
    assert ablate.main([f"folders=[{traps / 'runs'}]", f"folder={traps / 'report'}", "measure=auto"]) == 0
    assert (traps / "report" / "report.html").exists() and not (traps / "canary").exists()
    assert not {"stranger", "deepmind_lab", "ale_py", "vizdoom"} & (set(sys.modules) - before)


def test_reference_scores_equal_those_of_the_spec() -> None:
    for arguments in (["env=conditional", f"env.tasks=[{','.join(TASKS)}]"], ["env=dmlab30", "env.tasks=[dmlab28]"]):
        config = compose_train(arguments)
        assert reference_scores(config) == make_spec(config.env).scores != {}
    assert set(reference_scores(compose_train(["env=atari", "env.tasks=[atari5]"]))) > {"Phoenix"}
    # An invalid configuration has no scores.
    assert reference_scores(compose_train(["env=conditional", "env.tasks=[map-0,map-0]"])) == {}

"""Parts of a user's own modules: how they enter the tables, and that no saved run imports a module by itself."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from tiny_runs import TINY

import ablate
import doctor
import evaluate
import mimpala
import train
from ablation.grid import cell as cell_process
from ablation.grid.grid import make_cells, save_cell
from ablation.load import load_folders
from agents import fusion
from agents.evaluation.episodes import load_agent
from agents.network import core, torso
from agents.setup import plugins
from agents.setup.plugins import Registry, load_plugins, load_saved_plugins
from agents.storage.checkpoint import find_checkpoint
from conf import composition, names
from conf.allowlist import LOADED_PLUGINS, run_arguments
from conf.loading import compose_ablate, compose_train, load_train
from envs.conditional.suite import CONDITIONAL
from envs.suites import SUITES
from system.errors import InputError

PARTS = '''
import dataclasses
import numpy as np
from agents.fusion.gating import Gated
from agents.fusion.multiplicative import LowRank
from agents.network.core import FeedForwardCore
from agents.network.torso import MLPTorso
from envs.conditional.suite import CONDITIONAL, ConditionalConfig

open("canary", "a").write("x")


@dataclasses.dataclass
class Small(ConditionalConfig):
    name: str = "small"
    tasks: list[str] = dataclasses.field(default_factory=lambda: ["map-0", "map-1"])


class Second:
    """Every slot gets the first context of the others."""

    def __init__(self, others, instruction, seed):
        self.others = others

    def __call__(self, true, reset):
        return np.repeat(self.others[:1], len(true), axis=0)


def register(registry):
    registry.fusion("my_gate", Gated)
    registry.fusion("my_rank", LowRank, options=("rank",))
    registry.core("my_core", FeedForwardCore)
    registry.torso("my_torso", lambda env, size: MLPTorso(env.observation["vector"].shape[0], sizes=(size,)))
    registry.probe("second", Second, "each slot gets the context of the first other task")
    registry.suite("small", dataclasses.replace(CONDITIONAL, config=Small))
'''

pytestmark = pytest.mark.usefixtures("process_settings")


def forget() -> None:
    LOADED_PLUGINS.clear()
    sys.modules.pop("parts_of_a_test", None)
    composition.forget_choices()


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the module parts_of_a_test. All tables are put back afterwards."""
    tables: list[Any] = [fusion.FUSIONS, fusion.OPTIONS, fusion.FREE_DIMENSIONS, core.CORES, torso.OWN_TORSOS, SUITES]
    tables += [plugins.PROBES, names.FUSIONS, names.FLAT_FUSIONS, names.CORES, names.TORSOS, names.PROBES, sys.path]
    compose_train([])
    before, store = [copy.copy(table) for table in tables], ConfigStore.instance()
    repo = copy.deepcopy(store.repo)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts_of_a_test.py").write_text(PARTS, encoding="utf-8")
    yield tmp_path
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.extend(content) if isinstance(table, list) else table.update(content)
    store.repo = repo
    forget()


MINE = ["plugins=[parts_of_a_test]", *TINY, "total_frames=64"]


def refused(program: Any, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert program.main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_an_evaluation_while_a_run_trains_knows_the_parts(parts: Path) -> None:
    own = ["core=my_core", "env=conditional", "env.tasks=[map-0]", "evaluate_every=1000", "evaluate_episodes=1"]
    assert train.main([*MINE, *own, "run=run"]) == 0
    (row,) = map(json.loads, (parts / "run" / "evaluations.jsonl").read_text(encoding="utf-8").splitlines())
    assert "error" not in row and row["frames"] >= 64


@pytest.mark.slow
def test_the_python_api_trains_and_loads_an_agent_with_the_parts(parts: Path) -> None:
    result = mimpala.train([*MINE, "core=my_core", "run=run"])
    with pytest.raises(InputError, match="plugins names parts_of_a_test, which would be imported"):
        mimpala.load("run")
    loaded = mimpala.load("run", plugins=["parts_of_a_test"])
    assert loaded.frames == result.agent.frames >= 64
    evaluation = mimpala.evaluate("run", ["episodes=2", "plugins=[parts_of_a_test]", "probe=second"])
    assert list(evaluation.figures["probes"]) == ["second"]
    assert mimpala.load(mimpala.export("run", "out", plugins=["parts_of_a_test"])).frames == loaded.frames


def test_parts_are_trained_resumed_and_evaluated(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = [
        "fusion=my_rank",
        "fusion.rank=4",
        "core=my_core",
        "torso=my_torso",
        "torso.size=8",
        "env=small",
        "env.tasks=[map-0,map-1]",
    ]
    assert train.main([*MINE, *own, "run=run"]) == 0
    assert "next: python evaluate.py run=run plugins=[parts_of_a_test]" in capsys.readouterr().out
    config = load_train(parts / "run" / "config.yaml")
    assert (config.plugins, config.env.name, config.core.name) == (["parts_of_a_test"], "small", "my_core")
    assert train.main(["run=run", "resume=true", "total_frames=128", "plugins=parts_of_a_test"]) == 0
    assert evaluate.main(["run=run", "episodes=2", "plugins=[parts_of_a_test]", "probe=second"]) == 0
    probes = json.loads((parts / "run" / "evaluation.json").read_text(encoding="utf-8"))["probes"]
    assert list(probes) == ["second"]
    # Imported once, though every network asks for it.
    assert (parts / "canary").read_text(encoding="utf-8") == "x"


def test_a_single_option_is_what_match_params_varies(parts: Path) -> None:
    load_plugins(["parts_of_a_test"])
    config = compose_train([*MINE, "fusion=my_rank"])
    assert config.fusion.name == "my_rank" and fusion.FREE_DIMENSIONS["my_rank"] == "rank"
    grid = compose_ablate([*MINE, "fusions=[my_rank,low_rank,my_gate]", "match_params=mi", "folder=grid"])
    cells = make_cells(grid, [*MINE, "match_params=mi", "folder=grid"], {})
    assert cells[0].train.fusion.rank == cells[1].train.fusion.rank and cells[2].train.fusion.name == "my_gate"
    assert cells[0].evaluate is not None and cells[0].evaluate.plugins == ["parts_of_a_test"]


@pytest.mark.slow
def test_names_of_parts_are_known_once_the_command_names_the_module(
    parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "fusion=my_gate is unknown" in refused(train, capsys, *TINY, "fusion=my_gate")
    assert "plugins=parts_of_a_test,x gives several values" in refused(train, capsys, "plugins=parts_of_a_test,x")
    assert not (parts / "canary").exists()
    assert train.main(["plugins=[parts_of_a_test]", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "my_core" in shown and "my_gate" in shown and ", small" in shown
    assert doctor.main([*MINE, "fusion=my_gate", "--json"]) == 0


def test_a_saved_run_imports_nothing_without_the_permission_of_the_command(
    parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*MINE, "fusion=my_gate", "run=run"]) == 0
    tables = [dict(fusion.FUSIONS), list(names.FUSIONS)]
    forget()
    (parts / "canary").unlink()
    for table, name in (
        (fusion.FUSIONS, "my_gate"),
        (fusion.FUSIONS, "my_rank"),
        (core.CORES, "my_core"),
        (SUITES, "small"),
    ):
        del table[name]
    for listed in (names.FUSIONS, names.FLAT_FUSIONS, names.CORES, names.TORSOS, names.PROBES):
        del listed[-2 if listed in (names.FUSIONS, names.FLAT_FUSIONS) else -1 :]
    torso.OWN_TORSOS.clear(), plugins.PROBES.clear()
    for program, arguments in ((evaluate, []), (train, ["resume=true", "total_frames=128"])):
        error = refused(program, capsys, "run=run", *arguments)
        assert "plugins names parts_of_a_test, which would be imported" in error
        assert "add plugins=[parts_of_a_test] to the command, else do not use this run." in error
    with pytest.raises(InputError, match=r"No run can be reported on. run: .* parts_of_a_test"):
        load_folders(["run"])
    assert refused(ablate, capsys, "folders=[run]") and not (parts / "canary").exists()
    assert "parts_of_a_test" not in sys.modules
    # With it, both spellings permit the module.
    agent = load_agent(find_checkpoint(parts / "run", print), ["parts_of_a_test"])
    assert agent.config.fusion.name == "my_gate" and (parts / "canary").exists()
    assert [dict(fusion.FUSIONS), list(names.FUSIONS)] == tables
    assert evaluate.main(["run=run", "episodes=1", "allow=[parts_of_a_test]"]) == 0


def test_a_permission_for_a_package_includes_its_modules() -> None:
    with pytest.raises(InputError, match="plugins=absent_package.parts cannot be imported"):
        load_saved_plugins({"plugins": ["absent_package.parts"]}, ["absent_package"], "x")
    with pytest.raises(InputError, match="x: plugins names absent_package.parts"):
        load_saved_plugins({"plugins": ["absent_package.parts"]}, ["absent"], "x")
    for hostile in (None, 3, {"plugins": 3}, {"plugins": [3, None]}):
        load_saved_plugins(hostile, [], "x")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", "plugins=broken has no function register"),
        (
            "import absent_module",
            "plugins=broken cannot be imported (ModuleNotFoundError: No module named 'absent_module')",
        ),
        ("\n1 / 0", "plugins=broken cannot be imported (ZeroDivisionError in line 2 of "),
        ("def register(registry):\n    registry.nothing()", "cannot be imported (AttributeError in line 2 of "),
        ("def register(registry):\n    registry.fusion('mi', None)", "registers fusion mi, which exists already"),
        (
            "def register(registry):\n    registry.fusion('attention', None)",
            "registers fusion attention, which exists already",
        ),
        (
            "def register(registry):\n    registry.core('My Core', None)",
            "registers core 'My Core': give a name of lower-case letters",
        ),
        ("def register(registry):\n    registry.torso('auto', None)", "registers torso auto, which exists already"),
        ("def register(registry):\n    registry.probe('all', None, '')", "registers probe all, which exists already"),
        ("def register(registry):\n    registry.suite('atari', None)", "registers suite atari, which exists already"),
        (
            "def register(registry):\n    registry.fusion('x', None, options=('depth',))",
            "gives fusion x the option depth: choose among",
        ),
    ],
)
def test_a_broken_plugin_is_refused_in_one_sentence(
    parts: Path, capsys: pytest.CaptureFixture[str], code: str, message: str
) -> None:
    (parts / "broken.py").write_text(code, encoding="utf-8")
    sys.modules.pop("broken", None)
    assert message in refused(train, capsys, "plugins=[broken]", *TINY)
    sys.modules.pop("broken", None)


@pytest.mark.parametrize("name", ["parts.py", "../parts", "a b", "", "absent_module"])
def test_a_module_that_does_not_exist_is_refused(parts: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert f"plugins={name} " in refused(train, capsys, f"plugins=['{name}']", *TINY)


def test_a_file_in_the_working_directory_hides_no_installed_module(parts: Path) -> None:
    (parts / "yaml.py").write_text("1 / 0", encoding="utf-8")
    sys.modules.pop("colorsys", None)
    (parts / "colorsys.py").write_text("1 / 0", encoding="utf-8")
    with pytest.raises(InputError, match="plugins=colorsys has no function register"):
        load_plugins(["colorsys"])


def test_the_suite_of_a_plugin_is_made_in_actor_processes(parts: Path) -> None:
    own = ["env=small", "fusion=my_gate", "core=my_core", "runtime=local", "runtime.num_actors=1", "run=run"]
    assert train.main([*MINE, *own]) == 0
    assert (parts / "run" / "result.json").exists()


def test_a_cell_of_a_grid_imports_the_plugins_of_its_file(parts: Path) -> None:
    single = [*MINE, "fusions=[my_gate]", "folder=grid", "seeds=1", "episodes=2"]
    load_plugins(["parts_of_a_test"])
    (cell,) = make_cells(compose_ablate(single), single, {})
    save_cell(cell)
    LOADED_PLUGINS.clear()
    for table, name in (
        (fusion.FUSIONS, "my_gate"),
        (fusion.FUSIONS, "my_rank"),
        (core.CORES, "my_core"),
        (SUITES, "small"),
    ):
        del table[name]
    for listed in (names.FUSIONS, names.FLAT_FUSIONS, names.CORES, names.TORSOS, names.PROBES):
        del listed[-2 if listed in (names.FUSIONS, names.FLAT_FUSIONS) else -1 :]
    torso.OWN_TORSOS.clear(), plugins.PROBES.clear()
    assert cell_process.run(cell.folder, threads=1) == 0
    assert (cell.folder / "evaluation.json").exists()


def test_printed_commands_name_the_plugins() -> None:
    assert run_arguments("x", CONDITIONAL.config(), ["a", "b.c"]) == "run=x plugins=[a,b.c]"


def test_a_registry_knows_every_group_of_parts() -> None:
    methods = {name for name in vars(Registry) if not name.startswith("_")}
    assert methods == {"fusion", "core", "torso", "probe", "suite"}

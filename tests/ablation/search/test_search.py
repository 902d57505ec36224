"""search.py: which trials are proposed, compared and pruned, and that an interrupted search continues to the same result."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import search
from ablation.grid.grid import Cell, save_cell
from ablation.grid.scheduler import Exit
from ablation.population.population import Fitness
from ablation.search import search as searching
from ablation.search.report import summary, table
from ablation.search.search import Search
from conf.loading import compose_search, split_space
from conf.search_schema import Domain, check_search
from system.errors import InputError

pytest.importorskip("optuna")
pytestmark = pytest.mark.usefixtures("process_settings")

SMALL = ["env=conditional", "env.tasks=[map-0]", "runtime=serial", "total_frames=1000", "comparisons=2"]
RATE = "learner.learning_rate=tag(log,interval(1e-4,1e-1))"


class Played:
    """A running cell that ends with `code` when it is asked."""

    def __init__(self, cell: Cell, code: int, executor: Executor) -> None:
        self.cell, self.code, self.executor = cell, code, executor

    def has_begun(self) -> bool:
        return True

    def poll(self) -> Exit | None:
        self.executor.has_room = True
        return Exit(self.code, "broken" if self.code else "")


class Executor:
    """Plays one cell at a time, `most` of them in all; then a KeyboardInterrupt follows, as from Ctrl-C."""

    def __init__(self, most: int = 10_000, failing: str = "") -> None:
        self.cells: list[Cell] = []
        self._most, self._failing, self.has_room = most, failing, True

    def start(self, cell: Cell) -> Played | None:
        if not self.has_room:
            return None
        if len(self.cells) == self._most:
            raise KeyboardInterrupt
        self.has_room = False
        save_cell(cell)
        self.cells.append(cell)
        return Played(cell, 1 if cell.name == self._failing else 0, self)

    def stop(self) -> None: ...


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """Optuna warns of calls that it ignores."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(autouse=True)
def fitness(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of a trial grows with its learning rate, or is that of its optimiser."""

    def value(self: Search, folder: Path) -> Fitness:
        learner = json.loads((folder / "cell.json").read_text(encoding="utf-8"))["train"]["learner"]
        return Fitness(
            {"muon": None, "rmsprop": 0.0}.get(learner["optimizer"], learner["learning_rate"]), "success", 99, 1
        )

    monkeypatch.setattr(Search, "_fitness", value)
    monkeypatch.setattr(searching, "POLL_SECONDS", 0)


def begun(folder: Path, *arguments: str) -> Search:
    single, space = split_space([*SMALL, f"folder={folder}", *arguments])
    config = compose_search(single)
    check_search(config, space, cores=2)
    found = Search(config, single, space)
    folder.mkdir(exist_ok=True)
    found.begin(["python", "search.py"])
    return found


def played(folder: Path, *arguments: str, executor: Executor | None = None) -> dict[str, Any]:
    """The trials of a search, by name."""
    found = begun(folder, *arguments)
    found.run(executor or Executor(), lambda line: None)
    return summary(found)


def refusal(*arguments: str) -> str:
    with pytest.raises(InputError) as caught:
        single, space = split_space([*SMALL, *arguments])
        check_search(compose_search(single), space, cores=2)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_ranges_and_lists_become_domains() -> None:
    assert split_space([RATE, "lr=1"])[0] == ["learner.learning_rate=1"]
    found = split_space(
        [
            RATE,
            "learner.passes=range(1,6,2)",
            "learner.max_refused=interval(1,5)",
            "learner.optimizer=adam,muon",
            "seed=3",
        ]
    )
    assert found == (
        ["seed=3"],
        {
            "learner.learning_rate": Domain(low=1e-4, high=1e-1, log=True),
            "learner.passes": Domain(low=1, high=5, step=2),
            "learner.max_refused": Domain(low=1, high=5),
            "learner.optimizer": Domain(choices=("adam", "muon")),
        },
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "search.py needs a key to search"),
        (["core.size=8,16"], "core.size is not a key of the learner"),
        (["learner.learning_rate=interval(1,0)"], "learner.learning_rate has no range"),
        (["learner.learning_rate=tag(log,interval(0,1))"], "learner.learning_rate has a logarithmic range from 0"),
        ([RATE, "learner.learning_rate=1,2"], "repeats a key"),
        ([RATE, "run=x"], "run=x is not for the trials"),
        ([RATE, "evaluate_every=100"], "evaluate_every=100 is not for the trials"),
        ([RATE, "stop_at={success: 0.5}"], "stop_at={'success': 0.5} is not for the trials"),
        ([RATE, "parallel=3"], "parallel=3 is more than the 2 cores"),
        ([RATE, "trials=0"], "trials=0 is out of range"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(arguments: list[str], message: str) -> None:
    assert message in refusal(*arguments)


@pytest.mark.parametrize("domain", ["learner.discounting=interval(0.9,1.5)", "learner.optimizer=adam,sgd"])
def test_a_value_that_cannot_be_trained_is_refused_before_the_first_trial(domain: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="out of range|unknown"):
        begun(tmp_path, domain)
    assert not list(tmp_path.iterdir())


def test_trials_train_from_comparison_to_comparison_inside_the_space(tmp_path: Path) -> None:
    executor = Executor()
    found = played(tmp_path, RATE, "learner.passes=range(1,4)", "trials=3", "prune=false", executor=executor)
    assert [(cell.name, cell.pause_at) for cell in executor.cells] == [
        (f"trial-0{number}", pause) for number in range(3) for pause in (500, 0)
    ]
    for cell, again in zip(executor.cells[::2], executor.cells[1::2], strict=True):
        assert cell.train == again.train and cell.train.resume and not cell.train.display
        learner = found["trials"][cell.name]["parameters"]
        assert 1e-4 <= learner["learner.learning_rate"] <= 1e-1 and learner["learner.passes"] in (1, 2, 3)
        assert (cell.train.learner.learning_rate, cell.train.learner.passes) == tuple(learner.values())
    values = {name: trial["value"] for name, trial in found["trials"].items()}
    assert found["best"] == max(values, key=values.__getitem__) and found["measure"] == "success"


def test_trials_below_the_median_end_at_a_comparison(tmp_path: Path) -> None:
    executor = Executor()
    found = played(tmp_path, RATE, "trials=12", executor=executor)
    pruned = {name for name, trial in found["trials"].items() if trial["state"] == "pruned"}
    assert pruned and all(int(name.removeprefix("trial-")) >= 4 for name in pruned)
    assert len(executor.cells) == 2 * 12 - len(pruned)
    finished = [trial["value"] for name, trial in found["trials"].items() if name not in pruned]
    assert max(trial["value"] for trial in found["trials"].values() if trial["value"]) == max(finished)


def test_an_interrupted_search_continues_to_the_same_result(tmp_path: Path) -> None:
    whole = played(tmp_path / "whole", RATE, "trials=6")
    for most in (1, 2, 3, 1):
        with pytest.raises(KeyboardInterrupt):
            played(tmp_path / "parts", RATE, "trials=6", executor=Executor(most))
    assert played(tmp_path / "parts", RATE, "trials=6") == whole
    # More trials are added; the first ones stay.
    more = played(tmp_path / "parts", RATE, "trials=8")
    assert len(more["trials"]) == 8 and whole["trials"].items() <= more["trials"].items()


def test_a_failed_trial_is_tried_again_by_the_same_command(tmp_path: Path) -> None:
    search_, said = begun(tmp_path, RATE, "trials=2"), list[str]()
    assert search_.run(Executor(failing="trial-00"), said.append) == ["trial-00"]
    assert "trial-00 failed: broken" in said
    again = Executor()
    assert played(tmp_path, RATE, "trials=2", executor=again)["trials"].keys() == {"trial-00", "trial-01"}
    assert [cell.name for cell in again.cells] == ["trial-00", "trial-00"]


def test_a_trial_without_episodes_has_no_value(tmp_path: Path) -> None:
    found = played(tmp_path, "learner.optimizer=muon,rmsprop", "trials=6")
    states = {trial["parameters"]["learner.optimizer"]: trial["state"] for trial in found["trials"].values()}
    assert states["muon"] == "fail" and found["trials"][found["best"]]["value"] == 0.0
    assert len(table(found).rows) == 6


def test_another_search_in_the_folder_is_refused(tmp_path: Path) -> None:
    begun(tmp_path, RATE)
    with pytest.raises(InputError, match="holds another search .it differs in space.: give another folder="):
        begun(tmp_path, RATE.replace("1e-1", "1e-2"))
    with pytest.raises(InputError, match="differs in core"):
        begun(tmp_path, RATE, "core.size=16")
    begun(tmp_path, RATE, "parallel=1", "trials=30")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"param_name":"learner.learning_rate"', '"param_name":"plugins"'),
        ('\\"low\\": 0.0001', '\\"low\\": 0.1'),
        ('\\"log\\": true', '\\"log\\": 3'),
        ('"op_code":5', '"op_code":99'),
        ("{", "["),
    ],
)
def test_a_journal_of_another_hand_adds_no_key_and_ends_in_one_sentence(old: str, new: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        played(tmp_path, RATE, "trials=3", executor=Executor(1))
    journal = tmp_path / "optuna.log"
    text = journal.read_text(encoding="utf-8")
    assert old in text
    journal.write_text(text.replace(old, new), encoding="utf-8")
    executor = Executor()
    with contextlib.suppress(InputError):
        played(tmp_path, RATE, "trials=3", executor=executor)
    # What is trained has values of the space, and no other key.
    for cell in executor.cells:
        assert 1e-4 <= cell.train.learner.learning_rate <= 1e-1 and not cell.train.plugins


def test_search_without_optuna_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(searching.importlib.util, "find_spec", lambda name: None)
    assert search.main([*SMALL, RATE, f"folder={tmp_path / 'x'}"]) == 2
    error = capsys.readouterr().err
    assert 'pip install "mimpala[search]"' in error and error.count("\n") == 1 and not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_search_trains_reports_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    tiny = [
        *SMALL,
        "runtime.slots_per_actor=16",
        "core.size=8",
        "fusion.size=8",
        "torso.hidden=[8]",
        "least_episodes=1",
    ]
    command = [*tiny, RATE, "trials=1", "parallel=1", f"folder={tmp_path / 'found'}"]
    assert search.main(command) == 0
    content = json.loads((tmp_path / "found" / "result.json").read_text(encoding="utf-8"))
    assert [trial["frames"] for trial in content["trials"].values()] == [1000]
    assert f"next: python evaluate.py run={tmp_path / 'found' / content['best']}" in capsys.readouterr().out
    assert search.main(command) == 0
    assert json.loads((tmp_path / "found" / "result.json").read_text(encoding="utf-8")) == content

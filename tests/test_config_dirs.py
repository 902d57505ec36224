"""Folders with settings of a user's own: --config-dir and MIMPALA_CONFIG_DIR."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import train
from conf.composition import use_config_dirs
from conf.loading import compose_train

pytestmark = pytest.mark.usefixtures("process_settings")

MINE = """# @package _global_
defaults:
  - override /env: conditional
  - override /core: gru
total_frames: 4000
learner:
  learning_rate: 0.25
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of settings with experiment=mine and fusion=my_mlp, in the working directory."""
    monkeypatch.chdir(tmp_path)
    write("experiment/mine", MINE)
    write("fusion/my_mlp", "name: concat_mlp\nhidden: 32\n")
    yield tmp_path / "settings"
    use_config_dirs({})


def write(name: str, text: str) -> None:
    path = Path("settings") / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def job(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert train.main(["--cfg", "job", *arguments]) == 0
    return capsys.readouterr().out


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert train.main(list(arguments)) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def test_files_of_a_folder_are_choices(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = job(capsys, "--config-dir", "settings", "experiment=mine", "fusion=my_mlp", "total_frames=5e3")
    for line in ("  name: conditional", "  name: gru", "total_frames: 5000", "  learning_rate: 0.25", "  hidden: 32"):
        assert f"\n{line}\n" in f"\n{shown}"
    assert train.main(["-cd", str(settings), "--info", "searchpath"]) == 0
    assert f"--config-dir: file://{settings}" in capsys.readouterr().out
    # Without the folder they are unknown again.
    assert "experiment=mine is unknown" in error(capsys, "experiment=mine")
    assert "fusion=my_mlp is unknown" in error(capsys, "fusion=my_mlp")


def test_the_variable_names_a_folder_for_every_program(
    settings: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIMPALA_CONFIG_DIR", "settings")
    assert "total_frames: 4000" in job(capsys, "experiment=mine")
    assert train.main(["--help"]) == 0
    assert ", mine" in capsys.readouterr().out


def test_a_run_holds_the_values_and_resumes_without_the_folder(settings: Path) -> None:
    tiny = [
        "runtime=serial",
        "runtime.slots_per_actor=8",
        "core.size=8",
        "fusion.size=8",
        "torso.hidden=[8]",
        "display=false",
    ]
    assert train.main(["--config-dir=settings", "experiment=mine", *tiny, "total_frames=64", "run=run"]) == 0
    assert train.main(["run=run", "resume=true", "total_frames=128"]) == 0
    assert "learning_rate: 0.25" in Path("run/config.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("experiment/mine", MINE + "run: ${oc.env:HOME}\n", "experiment=mine names a file with an interpolation"),
        ("experiment/mine", MINE + "seed: ${total_frames}\n", "experiment=mine names a file with an interpolation"),
        (
            "experiment/mine",
            MINE + "lr: 3\n",
            "experiment=mine cannot be composed, because of lr: check names, values and YAML",
        ),
        ("experiment/mine", MINE + "env:\n  _target_: os.system\n", "cannot be composed, because of env._target_"),
        ("experiment/mine", MINE + "seed: many\n", "experiment=mine cannot be composed, because of seed"),
        ("experiment/mine", "seed: 3\n", "begin a file of experiment/ with `# @package _global_`"),
        ("experiment/mine", "seed: [\n", "experiment=mine cannot be composed"),
        (
            "experiment/mine",
            "# @package _global_\ndefaults:\n  - override /env: nowhere\n",
            "experiment=mine cannot be composed",
        ),
        (
            "experiment/impala",
            MINE,
            "--config-dir has experiment/impala.yaml, which is a name of mimpala: give the file another name.",
        ),
        ("fusion/mi", "name: mi", "--config-dir has fusion/mi.yaml, which is a name of mimpala"),
        ("fusion/my_mlp", "name: mj\n", "fusion=mj is unknown"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(
    settings: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, message: str
) -> None:
    write(name, text)
    chosen = "fusion=my_mlp" if name.startswith("fusion") else "experiment=mine"
    refused = error(capsys, "--config-dir", "settings", chosen)
    assert message in refused
    assert not [word for word in ("ListConfig", "full_key", "object_type", "hydra.searchpath") if word in refused]


def test_a_folder_that_does_not_exist_is_refused(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"--config-dir {settings.parent / 'absent'} is not a folder" in error(capsys, "--config-dir", "absent")
    assert "--config-dir takes one of DIR" in error(capsys, "--config-dir")
    assert compose_train([]).total_frames

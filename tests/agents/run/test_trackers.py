"""Trackers: what each of them shows of a run, read back with its own reader."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import struct
import subprocess
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tiny_runs import TINY, refusal, rows

import evaluate
import train
from agents.run.trackers import tracker
from agents.run.trackers.tags import GROUPS, tags
from agents.run.trackers.tracker import TrackedRun, Trackers
from conf.names import LOGGERS
from system.errors import InputError

pytestmark = pytest.mark.usefixtures("process_settings")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run with the trackers that need no package, resumed once from an earlier checkpoint than its last row."""
    folder = tmp_path_factory.mktemp("runs") / "my-run"
    options = [*TINY, f"run={folder}", "logger=[tensorboard,csv]", "learner.diagnostics=5"]
    assert train.main([*options, "total_frames=600", "checkpoint_seconds=0", "keep_checkpoints=1000"]) == 0
    for path in sorted((folder / "checkpoints").iterdir())[12:]:
        path.unlink()
    (folder / "result.json").unlink()
    assert train.main([*options, "resume=true", "total_frames=900"]) == 0
    return folder


def board_of(folder: Path) -> EventAccumulator:
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    board.Reload()
    return board


def test_tensorboard_shows_every_number_at_its_frames(run: Path) -> None:
    board, logged = board_of(run), rows(run)
    assert len(logged) > 20
    shown = {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
    expected: dict[str, list[Any]] = {}
    for row in logged:
        numbers = {key: value for key, value in row.items() if key != "limited_by"}
        for tag, value in tags(numbers).items():
            expected.setdefault(tag, []).append((row["frames"], pytest.approx(value, rel=1e-6)))
    assert shown == expected
    assert {tag.partition("/")[0] for tag in shown} == set(GROUPS) - {"score", "evaluation"}
    assert {
        "return/map-0",
        "return/mean",
        "success/memory-1",
        "policy/entropy",
        "diagnostics/effective_rank/core",
        "speed/frames_per_second",
    } <= shown.keys()
    # One measurement in five updates, each of which has a row.
    assert 0.1 < len(shown["diagnostics/effective_rank/core"]) / len(logged) < 0.3


def test_tensorboard_has_hparams_the_configuration_and_returns_first(run: Path) -> None:
    board = board_of(run)
    metadata = board.summary_metadata["_hparams_/session_start_info"]
    start = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info.hparams
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert start["learner.learning_rate"].number_value == config["learner"]["learning_rate"]
    assert start["fusion.name"].string_value == config["fusion"]["name"]
    (text, *_) = board.Tensors("configuration/text_summary")
    assert (
        yaml.safe_load(text.tensor_proto.string_val[0].decode().replace("\n    ", "\n")[4:])["seed"] == config["seed"]
    )
    layout = board.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    places = [layout.index(f"^{group}/".encode()) for group in GROUPS]
    assert places == sorted(places)


def test_csv_holds_the_same_numbers(run: Path) -> None:
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        table = [{key: float(text) for key, text in row.items() if text} for row in csv.DictReader(file)]
    logged = [{key: value for key, value in row.items() if key != "limited_by"} for row in rows(run)]
    assert table == [{"frames": row["frames"], **tags(row)} for row in logged]
    assert list(table[-1])[1].startswith("return/")


@pytest.mark.slow
@pytest.mark.usefixtures("tests_keep_their_threads")
def test_evaluations_are_added_at_the_frames_of_the_checkpoint(run: Path) -> None:
    pytest.importorskip("imageio")
    before = board_of(run).Tags()
    arguments = ["episodes=4", "probe=zero", "video=true", "video_episodes=1", "logger=[tensorboard,csv]"]
    assert evaluate.main([f"run={run}", *arguments]) == 0
    content = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    board, frames = board_of(run), content["provenance"]["frames"]
    means = {f"evaluation/return/{task}": row["mean"] for task, row in content["tasks"].items()}
    means["evaluation/success/mean"] = content["aggregate"]["success"]
    for tag, value in means.items():
        assert [(event.step, event.value) for event in board.Scalars(tag)] == [(frames, pytest.approx(value))]
    names = {"task_similarity", "video/map-0", "video/memory-1"}
    for tag in (f"evaluation/{name}" for name in names):
        assert [event.step for event in board.Images(tag)] == [frames]
    # The rows of the training are still there.
    assert set(before["scalars"]) < set(board.Tags()["scalars"])
    assert (run / "metrics.csv").read_text(encoding="utf-8").splitlines()[-1].startswith(f"{frames},")


@pytest.mark.usefixtures("tests_keep_their_threads")
def test_a_tracker_that_cannot_start_costs_no_evaluation(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(run: TrackedRun) -> Failing:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setitem(tracker.TRACKERS, "tensorboard", refuse)
    assert evaluate.main([f"run={run}", "episodes=2", f"output={tmp_path / 'evaluation.json'}"]) == 0
    assert (tmp_path / "evaluation.json").exists()
    assert "warning: logger=tensorboard cannot start (Permission denied)" in capsys.readouterr().err


def test_every_key_has_its_own_tag_in_a_group() -> None:
    row = {
        "frames": 8,
        "updates": 1,
        "policy_lag_max": 2,
        "replay_lag_mean": 3,
        "updates_refused": 0,
        "restarts": 1,
        "restarts/died": 1,
        "nonfinite": 0,
        "time/env": 0.5,
        "memory/actor-0": 7,
        "loss/kl": 0.1,
        "policy/kl": 0.2,
        "tasks//home/me/mine.lua/return": 1,
        "tasks/a/updates": 1,
        "mean/return": 2,
        "mean/length": 3,
        "score/median": 4,
        "gradient_norm/core": 1,
        "loss/gradient_norm": 2,
        "evaluation/return/a": 1,
        "diagnostics/cosine_mean/core": 0.5,
    }
    named = tags(row)
    assert len(named) == len(row) - 1 and all(tag.partition("/")[0] in GROUPS for tag in named)
    assert named["return//home/me/mine.lua"] == 1 and named["optimisation/gradient_norm_core"] == 1
    groups = [tag.partition("/")[0] for tag in named]
    assert groups == sorted(groups, key=GROUPS.index)


def test_a_tracker_is_imported_only_if_it_is_named(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, train, evaluate; from agents.run.trackers.tracker import *; "
        "Trackers(['csv'], TrackedRun(pathlib.Path(sys.argv[1]), {}, 0), print).close(); "
        "print([name for name in ('tensorboard', 'wandb', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "content", [b"", b"\xff\x00", b"a,b\n1,2\n", b'frames,"a\n3', b"frames\n-1\n1e9\n" + b"9" * 400, b"x" * 200_000]
)
def test_a_foreign_csv_is_replaced_or_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    refusal, run = "", TrackedRun(tmp_path, {}, 5)
    try:
        with contextlib.closing(Trackers(["csv"], run, pytest.fail)) as trackers:
            trackers.log(7, {"return/mean": 1.0})
    except InputError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith("logger=csv cannot start (") and "\n" not in refusal
        return
    header, *_, last = (tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert header.endswith("return/mean") and last.startswith("7,") and last.endswith(",1.0")


class Failing:
    """A tracker whose service is away at every second row."""

    def __init__(self, run: TrackedRun) -> None:
        self.rows = 0

    def log(self, frames: int, values: Mapping[str, float]) -> None:
        self.rows += 1
        if self.rows in (2, 3, 5):
            raise ConnectionError("the server is away\nand more")

    def picture(self, frames: int, tag: str, png: Path) -> None: ...

    def video(self, frames: int, tag: str, path: Path) -> None: ...

    def close(self) -> None:
        raise KeyError("closed")


def test_a_tracker_that_fails_is_reported_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tracker.TRACKERS, "mlflow", Failing)
    said: list[str] = []
    trackers = Trackers(["mlflow", "csv"], TrackedRun(tmp_path, {}, 0), said.append)
    for frames in range(1, 7):
        trackers.log(frames, {"return/mean": 1.0})
    trackers.close()
    trackers.close()
    assert said == [
        "logger=mlflow fails (the server is away): the run continues and will try again.",
        "logger=mlflow works again.",
        "logger=mlflow fails (the server is away): the run continues and will try again.",
        "logger=mlflow works again.",
        "logger=mlflow fails ('closed'): the run continues and will try again.",
    ]
    assert len((tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()) == 7


@pytest.mark.parametrize("found", [None, ModuleSpec("wandb", None, is_package=True)])
@pytest.mark.parametrize("name", [name for name in LOGGERS if name != "csv"])
def test_a_missing_package_is_refused_before_the_run(
    name: str, found: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # None, or what Python finds for a folder of that name.
    monkeypatch.setattr(tracker.importlib.util, "find_spec", lambda package: found)
    run = tmp_path / "run"
    message = refusal(capsys, *TINY, f"run={run}", f"logger=[csv,{name}]")
    assert f"logger={name} needs the package {name}" in message and f'"mimpala[{name}]"' in message
    assert not (run / "config.yaml").exists()


def test_an_unknown_tracker_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "logger=wandbb is unknown" in refusal(capsys, *TINY, "logger=[wandbb]")


def wandb_history(run: Path) -> list[dict[str, Any]]:
    """The rows in the file of an offline run. Its format is that of a LevelDB log: blocks with records of checksum, length and type."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = (run / "wandb").glob("offline-run-*/*.wandb")
    content, position, whole, found = path.read_bytes(), 7, b"", []
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        position += 7
        whole += content[position : position + length]
        position += length
        if kind in (1, 4):
            record, whole = Record.FromString(whole), b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                found.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return found


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The services of trackers on this machine."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("services")
def test_wandb_keeps_the_history_of_an_offline_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = tmp_path / "my-run"
    assert train.main([*TINY, f"run={run}", "total_frames=200", "logger=[wandb]"]) == 0
    history = wandb_history(run)
    logged = [{key: value for key, value in row.items() if key != "limited_by"} for row in rows(run)]
    assert len(history) == len(logged) > 4
    for found, row in zip(history, logged, strict=True):
        assert {key: value for key, value in found.items() if not key.startswith("_")} == {
            "frames": row["frames"],
            **tags(row),
        }


@pytest.mark.slow
@pytest.mark.usefixtures("services")
def test_a_resume_continues_the_run_of_wandb_which_leaves_nothing_behind(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = tmp_path / "my-run"
    assert train.main([*TINY, f"run={run}", "total_frames=200", "logger=[wandb]"]) == 0
    (identity,) = json.loads((run / tracker.IDS).read_text(encoding="utf-8")).values()
    resumed = [sys.executable, "train.py", f"run={run}", "resume=true", "total_frames=250"]
    done = subprocess.run(resumed, cwd=Path(train.__file__).parent, capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr and "wandb" not in done.stderr
    assert len(list((run / "wandb").glob(f"offline-run-*-{identity}"))) == 2


def test_wandb_without_a_login_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    import wandb

    def login(*, verify: bool) -> bool:
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", login)
    message = refusal(capsys, *TINY, f"run={tmp_path / 'run'}", "logger=[wandb]")
    assert "No API key configured" in message and "WANDB_MODE=offline" in message


@pytest.mark.slow
@pytest.mark.usefixtures("services")
def test_mlflow_keeps_metrics_parameters_and_figures(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    run = tmp_path / "my-run"
    assert train.main([*TINY, f"run={run}", "total_frames=200", "logger=[mlflow]"]) == 0
    assert train.main([f"run={run}", "resume=true", "total_frames=250"]) == 0
    client = MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("mimpala").experiment_id])
    assert found.info.run_name == "my-run" and found.info.status == "FINISHED"
    assert found.data.params["fusion.name"] == "gated"
    history = {metric.step: metric.value for metric in client.get_metric_history(found.info.run_id, "return/map-0")}
    assert history == {row["frames"]: row["tasks/map-0/return"] for row in rows(run)}
    trackers = Trackers(["mlflow"], TrackedRun(run, {}, None), pytest.fail)
    trackers.log(250, {"evaluation/return/Level-v0(level=1)": 1.0, "evaluation/return//home/me/mine.lua": 2.0})
    trackers.close()
    assert client.get_run(found.info.run_id).data.metrics["evaluation/return/home/me/mine.lua"] == 2.0


def test_a_service_that_cannot_start_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run: TrackedRun) -> Failing:
        raise RuntimeError("no such experiment.\n(see the manual)")

    monkeypatch.setitem(tracker.TRACKERS, "wandb", refuse)
    with pytest.raises(InputError) as caught:
        Trackers(["wandb"], TrackedRun(tmp_path, {}, 0), print)
    assert str(caught.value) == "logger=wandb cannot start (no such experiment): mend this, or leave it out."


def test_tensorboard_shows_pictures_and_videos(tmp_path: Path) -> None:
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    frames = np.random.default_rng(0).integers(0, 255, (200, 40, 60, 3), dtype=np.uint8)
    imageio.imwrite(tmp_path / "figure.png", frames[0])
    imageio.mimwrite(tmp_path / "short.gif", frames[:3])
    imageio.mimwrite(tmp_path / "long.mp4", frames, fps=50, macro_block_size=2)
    trackers = Trackers(["tensorboard"], TrackedRun(tmp_path, {}, None), pytest.fail)
    trackers.picture(7, "evaluation/figure", tmp_path / "figure.png")
    for name in ("short.gif", "long.mp4"):
        trackers.video(9, f"evaluation/video/{name}", tmp_path / name)
    trackers.close()
    board = board_of(tmp_path)
    (figure,) = board.Images("evaluation/figure")
    assert (figure.step, figure.width, figure.height) == (7, 60, 40)
    for name, most in (("short.gif", 3), ("long.mp4", 150)):
        (video,) = board.Images(f"evaluation/video/{name}")
        assert (video.step, video.width, video.height) == (9, 60, 40)
        shown = imageio.mimread(video.encoded_image_string, format="GIF")
        assert 0.6 * most < len(shown) <= most and not math.isnan(float(np.mean(shown)))

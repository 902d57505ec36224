"""MLflow. Server and experiment follow its own variables, MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from agents.run.trackers.tracker import TrackedRun, id_of
from conf.composition import flatten

_MOST_AT_ONCE = 100
"""Most parameters that a server takes in one request."""

_LONGEST = 500
"""Longest value of a parameter that every version of a server takes."""


class MlflowRun:
    """The run in MLflow: a new one, or the one of the run folder, which continues."""

    def __init__(self, run: TrackedRun) -> None:
        # Otherwise a server that is away would stop the training for minutes at every row.
        for variable, value in (("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"), ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")):
            os.environ.setdefault(variable, value)
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._client: Any = MlflowClient()
        name, is_new = os.environ.get("MLFLOW_EXPERIMENT_NAME", "mimpala"), []

        def create() -> str:
            is_new.append(True)
            known = self._client.get_experiment_by_name(name)
            experiment = known.experiment_id if known else self._client.create_experiment(name)
            return str(self._client.create_run(experiment, run_name=run.name).info.run_id)

        self._id = id_of(run, "mlflow", create)
        self._client.update_run(self._id, status="RUNNING")
        if is_new:
            parameters = [Param(key, str(value)[:_LONGEST]) for key, value in flatten(run.config).items()]
            for start in range(0, len(parameters), _MOST_AT_ONCE):
                self._client.log_batch(self._id, params=parameters[start : start + _MOST_AT_ONCE])
        if run.frames is not None:
            text = yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True)
            self._client.log_text(self._id, text, "config.yaml")

    def log(self, frames: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(
            self._id, metrics=[self._metric(_key(tag), value, now, frames) for tag, value in values.items()]
        )

    def picture(self, frames: int, tag: str, png: Path) -> None:
        self._client.log_artifact(self._id, str(png), str(Path(_key(tag)).parent))

    def video(self, frames: int, tag: str, path: Path) -> None:
        self._client.log_artifact(self._id, str(path), str(Path(_key(tag)).parent))

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _key(tag: str) -> str:
    """The tag with the characters that MLflow accepts: it refuses most punctuation, and paths that are not the shortest."""
    parts = (re.sub(r"[^\w.\- ]", "_", part).strip(".") or "_" for part in tag.split("/") if part)
    return "/".join(parts)

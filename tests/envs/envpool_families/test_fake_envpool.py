"""The fake of envpool 1.2.7 has the interface of the engine, and its errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from newer_envpool import FAKE_ENVPOOL, has_newer_envpool

DESCRIBE = """
import json, warnings
import numpy as np
import envpool

GAMES = [f"{name}Easy-v0" for name in ("Coinrun", "Maze", "Bigfish", "Starpilot")]
WORLDS = [f"Craftax{mode}-{kind}{auto}-v1" for mode in ("-Classic", "") for kind in ("Symbolic", "Pixels")
          for auto in ("", "-AutoReset")]
IDS = np.arange(2, dtype=np.int32)

def make(name, **options):
    return envpool.make(name, env_type="gymnasium", **{"num_envs": 2, "seed": [3, 5], **options})

def error(call):
    try:
        call()
    except Exception as found:
        return f"{type(found).__name__}: {found}"
    return "none"

def arrays(info):
    return {key: [str(np.asarray(value).dtype), list(np.shape(value))] for key, value in info.items() if key != "players"}

def send(pool, actions):
    pool.send({"action": actions, "env_id": IDS, "players": {"env_id": IDS}})
    return pool.recv()

found = {"version": envpool.__version__}
found["listed"] = sorted(set(GAMES + WORLDS) - set(envpool.list_all_envs()))
for name in GAMES + WORLDS:
    pool = make(name, render_mode="rgb_array")
    seen, info = pool.reset()
    config = {key: value for key, value in pool.spec.config._asdict().items() if key != "base_path"}
    entry = found[name] = {"config": config, "spaces": [str(pool.observation_space), str(pool.action_space)]}
    entry["reset"], entry["seen"] = arrays(info), [str(seen.dtype), list(seen.shape)]
    seen, reward, terminated, truncated, info = send(pool, np.zeros(2, np.int32))
    entry["step"] = [arrays(info), str(seen.dtype), *(str(one.dtype) for one in (reward, terminated, truncated))]
    entry["frame"] = list(pool.render(0).shape)
    entry["own"] = seen.flags.writeable
    entry["errors"] = [
        error(lambda: send(make(name), np.zeros(2, np.int64))),
        error(lambda: send(make(name), np.zeros((2, 1), np.int32))),
        error(lambda: make(name, nonsense=1)),
        error(lambda: make(name, seed=[1])),
        error(lambda: make(name, seed=[2**31, 1])),
        error(lambda: make(name).render(0)),
        error(lambda: envpool.make("Nowhere-v0", env_type="gymnasium")),
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pool.reset(seed=1)
    entry["warned"] = [str(one.message)[:52] for one in caught]
    one, two = make(name), make(name)
    entry["equal"] = bool((one.reset()[0] == two.reset()[0]).all())
    entry["other"] = bool((one.reset()[0] != make(name, seed=[8, 9]).reset()[0]).any())
    pool, chance, ends = make(name, num_envs=8, seed=list(range(8))), np.random.default_rng(0), 0
    pool.reset()
    before, auto_reset = np.zeros(8, bool), config.get("auto_reset", False)
    for _ in range(1500):
        _, reward, terminated, truncated, info = pool.step(chance.integers(0, pool.action_space.n, 8).astype(np.int32))
        done = terminated | truncated
        assert not (terminated & truncated).any()
        # The step after an end only resets. An id with AutoReset plays a step of the next episode.
        assert (info["elapsed_step"][before] == auto_reset).all()
        assert auto_reset or not reward[before].any()
        if "discount" in info:
            assert (info["discount"] == 1 - done).all()
            unlocked = np.stack([value for key, value in info.items() if key.startswith("Achievements/")])
            assert set(np.unique(unlocked)) <= {0, 100} and not unlocked[:, ~done].any()
        before, ends = done, ends + done.sum()
        if ends > 9:
            break
    entry["ends"] = bool(ends > 0)
print(json.dumps(found, sort_keys=True, default=str))
"""


def described(path: Path | None) -> dict[str, Any]:
    """The description of the envpool in this folder, or of the installed one."""
    folders = [str(path)] if path else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    ended = subprocess.run(
        [sys.executable, "-c", DESCRIBE], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_the_fake_keeps_its_rules() -> None:
    found = described(FAKE_ENVPOOL)
    assert found["version"] == "1.2.7" and not found["listed"]
    games = [entry for name, entry in found.items() if name.endswith(("Easy-v0", "-v1"))]
    assert len(games) == 12 and all(entry["equal"] and entry["other"] and entry["ends"] for entry in games)


@pytest.mark.skipif(not has_newer_envpool(), reason="envpool 1.2.7 needs Python 3.12 or later")
def test_the_fake_is_like_the_engine() -> None:
    fake, engine = described(FAKE_ENVPOOL), described(None)
    del fake["version"], engine["version"]
    assert fake == engine


@pytest.mark.parametrize("name", ["Craftax-Symbolic-v1", "Craftax-Classic-Pixels-v1"])
def test_craftax_ends_the_process_on_an_unknown_action(name: str) -> None:
    code = "import envpool, numpy as np; pool = envpool.make('NAME', env_type='gymnasium'); pool.reset(); pool.step(np.array([99]))"
    code, environment = code.replace("NAME", name), {**os.environ, "PYTHONPATH": str(FAKE_ENVPOOL)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGABRT and "invalid_argument" in ended.stderr

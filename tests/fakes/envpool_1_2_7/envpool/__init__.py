"""A fake of envpool 1.2.7 with Procgen and Craftax, for versions of Python that it has no wheel for: the same ids, options, spaces,
calls, errors and traps.

A test compares it with envpool 1.2.7 where that is installed (tests/envs/envpool_families/test_fake_envpool.py). The games are others. In
Procgen an agent walks on a line whose picture scrolls, and finds 10 points at one end and nothing at the other. In Craftax chance unlocks
achievements and hurts. The traps:

- `make` seeds an environment once. `reset(seed=...)` warns and does nothing.
- The step after an end ignores its action and resets.
- `num_levels=0` means all levels, also those below `start_level`. `max_episode_steps` does not change Procgen's games.
- Procgen's pictures have their channels first, unless told otherwise. It plays actions that do not exist.
- Craftax ends the process on an action that does not exist. Its pictures are floats that no byte holds exactly. Its ids with AutoReset show
  the next episode's first observation at an end. Achievements are 100 at the end of an episode and 0 before.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

__version__ = "1.2.7"

# fmt: off
_COMMON: dict[str, Any] = {
    "num_envs": 1, "batch_size": 1, "num_threads": 0, "max_num_players": 1, "thread_affinity_offset": -1,
    "base_path": "", "seed": 0, "env_seed": [], "gym_reset_return_info": True, "max_episode_steps": 0,
}
_PROCGEN: dict[str, Any] = {
    "env_name": "", "channel_first": True, "num_levels": 0, "start_level": 0, "use_sequential_levels": False,
    "center_agent": True, "use_backgrounds": True, "use_monochrome_assets": False, "restrict_themes": False,
    "use_generated_assets": False, "paint_vel_info": False, "use_easy_jump": False, "distribution_mode": 0,
}
_LIMITS = {
    "bigfish": 6000, "bossfight": 4000, "caveflyer": 1000, "chaser": 1000, "climber": 1000, "coinrun": 1000,
    "dodgeball": 1000, "fruitbot": 1000, "heist": 1000, "jumper": 1000, "leaper": 500, "maze": 500, "miner": 1000,
    "ninja": 1000, "plunder": 4000, "starpilot": 1000,
}
_CRAFTAX: dict[str, Any] = {
    "map_size": [48, 48], "num_levels": 9, "day_length": 300, "always_diamond": False, "god_mode": False,
    "mob_despawn_distance": 14, "max_attribute": 5, "max_melee_mobs": 3, "max_passive_mobs": 3, "max_ranged_mobs": 2,
    "max_mob_projectiles": 3, "max_player_projectiles": 3, "max_growing_plants": 10, "zombie_health": 5,
    "cow_health": 3, "skeleton_health": 3, "spawn_cow_chance": float(np.float32(0.1)),
    "spawn_zombie_base_chance": float(np.float32(0.02)), "spawn_zombie_night_chance": float(np.float32(0.1)),
    "spawn_skeleton_chance": float(np.float32(0.05)), "fractal_noise_angles": [[], [], [], []], "auto_reset": False,
    "render_tile_size": 16, "initial_state": [], "debug_state": False,
}
_ACHIEVEMENTS = (
    "collect_wood", "place_table", "eat_cow", "collect_sapling", "collect_drink", "make_wood_pickaxe",
    "make_wood_sword", "place_plant", "defeat_zombie", "collect_stone", "place_stone", "eat_plant",
    "defeat_skeleton", "make_stone_pickaxe", "make_stone_sword", "wake_up", "place_furnace", "collect_coal",
    "collect_iron", "collect_diamond", "make_iron_pickaxe", "make_iron_sword",
    # The classic game has those above only.
    "make_arrow", "make_torch", "place_torch", "collect_sapphire", "collect_ruby", "make_diamond_pickaxe",
    "make_diamond_sword", "make_iron_armour", "make_diamond_armour", "enter_gnomish_mines", "enter_dungeon",
    "enter_sewers", "enter_vault", "enter_troll_mines", "enter_fire_realm", "enter_ice_realm", "enter_graveyard",
    "defeat_gnome_warrior", "defeat_gnome_archer", "defeat_orc_solider", "defeat_orc_mage", "defeat_lizard",
    "defeat_kobold", "defeat_knight", "defeat_archer", "defeat_troll", "defeat_deep_thing", "defeat_pigman",
    "defeat_fire_elemental", "defeat_frost_troll", "defeat_ice_elemental", "damage_necromancer",
    "defeat_necromancer", "eat_bat", "eat_snail", "find_bow", "fire_bow", "learn_fireball", "cast_fireball",
    "learn_iceball", "cast_iceball", "open_chest", "drink_potion", "enchant_sword", "enchant_armour",
)
# fmt: on
_CLASSIC = {"map_size": [64, 64], "num_levels": 1, "always_diamond": True, "max_episode_steps": 10_000}

_IDS: dict[str, dict[str, Any]] = {
    f"{game.capitalize()}Easy-v0": {**_COMMON, **_PROCGEN, "env_name": game, "max_episode_steps": limit}
    for game, limit in _LIMITS.items()
}
for _classic in (True, False):
    for _kind in ("Symbolic", "Pixels"):
        for _suffix in ("", "-AutoReset"):
            _config = {**_COMMON, **_CRAFTAX, "max_episode_steps": 100_000, "auto_reset": bool(_suffix)}
            _name = f"Craftax{'-Classic' * _classic}-{_kind}{_suffix}-v1"
            _IDS[_name] = _IDS[_name.replace("-", "/", 1)] = _config | (_CLASSIC if _classic else {})


def list_all_envs() -> list[str]:
    return list(_IDS)


def make(task_id: str, env_type: str, **options: Any) -> Any:
    assert task_id in _IDS, f"{task_id} is not supported, `envpool.list_all_envs()` may help."
    render_mode = options.pop("render_mode", None)
    count, seed = options.get("num_envs", 1), options.pop("seed", 42)
    assert count >= 1
    if isinstance(seed, Sequence):
        assert len(seed) == count, (
            f"When `seed` is a sequence, its length must match `num_envs`, got len(seed) = {len(seed)} and num_envs = {count}"
        )
        options |= {"seed": 0, "env_seed": list(seed)}
    else:
        options["seed"] = seed
    for number in (options["seed"], *options.get("env_seed", ())):
        assert -(2**31) <= number < 2**31, f"Seed should be in range of int32, got {number}"
    options.setdefault("batch_size", count)
    defaults = _IDS[task_id]
    if unknown := [key for key in options if key not in defaults]:
        raise TypeError(f"Config.__new__() got an unexpected keyword argument '{unknown[0]}'")
    pool = _Procgen if task_id.endswith("Easy-v0") else _Craftax
    return pool(task_id, defaults | options, render_mode)


class _Pool:
    """The environments of one `make`. A subclass has their rules, for one environment `k`."""

    def __init__(self, name: str, config: dict[str, Any], render_mode: str | None) -> None:
        self.name, self.config, self._render_mode = name, config, render_mode
        self.spec = namedtuple("Spec", "config")(namedtuple("Config", config)(**config))
        self.num_envs = config["num_envs"]
        self.all_env_ids = np.arange(self.num_envs, dtype=np.int32)
        seeds = config["env_seed"] or [config["seed"] + k for k in range(self.num_envs)]
        self._chance = [np.random.default_rng(seed % 2**32) for seed in seeds]
        self._elapsed = np.zeros(self.num_envs, np.int32)
        self._done = np.ones(self.num_envs, np.bool_)
        self._truncated = np.zeros(self.num_envs, np.bool_)
        self._reward = np.zeros(self.num_envs, np.float32)

    def async_reset(self) -> None:
        for k in range(self.num_envs):
            self._begin(k)

    def reset(self, env_id: Any = None, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            warnings.warn("EnvPool seeds are fixed when the environment is created.", stacklevel=2)
        self.async_reset()
        seen, _, _, _, info = self.recv()
        return seen, info

    def send(self, action: Any, env_id: Any = None) -> None:
        actions = action["action"] if isinstance(action, dict) else np.asarray(action).astype(np.int32)
        if actions.dtype != np.int32:
            raise RuntimeError(f'Expected dtype int32 with action "action", got {actions.dtype}')
        if actions.ndim != 1:
            raise RuntimeError(f'Expected shape (-1,) with action "action", got {actions.shape}')
        for k, chosen in enumerate(actions.tolist()):
            if self._done[k]:
                self._begin(k)
                continue
            self._elapsed[k] += 1
            self._reward[k], self._done[k], self._truncated[k] = self._step(k, chosen)

    def recv(self, reset: bool = False, return_info: bool = True) -> Any:
        info = {"env_id": self.all_env_ids.copy(), "players": {"env_id": self.all_env_ids.copy()}, **self._info()}
        info["elapsed_step"] = self._elapsed.copy()
        ends = self._done & ~self._truncated, self._truncated.copy()
        return np.stack([self._show(k) for k in range(self.num_envs)]), self._reward.copy(), *ends, info

    def step(self, action: Any, env_id: Any = None) -> Any:
        self.send(action)
        return self.recv()

    def _begin(self, k: int) -> None:
        self._elapsed[k], self._reward[k] = 0, 0
        self._done[k] = self._truncated[k] = False
        self._start(k)

    def render(self, env_ids: Any = None, camera_id: Any = None) -> Any:
        if self._render_mode not in ("rgb_array", "human"):
            raise RuntimeError("render_mode must be set to 'rgb_array' or 'human' when creating this env")
        return np.stack([self._draw(int(k)) for k in np.atleast_1d(0 if env_ids is None else env_ids)])

    def close(self, **kwargs: Any) -> None:
        pass

    def _start(self, k: int) -> None:
        raise NotImplementedError

    def _step(self, k: int, action: int) -> tuple[float, bool, bool]:
        """Reward, done, truncated."""
        raise NotImplementedError

    def _show(self, k: int) -> Any:
        raise NotImplementedError

    def _draw(self, k: int) -> Any:
        raise NotImplementedError

    def _info(self) -> dict[str, Any]:
        raise NotImplementedError


class _Procgen(_Pool):
    def __init__(self, name: str, config: dict[str, Any], render_mode: str | None) -> None:
        super().__init__(name, config, render_mode)
        shape = (3, 64, 64) if config["channel_first"] else (64, 64, 3)
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = gymnasium.spaces.Discrete(15)
        self._limit = _LIMITS[config["env_name"]]
        self._level, self._previous, self._complete, self._place = np.zeros((4, self.num_envs), np.int32)

    def _start(self, k: int) -> None:
        count = self.config["num_levels"]
        first = self.config["start_level"] if count else 0
        self._level[k] = first + self._chance[k].integers(count or 2**31 - 1)
        self._previous[k], self._complete[k], self._place[k] = self._level[k], 0, 0

    def _step(self, k: int, action: int) -> tuple[float, bool, bool]:
        self._place[k] += action % 3 - 1
        self._complete[k] = self._place[k] == 5
        late = self._elapsed[k] >= self._limit
        return 10.0 * self._complete[k], abs(self._place[k]) == 5 or late, late

    def _draw(self, k: int) -> Any:
        picture = np.random.default_rng(int(self._level[k])).integers(0, 256, (64, 64, 3), np.uint8)
        return np.roll(picture, self._place[k], axis=1)

    def _show(self, k: int) -> Any:
        picture = self._draw(k)
        return picture.transpose(2, 0, 1) if self.config["channel_first"] else picture

    def _info(self) -> dict[str, Any]:
        seeds = {"prev_level_seed": self._previous, "prev_level_complete": self._complete, "level_seed": self._level}
        return {key: value.copy() for key, value in seeds.items()}


class _Craftax(_Pool):
    def __init__(self, name: str, config: dict[str, Any], render_mode: str | None) -> None:
        super().__init__(name, config, render_mode)
        self._classic, self._pixels = "Classic" in name, "Pixels" in name
        shape: tuple[int, ...] = (1345,) if self._classic else (8268,)
        if self._pixels:
            shape = (63, 63, 3) if self._classic else (130, 110, 3)
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, shape, np.float32)
        self.action_space = gymnasium.spaces.Discrete(17 if self._classic else 43)
        self._names = _ACHIEVEMENTS[: 22 if self._classic else 67]
        self._unlocked = np.zeros((self.num_envs, len(self._names)), np.bool_)
        self._reported = np.zeros((self.num_envs, len(self._names)), np.float32)
        self._health = np.zeros(self.num_envs, np.int32)
        self._ran = np.zeros(self.num_envs, np.bool_)
        self._picture = np.zeros((self.num_envs, *shape), np.float32)

    def _start(self, k: int) -> None:
        self._unlocked[k], self._reported[k], self._health[k] = False, 0, 9
        self._elapsed[k] = self.config["auto_reset"] and self._ran[k]
        self._ran[k] = True
        self._look(k)

    def _look(self, k: int) -> None:
        self._picture[k] = self._chance[k].random(self._picture.shape[1:], np.float32)
        if not self._pixels:
            self._picture[k] = self._picture[k] > 0.9

    def _step(self, k: int, action: int) -> tuple[float, bool, bool]:
        if not 0 <= action < self.action_space.n:
            print("terminate called after throwing an instance of 'std::invalid_argument'", file=sys.stderr)
            os.abort()
        chance, reward = self._chance[k], 0.0
        which = int(chance.integers(len(self._names)))
        if chance.random() < 0.1 and not self._unlocked[k, which]:
            self._unlocked[k, which], reward = True, 1.0
        if chance.random() < 0.2:
            self._health[k] -= 1
            reward -= 0.1
        late = bool(self._elapsed[k] >= self.config["max_episode_steps"])
        done = late or self._health[k] == 0
        self._look(k)
        if done:
            self._reported[k] = 100 * self._unlocked[k]
            if self.config["auto_reset"]:
                self._look(k)
        return reward, done, late

    def _show(self, k: int) -> Any:
        return self._picture[k]

    def _draw(self, k: int) -> Any:
        height, width = (144, 144) if self._classic else (208, 176)
        return np.random.default_rng(int(self._elapsed[k])).integers(0, 256, (height, width, 3), np.uint8)

    def _info(self) -> dict[str, Any]:
        found = {"discount": 1 - self._done.astype(np.float32), "state": np.zeros((self.num_envs, 0))}
        found |= {f"Achievements/{name}": self._reported[:, n].copy() for n, name in enumerate(self._names)}
        if self._classic:
            found["score"] = np.exp(np.log1p(self._reported).mean(axis=1)) - 1
        return found

"""The scenarios and the actions of the suite `vizdoom`, as tables so that a config is checked without importing the engine.

A test compares the buttons with the engine's configuration files.
"""

from __future__ import annotations

ACTIONS: tuple[tuple[str, ...], ...] = (
    (),
    ("ATTACK",),
    ("TURN_LEFT",),
    ("TURN_RIGHT",),
    ("MOVE_LEFT",),
    ("MOVE_RIGHT",),
    ("MOVE_FORWARD",),
    ("MOVE_BACKWARD",),
    ("MOVE_FORWARD", "TURN_LEFT"),
    ("MOVE_FORWARD", "TURN_RIGHT"),
    ("MOVE_FORWARD", "ATTACK"),
    ("TURN_LEFT", "ATTACK"),
    ("TURN_RIGHT", "ATTACK"),
    ("MOVE_LEFT", "ATTACK"),
    ("MOVE_RIGHT", "ATTACK"),
    ("SELECT_NEXT_WEAPON",),
)
"""All actions of the suite: the buttons that each one holds."""

BUTTONS = tuple(dict.fromkeys(button for action in ACTIONS for button in action))

_TURN_AND_SHOOT = ("TURN_LEFT", "TURN_RIGHT", "ATTACK")
_TURN_AND_WALK = ("TURN_LEFT", "TURN_RIGHT", "MOVE_FORWARD")
_STEP_AND_SHOOT = ("MOVE_LEFT", "MOVE_RIGHT", "ATTACK")
_WALK_AND_SHOOT = (*_TURN_AND_SHOOT, "MOVE_LEFT", "MOVE_RIGHT", "MOVE_FORWARD", "MOVE_BACKWARD")

SCENARIOS: dict[str, tuple[str, ...]] = {
    "basic": _STEP_AND_SHOOT,
    "deadly_corridor": _WALK_AND_SHOOT,
    "defend_the_center": _TURN_AND_SHOOT,
    "defend_the_line": _TURN_AND_SHOOT,
    "health_gathering": _TURN_AND_WALK,
    "health_gathering_supreme": _TURN_AND_WALK,
    "my_way_home": (*_TURN_AND_WALK, "MOVE_LEFT", "MOVE_RIGHT"),
    "predict_position": _TURN_AND_SHOOT,
    "take_cover": ("MOVE_LEFT", "MOVE_RIGHT"),
    # Without its buttons for single weapons, running and strafing, and without its continuous ones.
    "deathmatch": (*_WALK_AND_SHOOT, "SELECT_NEXT_WEAPON"),
}
"""Scenario -> the buttons of its player that occur in ACTIONS."""

PRESETS: dict[str, tuple[str, ...]] = {
    "starter": ("basic", "defend_the_center", "health_gathering"),
    "classic": tuple(SCENARIOS),
}


def actions_of(task: str) -> tuple[tuple[str, ...], ...]:
    """The actions that a task's buttons allow, in the order of ACTIONS."""
    return tuple(action for action in ACTIONS if set(action) <= set(SCENARIOS[task]))

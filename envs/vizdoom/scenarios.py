"""The scenarios and the actions of the suite `vizdoom`, written down so that a config is checked without importing the engine.

A test holds the buttons to what the engine's own configuration files say.
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
"""Buttons that are held together: all actions of the suite."""

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
    # Of its buttons, those for single weapons, for running and for strafing, and its continuous ones, are left out.
    "deathmatch": (*_WALK_AND_SHOOT, "SELECT_NEXT_WEAPON"),
}
"""Scenario -> the buttons that its player has, of those in ACTIONS."""

PRESETS: dict[str, tuple[str, ...]] = {
    "starter": ("basic", "defend_the_center", "health_gathering"),
    "classic": tuple(SCENARIOS),
}


def actions_of(task: str) -> tuple[tuple[str, ...], ...]:
    """The actions that a task's buttons allow, in the order of ACTIONS."""
    return tuple(action for action in ACTIONS if set(action) <= set(SCENARIOS[task]))

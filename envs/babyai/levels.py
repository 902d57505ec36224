"""The levels and the vocabulary of the suite `babyai`, as tables so that a config is checked without importing an engine, which takes
seconds.

A test compares these tables with the engines. Levels that only a newer engine registers work, too.
"""

from __future__ import annotations

# fmt: off
# Levels of both engines (envpool 1.2, minigrid 3.2).
LEVELS: tuple[str, ...] = (
    "BabyAI-ActionObjDoor-v0", "BabyAI-BlockedUnlockPickup-v0", "BabyAI-BossLevel-v0", "BabyAI-BossLevelNoUnlock-v0",
    "BabyAI-FindObjS5-v0", "BabyAI-FindObjS6-v0", "BabyAI-FindObjS7-v0", "BabyAI-GoTo-v0", "BabyAI-GoToDoor-v0",
    "BabyAI-GoToImpUnlock-v0", "BabyAI-GoToLocal-v0", "BabyAI-GoToLocalS5N2-v0", "BabyAI-GoToLocalS6N2-v0",
    "BabyAI-GoToLocalS6N3-v0", "BabyAI-GoToLocalS6N4-v0", "BabyAI-GoToLocalS7N4-v0", "BabyAI-GoToLocalS7N5-v0",
    "BabyAI-GoToLocalS8N2-v0", "BabyAI-GoToLocalS8N3-v0", "BabyAI-GoToLocalS8N4-v0", "BabyAI-GoToLocalS8N5-v0",
    "BabyAI-GoToLocalS8N6-v0", "BabyAI-GoToLocalS8N7-v0", "BabyAI-GoToObj-v0", "BabyAI-GoToObjDoor-v0",
    "BabyAI-GoToObjMaze-v0", "BabyAI-GoToObjMazeOpen-v0", "BabyAI-GoToObjMazeS4-v0", "BabyAI-GoToObjMazeS4R2-v0",
    "BabyAI-GoToObjMazeS5-v0", "BabyAI-GoToObjMazeS6-v0", "BabyAI-GoToObjMazeS7-v0", "BabyAI-GoToObjS4-v0",
    "BabyAI-GoToObjS6-v1", "BabyAI-GoToOpen-v0", "BabyAI-GoToRedBall-v0", "BabyAI-GoToRedBallGrey-v0",
    "BabyAI-GoToRedBallNoDists-v0", "BabyAI-GoToRedBlueBall-v0", "BabyAI-GoToSeq-v0", "BabyAI-GoToSeqS5R2-v0",
    "BabyAI-KeyCorridor-v0", "BabyAI-KeyCorridorS3R1-v0", "BabyAI-KeyCorridorS3R2-v0", "BabyAI-KeyCorridorS3R3-v0",
    "BabyAI-KeyCorridorS4R3-v0", "BabyAI-KeyCorridorS5R3-v0", "BabyAI-KeyCorridorS6R3-v0", "BabyAI-KeyInBox-v0",
    "BabyAI-MiniBossLevel-v0", "BabyAI-MoveTwoAcrossS5N2-v0", "BabyAI-MoveTwoAcrossS8N9-v0", "BabyAI-OneRoomS12-v0",
    "BabyAI-OneRoomS16-v0", "BabyAI-OneRoomS20-v0", "BabyAI-OneRoomS8-v0", "BabyAI-Open-v0", "BabyAI-OpenDoor-v0",
    "BabyAI-OpenDoorColor-v0", "BabyAI-OpenDoorDebug-v0", "BabyAI-OpenDoorLoc-v0", "BabyAI-OpenDoorsOrderN2-v0",
    "BabyAI-OpenDoorsOrderN2Debug-v0", "BabyAI-OpenDoorsOrderN4-v0", "BabyAI-OpenDoorsOrderN4Debug-v0",
    "BabyAI-OpenRedBlueDoors-v0", "BabyAI-OpenRedBlueDoorsDebug-v0", "BabyAI-OpenRedDoor-v0", "BabyAI-OpenTwoDoors-v0",
    "BabyAI-Pickup-v0", "BabyAI-PickupAbove-v0", "BabyAI-PickupDist-v0", "BabyAI-PickupDistDebug-v0",
    "BabyAI-PickupLoc-v0", "BabyAI-PutNextLocal-v0", "BabyAI-PutNextLocalS5N3-v0", "BabyAI-PutNextLocalS6N4-v0",
    "BabyAI-PutNextS4N1-v0", "BabyAI-PutNextS5N1-v0", "BabyAI-PutNextS5N2-v0", "BabyAI-PutNextS5N2Carrying-v0",
    "BabyAI-PutNextS6N3-v0", "BabyAI-PutNextS6N3Carrying-v0", "BabyAI-PutNextS7N4-v0", "BabyAI-PutNextS7N4Carrying-v0",
    "BabyAI-Synth-v0", "BabyAI-SynthLoc-v0", "BabyAI-SynthS5R2-v0", "BabyAI-SynthSeq-v0", "BabyAI-UnblockPickup-v0",
    "BabyAI-Unlock-v0", "BabyAI-UnlockLocal-v0", "BabyAI-UnlockLocalDist-v0", "BabyAI-UnlockPickup-v0",
    "BabyAI-UnlockPickupDist-v0", "BabyAI-UnlockToUnlock-v0",
    "MiniGrid-BlockedUnlockPickup-v0", "MiniGrid-DistShift1-v0", "MiniGrid-DistShift2-v0", "MiniGrid-DoorKey-16x16-v0",
    "MiniGrid-DoorKey-5x5-v0", "MiniGrid-DoorKey-6x6-v0", "MiniGrid-DoorKey-8x8-v0",
    "MiniGrid-Dynamic-Obstacles-16x16-v0", "MiniGrid-Dynamic-Obstacles-5x5-v0", "MiniGrid-Dynamic-Obstacles-6x6-v0",
    "MiniGrid-Dynamic-Obstacles-8x8-v0", "MiniGrid-Dynamic-Obstacles-Random-5x5-v0",
    "MiniGrid-Dynamic-Obstacles-Random-6x6-v0", "MiniGrid-Empty-16x16-v0", "MiniGrid-Empty-5x5-v0",
    "MiniGrid-Empty-6x6-v0", "MiniGrid-Empty-8x8-v0", "MiniGrid-Empty-Random-5x5-v0", "MiniGrid-Empty-Random-6x6-v0",
    "MiniGrid-Fetch-5x5-N2-v0", "MiniGrid-Fetch-6x6-N2-v0", "MiniGrid-Fetch-8x8-N3-v0", "MiniGrid-FourRooms-v0",
    "MiniGrid-GoToDoor-5x5-v0", "MiniGrid-GoToDoor-6x6-v0", "MiniGrid-GoToDoor-8x8-v0", "MiniGrid-GoToObject-6x6-N2-v0",
    "MiniGrid-GoToObject-8x8-N2-v0", "MiniGrid-KeyCorridorS3R1-v0", "MiniGrid-KeyCorridorS3R2-v0",
    "MiniGrid-KeyCorridorS3R3-v0", "MiniGrid-KeyCorridorS4R3-v0", "MiniGrid-KeyCorridorS5R3-v0",
    "MiniGrid-KeyCorridorS6R3-v0", "MiniGrid-LavaCrossingS11N5-v0", "MiniGrid-LavaCrossingS9N1-v0",
    "MiniGrid-LavaCrossingS9N2-v0", "MiniGrid-LavaCrossingS9N3-v0", "MiniGrid-LavaGapS5-v0", "MiniGrid-LavaGapS6-v0",
    "MiniGrid-LavaGapS7-v0", "MiniGrid-LockedRoom-v0", "MiniGrid-MemoryS11-v0", "MiniGrid-MemoryS13-v0",
    "MiniGrid-MemoryS13Random-v0", "MiniGrid-MemoryS17Random-v0", "MiniGrid-MemoryS7-v0", "MiniGrid-MemoryS9-v0",
    "MiniGrid-MultiRoom-N2-S4-v0", "MiniGrid-MultiRoom-N4-S5-v0", "MiniGrid-MultiRoom-N6-v0",
    "MiniGrid-ObstructedMaze-1Dl-v0", "MiniGrid-ObstructedMaze-1Dlh-v0", "MiniGrid-ObstructedMaze-1Dlhb-v0",
    "MiniGrid-ObstructedMaze-1Q-v0", "MiniGrid-ObstructedMaze-1Q-v1", "MiniGrid-ObstructedMaze-2Dl-v0",
    "MiniGrid-ObstructedMaze-2Dlh-v0", "MiniGrid-ObstructedMaze-2Dlhb-v0", "MiniGrid-ObstructedMaze-2Dlhb-v1",
    "MiniGrid-ObstructedMaze-2Q-v0", "MiniGrid-ObstructedMaze-2Q-v1", "MiniGrid-ObstructedMaze-Full-v0",
    "MiniGrid-ObstructedMaze-Full-v1", "MiniGrid-Playground-v0", "MiniGrid-PutNear-6x6-N2-v0",
    "MiniGrid-PutNear-8x8-N3-v0", "MiniGrid-RedBlueDoors-6x6-v0", "MiniGrid-RedBlueDoors-8x8-v0",
    "MiniGrid-SimpleCrossingS11N5-v0", "MiniGrid-SimpleCrossingS9N1-v0", "MiniGrid-SimpleCrossingS9N2-v0",
    "MiniGrid-SimpleCrossingS9N3-v0", "MiniGrid-Unlock-v0", "MiniGrid-UnlockPickup-v0",
    "MiniGrid-WFC-DungeonMazeScaled-v0", "MiniGrid-WFC-MazeSimple-v0", "MiniGrid-WFC-ObstaclesAngular-v0",
    "MiniGrid-WFC-ObstaclesBlackdots-v0", "MiniGrid-WFC-ObstaclesHogs3-v0", "MiniGrid-WFC-RoomsFabric-v0",
)
# fmt: on

# Levels that only minigrid has.
MINIGRID_ONLY: tuple[str, ...] = ("MiniGrid-MultiRoom-N4-S5-v1",)

# Levels that an engine registers and cannot play: level -> engine -> reason. The maze levels of minigrid 3.2 need pattern images that
# its wheel does not contain. From some seeds, SynthS5R2 makes both engines sample layouts without end.
_ENDLESS, _NO_PATTERNS = "never returns from some resets", "needs pattern images that minigrid does not ship"
BROKEN: dict[str, dict[str, str]] = {
    "BabyAI-SynthS5R2-v0": {"envpool": _ENDLESS, "minigrid": _ENDLESS},
    **{level: {"minigrid": _NO_PATTERNS} for level in LEVELS if level.startswith("MiniGrid-WFC-")},
}

# Levels that differ between the engines (envpool 1.2, minigrid 3.2): level -> difference. A test compares all levels.
_CARRYING = "the first observation shows what the agent carries on envpool only"
_BOXES = "boxes are blue on envpool and grey on minigrid"
_FULL = f"{_BOXES}, and envpool starts in the room on the right, minigrid in the middle, with other doors and keys"
_FILLED = "minigrid puts objects into the locked room, at times the key itself"
DIFFERENT: dict[str, str] = {
    "BabyAI-ActionObjDoor-v0": "envpool locks half of the doors, which minigrid only closes, and a key fits by chance",
    "BabyAI-GoToImpUnlock-v0": _FILLED,
    "BabyAI-Unlock-v0": _FILLED,
    "BabyAI-PutNextS5N2Carrying-v0": _CARRYING,
    "BabyAI-PutNextS6N3Carrying-v0": _CARRYING,
    "BabyAI-PutNextS7N4Carrying-v0": _CARRYING,
    **{f"MiniGrid-ObstructedMaze-{kind}": _BOXES for kind in ("1Dlh-v0", "1Dlhb-v0", "1Q-v0", "1Q-v1")},
    **{f"MiniGrid-ObstructedMaze-{kind}": _BOXES for kind in ("2Dlh-v0", "2Dlhb-v0", "2Dlhb-v1", "2Q-v0", "2Q-v1")},
    "MiniGrid-ObstructedMaze-Full-v0": _FULL,
    "MiniGrid-ObstructedMaze-Full-v1": _FULL,
}

# Levels with episodes that no agent can solve: level -> engine -> reason.
_BEHIND = "the key lies behind its own locked door at times"
_COVERED = "a ball takes the place of a box with a key at times, which version v1 mends"
PARTLY_UNSOLVABLE: dict[str, dict[str, str]] = {
    "BabyAI-ActionObjDoor-v0": {"envpool": "half of the doors to open are locked, and a key fits by chance"},
    "BabyAI-GoToImpUnlock-v0": {"minigrid": _BEHIND},
    "BabyAI-Unlock-v0": {"minigrid": _BEHIND},
    "MiniGrid-ObstructedMaze-1Q-v0": {"envpool": _COVERED, "minigrid": _COVERED},
    "MiniGrid-ObstructedMaze-2Dlhb-v0": {"envpool": _COVERED, "minigrid": _COVERED},
    "MiniGrid-ObstructedMaze-2Q-v0": {"envpool": _COVERED, "minigrid": _COVERED},
}

# Actions of every level: left, right, forward, pickup, drop, toggle, done.
NUM_ACTIONS = 7

# Levels with moving obstacles have only left, right and forward.
FEW_ACTIONS_PREFIX, FEW_ACTIONS = "MiniGrid-Dynamic-Obstacles-", 3

# Codes per channel of a cell: 11 kinds of object, 6 colours, 3 states of a door.
IMAGE_SHAPE = (7, 7, 3)
SYMBOL_COUNTS = (11, 6, 3)

# fmt: off
# The 19 levels of Chevalier-Boisvert et al. 2019, easier ones first. The paper's PickUpLoc is registered as PickupLoc. Its PutNext
# is not registered; the closest level replaces it, PutNextS7N4 (two rooms with four objects each).
_PAPER = (
    "GoToObj", "GoToRedBallGrey", "GoToRedBall", "GoToLocal", "PutNextLocal", "PickupLoc", "GoToObjMaze", "GoTo",
    "Pickup", "UnblockPickup", "Open", "Unlock", "PutNextS7N4", "Synth", "SynthLoc", "GoToSeq", "SynthSeq",
    "GoToImpUnlock", "BossLevel",
)
# fmt: on

PRESETS: dict[str, tuple[str, ...]] = {
    # One room with distractors. GoToLocal teaches walking and the words. Alone it proves little, because an agent that ignores its
    # instruction has time to visit every object. In Fetch the first object picked up ends the episode, so an agent that ignores the
    # instruction succeeds in about half of the episodes at best.
    "starter": ("BabyAI-GoToLocalS5N2-v0", "MiniGrid-Fetch-5x5-N2-v0", "MiniGrid-Fetch-6x6-N2-v0"),
    "paper": tuple(f"BabyAI-{name}-v0" for name in _PAPER),
}

# What training may leave out (`env.holdout`): a colour with an object, as they follow each other in a mission, and verbs.
COLOURS, OBJECTS = ("red", "green", "blue", "purple", "yellow", "grey"), ("ball", "box", "key", "door")
PAIRS = {f"{colour} {kind}": (colour, kind) for colour in COLOURS for kind in OBJECTS}
VERBS = ("go to", "pick up", "open", "put", "get", "fetch", "find", "use", "unlock", "reach", "avoid", "traverse")

# The longest sentence of the BabyAI grammar has 2 * (17 + 1 + 17) + 2 words. Its clause "put a red ball in front of you next to a red
# ball in front of you" has 17 words. The word "and" joins two clauses to a pair. Either "after you" or ", then" joins two pairs.
INSTRUCTION_LENGTH = 72

# fmt: off
# The token of a word is its index. Append new words, because checkpoints depend on the order.
VOCABULARY: tuple[str, ...] = (
    "<pad>", "<unk>",
    # the BabyAI grammar: verbs, joints, descriptions, places
    "go", "to", "pick", "up", "open", "put", "next",
    "and", ",", "then", "after", "you",
    "a", "the", "red", "green", "blue", "purple", "yellow", "grey", "ball", "box", "key", "door", "object",
    "on", "your", "left", "right", "in", "front", "of", "behind",
    # further words of the MiniGrid levels
    "get", "fetch", "must", "near", "goal", "square", "lava", "avoid", "find", "opening", "use", "reach", "matching",
    "at", "end", "hallway", "traverse", "rooms", "room", "from", "unlock", "maze",
)
# fmt: on

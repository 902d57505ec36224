"""The 57 games of the suite `atari`, as a table so that a config is checked without importing the emulator.

A test compares the numbers of actions with the emulator.
"""

from __future__ import annotations

from typing import NamedTuple


class Game(NamedTuple):
    """One game.

    Attributes:
        rom: Name of its ROM in ale-py.
        minimal_actions: Size of its minimal action set, out of the 18 of the joystick.
        random, human: Mean returns of a random policy and of a human tester, after up to 30 no-ops, with at most 108,000 frames per
            episode.
    """

    rom: str
    minimal_actions: int
    random: float
    human: float


# Returns: dqn_zoo/atari_data.py of google-deepmind/dqn_zoo.
GAMES: dict[str, Game] = {
    "Alien": Game("alien", 18, random=227.8, human=7127.7),
    "Amidar": Game("amidar", 10, random=5.8, human=1719.5),
    "Assault": Game("assault", 7, random=222.4, human=742.0),
    "Asterix": Game("asterix", 9, random=210.0, human=8503.3),
    "Asteroids": Game("asteroids", 14, random=719.1, human=47388.7),
    "Atlantis": Game("atlantis", 4, random=12850.0, human=29028.1),
    "BankHeist": Game("bank_heist", 18, random=14.2, human=753.1),
    "BattleZone": Game("battle_zone", 18, random=2360.0, human=37187.5),
    "BeamRider": Game("beam_rider", 9, random=363.9, human=16926.5),
    "Berzerk": Game("berzerk", 18, random=123.7, human=2630.4),
    "Bowling": Game("bowling", 6, random=23.1, human=160.7),
    "Boxing": Game("boxing", 18, random=0.1, human=12.1),
    "Breakout": Game("breakout", 4, random=1.7, human=30.5),
    "Centipede": Game("centipede", 18, random=2090.9, human=12017.0),
    "ChopperCommand": Game("chopper_command", 18, random=811.0, human=7387.8),
    "CrazyClimber": Game("crazy_climber", 9, random=10780.5, human=35829.4),
    "Defender": Game("defender", 18, random=2874.5, human=18688.9),
    "DemonAttack": Game("demon_attack", 6, random=152.1, human=1971.0),
    "DoubleDunk": Game("double_dunk", 18, random=-18.6, human=-16.4),
    "Enduro": Game("enduro", 9, random=0.0, human=860.5),
    "FishingDerby": Game("fishing_derby", 18, random=-91.7, human=-38.7),
    "Freeway": Game("freeway", 3, random=0.0, human=29.6),
    "Frostbite": Game("frostbite", 18, random=65.2, human=4334.7),
    "Gopher": Game("gopher", 8, random=257.6, human=2412.5),
    "Gravitar": Game("gravitar", 18, random=173.0, human=3351.4),
    "Hero": Game("hero", 18, random=1027.0, human=30826.4),
    "IceHockey": Game("ice_hockey", 18, random=-11.2, human=0.9),
    "Jamesbond": Game("jamesbond", 18, random=29.0, human=302.8),
    "Kangaroo": Game("kangaroo", 18, random=52.0, human=3035.0),
    "Krull": Game("krull", 18, random=1598.0, human=2665.5),
    "KungFuMaster": Game("kung_fu_master", 14, random=258.5, human=22736.3),
    "MontezumaRevenge": Game("montezuma_revenge", 18, random=0.0, human=4753.3),
    "MsPacman": Game("ms_pacman", 9, random=307.3, human=6951.6),
    "NameThisGame": Game("name_this_game", 6, random=2292.3, human=8049.0),
    "Phoenix": Game("phoenix", 8, random=761.4, human=7242.6),
    "Pitfall": Game("pitfall", 18, random=-229.4, human=6463.7),
    "Pong": Game("pong", 6, random=-20.7, human=14.6),
    "PrivateEye": Game("private_eye", 18, random=24.9, human=69571.3),
    "Qbert": Game("qbert", 6, random=163.9, human=13455.0),
    "Riverraid": Game("riverraid", 18, random=1338.5, human=17118.0),
    "RoadRunner": Game("road_runner", 18, random=11.5, human=7845.0),
    "Robotank": Game("robotank", 18, random=2.2, human=11.9),
    "Seaquest": Game("seaquest", 18, random=68.4, human=42054.7),
    "Skiing": Game("skiing", 3, random=-17098.1, human=-4336.9),
    "Solaris": Game("solaris", 18, random=1236.3, human=12326.7),
    "SpaceInvaders": Game("space_invaders", 6, random=148.0, human=1668.7),
    "StarGunner": Game("star_gunner", 18, random=664.0, human=10250.0),
    "Surround": Game("surround", 5, random=-10.0, human=6.5),
    "Tennis": Game("tennis", 18, random=-23.8, human=-8.3),
    "TimePilot": Game("time_pilot", 10, random=3568.0, human=5229.2),
    "Tutankham": Game("tutankham", 8, random=11.4, human=167.6),
    "UpNDown": Game("up_n_down", 6, random=533.4, human=11693.2),
    "Venture": Game("venture", 18, random=0.0, human=1187.5),
    "VideoPinball": Game("video_pinball", 9, random=16256.9, human=17667.9),
    "WizardOfWor": Game("wizard_of_wor", 10, random=563.5, human=4756.5),
    "YarsRevenge": Game("yars_revenge", 18, random=3092.9, human=54576.9),
    "Zaxxon": Game("zaxxon", 18, random=32.5, human=9173.3),
}

PRESETS: dict[str, tuple[str, ...]] = {
    "starter": ("Breakout",),
    # The five games whose scores best predict the median over all 57 (Aitchison et al. 2023, "Atari-5").
    "atari5": ("BattleZone", "DoubleDunk", "NameThisGame", "Phoenix", "Qbert"),
    "atari57": tuple(GAMES),
}

"""Which contexts training leaves out, and what is refused."""

from __future__ import annotations

from collections import Counter

import pytest

from envs.atari.suite import AtariConfig
from envs.babyai.levels import COLOURS, OBJECTS, PAIRS, VERBS
from envs.envpool_families.metaworld import MetaworldConfig
from envs.gymnasium_ids.suite import GymnasiumConfig
from envs.holdout import MOST_FRACTION, held_out
from envs.suite import EnvConfig
from envs.suites import make_spec
from system.errors import InputError

BASIS = {f"{first}+{second}": (str(first), str(second)) for second in range(5) for first in range(second)}


def config(**options: object) -> EnvConfig:
    return EnvConfig(name="any", tasks=[], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.25, 0.33, MOST_FRACTION])
@pytest.mark.parametrize("pairs", [PAIRS, BASIS], ids=["two kinds of parts", "one kind"])
def test_a_draw_leaves_each_part_in_training_and_takes_all_about_equally_often(
    pairs: dict[str, tuple[str, str]], fraction: float
) -> None:
    number = round(fraction * len(pairs))
    draws = []
    for seed in range(20 if number else 0):
        drawn = held_out(config(holdout_fraction=fraction, holdout_seed=seed), pairs)
        draws.append(drawn)
        assert len(set(drawn)) == number and set(drawn) <= set(pairs)
        trained = [pair for name, pair in pairs.items() if name not in drawn]
        taken = Counter(part for name in drawn for part in pairs[name])
        kinds = [COLOURS, OBJECTS] if pairs is PAIRS else [tuple("01234")]
        for kind in kinds:
            assert {part for pair in trained for part in pair} >= set(kind)
            counts = [taken[part] for part in kind]
            assert max(counts) - min(counts) <= 2
    assert len(set(draws)) > 2 or not number


def test_a_draw_depends_on_its_seed_alone() -> None:
    """Recorded: agents are evaluated on the contexts that their training left out, also by later versions."""
    drawn = held_out(config(holdout_fraction=0.25), PAIRS)
    assert drawn == ("red door", "green ball", "blue key", "purple key", "yellow box", "grey door")
    assert held_out(config(holdout_fraction=0.25, holdout_seed=1), PAIRS) != drawn


def test_names_are_taken_as_given_and_once() -> None:
    assert held_out(config(holdout=["open", "red ball", "open"]), PAIRS, VERBS) == ("open", "red ball")
    assert held_out(config(), PAIRS, VERBS) == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"holdout": ["red bal"]}, r'env\.holdout has "red bal", which is unknown: choose among red ball, .*, open, '),
        ({"holdout": ["red ball"], "holdout_fraction": 0.2}, "are both given: give one"),
        *(({"holdout_fraction": value}, "is out of range") for value in (-0.1, 0.001, 0.51, float("nan"))),
        ({"holdout_fraction": 0.2, "holdout_seed": -1}, r"env\.holdout_seed=-1 is too small"),
    ],
)
def test_what_cannot_be_left_out_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        held_out(config(**options), PAIRS, VERBS)


@pytest.mark.parametrize("suite", [AtariConfig, MetaworldConfig, GymnasiumConfig])
@pytest.mark.parametrize("options", [{"holdout": ["red ball"]}, {"holdout_fraction": 0.2}])
def test_suites_without_such_contexts_refuse(suite: type[EnvConfig], options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"env\.holdout.* needs a suite that chooses the contexts of its episodes"):
        make_spec(suite(**options))  # type: ignore[arg-type]

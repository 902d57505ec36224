"""`python -m studies.synthetic`: the search for the smallest network, and a small study from the command line to its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.loading import compose_study
from conf.studies_schema import SyntheticConfig
from studies.harness.program import main, make_jobs
from studies.synthetic import EXACT, SIZES, STUDY, play, search

pytestmark = pytest.mark.usefixtures("process_settings")

TINY = [
    "quick=true",
    "seeds=2",
    "dimensions=[1,2]",
    "functions=[dot]",
    "networks=[concat,concat_mlp,mi]",
    "parallel=1",
    "test_samples=256",
    "steps=300",
]


@given(
    thresholds=st.lists(st.integers(0, len(SIZES)), min_size=1, max_size=5),
    near=st.integers(1, 40_000),
)
def test_the_search_finds_the_smallest_size_of_each_seed(thresholds: list[int], near: int) -> None:
    """Each seed reaches the error from one size on, or never."""

    def errors(size: int) -> list[float]:
        return [0.05 if SIZES.index(size) >= threshold else 0.2 for threshold in thresholds]

    tried = search(errors, SIZES, near, 0.1)
    for seed, threshold in enumerate(thresholds):
        found = [size for size in sorted(tried) if tried[size][seed] <= 0.1]
        assert found[:1] == SIZES[threshold : threshold + 1]


def test_useless_sizes_are_not_tried() -> None:
    """A bilinear form of any size does not fit a random network."""
    config = compose_study("synthetic", ["steps=5", "seeds=1", "functions=[teacher]", "dimensions=[3]"])
    assert isinstance(config, SyntheticConfig)
    largest = {
        network: play(job.settings)["trained"][-1]["size"]
        for (_, network, _), job in make_jobs(STUDY, config, Path()).items()
        if network != "mi_mlp"
    }
    # At most 2 (d + 1) min(d + 1, K) = 8 products; hidden units, of 8 parameters each, up to most_parameters.
    assert largest == {"concat": 1, "mi": 1, "diagonal": 8, "low_rank": 8, "concat_mlp": 24576}


@pytest.mark.slow
def test_a_small_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TINY, f"folder={tmp_path / 'study'}"]
    assert main(STUDY, arguments) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "study" / "results.json").read_text(encoding="utf-8"))
    assert content["config"]["dimensions"] == [1, 2] and content["cells"].keys() == {
        f"dot-{network}-{d}" for network in ("concat", "concat_mlp", "mi") for d in (1, 2)
    }
    found = {(row["network"], row["d"]): row["parameters"] for row in content["findings"]["smallest"]}
    # KXZ + KZ + KX + K with K = 1.
    for d, parameters in ((1, 4), (2, 9)):
        assert found["mi", d] == [pytest.approx(parameters), None, None]
    assert found["concat", 1] is None and found["concat", 2] is None
    assert found["mi", 2][0] < found["concat_mlp", 2][0]
    assert all(
        error < EXACT for d in (1, 2) for error in content["cells"][f"dot-mi-{d}"]["result"]["trained"][0]["errors"]
    )
    assert "`mi` is exact on dot products, d = 1, 2" in printed
    table = (tmp_path / "study" / "table.md").read_text(encoding="utf-8")
    assert "| dot | `mi` | 4 | 9 |" in table and "| dot | `concat` | - | - |" in table
    assert (tmp_path / "study" / "figure.png").read_bytes().startswith(b"\x89PNG")

    # The same command trains nothing and finds the same. A further dimension trains only its own jobs.
    assert main(STUDY, arguments) == 0
    assert "dot-mi" not in capsys.readouterr().out
    assert (
        json.loads((tmp_path / "study" / "results.json").read_text(encoding="utf-8"))["findings"] == content["findings"]
    )
    assert main(STUDY, [*arguments, "dimensions=[1,2,3]", "networks=[mi]"]) == 0
    assert "dot-mi-3: " in (printed := capsys.readouterr().out) and "dot-mi-2: " not in printed

"""Nothing of a run can be reached over a network."""

from __future__ import annotations

import psutil
import pytest
from counting import COUNTING, SLOTS, STATE_SIZE, CountingNetwork, MakeCountingActor, MakeCountingPolicy

from agents.runtime.local import LocalRuntime
from agents.trajectory import trajectory_spec


@pytest.mark.usefixtures("nothing_is_left_behind")
def test_no_process_of_a_run_listens() -> None:
    runtime = LocalRuntime(
        MakeCountingActor(),
        CountingNetwork(),  # type: ignore[arg-type]
        trajectory_spec(COUNTING, 5, SLOTS, STATE_SIZE),
        num_actors=1,
        unrolls_per_batch=1,
        make_policy=MakeCountingPolicy(),
    )
    try:
        runtime.collect()
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        assert len(processes) >= 3
        assert not [found for process in processes for found in process.net_connections("inet")]
    finally:
        runtime.close()

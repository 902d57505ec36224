"""Nothing of a run can be reached over a network."""

from __future__ import annotations

import psutil
import pytest
from counting import COUNTING, SLOTS, STATE_SIZE, CountingNetwork, MakeCountingActor, MakeCountingPolicy

from agents.runtime.local import LocalRuntime
from agents.trajectory import trajectory_spec


@pytest.mark.usefixtures("nothing_is_left_behind")
def test_no_process_of_a_run_listens() -> None:
    before = set(psutil.Process().net_connections("inet"))
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
        processes = [psutil.Process(pid) for pid in runtime.processes().values()]
        assert len(processes) >= 2
        assert not [found for process in processes for found in process.net_connections("inet")]
        # This process may have those of other tests.
        assert not set(psutil.Process().net_connections("inet")) - before
    finally:
        runtime.close()

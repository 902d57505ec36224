"""Kills actors at random moments and checks every value of their trajectories:  python tests/agents/kill_counting_actors.py [kills]

The environments count (counting.py), so each trajectory can be held to what it must be. Prints one line of JSON; exit code 1, with the
assertion, if anything is wrong.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path[:0] = [str(folder) for folder in Path(__file__).parents[:3]]

from counted import Lives, counting_pool, counting_runtime  # noqa: E402 - the path comes first
from counting import CountingNetwork  # noqa: E402

from agents.runtime.local import LocalRuntime  # noqa: E402
from agents.runtime.restarts import Faults  # noqa: E402

ACTORS = 2


def main(kills: int) -> None:
    """Uses an inference server in every other round of ten kills."""
    chance, killed, unrolls, records = random.Random(0), 0, 0, []  # type: ignore[var-annotated]
    while killed < kills:
        name = "server" if killed // 10 % 2 else "local"
        lives, network, last = Lives(name), CountingNetwork(), ("", 0)
        faults = Faults(max_restarts=kills, record=records.append)
        runtime = counting_runtime(name, counting_pool(ACTORS), network, faults=faults)
        assert isinstance(runtime, LocalRuntime)
        try:
            for version in range(1, 11):
                end = time.monotonic() + chance.uniform(0.0, 4.0)
                # An actor whose end was not noticed yet cannot be killed again.
                while time.monotonic() < end or len(lives.of) < ACTORS or last in runtime.processes().items():
                    lives.add(runtime.collect())
                    network.number.data.fill_(version)
                    runtime.publish(version)
                    # All unrolls are kept for the check.
                    time.sleep(0.01)
                actor = f"actor-{chance.randrange(ACTORS)}"
                last = actor, runtime.processes()[actor]
                os.kill(last[1], signal.SIGKILL)
                killed += 1
            while runtime._faults.row()["restarts"] < 10 or not all(actor.started for actor in runtime._actors):
                lives.add(runtime.collect())
        finally:
            runtime.close()
        lives.check()
        unrolls += sum(len(start) for starts in lives.of.values() for start in starts)
    print(json.dumps({"kills": killed, "restarts": len(records), "unrolls_checked": unrolls, "corrupted": 0}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)

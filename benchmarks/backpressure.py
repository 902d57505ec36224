"""What piles up while a learner stands still:  python -m benchmarks.backpressure [seconds=60] [key=value of train.py ...]

Trains on a Ray cluster of this machine alone (`runtime=cluster`; give other keys as you like), stops the learner's process alone for so
many seconds, lets it go on, and prints one line of JSON: how much of the object store was ever used, and the resident memory of all
other processes, before, during and after; and by how much frames grew after it. `ok` says whether neither grew during the pause by more
than a batch's worth and 5%, and whether the run went on. Exit code 1 if not.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from agents.setup import builder
from agents.setup.plan import make_plan
from agents.trajectory import num_bytes, trajectory_spec
from benchmarks.cases import configured
from benchmarks.kills import end, rows, wait_for
from benchmarks.options import Row, parse, report

ROOT = Path(__file__).parents[1]
WARM_SECONDS = 15.0
SAMPLES = 12
MOST_GROWTH = 0.05


def measure(arguments: list[str]) -> Iterator[Row]:
    """The row."""
    options = parse(arguments, rounds=1, seconds=60.0)
    settings = ["runtime=cluster", *options.overrides]
    bound = in_flight(settings)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        process = subprocess.Popen(
            [
                *(sys.executable, str(ROOT / "train.py"), *settings, f"run={run}", "display=false"),
                *("log_seconds=1", "total_frames=1000000000000", "checkpoint_seconds=1e9"),
            ],
            start_new_session=True,
        )
        try:
            wait_for(lambda: bool(frames(run)), process)
            time.sleep(WARM_SECONDS)
            before = memory(process.pid)
            played = frames(run)
            process.send_signal(signal.SIGSTOP)
            during = []
            for _ in range(SAMPLES):
                time.sleep(options.seconds / SAMPLES)
                during.append(memory(process.pid))
            process.send_signal(signal.SIGCONT)
            wait_for(lambda: frames(run) > played + 10 * bound["steps"], process)
            after = memory(process.pid)
        finally:
            process.send_signal(signal.SIGCONT)
            end(process)
    grown = {part: max(sample[part] for sample in during) - before[part] for part in before}
    allowed = {part: bound["mib"] + MOST_GROWTH * before[part] for part in before}
    yield {
        "case": "backpressure",
        "seconds": options.seconds,
        "in_flight_mib": round(bound["mib"], 1),
        "before_mib": before,
        "during_mib": {part: max(sample[part] for sample in during) for part in before},
        "after_mib": after,
        "frames_before": played,
        "ok": all(grown[part] <= allowed[part] for part in before),
    }


def in_flight(settings: list[str]) -> dict[str, float]:
    """Of all buffers of all actors: MiB, and steps."""
    config, env = configured(settings)
    network = builder.build_network(config, env)
    workload = make_plan(config, env).run
    buffers = workload.num_actors * workload.buffers_per_actor
    slots, length = config.runtime.slots_per_actor, config.learner.unroll_length
    size = num_bytes(trajectory_spec(env, length, slots, network.core_state_size))
    return {"mib": buffers * size / 2**20, "steps": buffers * slots * length}


def memory(pid: int) -> dict[str, float]:
    """MiB: `store`, what the object store has ever used, and `processes`, private to all processes but the one that stands still."""
    store = processes = 0.0
    for process in psutil.Process(pid).children(recursive=True):
        try:
            size = process.memory_info()
            if process.name() == "raylet":
                store += size.shared / 2**20
            processes += (size.rss - size.shared) / 2**20
        except psutil.NoSuchProcess:
            continue
    return {"store": round(store, 1), "processes": round(processes, 1)}


def frames(run: Path) -> int:
    """That the run has logged."""
    found = rows(run) if (run / "metrics.jsonl").exists() else []
    return int(found[-1]["frames"]) if found else 0


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; 2 for bad input, 1 when something did not hold."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

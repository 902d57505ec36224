"""Learners on the nodes of a Ray cluster: asks for those that follow the first, and is there for as long as they are.

python -m agents.distributed.ray_followers <first learner's process> <address> <connection> <learners> <GPUs of each> [paths of modules ...]

Through the connection the first learner is told the address at which the others can reach it, and answers with its port there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from agents.cli.exit_codes import DONE, FAILED
from agents.cli.signals import end_with_the_parent
from agents.distributed.follower import follow
from agents.distributed.process_group import LOOPBACK, meet_at_port
from agents.runtime.processes.process import leave_signals_to_the_learner
from agents.runtime.ray_groups.connection import hide_main_module, joined, node_id
from system.descendants import supervise


class LearnerHost:
    """A Ray actor that is a learner."""

    def node(self) -> str:
        """Where it is; answered as soon as there is room for it somewhere."""
        return node_id()

    def follow(self, address: str, host: str, port: int, rank: int, size: int) -> int:
        """See agents/distributed/follower.py.

        Args:
            address: of this cluster, which its own actors join.
            host, port: where the first learner meets the others.
        """
        os.environ["RAY_ADDRESS"] = address
        hide_main_module()
        supervise()
        return follow(meet_at_port(host, port, rank, size))


def main(arguments: Sequence[str]) -> int:
    """0 when all followers have ended as they should, 1 when one was lost or failed; what that was, it has told the first learner."""
    parent, address, descriptor, size, gpus = arguments[:5]
    first = Connection(int(descriptor))
    end_with_the_parent(int(parent))
    leave_signals_to_the_learner()
    with joined(address, num_cpus=1) as ray:
        here = ray.get_runtime_context()
        asked = ray.remote(num_cpus=1, num_gpus=float(gpus), scheduling_strategy="SPREAD", max_restarts=0)(LearnerHost)
        hosts = [asked.remote() for _ in range(1, int(size))]
        nodes = set(ray.get([one.node.remote() for one in hosts]))
        host = LOOPBACK[0] if nodes == {node_id()} else ray.util.get_node_ip_address()
        try:
            first.send(host)
            port = first.recv()
        except (EOFError, ConnectionError):
            # The run is over before it has begun.
            return FAILED
        waiting: list[Any] = [
            one.follow.remote(here.gcs_address, host, port, rank, int(size)) for rank, one in enumerate(hosts, start=1)
        ]
        while waiting:
            ended, waiting = ray.wait(waiting)
            try:
                if ray.get(ended[0]) != DONE:
                    return FAILED
            except ray.exceptions.RayError as error:
                print(f"a learner on the Ray cluster was lost: {' '.join(str(error).split())}", file=sys.stderr)
                return FAILED
    return DONE


if __name__ == "__main__":
    sys.path[:0] = sys.argv[6:]
    sys.exit(main(sys.argv[1:]))

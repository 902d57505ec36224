"""Followers on the nodes of a Ray cluster. This process requests them and waits until they end.

Usage:

    python -m agents.distributed.ray_followers <leader's process id> <address> <connection> <learners> <GPUs of each> [paths of modules ...]

This process sends the leader the address at which followers reach it. The leader answers with its port.
<connection> is the file descriptor of their pipe.
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
from agents.runtime.ray_groups.connection import joined, node_id
from system.descendants import supervise


class LearnerHost:
    """A Ray actor that runs one follower."""

    def node(self) -> str:
        """The id of its node. The call returns once Ray has placed the actor."""
        return node_id()

    def follow(self, address: str, host: str, port: int, rank: int, size: int) -> int:
        """See agents/distributed/follower.py.

        Args:
            address: Of this Ray cluster, for the follower's actors.
            host, port: Of the leader's store.
        """
        os.environ["RAY_ADDRESS"] = address
        supervise()
        return follow(meet_at_port(host, port, rank, size))


def main(arguments: Sequence[str]) -> int:
    """Returns 0 after all followers end normally, 1 when one fails or is lost. A failed follower reports its reason to the leader."""
    parent, address, descriptor, size, gpus = arguments[:5]
    leader = Connection(int(descriptor))
    end_with_the_parent(int(parent))
    leave_signals_to_the_learner()
    with joined(address, num_cpus=1) as ray:
        context = ray.get_runtime_context()
        remote_host = ray.remote(num_cpus=1, num_gpus=float(gpus), scheduling_strategy="SPREAD", max_restarts=0)(
            LearnerHost
        )
        learners = [remote_host.remote() for _ in range(1, int(size))]
        nodes = set(ray.get([learner.node.remote() for learner in learners]))
        host = LOOPBACK[0] if nodes == {node_id()} else ray.util.get_node_ip_address()
        try:
            leader.send(host)
            port = leader.recv()
        except (EOFError, ConnectionError):
            # The leader has ended.
            return FAILED
        waiting: list[Any] = [
            learner.follow.remote(context.gcs_address, host, port, rank, int(size))
            for rank, learner in enumerate(learners, start=1)
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

"""A Ray cluster of several nodes on this machine, for the tests of a whole session."""

from __future__ import annotations

import atexit
import functools
import os
from typing import Any

NODES = 3
CPUS = 2
"""Of each node, as Ray counts them."""


@functools.cache
def ray_nodes() -> Any:
    """ray.cluster_utils.Cluster of NODES nodes, started by whoever asks first."""
    # The addresses of the nodes are those of the loopback interface.
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    from ray.cluster_utils import Cluster

    node = {"num_cpus": CPUS, "object_store_memory": 2**27, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    for _ in range(NODES - 1):
        cluster.add_node(**node)
    atexit.register(cluster.shutdown)
    return cluster

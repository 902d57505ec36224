"""Ray clusters of several nodes on this machine."""

from __future__ import annotations

import atexit
import functools
from typing import Any

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
"""Environment variables that keep nodes on the loopback interface, turn usage statistics off, and give Ray's processes normal priority."""

NODES = 3
CPUS = 2
"""CPUs of each node, as Ray counts them."""

NODE = {"num_cpus": CPUS, "object_store_memory": 2**27, "include_dashboard": False}


@functools.cache
def ray_nodes() -> Any:
    """A ray.cluster_utils.Cluster of NODES nodes, shared by all tests of this process. A test that removes a node adds another one."""
    cluster = one_node()
    for _ in range(NODES - 1):
        cluster.add_node(**NODE)
    return cluster


def one_node(num_cpus: int = CPUS) -> Any:
    """A cluster of a head node only. Ray notices a killed node within seconds instead of half a minute."""
    from ray.cluster_utils import Cluster

    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": num_cpus, "_system_config": quick})
    atexit.register(cluster.shutdown)
    return cluster

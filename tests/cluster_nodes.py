"""A Ray cluster of two nodes, on the loopback address."""

import os
import socket
from contextlib import contextmanager

# Read when Ray is imported. Without the second it would put the machine's outward address in place of 127.0.0.1; the
# others are for a machine that is busy with something else.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_raylet_start_wait_time_s="240",
    RAY_worker_register_timeout_seconds="240",
)


@contextmanager
def two_nodes():
    """Yield the address of a cluster; its second node has a GPU in name only, so that a stage can ask for one."""
    from ray.cluster_utils import Cluster

    nodes = Cluster()
    try:
        nodes.add_node(no_monitor=True, **_node())
        nodes.add_node(num_gpus=1, **_node())
        yield nodes.address
    finally:
        nodes.shutdown()


def _node():
    return {
        "num_cpus": 2,
        "object_store_memory": 80 << 20,
        "node_ip_address": "127.0.0.1",
        "include_dashboard": False,
        "include_log_monitor": False,
        # Given, because for those that agents choose themselves a node waits 15 seconds and no more.
        "metrics_agent_port": _free_port(),
        "metrics_export_port": _free_port(),
        "runtime_env_agent_port": _free_port(),
        "dashboard_agent_listen_port": _free_port(),
    }


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

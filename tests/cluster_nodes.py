"""A Ray cluster of two nodes, on the loopback address."""

import os
import random
import socket
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

# Read when Ray is imported. Without the second it would put the machine's outward address in place of 127.0.0.1; the
# others are for a machine that is busy with something else, which would leave workers nothing if they were nicer.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_raylet_start_wait_time_s="240",
    RAY_worker_register_timeout_seconds="240",
    RAY_agent_register_timeout_ms="240000",
    RAY_worker_niceness="0",
)

_PORTS = ("metrics_export_port", "runtime_env_agent_port")
_NONE = ("metrics_agent_port", "dashboard_agent_listen_port")


@contextmanager
def two_nodes():
    """Yield the address of a cluster; its second node has a GPU in name only, so that a stage can ask for one."""
    from ray._private import services, utils
    from ray.cluster_utils import Cluster

    start = services.start_raylet

    def start_at_once(redis_address, gcs_address, node_id, *more, **named):
        # A node waits 15 seconds for its agents to tell their ports, which may take longer; here they are told.
        session = next(Path(part) for part in more if isinstance(part, str) and Path(part).name.startswith("session_"))
        for name in _PORTS:
            (session / f"{name}_{node_id}").write_text(str(named[name]))
        for name in _NONE:
            (session / f"{name}_{node_id}").write_text("-1")
        return start(redis_address, gcs_address, node_id, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "start_raylet", start_at_once)
        # Without what a dashboard needs agents do little, and listen on less.
        patch.setattr(utils, "get_dashboard_dependency_error", lambda: ModuleNotFoundError("none is wanted"))
        nodes = Cluster()
        try:
            nodes.add_node(no_monitor=True, **_node())
            nodes.add_node(num_gpus=1, **_node())
            yield nodes.address
        finally:
            nodes.shutdown()


def _node():
    return {
        "num_cpus": 1,
        "object_store_memory": 80 << 20,
        "node_ip_address": "127.0.0.1",
        "include_dashboard": False,
        "include_log_monitor": False,
        **{name: _free_port() for name in _PORTS},
    }


def _free_port():
    """Return a port below those that the system gives to connections, which would take one between here and its use."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(20_000, 32_000)))
            return probe.getsockname()[1]

"""Connect to a Ray cluster, or start one on this machine."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from d2r.errors import D2RError

_REACH_S = 10.0


class ClusterError(D2RError):
    """A cluster that cannot be reached or used; the message says what to do."""


@contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Connect to a cluster for a block; an existing connection is kept.

    Args:
        address: ``HOST:PORT`` of the cluster's head. None takes it from the environment variable ``RAY_ADDRESS``, or
            takes the cluster that this machine belongs to (``ray start``); if there is none, it starts a cluster of
            this machine alone, which listens on the loopback address only.

    Raises:
        ClusterError: there is no cluster at the address.
        ModuleNotFoundError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = address or os.environ.get("RAY_ADDRESS")
    import ray

    if address is not None:
        _check_reachable(address)
        if _is_loopback(address):
            _stay_on_loopback()

    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "namespace": "d2r"}
    try:
        ray.init(address=address or "auto", **quiet)
    except (ConnectionError, ValueError) as error:
        if address is not None:
            raise ClusterError(f"{address}: no Ray cluster can be reached there ({error})") from error
        _stay_on_loopback()
        ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def processors() -> int:
    """Return the number of processors that the cluster has now, at least 1."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def accelerators() -> int:
    """Return the number of GPUs that the cluster has now."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def _check_reachable(address: str) -> None:
    """Refuse an address where nothing listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"{address}: no Ray cluster can be reached there ({error}); give HOST:PORT of its head"
        ) from error


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _stay_on_loopback() -> None:
    """Keep Ray from replacing 127.0.0.1 with this machine's outward address.

    A cluster on the loopback address does not listen there. The switch is meant for macOS and Windows, hence its name.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False

"""A Ray cluster of two nodes for all tests of this folder."""

import pytest

import cluster_nodes


@pytest.fixture(scope="session")
def cluster():
    """The address of the cluster that this process is connected to."""
    pytest.importorskip("ray")
    from d2r.cluster.connect import connected

    with cluster_nodes.two_nodes() as address, connected(address):
        yield address

"""The options for clusters, without the packages they need."""

import sys

import pytest


@pytest.fixture(params=["ray", "pyarrow"])
def missing(request, monkeypatch):
    monkeypatch.delitem(sys.modules, f"{request.param}.fs", raising=False)
    monkeypatch.setitem(sys.modules, request.param, None)
    return request.param


def test_the_flags_say_what_to_install(d2r, missing, photo_folder, built_index, tmp_path):
    commands = {
        "ray": [["index", photo_folder, "--out", tmp_path / "new.index", "--ray"], ["serve", built_index, "--ray"]],
        "pyarrow": [["index", "s3://photos/2024", "--out", tmp_path / "new.index"]],
    }
    for command in commands[missing]:
        status, _, error = d2r(*command)
        assert status == 1
        assert f"{missing} is not installed" in error
        assert "pip install 'detect-to-retrieve[cluster]'" in error
    if missing == "ray":
        assert not (tmp_path / "new.index").exists()


def test_workers_are_not_both_here_and_on_a_cluster(d2r, photo_folder, tmp_path):
    status, _, error = d2r("index", photo_folder, "--out", tmp_path / "new.index", "--ray", "--workers", "2")
    assert status == 2
    assert "--workers" in error


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere"])
def test_a_cluster_that_is_not_there_is_named(d2r, photo_folder, tmp_path, address):
    pytest.importorskip("ray")
    status, _, error = d2r("index", photo_folder, "--out", tmp_path / "new.index", "--ray-address", address)
    assert status == 1
    assert address in error
    assert not (tmp_path / "new.index").exists()

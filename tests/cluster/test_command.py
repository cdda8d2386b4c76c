from pathlib import Path

import pytest
from fastapi import FastAPI

from cluster_processes import named
from d2r.engine import Engine
from d2r.options import SearchOptions
from d2r.support.webserver import WebServer

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(900)]


def test_serve_has_shards_search(built_index, photo_folder, d2r, monkeypatch):
    given = {}

    def make_app(engine, settings):
        given["engine"] = engine
        return FastAPI()

    def found(engine):
        answer = engine.search(photo_folder / "pagoda-1.jpg", SearchOptions(top=4, verify=2))
        return [(Path(result.path).name, result.score, result.inliers) for result in answer.results]

    def run(server):
        given["shards"] = len(named("ServeReplica:d2r-"))
        given["found"] = found(given["engine"])

    monkeypatch.setattr("d2r.serve.app.make_service_app", make_app)
    monkeypatch.setattr(WebServer, "run", run)
    status, output, error = d2r("serve", built_index, "--port", "0", "--ray", "--shards", "2")
    assert status == 0, error
    assert "page: http://127.0.0.1:" in output
    assert given["shards"] == 2
    with Engine.open(built_index) as alone:
        assert given["found"] == found(alone)
    assert named("ServeReplica:") == []  # nothing is left after its end

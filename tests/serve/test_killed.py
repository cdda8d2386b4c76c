"""The command, killed and stopped while it works: no acknowledged job is lost."""

import os
import re
import shutil
import signal
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from d2r.engine import Engine
from programs import D2R, join, running, workers_held
from serving import AUTHORIZED, TOKEN, ended, wait_until
from synthetic import texture, write


@contextmanager
def service(index, *options, errors=None):
    """Run ``d2r serve`` as a separate process."""
    command = (*D2R, "serve", index, "--port", "0", "--workers", "1", *options)
    environment = {**os.environ, "D2R_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"}
    with running(*command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process:
        url = re.search(r"http://\S+", process.stdout.readline()).group()
        with httpx.Client(base_url=url, timeout=120, headers=AUTHORIZED) as client:
            yield process, client


@pytest.fixture
def index(built_index, tmp_path):
    return Path(shutil.copytree(built_index, tmp_path / "photos.index"))


def ready(client):
    wait_until(lambda: client.get("/v1/ready").status_code == 200)


def test_what_was_accepted_before_it_is_ended_is_answered(index, pagoda):
    with service(index) as (process, client):
        ready(client)
        statuses = []

        def search():
            statuses.append(client.post("/v1/search", content=pagoda).status_code)

        threads = [threading.Thread(target=search, daemon=True) for _ in range(6)]
        with workers_held():
            for thread in threads:
                thread.start()
            wait_until(lambda: "d2r_waiting 5.0" in client.get("/v1/metrics").text)
            process.send_signal(signal.SIGTERM)
        join(*threads)
        assert statuses == [200] * 6
        assert process.wait(60) in (0, -signal.SIGTERM)


@pytest.mark.timeout(900)
def test_what_was_acknowledged_survives_a_kill_during_the_add(index, tmp_path):
    sent = [write(tmp_path / f"{k}.jpg", texture(k, 300, 200)) for k in range(6)]
    log = tmp_path / "log"
    with log.open("w") as errors, service(index, errors=errors) as (process, client):
        ready(client)
        jobs = [
            client.post(f"/v1/pictures?name={k}.jpg", content=path.read_bytes()).json() for k, path in enumerate(sent)
        ]
        assert {job["state"] for job in jobs} <= {"queued", "running", "done"}
        process.send_signal(signal.SIGKILL)
        process.wait()
    for number, job in enumerate(jobs):  # standard error says who added what
        line = f'INFO d2r.serve.access: add job={job["id"]} client=127.0.0.1 token=write name="{number}.jpg"'
        assert line in log.read_text()
    assert TOKEN not in log.read_text()
    with service(index) as (process, client):
        ready(client)
        outcomes = [ended(client, job) for job in jobs]
        assert [job["state"] for job in outcomes] == ["done"] * 6
        assert client.get("/v1/info").json()["pictures"] == 16
        found = client.post("/v1/search?top=1", content=sent[3].read_bytes()).json()["results"]
        assert found[0]["picture"]["name"] == "3.jpg"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
    with Engine.open(index) as engine:
        assert engine.check() == []

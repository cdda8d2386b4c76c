"""A service that runs while a test does."""

import threading
import time
from contextlib import contextmanager

import httpx

from d2r.engine import Engine
from d2r.serve.app import make_service_app
from d2r.serve.settings import ServiceLimits, ServiceSettings
from d2r.support.webserver import WebServer
from programs import join

TOKEN = "a-token-for-tests-only"
LOCAL = frozenset({"127.0.0.1", "localhost"})


@contextmanager
def serving(index, uploads, **options):
    """Serve an index; yields an HTTP client that has no token."""
    limits = ServiceLimits(**options.pop("limits", {}))
    settings = ServiceSettings(
        **({"uploads": uploads, "token": TOKEN, "workers": 1, "hosts": LOCAL} | options), limits=limits
    )
    with Engine.open(index) as engine:
        server = WebServer(make_service_app(engine, settings), grace_s=10)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            with httpx.Client(base_url=server.url, timeout=120) as client:
                wait_until(lambda: client.get("/v1/ready").status_code == 200)
                yield client
        finally:
            server.stop()
            join(thread)


def wait_until(true, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def ended(client, job):
    """Wait for a job to end, and return it."""
    state = {}

    def over():
        state.update(client.get(f"/v1/jobs/{job['id']}", headers=AUTHORIZED).json())
        return state["state"] in ("done", "failed")

    wait_until(over)
    return state


AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}

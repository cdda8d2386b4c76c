"""Figures of the service for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The figures of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter("d2r_requests", "Requests answered.", ["route", "method", "status"], registry=own)
        self.request_seconds = Histogram(
            "d2r_request_seconds", "Time of a request.", ["route"], buckets=_BUCKETS, registry=own
        )
        self.stage_seconds = Histogram(
            "d2r_stage_seconds", "Time of a stage of a search.", ["stage"], buckets=_BUCKETS, registry=own
        )
        self.refused = Counter("d2r_refused", "Requests told to come again because too much was waiting.", registry=own)
        self.abandoned = Counter("d2r_abandoned", "Requests given up because nobody waited for them.", registry=own)
        self.waiting = Gauge("d2r_waiting", "Requests that wait for a worker process.", registry=own)
        self.searches = Gauge("d2r_searches", "Searches under way.", registry=own)
        self.deaths = Gauge("d2r_worker_deaths", "Worker processes that died or were ended.", registry=own)
        self.pictures = Gauge("d2r_pictures", "Pictures that can be found.", registry=own)
        self.jobs = Gauge("d2r_jobs", "Pictures to be added or removed.", ["state"], registry=own)

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.requests.labels(route, method, str(status)).inc()
        self.request_seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return all figures as Prometheus reads them."""
        return generate_latest(self.registry)

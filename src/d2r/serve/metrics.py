"""Metrics of the service for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter("d2r_requests", "Requests answered.", ["route", "method", "status"], registry=own)
        self.request_seconds = Histogram(
            "d2r_request_seconds", "Seconds per request.", ["route"], buckets=_BUCKETS, registry=own
        )
        self.stage_seconds = Histogram(
            "d2r_stage_seconds", "Seconds per stage of a search.", ["stage"], buckets=_BUCKETS, registry=own
        )
        self.refused = Counter("d2r_refused", "Requests refused because too many were waiting.", registry=own)
        self.abandoned = Counter("d2r_abandoned", "Requests abandoned because the client was gone.", registry=own)
        self.waiting = Gauge("d2r_waiting", "Requests waiting for a worker process.", registry=own)
        self.searches = Gauge("d2r_searches", "Searches in progress.", registry=own)
        self.deaths = Gauge("d2r_worker_deaths", "Worker processes that died or were killed.", registry=own)
        self.pictures = Gauge("d2r_pictures", "Searchable pictures.", registry=own)
        self.jobs = Gauge("d2r_jobs", "Jobs that add or remove a picture.", ["state"], registry=own)

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.requests.labels(route, method, str(status)).inc()
        self.request_seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)

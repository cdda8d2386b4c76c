"""Middleware around the application: host checks, security headers, a limit on requests, metrics, and errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from d2r.serve.logs import service_log
from d2r.serve.problems import problem_response

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}

Observe = Callable[[str, str, int, float], None]


class Places:
    """The places for concurrent requests, a limited number; for use from one event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    @property
    def full(self) -> bool:
        """Whether all places are taken."""
        return self._taken >= self._limit

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take a place for a request."""
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    @contextmanager
    def left(self) -> Iterator[None]:
        """Give up the place while the body of the request arrives, so that a slow client blocks nobody."""
        self._taken -= 1
        try:
            yield
        finally:
            self._taken += 1


class Guard:
    """ASGI middleware.

    Args:
        app: the application.
        hosts: host names that requests may use for the service; empty allows any.
        places: places for concurrent requests.
        observe: called for every request with route, method, status and seconds.
    """

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str], places: Places, observe: Observe) -> None:
        self._app = app
        self._hosts = hosts
        self._places = places
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 499  # unless a response starts

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        try:
            if refusal is not None:
                await refusal(scope, receive, send_guarded)
            else:
                with self._places.taken():
                    await self._app(scope, receive, send_guarded)
        except ClientDisconnect:
            pass
        except Exception:
            service_log.exception("%s %s failed", scope["method"], scope["path"])
            if status == 499:
                answer = problem_response(500, "Internal error; see the log of the service.")
                await answer(scope, receive, send_guarded)
        finally:
            route: Any = scope.get("route")
            path = getattr(route, "path", "other")
            self._observe(path, scope["method"] if path != "other" else "other", status, time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if "content-length" in headers and "transfer-encoding" in headers:
            # Proxies may disagree on where the body ends and read the rest of it as another request.
            problem = "Content-Length and Transfer-Encoding may not be combined."
            return problem_response(400, problem, headers={"Connection": "close"})
        if self._places.full:
            return problem_response(429, "Too many concurrent requests; retry later.", headers={"Retry-After": "1"})
        host = headers.get("host", "")
        if self._hosts and _name(host) not in self._hosts:
            return problem_response(421, "Unknown host name; see --allow-host.")
        origin = headers.get("origin")
        if scope["method"] not in ("GET", "HEAD") and origin is not None and urlsplit(origin).netloc != host:
            return problem_response(403, "Requests from pages of other sites are not taken.")
        return None


def _name(host: str) -> str:
    """Return the name in a Host header, without the port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()

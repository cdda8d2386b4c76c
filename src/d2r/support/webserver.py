"""Serve a web application from this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from importlib.resources import files
from typing import Final

import uvicorn
from fastapi import FastAPI, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_HEADER_S: Final = 10.0  # a client may take this long to send the header of a request
_UNREAD_S: Final = 30.0  # a client may go this long without reading any of its answer


def base_style() -> bytes:
    """Return the style sheet that the pages share; each server serves it as ``/base.css``."""
    return (files("d2r.support") / "base.css").read_bytes()


class WebServer:
    """Serves an application, by default on the loopback address.

    Args:
        app: the application.
        port: 0 takes a free port.
        host: address to listen on.
        grace_s: at the end, wait at most this many seconds for answers in progress. Browsers keep idle connections
            open, which are not worth waiting for.

    Raises:
        OSError: the port is taken, or the address is not one of this machine.
    """

    def __init__(self, app: FastAPI, port: int = 0, *, host: str = "127.0.0.1", grace_s: int = 3) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Without the protocol asyncio does not recognise TCP and leaves Nagle's algorithm on, which delays every answer
        # on a kept-alive connection by 40 ms.
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen()  # from now on a browser waits instead of being refused
        except OSError as error:
            self._socket.close()
            raise OSError(error.errno, f"{error.strerror}; give another port", f"{host}:{port}") from error
        # Loop and protocol are fixed, so that the server does not depend on which packages are installed.
        config = uvicorn.Config(
            _with_head(app),
            loop="asyncio",
            http=_Connection,
            ws="none",
            log_level="warning",
            timeout_graceful_shutdown=grace_s,
            server_header=False,
            proxy_headers=False,
        )
        self._server = uvicorn.Server(config)

    @property
    def url(self) -> str:
        """The address of the page."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    def run(self) -> None:
        """Serve until :meth:`stop`; an interrupt of the process raises ``KeyboardInterrupt``."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End :meth:`run`, from another thread."""
        self._server.should_exit = True


class _Connection(H11Protocol):
    """A connection with a limit on the time that it waits for its client."""

    _header: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # to be told of any answer that the client does not read
        self._await_header()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._header, self._reading):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()

    def _await_header(self) -> None:
        """Start the clock when it is the client's turn to send, be it the rest of a body that is no longer needed."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self._header is not None:
                self._header.cancel()
                self._header = None
        elif self._header is None:
            self._header = self.loop.call_later(_HEADER_S, self.transport.close)

    def _await_reading(self) -> None:
        unsent = self.transport.get_write_buffer_size()

        def look() -> None:
            if self.transport.get_write_buffer_size() < unsent:
                self._await_reading()
            else:
                self.transport.abort()

        self._reading = self.loop.call_later(_UNREAD_S, look)


def _with_head(app: ASGIApp) -> ASGIApp:
    """Return an application that answers HEAD like GET; the server leaves out the body."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}

        async def send_allowed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("allow") == "GET":
                    headers["allow"] = "GET, HEAD"
            await send(message)

        await app(scope, receive, send_allowed)

    return answer


def fixed(content: bytes, kind: str, headers: dict[str, str] | None = None) -> Callable[[], Response]:
    """Return a route that always answers with the same content, of the media type ``kind``."""
    return lambda: Response(content, media_type=kind, headers=headers)

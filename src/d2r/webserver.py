"""Serve a web application from this process."""

from __future__ import annotations

import socket
from collections.abc import Callable
from importlib.resources import files

import uvicorn
from fastapi import FastAPI, Response


def base_style() -> bytes:
    """Return the style sheet that the pages share, which each gives as ``/base.css``."""
    return (files("d2r") / "base.css").read_bytes()


class WebServer:
    """Serves an application, on the loopback address unless another is given.

    Args:
        app: to serve.
        port: 0 takes one that is free.
        host: address to listen on.
        grace_s: at the end, wait this long for answers that are under way. A browser keeps its connections open, and
            nothing in those is worth waiting for.

    Raises:
        OSError: the port is taken, or the address is not of this machine.
    """

    def __init__(self, app: FastAPI, port: int = 0, *, host: str = "127.0.0.1", grace_s: int = 3) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen()  # from now on a browser waits for the answer, rather than being refused
        except OSError as error:
            self._socket.close()
            raise OSError(error.errno, f"{error.strerror}; give another port", f"{host}:{port}") from error
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=grace_s, server_header=False, proxy_headers=False
        )
        self._server = uvicorn.Server(config)

    @property
    def url(self) -> str:
        """The address of the page."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    def run(self) -> None:
        """Serve until :meth:`stop`, or until the process is interrupted, which raises ``KeyboardInterrupt``."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End :meth:`run`, from another thread."""
        self._server.should_exit = True


def fixed(content: bytes, kind: str, headers: dict[str, str] | None = None) -> Callable[[], Response]:
    """Return a route that always answers with the same content of a media type."""
    return lambda: Response(content, media_type=kind, headers=headers)

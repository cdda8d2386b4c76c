"""The settings of a service."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from d2r.errors import D2RError

TOKEN_VARIABLE = "D2R_TOKEN"
READ_TOKEN_VARIABLE = "D2R_READ_TOKEN"

MAX_RESULTS = 200
"""Most results, and most verified pictures, that one search may request."""

_MIN_TOKEN = 16


class ServeError(D2RError):
    """The service cannot start; the message says what to do."""


@dataclass(frozen=True)
class ServiceLimits:
    """Limits on the cost of requests.

    Attributes:
        upload_bytes: most bytes of an uploaded picture.
        pixels: most pixels of a picture (width x height); larger ones are refused before they are decoded.
        seconds: time limit for sending a picture, and again for decoding and describing it.
        queue: requests that may wait for a worker process, and searches that may be in progress beyond one per
            process; any more are told to retry later.
        requests: most requests in progress at the same time.
    """

    upload_bytes: int = 32 << 20
    pixels: int = 50_000_000
    seconds: float = 30.0
    queue: int = 32
    requests: int = 256


@dataclass(frozen=True)
class ServiceSettings:
    """Settings of a service; see the options of ``d2r serve``.

    Attributes:
        uploads: folder for added pictures, used by this service only; see :class:`d2r.serve.uploads.Uploads`.
        token: token for adding and removing; None disables both.
        read_token: token for everything else; None lets everybody read.
        read_only: disable adding and removing, whatever the token.
        workers: number of processes that decode and describe pictures.
        threads: number of threads that search.
        hosts: host names that requests may use for this service; empty allows any. On the loopback address this keeps
            other sites from impersonating it (DNS rebinding).
        limits: limits on the cost of requests.
    """

    uploads: Path
    token: str | None = field(default=None, repr=False)
    read_token: str | None = field(default=None, repr=False)
    read_only: bool = False
    workers: int = 2
    threads: int = 2
    hosts: frozenset[str] = frozenset()
    limits: ServiceLimits = ServiceLimits()

    @property
    def writable(self) -> bool:
        """Whether pictures can be added and removed with the token."""
        return self.token is not None and not self.read_only


def token_from(file: Path | None, variable: str, environment: Mapping[str, str] | None = None) -> str | None:
    """Read a token from a file or, without one, from an environment variable; None if neither is given.

    Raises:
        ServeError: the token is shorter than 16 characters or not ASCII, or the file cannot be read.
    """
    if file is not None:
        try:
            text, where = file.read_text(encoding="utf-8"), str(file)
        except (OSError, ValueError) as error:
            raise ServeError(f"{file}: cannot read the token ({getattr(error, 'strerror', None) or error})") from error
    else:
        given = (os.environ if environment is None else environment).get(variable)
        if given is None:
            return None
        text, where = given, variable
    token = text.strip()
    if len(token) < _MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ServeError(
            f"{where}: a token must have at least {_MIN_TOKEN} letters and digits and no space;"
            " create one with: openssl rand -hex 32"
        )
    return token

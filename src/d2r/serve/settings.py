"""What a service is told when it is started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from d2r.errors import D2RError

TOKEN_VARIABLE = "D2R_TOKEN"
READ_TOKEN_VARIABLE = "D2R_READ_TOKEN"

MAX_RESULTS = 200
"""Results, and verified pictures, that one search may ask for."""

_MIN_TOKEN = 16


class ServeError(D2RError):
    """A service that cannot be started; the message says what to do."""


@dataclass(frozen=True)
class ServiceLimits:
    """What one client may cost.

    Attributes:
        upload_bytes: of a picture as it is sent.
        pixels: of a picture (width x height); larger ones are refused before they are decoded.
        seconds: for sending a picture, and again for decoding and describing it.
        queue: requests that may wait for a worker process, and searches under way beyond one a process; more
            are told to come again.
        requests: that are answered at the same time.
    """

    upload_bytes: int = 32 << 20
    pixels: int = 50_000_000
    seconds: float = 30.0
    queue: int = 32
    requests: int = 256


@dataclass(frozen=True)
class ServiceSettings:
    """See the options of ``d2r serve``.

    Attributes:
        uploads: folder for the pictures that are added, of this service alone; see :class:`d2r.serve.uploads.Uploads`.
        token: allows adding and removing; None allows nobody to.
        read_token: needed for everything else; None lets everybody read.
        read_only: nothing can be added or removed, whatever the token.
        workers: processes that decode and describe.
        threads: that search.
        hosts: names that a request may call this service by; empty takes any. On the loopback address it keeps other
            sites from passing themselves off as this one.
        limits: what one client may cost.
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
        """Whether pictures can be added and removed by who has the token."""
        return self.token is not None and not self.read_only


def token_from(file: Path | None, variable: str, environment: Mapping[str, str] | None = None) -> str | None:
    """Read a token from a file, or else from an environment variable; None when neither is given.

    Raises:
        ServeError: it is shorter than 16 letters, is not ASCII, or the file cannot be read.
    """
    if file is not None:
        try:
            text, where = file.read_text(encoding="utf-8"), str(file)
        except (OSError, ValueError) as error:
            raise ServeError(
                f"{file}: the token cannot be read ({getattr(error, 'strerror', None) or error})"
            ) from error
    else:
        given = (os.environ if environment is None else environment).get(variable)
        if given is None:
            return None
        text, where = given, variable
    token = text.strip()
    if len(token) < _MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ServeError(
            f"{where}: a token has {_MIN_TOKEN} or more letters and digits and no space;"
            " make one with: openssl rand -hex 32"
        )
    return token

"""Receive the pictures that clients send."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import Request
from prometheus_client import Counter

from d2r.serve.guard import Places
from d2r.serve.problems import ProblemError
from d2r.serve.settings import ServiceLimits

_MAX_ARRIVED: Final = 8  # of the largest uploads, whose bytes may have arrived of those that are not whole yet


class Receiver:
    """Receives pictures that are the body of a request, to be used from one event loop.

    Args:
        limits: of one picture.
        places: of the requests that are answered at the same time.
        refused: counts the pictures for which there is no memory now.
    """

    def __init__(self, limits: ServiceLimits, places: Places, refused: Counter) -> None:
        self._limits = limits
        self._places = places
        self._refused = refused
        self._arrived = 0  # bytes, of the pictures that are not whole yet

    async def picture(self, request: Request) -> bytes:
        """Return the body of a request, which is not empty.

        Raises:
            ProblemError: it is empty, too large, too slow or a form, or too much is being received already.
        """
        max_bytes = self._limits.upload_bytes
        too_large = ProblemError(413, f"A picture may have {max_bytes:,} bytes at most.", {"Connection": "close"})
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise ProblemError(
                415, "Send the file itself as the body, not a form: curl --data-binary @FILE", {"Accept": "image/*"}
            )
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > max_bytes:
            raise too_large
        too_many = ProblemError(
            429, "Too many uploads at once; come again.", {"Retry-After": "1", "Connection": "close"}
        )
        data = bytearray()
        try:
            with self._places.left():
                async with asyncio.timeout(self._limits.seconds):
                    async for chunk in request.stream():
                        data += chunk
                        self._arrived += len(chunk)
                        if len(data) > max_bytes:
                            raise too_large
                        if self._arrived > _MAX_ARRIVED * max_bytes:
                            self._refused.inc()
                            raise too_many
        except TimeoutError as error:
            raise ProblemError(
                408, f"The picture was not sent within {self._limits.seconds:g} s.", {"Connection": "close"}
            ) from error
        finally:
            self._arrived -= len(data)
        if not data:
            raise ProblemError(422, "The body is empty; send a picture: curl --data-binary @FILE")
        return bytes(data)

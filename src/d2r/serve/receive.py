"""Receives the pictures that clients upload."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import Request
from prometheus_client import Counter

from d2r.serve.guard import Places
from d2r.serve.problems import ProblemError
from d2r.serve.settings import ServiceLimits

_MAX_ARRIVED: Final = 8  # limit on the bytes of incomplete uploads, in uploads of the largest size


class Receiver:
    """Receives pictures as the bodies of requests, for use from one event loop.

    Args:
        limits: limits on a picture.
        places: places for concurrent requests.
        refused: counts the pictures that are refused for lack of memory.
    """

    def __init__(self, limits: ServiceLimits, places: Places, refused: Counter) -> None:
        self._limits = limits
        self._places = places
        self._refused = refused
        self._arrived = 0  # bytes of incomplete uploads

    async def picture(self, request: Request) -> bytes:
        """Return the body of a request, never empty.

        Raises:
            ProblemError: the body is empty, too large, too slow or a form, or too many uploads are in progress.
        """
        max_bytes = self._limits.upload_bytes
        too_large = ProblemError(413, f"A picture may have at most {max_bytes:,} bytes.", {"Connection": "close"})
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise ProblemError(
                415, "Send the file itself as the body, not a form: curl --data-binary @FILE", {"Accept": "image/*"}
            )
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > max_bytes:
            raise too_large
        too_many = ProblemError(
            429, "Too many concurrent uploads; retry later.", {"Retry-After": "1", "Connection": "close"}
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

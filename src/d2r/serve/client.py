"""Talk to ``d2r serve`` from Python.

with Client("http://127.0.0.1:8765") as client:
    for result in client.search("castle.jpg", box=(120, 80, 640, 520))["results"]:
        print(result["inliers"], result["score"], result["picture"]["name"])
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import httpx

from d2r.boxes import Box
from d2r.defaults import PORT
from d2r.errors import D2RError
from d2r.options import DEFAULT_OPTIONS, SearchOptions
from d2r.support.files import PathLike

PictureOrNumber: TypeAlias = int | PathLike
"""A picture: its number in the collection, its encoded content as ``bytes``, or the path of a file on this machine."""


class ServiceError(D2RError):
    """A request that the service refused; the message is that of the service.

    Attributes:
        status: HTTP status; 429 means to retry after ``retry_after`` seconds.
        retry_after: seconds, or None.
    """

    def __init__(self, response: httpx.Response) -> None:
        is_problem = response.headers.get("content-type", "").startswith("application/problem+json")
        super().__init__(
            response.json()["detail"] if is_problem else f"the service responded with status {response.status_code}"
        )
        self.status = response.status_code
        wait = response.headers.get("retry-after", "")
        self.retry_after = int(wait) if wait.isdigit() else None


class Client:
    """A connection to a service; the OpenAPI document describes the dictionaries that its methods return.

    Use it in a ``with`` block, or call :meth:`close`.

    Args:
        url: address of the service.
        token: its token, if it needs one.
        timeout: seconds to wait for an answer.

    Raises:
        ServiceError: by every method, if the service refuses the request.
        httpx.TransportError: by every method, if the service cannot be reached.
    """

    def __init__(
        self, url: str = f"http://127.0.0.1:{PORT}", *, token: str | None = None, timeout: float = 60.0
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def info(self) -> dict[str, Any]:
        """Return information about the collection and the service."""
        return self._ask("GET", "/v1/info")

    def search(
        self,
        query: PictureOrNumber,
        options: SearchOptions = DEFAULT_OPTIONS,
        *,
        box: Box | None = None,
    ) -> dict[str, Any]:
        """Find the pictures that show the same object as a picture, or as a box on it, in pixels."""
        asked = {**asdict(options), **_box(box)}
        if isinstance(query, int):
            return self._ask("GET", f"/v1/pictures/{query}/search", params=asked)
        return self._ask("POST", "/v1/search", params=asked, content=_bytes(query))

    def thresholds(self, picture: int, query: PictureOrNumber, *, box: Box | None = None) -> dict[str, Any]:
        """Return the regions of a picture and its score for a query at each threshold of the detector."""
        asked = _box(box)
        path = f"/v1/pictures/{picture}/thresholds"
        if isinstance(query, int):
            return self._ask("GET", path, params={"query": query, **asked})
        return self._ask("POST", path, params=asked, content=_bytes(query))

    def image(self, picture: int) -> bytes:
        """Return a picture of the collection as JPEG."""
        return self._send("GET", f"/v1/pictures/{picture}/image").content

    def add(self, picture: PathLike, *, name: str | None = None) -> dict[str, Any]:
        """Add a picture; it is on disk when this returns, and searchable when its job is done (see :meth:`wait`)."""
        given = "" if isinstance(picture, bytes) else os.path.basename(os.fsdecode(picture))  # noqa: PTH119
        return self._ask("POST", "/v1/pictures", params={"name": name or given}, content=_bytes(picture))

    def remove(self, picture: int) -> dict[str, Any]:
        """Remove a picture from the collection and return the job that does it."""
        return self._ask("DELETE", f"/v1/pictures/{picture}")

    def wait(self, job: dict[str, Any], *, seconds: float = 600.0) -> dict[str, Any]:
        """Wait until a job is done or has failed, and return it; raises ``TimeoutError`` after ``seconds``."""
        end = time.monotonic() + seconds
        while job["state"] in ("queued", "running"):
            if time.monotonic() > end:
                raise TimeoutError(f"job {job['id']} is still {job['state']} after {seconds:g} s")
            time.sleep(0.3)
            job = self._ask("GET", f"/v1/jobs/{job['id']}")
        return job

    def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._send(method, path, **more).json()
        return answer

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        response = self._http.request(method, path, **more)
        if not response.is_success:
            raise ServiceError(response)
        return response


def _box(box: Box | None) -> dict[str, Any]:
    return {} if box is None else {"box": ",".join(f"{float(side):g}" for side in box)}


def _bytes(picture: PathLike) -> bytes:
    return picture if isinstance(picture, bytes) else Path(os.fsdecode(picture)).read_bytes()

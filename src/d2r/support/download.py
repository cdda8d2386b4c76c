"""Download files: resumable, with a checksum, complete or not at all."""

from __future__ import annotations

import http.client
import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from d2r.errors import D2RError
from d2r.support.files import file_sha256, sync

TransferProgress: TypeAlias = Callable[[str, int, int | None], None]
"""Called during a transfer with the file's name, the bytes that have arrived, and the total bytes if known."""


_CHUNK = 1 << 20


_LONGEST_PAUSE_S = 60.0


_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP status codes of temporary failures."""


class DownloadError(D2RError):
    """A file or data set that could not be fetched; ``str(error)`` names it and says why.

    Attributes:
        name: the address, file or folder.
        reason: what went wrong, without the name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class NoAnswerError(DownloadError):
    """A server did not answer: it is down, or the network is."""


class _InterruptedError(Exception):
    """A transfer that broke off, or that the server refused for now: it may work at another try."""


class _SilenceError(_InterruptedError):
    """No answer came."""


@dataclass(frozen=True)
class DownloadLimits:
    """Limits of a transfer.

    Attributes:
        before_request: called before each request, also a repeated one; it may wait, to limit the rate.
        max_bytes: a larger file is refused.
        max_seconds: a request is given up for good if it takes longer than this in all: a server that trickles would
            hold it for ever.
        timeout_s: longest silence before or within an answer, in seconds.
    """

    before_request: Callable[[], None] = lambda: None
    max_bytes: float = math.inf
    max_seconds: float = math.inf
    timeout_s: float = 60.0


NO_LIMITS: Final = DownloadLimits()


def fetch(
    urls: Sequence[str],
    path: Path,
    *,
    sha256: str | None = None,
    progress: TransferProgress | None = None,
    tries: int = 6,
    pause_s: float = 1.0,
    limits: DownloadLimits = NO_LIMITS,
) -> None:
    """Fetch a file over HTTP, unless it exists.

    A transfer that broke off, in this call or an earlier one, resumes if the server supports that and still has the
    same file; otherwise it starts again. The length must be what the server announced.

    Args:
        urls: addresses of the same file; if one fails for good, the next is tried.
        path: the file's final name. Until the file is complete, ``path.part`` holds what has arrived.
        sha256: the file's checksum in lower-case hexadecimal, if known.
        progress: called with the progress of the transfer.
        tries: an address is given up after this many tries in a row without new data.
        pause_s: seconds before the second try; twice as long before each further one, up to a minute.
        limits: limits of the transfer.

    Raises:
        NoAnswerError: there is only one address, and it did not answer the last try.
        DownloadError: no address delivers the file, the checksum differs, or a limit is exceeded.
        OSError: the file cannot be written.
    """
    if path.exists() and (sha256 is None or file_sha256(path) == sha256):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part, tag = _beside(path, ".part"), _beside(path, ".part.tag")
    errors: list[DownloadError] = []
    for url in urls:
        try:
            _persist(url, part, tag, _reporter(path.name, progress), tries, pause_s, limits)
            if sha256 is not None:
                _check(url, part, tag, sha256)
        except DownloadError as error:
            errors.append(error)
        else:
            sync(part)
            part.replace(path)
            sync(path.parent)
            tag.unlink(missing_ok=True)
            return
    if len(errors) == 1:
        raise errors[0]
    raise DownloadError(path.name, "no address gives it: " + "; ".join(str(error) for error in errors))


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _reporter(name: str, progress: TransferProgress | None) -> Callable[[int, int | None], None]:
    return lambda done, total: progress(name, done, total) if progress else None


def _check(url: str, part: Path, tag: Path, sha256: str) -> None:
    found = file_sha256(part)
    if found != sha256:
        part.unlink()
        tag.unlink(missing_ok=True)
        raise DownloadError(url, f"its sha256 is {found}, but should be {sha256}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _persist(
    url: str,
    part: Path,
    tag: Path,
    report: Callable[[int, int | None], None],
    tries: int,
    pause_s: float,
    limits: DownloadLimits,
) -> None:
    """Transfer ``url`` to ``part``; try again until ``tries`` tries in a row bring no new data."""
    furthest, vain = _size(part), 0
    while True:
        try:
            limits.before_request()
            _transfer(url, part, tag, report, limits)
        except _InterruptedError as error:
            vain = 1 if _size(part) > furthest else vain + 1
            furthest = max(furthest, _size(part))
            if vain >= tries:
                kind = NoAnswerError if isinstance(error, _SilenceError) else DownloadError
                raise kind(url, f"{error} (given up after {tries} tries)") from error
            time.sleep(min(pause_s * 2 ** (vain - 1), _LONGEST_PAUSE_S))
        else:
            return


def _transfer(
    url: str, part: Path, tag: Path, report: Callable[[int, int | None], None], limits: DownloadLimits
) -> None:
    """Transfer ``url``, or the rest of it, to ``part``, in one try.

    ``tag`` holds the server's name for the version of the file that ``part`` is the beginning of. Without it the
    transfer starts again, as the file may have changed.
    """
    known = tag.read_text() if tag.exists() else None
    start = _size(part) if known else 0
    headers = {"User-Agent": "detect-to-retrieve", "Accept-Encoding": "identity"}
    if known and start:
        headers |= {"Range": f"bytes={start}-", "If-Range": known}
    end = time.monotonic() + limits.max_seconds
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=limits.timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{start}":
                return  # everything had arrived
            if error.code == 416:
                part.unlink(missing_ok=True)
            answer = f"the server answers {error.code} {error.reason}"
            if error.code in _PASSING or error.code == 416:
                raise _InterruptedError(answer) from error
            raise DownloadError(url, answer) from error
    except (OSError, http.client.HTTPException) as error:
        raise _SilenceError(f"no answer ({getattr(error, 'reason', error)})") from error

    with response:
        resumed = response.status == 206
        version = _version(response.headers)
        if resumed and not (
            response.headers.get("Content-Range", "").startswith(f"bytes {start}-") and version in (None, known)
        ):
            part.unlink(missing_ok=True)
            raise _InterruptedError("the server sent something else than the rest of the file")
        done = start if resumed else 0
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdigit() else None
        with part.open("ab" if resumed else "wb") as file:
            if not resumed and version:
                tag.write_text(version)
            elif not resumed:
                tag.unlink(missing_ok=True)
            while max(done, total or 0) <= limits.max_bytes and (chunk := _read(response)):
                file.write(chunk)
                done += len(chunk)
                report(done, total)
                if time.monotonic() > end:
                    raise DownloadError(url, f"it takes longer than {limits.max_seconds:g} s")
    if max(done, total or 0) > limits.max_bytes:
        part.unlink()
        raise DownloadError(url, f"it is larger than {limits.max_bytes:,.0f} bytes")
    if total is not None and done != total:
        raise _InterruptedError(f"the transfer broke off after {done:,} of {total:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(_CHUNK)  # what has arrived: read() would wait for a full chunk
    except (OSError, http.client.HTTPException) as error:
        raise _InterruptedError(f"the transfer broke off ({error})") from error


def _version(headers: http.client.HTTPMessage) -> str | None:
    """Return the server's name for the exact version of a file; a weak ETag does not promise equal bytes."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")

"""Fetch the pictures of Google Landmark Boxes from the addresses in ``train.csv``.

They go to ``folder/jpg/``, named by their ids. Failures are listed in ``folder/failures.csv`` (``id,url,reason``) and
tried again only on request: many of the published addresses are dead. Downloads in progress are in
``folder/downloads/``; a picture moves to ``jpg/`` once it has been decoded.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from d2r.datasets.landmark_boxes import LandmarkPicture, picture_path
from d2r.datasets.landmark_csv import read_rows, write_rows
from d2r.images import ImageError, read_image
from d2r.support.download import DownloadError, DownloadLimits, NoAnswerError, fetch
from d2r.support.files import check_no_index, display_path, move_new, own_folder, remove_own_folder

PICTURES_FOLDER: Final = "jpg"
FAILURES: Final = "failures.csv"

_DOWNLOADS: Final = "downloads"
_COLUMNS: Final = ("id", "url", "reason")
_MAX_BYTES: Final = 200e6
_MAX_SECONDS: Final = 300.0
_MAX_LOST: Final = 25
"""After this many missing answers in a row, from servers that answered before, the network counts as down."""

_WRITE_S: Final = 5.0


@dataclass(frozen=True)
class Fetched:
    """The outcome of a call.

    Attributes:
        there: pictures that existed before.
        fetched: pictures that were fetched.
        failed: id to reason of pictures that could not be fetched in this call.
        passed_over: pictures that failed in an earlier call and were not tried again.
        without_url: pictures without a known address.
    """

    there: int
    fetched: int
    failed: dict[str, str]
    passed_over: int
    without_url: int


def get_pictures(
    pictures: Iterable[LandmarkPicture],
    folder: Path,
    *,
    rate: float = 10.0,
    retry_failed: bool = False,
    connections: int = 8,
    tries: int = 3,
    pause_s: float = 1.0,
    timeout_s: float = 30.0,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Fetched:
    """Fetch the missing pictures; the next call continues one that was stopped.

    Args:
        pictures: the pictures to fetch.
        folder: see the module.
        rate: maximum requests per second, above 0.
        retry_failed: try failures of earlier calls again.
        connections: maximum number of simultaneous transfers.
        tries: see :func:`d2r.support.download.fetch`.
        pause_s: see there.
        timeout_s: longest silence of a server, in seconds.
        progress: called with ("fetch", pictures done, pictures in all).

    Raises:
        DownloadError: another process is fetching into the folder, or no server answers any longer.
        LandmarkBoxesError: ``failures.csv`` is damaged.
        d2r.support.files.OutputError: the folder has a ``downloads`` that d2r did not make, or is in an index.
        OSError: the folder cannot be written.
    """
    check_no_index(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".pictures.lock", timeout=0):
            return _Round(folder, rate, connections, tries, pause_s, timeout_s).run(pictures, retry_failed, progress)
    except Timeout as error:
        raise DownloadError(display_path(folder), "another process is fetching into it") from error


def read_failures(path: Path) -> dict[str, tuple[str, str]]:
    """Return the failures in ``failures.csv``: id to address and reason; empty if the file is missing.

    Raises:
        LandmarkBoxesError: the file cannot be read or is damaged.
    """
    if not path.exists():
        return {}
    return {picture: (url, reason) for _, (picture, url, reason) in read_rows(path, _COLUMNS)}


class _StoppedError(Exception):
    """The call ends; transfers that wait for their turn are dropped."""


class _Pace:
    """Lets requests through at a limited rate, until it is stopped."""

    def __init__(self, rate: float) -> None:
        if not rate > 0:
            raise ValueError(f"the rate must be above 0 requests per second, not {rate:g}")
        self._interval = 1.0 / rate
        self._next = 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def wait(self) -> None:
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._interval
        if self._stopped.wait(turn - time.monotonic()):
            raise _StoppedError

    def stop(self) -> None:
        self._stopped.set()


class _Failures:
    """``failures.csv``, kept in memory and written now and then: a failure not yet written is merely tried again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = read_failures(path)
        self._written = time.monotonic()

    def __contains__(self, picture: str) -> bool:
        return picture in self._rows

    def add(self, picture: LandmarkPicture, reason: str) -> None:
        self._rows[picture.id] = (picture.url or "", reason)
        if time.monotonic() - self._written > _WRITE_S:
            self.write()

    def remove(self, picture: str) -> None:
        self._rows.pop(picture, None)

    def write(self) -> None:
        write_rows(self._path, _COLUMNS, ((picture, *row) for picture, row in self._rows.items()))
        self._written = time.monotonic()


class _Round:
    """One call of :func:`get_pictures`."""

    def __init__(
        self, folder: Path, rate: float, connections: int, tries: int, pause_s: float, timeout_s: float
    ) -> None:
        self._folder = folder
        self._connections = connections
        self._tries, self._pause_s = tries, pause_s
        self._pace = _Pace(rate)
        self._limits = DownloadLimits(self._pace.wait, _MAX_BYTES, _MAX_SECONDS, timeout_s)
        self._failures = _Failures(folder / FAILURES)
        self._answered: set[str] = set()
        self._lost: list[str] = []
        self._failed: dict[str, str] = {}

    def run(
        self, pictures: Iterable[LandmarkPicture], retry_failed: bool, progress: Callable[[str, int, int], None]
    ) -> Fetched:
        wanted: list[LandmarkPicture] = []
        there = passed_over = without_url = 0
        for picture in pictures:
            if picture_path(self._folder / PICTURES_FOLDER, picture.id).is_file():
                there += 1
                self._failures.remove(picture.id)
            elif picture.url is None:
                without_url += 1
            elif picture.id in self._failures and not retry_failed:
                passed_over += 1
            else:
                wanted.append(picture)
        if wanted:
            own_folder(self._folder / _DOWNLOADS)
        try:
            self._fetch_all(wanted, progress)
        finally:
            self._failures.write()
        remove_own_folder(self._folder / _DOWNLOADS, filled=False)  # otherwise it holds partial downloads, to resume
        return Fetched(there, len(wanted) - len(self._failed), self._failed, passed_over, without_url)

    def _fetch_all(self, wanted: list[LandmarkPicture], progress: Callable[[str, int, int], None]) -> None:
        good = [picture for picture in wanted if self._is_address(picture)]
        waiting, done = iter(good), len(wanted) - len(good)
        running: dict[Future[None], LandmarkPicture] = {}
        executor = ThreadPoolExecutor(self._connections)
        try:
            while True:
                for picture in islice(waiting, 2 * self._connections - len(running)):
                    running[executor.submit(self._bring, picture)] = picture
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    self._note(running.pop(future), future.exception())
                    done += 1
                    progress("fetch", done, len(wanted))
        finally:
            self._pace.stop()
            executor.shutdown(cancel_futures=True)

    def _is_address(self, picture: LandmarkPicture) -> bool:
        problem = _problem(picture.url or "")
        if problem is not None:
            self._fail(picture, problem)
        return problem is None

    def _bring(self, picture: LandmarkPicture) -> None:
        """Fetch one picture, decode it, and move it to its final name."""
        url = picture.url or ""
        target = picture_path(self._folder / PICTURES_FOLDER, picture.id)
        if os.path.lexists(target):  # not a file, or it would not be fetched
            raise DownloadError(url, f"a link or a folder is in its place: {display_path(target)}")
        arrived = picture_path(self._folder / _DOWNLOADS, picture.id)
        fetch([url], arrived, tries=self._tries, pause_s=self._pause_s, limits=self._limits)
        try:
            read_image(arrived)
        except ImageError as error:
            arrived.unlink()
            raise DownloadError(url, f"what arrived cannot be used: {error.reason}") from error
        target.parent.mkdir(parents=True, exist_ok=True)
        move_new(arrived, target)

    def _note(self, picture: LandmarkPicture, error: BaseException | None) -> None:
        """Record the outcome of a picture.

        Raises:
            DownloadError: servers that answered before, or all servers, no longer answer. Their pictures are not
                recorded as failures, as the cause is the network.
        """
        if error is not None and not isinstance(error, DownloadError):
            raise error
        host = urlsplit(picture.url or "").netloc
        if not isinstance(error, NoAnswerError):
            self._answered.add(host)
            self._lost.clear()
        elif host in self._answered or not self._answered:
            self._lost.append(picture.id)
        if error is None:
            self._failures.remove(picture.id)
        elif len(self._lost) < _MAX_LOST:
            self._fail(picture, error.reason)
        else:
            for lost in self._lost:
                self._failures.remove(lost)
            raise DownloadError(
                display_path(self._folder),
                f"no server answers any longer; last error: {error.reason}. When the network is back, run the same"
                " command again: it continues where it stopped",
            )

    def _fail(self, picture: LandmarkPicture, reason: str) -> None:
        self._failed[picture.id] = reason
        self._failures.add(picture, reason)


def _problem(url: str) -> str | None:
    """Return why an address cannot be requested, or None."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        return "not a web address (http://... or https://...)"
    return None

"""Jobs that add and remove pictures while the service runs, and survive a restart.

A job is acknowledged once its picture is on disk and the job is in the journal beside it. A thread works through the
journal in order; jobs that were not done when the process ended are done after the next start.
"""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

from d2r.engine import Engine
from d2r.index import BusyError, PictureRow, StoreError
from d2r.indexing.workers import LocalWorkers
from d2r.serve.journal import Job, Journal
from d2r.serve.logs import access_log, quoted, service_log
from d2r.serve.settings import ServeError
from d2r.serve.uploads import Uploads, uploaded_file
from d2r.serve.work import prepare_decoding

_MAX_BATCH = 32  # pictures per commit: few enough that the service can stop soon
_WAIT_S = 0.5  # between checks whether another process is still changing the index
_MAX_WAIT_S = 30.0  # between retries after an error such as a full disk


class Jobs:
    """The changes that clients requested, and the thread that makes them.

    Args:
        engine: engine of the index.
        folder: folder for added pictures; see :class:`~d2r.serve.uploads.Uploads`.
        workers: number of processes that describe pictures.
        max_pixels: pictures of more pixels are refused.

    Raises:
        ServeError: the folder holds other files, another service uses it, or it cannot be written.
    """

    def __init__(self, engine: Engine, folder: Path, *, workers: int, max_pixels: int) -> None:
        self._engine = engine
        self._workers = workers
        self._max_pixels = max_pixels
        self._uploads = Uploads(folder, index=engine.index.folder, adopt=Journal.is_in(folder))
        try:
            self.journal = Journal(self._uploads.folder, write=True)
            self._recover()
        except BaseException as error:
            self._uploads.close()
            if isinstance(error, OSError | sqlite3.Error):
                raise ServeError(f"{folder}: cannot keep uploads there ({error})") from error
            raise
        self._files = threading.Lock()  # guards the link between a file and the job that needs it
        self._wake = threading.Condition()
        self._news = 0
        self._stopping = False
        self._running: dict[str, tuple[int, int]] = {}  # job id to pictures done and total, of the jobs in progress
        self._waits: str | None = None  # what the jobs wait for, while none can be done
        self._alone = 0  # this many of the next jobs are done one by one, to find the one that fails
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, wait_s: float) -> None:
        """Stop after the jobs in progress, waiting at most ``wait_s`` seconds; the others stay in the journal."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(wait_s)
        if not self._thread.is_alive():
            self.journal.close()
            self._uploads.close()

    def add(self, data: bytes, ending: str, name: str) -> Job:
        """Keep a picture and queue the job that adds it; both are on disk when this returns.

        Files are named by their content: the same picture, added again, stays one picture of the index.

        Raises:
            FileExistsError: another file has the name of this picture; it is left unchanged.
            OSError: the disk is full.
        """
        with self._files:
            file, new = self._uploads.keep(data, ending)
            try:
                job = self.journal.put("add", file=file, name=name)
            except BaseException:
                if new:
                    self._uploads.discard(file)
                raise
        self._tell()
        return job

    def remove(self, picture: PictureRow, name: str) -> Job:
        """Queue the job that removes a picture from the index; the file of an uploaded picture is deleted too."""
        file = uploaded_file(self._uploads.folder, picture.path)
        job = self.journal.put("remove", file=file, name=name, picture=picture.id, path=picture.path)
        self._tell()
        return job

    def get(self, id: str) -> Job | None:
        """Return a job with its current state, or None if there is none with this id."""
        job = self.journal.get(id)
        return self._current(job) if job is not None else None

    def latest(self, limit: int) -> list[Job]:
        """Return the latest jobs, newest first."""
        return [self._current(job) for job in self.journal.latest(limit)]

    def counts(self) -> dict[str, int]:
        """Return the number of jobs in each state."""
        counts = {"queued": 0, "running": 0, "done": 0, "failed": 0} | self.journal.counts()
        counts["running"] = min(counts["queued"], len(self._running))
        counts["queued"] -= counts["running"]
        return counts

    def _current(self, job: Job) -> Job:
        running, waits = self._running.get(job.id), self._waits
        if job.state != "queued":
            return job
        if running is not None:
            return replace(job, state="running", done=running[0], total=running[1])
        return replace(job, problem=f"waiting: {waits}" if waits is not None else None)

    def _tell(self) -> None:
        with self._wake:
            self._news += 1
            self._wake.notify_all()

    def _recover(self) -> None:
        """If the journal was lost, queue the jobs again of pictures that were acknowledged but not added yet."""
        if self.journal.latest(1):
            return
        lost = [
            file
            for file in self._uploads.files()
            if self._engine.index.picture(str(self._uploads.folder / file)) is None and self._uploads.holds(file)
        ]
        if lost:
            service_log.warning(
                "the journal of jobs is missing; pictures that are kept but not in the index: %d", len(lost)
            )
            self.journal.put_again(lost)

    def _work(self) -> None:
        wait_s = _WAIT_S
        while not self._stopping:
            seen = self._news
            try:
                batch = self._next()
                if batch:
                    self._do(batch)
                self._waits, wait_s = None, _WAIT_S
            except (OSError, sqlite3.Error, StoreError, KeyboardInterrupt) as error:
                # The disk is full, another process is writing, or Ctrl-C ended the worker processes and will end this
                # one soon. Retry, because acknowledged jobs must be done.
                wait_s = _WAIT_S if isinstance(error, BusyError) else wait_s
                self._wait(_reason(error), wait_s)
                wait_s = min(2 * wait_s, _MAX_WAIT_S)
                continue
            if not batch:
                with self._wake:
                    self._wake.wait_for(lambda seen=seen: self._stopping or self._news != seen)  # type: ignore[misc]

    def _wait(self, why: str, seconds: float) -> None:
        if why != self._waits:
            service_log.warning("a change to the index waits: %s", why)
            self._waits = why
        with self._wake:
            self._wake.wait_for(lambda: self._stopping, seconds)

    def _do(self, batch: list[Job]) -> None:
        try:
            if batch[0].kind == "add":
                self._add(batch)
            else:
                self._remove(batch)
        except (OSError, sqlite3.Error, StoreError):
            raise
        except Exception:
            service_log.exception("a change to the index failed")
            if self._stopping:  # resources may be closed already: the jobs are done after the next start
                return
            if len(batch) > 1:
                self._alone = len(batch)
                return
            self._finish(batch[0], picture=batch[0].picture, problem="an internal error", failed=True)
        finally:
            self._running = {}

    def _next(self) -> list[Job]:
        """Return the jobs to do together: the first in the journal, as long as they are of one kind."""
        jobs = self.journal.queued(1 if self._alone else _MAX_BATCH)
        self._alone = max(0, self._alone - 1)
        other = next((row for row, job in enumerate(jobs) if job.kind != jobs[0].kind), len(jobs))
        return jobs[:other]

    def _begun(self, batch: list[Job], done: int, total: int) -> None:
        self._running = {job.id: (done, max(total, 1)) for job in batch}
        self._waits = None

    def _add(self, batch: list[Job]) -> None:
        def progress(stage: str, done: int, total: int) -> None:
            if stage == "index":
                self._begun(batch, done, total)

        paths = {job.file: self._uploads.folder / (job.file or "") for job in batch}
        prepare = partial(prepare_decoding, self._engine.index.folder)
        workers = LocalWorkers(min(self._workers, len(paths)), prepare)
        report = self._engine.add(paths.values(), workers=workers, max_pixels=self._max_pixels, progress=progress)
        skipped = dict(report.skipped)
        for job in batch:
            path = str(paths[job.file])
            row = self._engine.index.picture(path)
            problem = skipped.get(path) or (row.problem if row is not None else None)
            usable = row is not None and row.findable and path not in skipped
            self._finish(
                job, picture=row.id if row is not None and usable else None, problem=problem, failed=not usable
            )

    def _remove(self, batch: list[Job]) -> None:
        rows = {job.number: self._engine.index.picture_at(job.picture or 0) for job in batch}
        # An index that was rebuilt uses the same numbers for other pictures.
        present = {
            row.id: row for job in batch if (row := rows[job.number]) is not None and job.path in (None, row.path)
        }
        with self._engine.index.writing() as writer:
            self._begun(batch, 0, len(batch))
            if present:
                writer.remove(list(present.values()))
        # The commit is on disk now, so no searchable picture loses its file.
        for job in batch:
            if job.file is not None:
                self._discard(job.file)
            self._finish(job, picture=job.picture, problem=None, failed=False)

    def _discard(self, file: str) -> None:
        """Delete the file of a removed picture, unless the picture was added again or the file holds something else."""
        with self._files:
            wanted = self.journal.needs(file) or self._engine.index.picture(str(self._uploads.folder / file))
            if not wanted and not self._uploads.discard(file):
                service_log.warning(
                    "%s: not deleted, because its content is not the picture that was added under that name", file
                )

    def _finish(self, job: Job, *, picture: int | None, problem: str | None, failed: bool) -> None:
        self.journal.finish(job, picture=picture, problem=problem, failed=failed)
        state, why = ("failed", f" problem={quoted(problem or '')}") if failed else ("done", "")
        access_log.info("%s job=%s kind=%s picture=%s%s", state, job.id, job.kind, picture or "-", why)


def _reason(error: BaseException) -> str:
    if isinstance(error, BusyError):
        return "another process is changing the index"
    return str(error) or "the worker processes were interrupted"

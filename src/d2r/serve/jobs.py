"""Pictures that are added and removed while the service runs, as jobs that survive its end.

A job is acknowledged when its picture is on the disk and the job is in the journal, an SQLite database beside it. A
thread works through the journal in order; what it had not done when the process ended it does after the next start.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from d2r.describers import LocalWorkers
from d2r.engine import Engine
from d2r.files import replacing
from d2r.index import PictureRow, StoreError
from d2r.serve.settings import ServeError
from d2r.serve.work import prepare_decoding

_JOURNAL = "jobs.sqlite"
_LOCK = ".service.lock"
_MOST_AT_ONCE = 32  # pictures of one commit: few enough that the service can end soon
_MOST_WAIT_S = 30.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, state TEXT NOT NULL,
    file TEXT, name TEXT, picture INTEGER, problem TEXT, created REAL NOT NULL, finished REAL
);
CREATE INDEX IF NOT EXISTS job_states ON jobs (state, number);
CREATE INDEX IF NOT EXISTS job_files ON jobs (file);
"""
_COLUMNS = "number, id, kind, state, file, name, picture, problem, created, finished"

log = logging.getLogger("d2r.serve")


@dataclass(frozen=True)
class Job:
    """One change to the index.

    Attributes:
        number: jobs are done in this order.
        id: random, so that nobody guesses it.
        kind: "add" or "remove".
        state: "queued", "running", "done" or "failed".
        file: name of the picture in the folder of uploads; None when it is not there.
        name: what the client called the picture.
        picture: its number in the index; None before it has one.
        problem: why it failed, or what it waits for.
        created: seconds since 1970.
        finished: seconds since 1970, or None.
        done: of the pictures that are worked on together with this one, how many are done.
        total: how many there are.
    """

    number: int
    id: str
    kind: str
    state: str
    file: str | None
    name: str | None
    picture: int | None
    problem: str | None
    created: float
    finished: float | None
    done: int = 0
    total: int = 0


class Journal:
    """The jobs on the disk; safe to use from several threads.

    Args:
        folder: of uploads.
        write: make it when there is none. Otherwise one that is missing is empty.
    """

    def __init__(self, folder: Path, *, write: bool) -> None:
        self._lock = threading.Lock()
        file = folder / _JOURNAL
        self._connection = sqlite3.connect(
            file if write or file.exists() else ":memory:", isolation_level=None, check_same_thread=False
        )
        if write or not file.exists():
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def put(self, kind: str, *, file: str | None = None, name: str | None = None, picture: int | None = None) -> Job:
        """Add a job; it is on the disk when this returns."""
        values = (uuid.uuid4().hex, kind, file, name, picture, time.time())
        self._run(
            "INSERT INTO jobs (id, kind, state, file, name, picture, created) VALUES (?, ?, 'queued', ?, ?, ?, ?)",
            values,
        )
        job = self.get(values[0])
        assert job is not None
        return job

    def finish(self, job: Job, *, picture: int | None, problem: str | None, failed: bool) -> None:
        """Record how a job ended."""
        state = "failed" if failed else "done"
        self._run(
            "UPDATE jobs SET state = ?, picture = ?, problem = ?, finished = ? WHERE number = ?",
            (state, picture, problem, time.time(), job.number),
        )

    def get(self, id: str) -> Job | None:
        """Return a job."""
        rows = self._run(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (id,))
        return Job(*rows[0]) if rows else None

    def latest(self, most: int) -> list[Job]:
        """Return the latest jobs, the newest first."""
        return [Job(*row) for row in self._run(f"SELECT {_COLUMNS} FROM jobs ORDER BY number DESC LIMIT ?", (most,))]

    def queued(self, most: int) -> list[Job]:
        """Return the first jobs that are not done, in order."""
        sql = f"SELECT {_COLUMNS} FROM jobs WHERE state = 'queued' ORDER BY number LIMIT ?"
        return [Job(*row) for row in self._run(sql, (most,))]

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are of each state."""
        return dict(self._run("SELECT state, count(*) FROM jobs GROUP BY state"))

    def name_of(self, file: str) -> str | None:
        """Return what the client called an uploaded picture."""
        rows = self._run("SELECT name FROM jobs WHERE file = ? AND kind = 'add' ORDER BY number DESC LIMIT 1", (file,))
        return rows[0][0] if rows else None

    def needs(self, file: str) -> bool:
        """Say whether a job that is not done yet needs a file."""
        return bool(self._run("SELECT 1 FROM jobs WHERE file = ? AND kind = 'add' AND state = 'queued'", (file,)))

    def knows(self, file: str) -> bool:
        """Say whether any job is about a file."""
        return bool(self._run("SELECT 1 FROM jobs WHERE file = ? LIMIT 1", (file,)))

    def _run(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        with self._lock:
            return self._connection.execute(sql, parameters).fetchall()


class Jobs:
    """The changes that clients asked for, and the thread that makes them.

    Args:
        engine: of the index.
        folder: for the pictures that are added; of this service alone, made when it is new.
        workers: processes that describe pictures.
        max_pixels: larger pictures are refused.

    Raises:
        ServeError: another service uses the folder, or it cannot be written.
    """

    def __init__(self, engine: Engine, folder: Path, *, workers: int, max_pixels: int) -> None:
        self._engine = engine
        self._folder = Path(os.path.abspath(folder))
        self._workers = workers
        self._max_pixels = max_pixels
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._mine = FileLock(self._folder / _LOCK)
            self._mine.acquire(timeout=0)
            self.journal = Journal(self._folder, write=True)
        except Timeout as error:
            raise ServeError(f"{folder}: another d2r serve keeps its uploads there; give another --uploads") from error
        except (OSError, sqlite3.Error) as error:
            raise ServeError(f"{folder}: uploads cannot be kept there ({error})") from error
        self._sweep()
        self._files = threading.Lock()  # between a file and the job that needs it
        self._wake = threading.Condition()
        self._news = 0
        self._stopping = False
        self._running: dict[str, tuple[int, int, str | None]] = {}
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, wait_s: float) -> None:
        """Stop after what is under way, which is waited for so long; what is not done is done after the next start."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(wait_s)
        if not self._thread.is_alive():
            self.journal.close()
            self._mine.release()

    def add(self, data: bytes, ending: str, name: str) -> Job:
        """Keep a picture and take the job of adding it; both are on the disk when this returns.

        Files are named by their content: the same picture again is the same picture of the index.

        Raises:
            OSError: the disk is full.
        """
        file = hashlib.blake2b(data, digest_size=16).hexdigest() + ending
        with self._files:
            path = self._folder / file
            if not path.exists():
                with replacing(path) as part:
                    part.write_bytes(data)
            job = self.journal.put("add", file=file, name=name)
        self._tell()
        return job

    def remove(self, picture: PictureRow, name: str) -> Job:
        """Take the job of removing a picture from the index; one that was uploaded is deleted too."""
        job = self.journal.put("remove", file=uploaded_file(self._folder, picture.path), name=name, picture=picture.id)
        self._tell()
        return job

    def get(self, id: str) -> Job | None:
        """Return a job as it stands."""
        job = self.journal.get(id)
        return self._seen(job) if job is not None else None

    def latest(self, most: int) -> list[Job]:
        """Return the latest jobs, the newest first."""
        return [self._seen(job) for job in self.journal.latest(most)]

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are of each state."""
        counts = {"queued": 0, "running": 0, "done": 0, "failed": 0} | self.journal.counts()
        counts["running"] = min(counts["queued"], len(self._running))
        counts["queued"] -= counts["running"]
        return counts

    def _seen(self, job: Job) -> Job:
        running = self._running.get(job.id)
        if job.state != "queued" or running is None:
            return job
        done, total, problem = running
        return Job(**{**vars(job), "state": "running", "done": done, "total": total, "problem": problem})

    def _tell(self) -> None:
        with self._wake:
            self._news += 1
            self._wake.notify_all()

    def _sweep(self) -> None:
        """Delete what a process left that died before it acknowledged it."""
        for path in self._folder.iterdir():
            kept = path.name in (_LOCK, *(_JOURNAL + more for more in ("", "-wal", "-shm")))
            ours = path.name.endswith(".part") or len(path.stem) == 32
            if ours and not kept and not self.journal.knows(path.name):
                path.unlink(missing_ok=True)

    def _work(self) -> None:
        wait_s = 0.5
        while not self._stopping:
            seen = self._news
            batch = self._next()
            if not batch:
                with self._wake:
                    self._wake.wait_for(lambda seen=seen: self._stopping or self._news != seen)  # type: ignore[misc]
                continue
            try:
                with self._progress(batch) as progress:
                    if batch[0].kind == "add":
                        self._add(batch, progress)
                    else:
                        self._remove(batch)
                wait_s = 0.5
            except (OSError, sqlite3.Error, StoreError) as error:
                # The disk is full, or another process is writing: that passes, and what was acknowledged must be done.
                log.warning("a change to the index waits: %s", error)
                self._running = {job.id: (0, len(batch), f"it waits: {error}") for job in batch}
                with self._wake:
                    self._wake.wait_for(lambda: self._stopping, wait_s)
                wait_s = min(2 * wait_s, _MOST_WAIT_S)
            except Exception:
                log.exception("a change to the index failed")
                for job in batch:
                    self.journal.finish(job, picture=job.picture, problem="an error of this program", failed=True)

    def _next(self) -> list[Job]:
        """Return the jobs to do together: the first in order, as far as they are of one kind."""
        jobs = self.journal.queued(_MOST_AT_ONCE)
        other = next((row for row, job in enumerate(jobs) if job.kind != jobs[0].kind), len(jobs))
        return jobs[:other]

    @contextmanager
    def _progress(self, batch: list[Job]) -> Iterator[Any]:
        def update(stage: str, done: int, total: int) -> None:
            if stage == "index":
                self._running = {job.id: (done, max(total, 1), None) for job in batch}

        update("index", 0, len(batch))
        yield update
        self._running = {}

    def _add(self, batch: list[Job], progress: Any) -> None:
        paths = {job.file: self._folder / (job.file or "") for job in batch}
        prepare = partial(prepare_decoding, self._engine.index.folder)
        workers = LocalWorkers(min(self._workers, len(paths)), prepare)
        self._engine.add(paths.values(), workers=workers, max_pixels=self._max_pixels, progress=progress)
        for job in batch:
            path = paths[job.file]
            row = self._engine.index.picture(str(path))
            usable = row is not None and row.segment is not None
            self.journal.finish(
                job,
                picture=row.id if row is not None and usable else None,
                problem=row.problem if row is not None else "its file is gone",
                failed=not usable,
            )

    def _remove(self, batch: list[Job]) -> None:
        rows = {job.picture: self._engine.index.picture_at(job.picture or 0) for job in batch}
        present = [row for row in rows.values() if row is not None]
        if present:
            with self._engine.index.writing() as writer:
                writer.remove(present)
        for job in batch:
            if job.file is not None:
                with self._files:
                    # The same picture may have been added again meanwhile.
                    if not self.journal.needs(job.file):
                        (self._folder / job.file).unlink(missing_ok=True)
            self.journal.finish(job, picture=job.picture, problem=None, failed=False)


def uploaded_file(folder: Path, path: str) -> str | None:
    """Return the name of a picture in the folder of uploads, or None when it is elsewhere."""
    parent, file = os.path.split(path)
    return file if parent == os.path.abspath(folder) else None

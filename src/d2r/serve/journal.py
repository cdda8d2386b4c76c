"""The journal of a service: the jobs that clients requested, in an SQLite database on disk."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from d2r.serve.settings import ServeError
from d2r.serve.uploads import JOURNAL

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, state TEXT NOT NULL,
    file TEXT, name TEXT, picture INTEGER, problem TEXT, created REAL NOT NULL, finished REAL
);
CREATE INDEX IF NOT EXISTS job_states ON jobs (state, number);
CREATE INDEX IF NOT EXISTS job_files ON jobs (file);
"""
_COLUMNS = "number, id, kind, state, file, name, picture, problem, created, finished, path"
_PUT = "INSERT INTO jobs (id, kind, state, file, name, picture, path, created) VALUES (?, ?, 'queued', ?, ?, ?, ?, ?)"
_UNUSABLE = (
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
)  # the file is not a journal, or damaged
_OPTIONS: Any = {"isolation_level": None, "check_same_thread": False}


@dataclass(frozen=True)
class Job:
    """One change to the index.

    Attributes:
        number: jobs are done in the order of their numbers.
        id: random, so that it cannot be guessed.
        kind: "add" or "remove".
        state: "queued", "running", "done" or "failed".
        file: name of the picture in the folder of uploads; None if it is not there.
        name: name that the client gave the picture.
        picture: number of the picture in the index; None before it has one.
        problem: why the job failed, or what it waits for.
        created: seconds since 1970.
        finished: seconds since 1970, or None.
        path: path of the picture to remove; None for a picture to add, and for a job of a version that kept no paths.
        done: number of pictures done in the batch of this job.
        total: number of pictures in the batch.
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
    path: str | None
    done: int = 0
    total: int = 0


class Journal:
    """The jobs on disk; safe to use from several threads.

    Args:
        folder: folder of uploads.
        write: create the journal if there is none. Without it, a journal that is missing or unreadable counts as empty.

    Raises:
        ServeError: the file is damaged, or belongs to another program.
    """

    def __init__(self, folder: Path, *, write: bool) -> None:
        self._lock = threading.Lock()
        file = folder / JOURNAL
        if not write:
            self._connection = _read(file) if Journal.is_in(folder) else sqlite3.connect(":memory:", **_OPTIONS)
            if not self._columns():
                self._connection.executescript(_SCHEMA)
            return
        log_file = file.with_name(f"{file.name}-wal")
        if log_file.exists() and not file.exists():
            # SQLite deletes the write-ahead log of a missing database; with the database back, the log may hold jobs.
            log_file.rename(file.with_name(f"{log_file.name}.{uuid.uuid4().hex}.kept"))
        self._connection = sqlite3.connect(file, **_OPTIONS)
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(_SCHEMA)
            if "path" not in self._columns():
                self._connection.execute("ALTER TABLE jobs ADD COLUMN path BLOB")
            self.latest(1)
        except sqlite3.DatabaseError as error:
            self.close()
            if error.sqlite_errorcode & 0xFF not in _UNUSABLE:
                raise  # for example, the disk is full
            raise ServeError(
                f"{file}: not a journal of jobs, or damaged ({error}); move it away (added pictures are kept)"
            ) from error

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Return whether a folder has a readable journal."""
        try:
            with closing(_read(folder / JOURNAL)) as connection:
                connection.execute("SELECT id, kind, state, file, name, picture, problem FROM jobs LIMIT 0")
                return True
        except sqlite3.Error:
            return False

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def put(
        self,
        kind: str,
        *,
        file: str | None = None,
        name: str | None = None,
        picture: int | None = None,
        path: str | None = None,
    ) -> Job:
        """Add a job; it is on disk when this returns."""
        id = uuid.uuid4().hex
        self._run(_PUT, (id, kind, file, name, picture, os.fsencode(path) if path is not None else None, time.time()))
        job = self.get(id)
        assert job is not None
        return job

    def put_again(self, files: Iterable[str]) -> None:
        """Add jobs for pictures of which only the files are left: all of them or, after an error, none."""
        rows = [(uuid.uuid4().hex, "add", file, None, None, None, time.time()) for file in files]
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(_PUT, rows)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def finish(self, job: Job, *, picture: int | None, problem: str | None, failed: bool) -> None:
        """Record how a job ended."""
        state = "failed" if failed else "done"
        self._run(
            "UPDATE jobs SET state = ?, picture = ?, problem = ?, finished = ? WHERE number = ?",
            (state, picture, problem, time.time(), job.number),
        )

    def get(self, id: str) -> Job | None:
        """Return a job, or None if there is none with this id."""
        rows = self._run(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (id,))
        return _job(rows[0]) if rows else None

    def latest(self, limit: int) -> list[Job]:
        """Return the latest jobs, newest first."""
        return [_job(row) for row in self._run(f"SELECT {_COLUMNS} FROM jobs ORDER BY number DESC LIMIT ?", (limit,))]

    def queued(self, limit: int) -> list[Job]:
        """Return the first queued jobs, in order."""
        sql = f"SELECT {_COLUMNS} FROM jobs WHERE state = 'queued' ORDER BY number LIMIT ?"
        return [_job(row) for row in self._run(sql, (limit,))]

    def counts(self) -> dict[str, int]:
        """Return the number of jobs in each state."""
        return dict(self._run("SELECT state, count(*) FROM jobs GROUP BY state"))

    def name_of(self, file: str) -> str | None:
        """Return the name that the client gave an uploaded picture, or None."""
        rows = self._run("SELECT name FROM jobs WHERE file = ? AND kind = 'add' ORDER BY number DESC LIMIT 1", (file,))
        return rows[0][0] if rows else None

    def needs(self, file: str) -> bool:
        """Return whether a queued job needs a file."""
        return bool(self._run("SELECT 1 FROM jobs WHERE file = ? AND kind = 'add' AND state = 'queued'", (file,)))

    def _columns(self) -> set[str]:
        return {row[1] for row in self._run("PRAGMA table_info(jobs)")}

    def _run(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        with self._lock:
            return self._connection.execute(sql, parameters).fetchall()


def _read(file: Path) -> sqlite3.Connection:
    connection: sqlite3.Connection = sqlite3.connect(
        f"file:{quote(os.fsencode(file.absolute()))}?mode=ro", uri=True, **_OPTIONS
    )
    return connection


def _job(row: tuple[Any, ...]) -> Job:
    values: tuple[Any, ...] = (*row[:-1], os.fsdecode(row[-1]) if row[-1] is not None else None)
    return Job(*values)

"""The catalogue of an index, in SQLite: its settings, its pictures, and which segments are live.

A commit here is what makes a change visible: segment files are written and synced first, then one transaction names
them. Readers (WAL mode) are never blocked and see one consistent state.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from d2r.files import sync

FORMAT = 1
"""Version of the layout on disk; it changes whenever an index written by one build cannot be read by another."""

_APPLICATION_ID = 0x44325249  # "D2RI"
_FILE = "catalogue.sqlite"

_SCHEMA = """
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE segments (
    id INTEGER PRIMARY KEY AUTOINCREMENT, slots INTEGER NOT NULL, postings INTEGER NOT NULL,
    search_bytes INTEGER NOT NULL, verify_bytes INTEGER NOT NULL
);
CREATE TABLE pictures (
    id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, digest BLOB,
    width INTEGER, height INTEGER, segment INTEGER, slot INTEGER, words INTEGER, problem TEXT
);
CREATE INDEX picture_places ON pictures (segment, slot);
CREATE TABLE dead (segment INTEGER NOT NULL, slot INTEGER NOT NULL, PRIMARY KEY (segment, slot)) WITHOUT ROWID;
"""


class StoreError(Exception):
    """An index that cannot be opened or changed; the message names it and says what to do."""


@dataclass(frozen=True)
class PictureRow:
    """One picture of the collection, as the catalogue knows it.

    Attributes:
        id: stays the same as long as the path is in the index.
        path: absolute, as the file system spells it (``os.fsencode`` for the exact bytes).
        size: of the file, in bytes, when it was described.
        mtime_ns: its modification time then.
        digest: BLAKE2b of its content; None when it could not be read.
        width: in pixels, upright; None when it was skipped.
        height: in pixels, upright; None when it was skipped.
        segment: where its descriptor is; None when it was skipped.
        slot: its place in the segment.
        words: visual words in its descriptor; 0 when it has no features.
        problem: why it was skipped, or that it has no features; None when all is well.
    """

    id: int
    path: str
    size: int
    mtime_ns: int
    digest: bytes | None
    width: int | None
    height: int | None
    segment: int | None
    slot: int | None
    words: int | None
    problem: str | None


@dataclass(frozen=True)
class SegmentRow:
    """One live segment: its pictures (dead ones too), its postings, and its bytes on disk by purpose."""

    id: int
    slots: int
    postings: int
    search_bytes: int
    verify_bytes: int


@dataclass(frozen=True)
class Layout:
    """Which segments are live, and which of their slots are dead, at one moment."""

    segments: tuple[SegmentRow, ...]
    dead: Mapping[int, NDArray[np.int64]]


class Catalogue:
    """One connection to the catalogue of the index in ``folder``; safe to use from several threads.

    Raises:
        StoreError: there is no index, it is of another format, or its catalogue is damaged.
    """

    def __init__(self, folder: Path, *, write: bool = False) -> None:
        self.folder = folder
        file = folder / _FILE
        if not file.is_file():
            raise StoreError(f"{folder}: not an index; make one with `d2r index PHOTOS --out {folder}`")
        self._lock = threading.RLock()
        self._connection = _connect(file, write=write)
        try:
            self._check_format()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def exists(folder: Path) -> bool:
        """Say whether there is an index in a folder."""
        return (folder / _FILE).is_file()

    @staticmethod
    def create(folder: Path, settings: Mapping[str, Any]) -> None:
        """Make an empty index in a folder that is empty or does not exist.

        Raises:
            StoreError: the folder holds something else, or cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(not file.name.startswith(".") for file in folder.iterdir()):
                raise StoreError(f"{folder}: it exists and is not an index; choose an empty or a new folder")
        except OSError as error:
            raise StoreError(f"{folder}: an index cannot be made there ({error.strerror or error})") from error
        part = folder / ".catalogue.part"
        part.unlink(missing_ok=True)
        connection = sqlite3.connect(part, isolation_level=None)
        try:
            connection.executescript(_SCHEMA)
            connection.executemany("INSERT INTO settings VALUES (?, ?)", _encoded(settings))
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
        sync(part)
        part.replace(folder / _FILE)
        sync(folder)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _check_format(self) -> None:
        try:
            application = self._value("PRAGMA application_id")
            version = self._value("PRAGMA user_version")
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{self.folder}: its catalogue is damaged ({error}); restore it or index again") from error
        if application != _APPLICATION_ID:
            raise StoreError(f"{self.folder}: not an index; {_FILE} belongs to another program")
        if version != FORMAT:
            age = "a newer" if version > FORMAT else "an older"
            todo = "upgrade d2r to read it" if version > FORMAT else "index the photos again into a new folder"
            raise StoreError(f"{self.folder}: written by {age} d2r (format {version}, this one is {FORMAT}); {todo}")

    def _value(self, sql: str) -> Any:
        with self._lock:
            return self._connection.execute(sql).fetchone()[0]

    def _all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            return self._connection.execute(sql, parameters).fetchall()

    def version(self) -> int:
        """Return a number that changes when another connection has committed."""
        return int(self._value("PRAGMA data_version"))

    def settings(self) -> dict[str, Any]:
        """Return the settings of the index."""
        return {key: json.loads(value) for key, value in self._all("SELECT key, value FROM settings")}

    def layout(self) -> Layout:
        """Return the live segments and their dead slots, of one moment."""
        with self.transaction(write=False):
            segments = self._all("SELECT id, slots, postings, search_bytes, verify_bytes FROM segments ORDER BY id")
            rows = self._all("SELECT segment, slot FROM dead ORDER BY segment, slot")
        dead: dict[int, list[int]] = {}
        for segment, slot in rows:
            dead.setdefault(segment, []).append(slot)
        arrays = {segment: np.array(slots, np.int64) for segment, slots in dead.items()}
        return Layout(tuple(SegmentRow(*segment) for segment in segments), arrays)

    def pictures(self) -> list[PictureRow]:
        """Return every picture, by path; skipped ones too."""
        return [_picture(row) for row in self._all(f"SELECT {_COLUMNS} FROM pictures ORDER BY path")]

    def at_path(self, path: str) -> PictureRow | None:
        """Return the picture of a path."""
        rows = self._all(f"SELECT {_COLUMNS} FROM pictures WHERE path = ?", [os.fsencode(path)])
        return _picture(rows[0]) if rows else None

    def at_place(self, segment: int, slot: int) -> PictureRow | None:
        """Return the live picture of a slot; None when it was removed meanwhile."""
        rows = self._all(f"SELECT {_COLUMNS} FROM pictures WHERE segment = ? AND slot = ?", [segment, slot])
        return _picture(rows[0]) if rows else None

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[None]:
        """Run a block as one transaction: all of it becomes visible at its end, or none after an error."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def next_segment(self) -> int:
        """Return a segment number that was never used; a transaction later, use it or lose it."""
        rows = self._all("SELECT seq FROM sqlite_sequence WHERE name = 'segments'")
        return (rows[0][0] if rows else 0) + 1

    def put_segment(self, segment: SegmentRow) -> None:
        """Make a segment live."""
        values = (segment.id, segment.slots, segment.postings, segment.search_bytes, segment.verify_bytes)
        with self._lock:
            self._connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?)", values)

    def put_picture(self, picture: PictureRow) -> None:
        """Add a picture, or replace the one of the same path; its number stays, its old descriptor dies."""
        path = os.fsencode(picture.path)
        old = self.at_path(picture.path)
        values = (
            picture.size, picture.mtime_ns, picture.digest, picture.width, picture.height,
            picture.segment, picture.slot, picture.words, picture.problem,
        )  # fmt: skip
        with self._lock:
            if old is None:
                self._connection.execute(
                    "INSERT INTO pictures (size, mtime_ns, digest, width, height, segment, slot, words, problem, path)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (*values, path),
                )
                return
            if (old.segment, old.slot) != (picture.segment, picture.slot):
                self._bury(old)
            self._connection.execute(
                "UPDATE pictures SET size = ?, mtime_ns = ?, digest = ?, width = ?, height = ?,"
                " segment = ?, slot = ?, words = ?, problem = ? WHERE path = ?",
                (*values, path),
            )

    def drop_pictures(self, pictures: Iterable[PictureRow]) -> None:
        """Remove pictures; their descriptors are dead from then on."""
        with self._lock:
            for picture in pictures:
                self._bury(picture)
                self._connection.execute("DELETE FROM pictures WHERE id = ?", [picture.id])

    def drop_dead_segments(self) -> None:
        """Remove the segments of which every slot is dead."""
        with self._lock:
            self._connection.execute(
                "DELETE FROM segments WHERE slots = (SELECT count(*) FROM dead WHERE dead.segment = segments.id)"
            )
            self._connection.execute("DELETE FROM dead WHERE segment NOT IN (SELECT id FROM segments)")

    def _bury(self, picture: PictureRow) -> None:
        if picture.segment is not None:
            self._connection.execute("INSERT OR IGNORE INTO dead VALUES (?, ?)", [picture.segment, picture.slot])


_COLUMNS = "id, path, size, mtime_ns, digest, width, height, segment, slot, words, problem"


def _picture(row: Sequence[Any]) -> PictureRow:
    return PictureRow(row[0], os.fsdecode(row[1]), *row[2:])


def _encoded(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, json.dumps(value)) for key, value in settings.items()]


def _connect(file: Path, *, write: bool) -> sqlite3.Connection:
    address = "file:" + quote(os.fsencode(file.absolute()))
    # WAL needs to write beside the database even to read it; on a read-only medium nothing changes anyway.
    reading = "ro" if os.access(file.parent, os.W_OK) else "ro&immutable=1"
    uri = f"{address}?mode={'rw' if write else reading}"
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=30.0)
        if write:
            connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error as error:
        raise StoreError(f"{file.parent}: its catalogue cannot be opened ({error})") from error
    return connection

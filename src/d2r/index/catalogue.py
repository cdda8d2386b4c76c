"""The catalogue of an index, in SQLite: its settings, its pictures, and which segments are live.

A commit here makes a change visible: segment files are written and synced first, then one transaction names them.
Readers (WAL mode) are never blocked and see one consistent state. Each row has a checksum, because SQLite keeps none.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from d2r.index.catalogue_check import catalogue_problems
from d2r.index.errors import StoreError
from d2r.index.rows import (
    PICTURE_COLUMNS,
    SEGMENT_COLUMNS,
    Layout,
    PictureRow,
    SegmentRow,
    by_segment,
    checksum,
    checksum_values,
    picture_from,
    segment_from,
    setting_values,
    values_of,
)
from d2r.index.schema import BEFORE, PUT_SETTING, check_format, connect, upgrade
from d2r.support.files import CATALOGUE

_Item = TypeVar("_Item")


class Catalogue:
    """One connection to the catalogue of the index in ``folder``; safe to use from several threads.

    Raises:
        StoreError: there is no index, it has another format, or its catalogue is damaged.
    """

    def __init__(self, folder: Path, *, write: bool = False) -> None:
        self.folder = folder
        file = folder / CATALOGUE
        if not file.is_file():
            raise StoreError(f"{folder}: not an index; make one with `d2r index PHOTOS --out {folder}`")
        self._lock = threading.RLock()
        self.connection = connect(file, write=write)
        self._tells_missing = False
        try:
            version = self._value("PRAGMA user_version")
            check_format(folder, self._value("PRAGMA application_id"), version)
            if write and version == BEFORE:
                with self.transaction():
                    upgrade(self.connection)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    @property
    def _since(self) -> str:
        """The column ``missing_since``, or NULL in the previous format; a writer may upgrade it at any time."""
        self._tells_missing = self._tells_missing or self._value("PRAGMA user_version") != BEFORE
        return "missing_since" if self._tells_missing else "NULL"

    @property
    def _columns(self) -> str:
        """The columns of :class:`PictureRow`."""
        return f"{PICTURE_COLUMNS}, {self._since}"

    def _value(self, sql: str) -> Any:
        return self._all(sql)[0][0]

    def _all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        try:
            with self._lock:
                return self.connection.execute(sql, parameters).fetchall()
        except sqlite3.ProgrammingError as error:
            raise StoreError(f"{self.folder}: the index was closed") from error
        except sqlite3.OperationalError:
            raise  # busy or full, for example: nothing is wrong with the file
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{self.folder}: its catalogue is damaged ({error}); restore it or index again") from error

    def _sound(self, table: str, columns: str) -> list[Any]:
        """Return the rows of a small table; raises :class:`StoreError` if a checksum is wrong."""
        rows = self._all(f"SELECT {columns}, crc FROM {table} ORDER BY 1")
        if any(checksum(row[:-1]) != row[-1] for row in rows):
            raise StoreError(f"{self.folder}: its catalogue is damaged ({table}); restore it or index again")
        return [row[:-1] for row in rows]

    def version(self) -> int:
        """Return a number that changes when another connection has committed."""
        return int(self._value("PRAGMA data_version"))

    def settings(self) -> dict[str, Any]:
        """Return the settings of the index."""
        return {key: json.loads(value) for key, value in self._sound("settings", "key, value")}

    def layout(self) -> Layout:
        """Return the live segments, and which of their slots are not searched, at one moment."""
        with self.transaction(write=False):
            segments = self._sound("segments", SEGMENT_COLUMNS)
            dead = self._all("SELECT segment, slot FROM dead ORDER BY segment, slot")
            missing = self._all(
                f"SELECT segment, slot FROM pictures WHERE {self._since} IS NOT NULL ORDER BY segment, slot"
            )
        return Layout(tuple(segment_from(segment) for segment in segments), by_segment(dead), by_segment(missing))

    def counts(self) -> tuple[int, int, int]:
        """Return how many pictures can be found, how many files were skipped, and how many pictures are missing."""
        with self.transaction(write=False):
            described, every = self._all("SELECT count(segment), count(*) FROM pictures")[0]
            missing = self._value(f"SELECT count(*) FROM pictures WHERE {self._since} IS NOT NULL")
        return described - missing, every - described, missing

    def pictures(self, under: str | None = None) -> Iterator[PictureRow]:
        """Yield pictures in order of path, including skipped ones: all, or those at or under the path ``under``.

        They are read a thousand at a time, so that a large catalogue is never all in memory. Changes committed
        meanwhile may or may not be seen.
        """
        last = b""
        first, end = b"", b"\xff"
        if under is not None:
            own = os.fsencode(under)
            yield from (picture for picture in [self.at_path(under)] if picture is not None)
            inside = os.path.join(own, b"")
            first, end = inside, inside[:-1] + bytes([inside[-1] + 1])
        last = first
        while True:
            rows = self._all(
                f"SELECT {self._columns} FROM pictures WHERE path > ? AND path < ? ORDER BY path LIMIT 1000",
                [last, end],
            )
            if not rows:
                return
            yield from (picture_from(row) for row in rows)
            last = rows[-1][1]

    def at_path(self, path: str) -> PictureRow | None:
        """Return the picture at a path."""
        rows = self._all(f"SELECT {self._columns} FROM pictures WHERE path = ?", [os.fsencode(path)])
        return picture_from(rows[0]) if rows else None

    def at_id(self, number: int) -> PictureRow | None:
        """Return the picture with a number."""
        rows = self._all(f"SELECT {self._columns} FROM pictures WHERE id = ?", [number])
        return picture_from(rows[0]) if rows else None

    def after(self, number: int, limit: int) -> list[PictureRow]:
        """Return the first ``limit`` searchable pictures with a higher number, in order of number."""
        sql = (
            f"SELECT {self._columns} FROM pictures WHERE id > ? AND segment IS NOT NULL AND {self._since} IS NULL"
            " ORDER BY id LIMIT ?"
        )
        return [picture_from(row) for row in self._all(sql, [number, limit])]

    def in_segment(self, segment: int) -> dict[int, PictureRow]:
        """Return the searchable pictures of a segment by slot; none if it was merged or removed meanwhile."""
        rows = self._all(f"SELECT {self._columns} FROM pictures WHERE segment = ? AND {self._since} IS NULL", [segment])
        return {row[9]: picture_from(row) for row in rows}

    def at_places(self, places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], PictureRow]:
        """Return the live pictures at (segment, slot) places, without those removed or moved meanwhile."""
        found = {}
        for chunk in _batched(places, 400):
            values = ", ".join(["(?, ?)"] * len(chunk))
            sql = (
                f"WITH places (a, b) AS (VALUES {values})"
                f" SELECT {self._columns} FROM places JOIN pictures ON segment = a AND slot = b"
            )
            for row in self._all(sql, [number for place in chunk for number in place]):
                found[row[8], row[9]] = picture_from(row)
        return found

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[None]:
        """Run a block as one transaction: all of it becomes visible at its end, or none after an error."""
        with self._lock:
            self.connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def shrink_log(self) -> None:
        """Move the write-ahead log into the database and free its space, if that is possible now."""
        with self._lock, suppress(sqlite3.OperationalError):  # readers are busy, or the disk is full
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def next_segment(self) -> int:
        """Return a segment number that was never used; it must be used in the next transaction."""
        rows = self._all("SELECT seq FROM sqlite_sequence WHERE name = 'segments' UNION SELECT max(id) FROM segments")
        return max((row[0] or 0 for row in rows), default=0) + 1

    def put_setting(self, key: str, value: Any) -> None:
        """Set a setting."""
        with self._lock:
            self.connection.execute(PUT_SETTING, setting_values(key, value))

    def put_segment(self, segment: SegmentRow) -> None:
        """Make a segment live."""
        values = (
            segment.id, segment.slots, segment.postings, segment.search_bytes, segment.verify_bytes,
            json.dumps(dict(segment.digests)),
        )  # fmt: skip
        with self._lock:
            self.connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?)", (*values, checksum(values)))

    def put_pictures(self, pictures: Sequence[PictureRow]) -> None:
        """Add pictures, or replace those at the same path, whose numbers stay; their old descriptors become dead."""
        places = self._places([picture.path for picture in pictures])
        rows, dead = [], []
        for picture in pictures:
            place = (picture.segment, picture.slot)
            old = places.get(picture.path)
            if old is not None and old[0] is not None and old != place:
                dead.append(old)
            places[picture.path] = place
            values = values_of(picture)
            rows.append((*values, checksum(checksum_values(values)), *place))
        with self._lock:
            self.connection.executemany(_PUT_PICTURE, rows)
            self._bury(dead)

    def mark_missing(self, pictures: Iterable[PictureRow], since: int | None) -> None:
        """Record since when the files of pictures are missing; None if they are back.

        The pictures keep their descriptors.
        """
        rows = [(picture.id, values_of(picture._replace(missing_since=since))) for picture in pictures]
        with self._lock:
            self.connection.executemany(
                "UPDATE pictures SET missing_since = ?, crc = ? WHERE id = ?",
                [(since, checksum(checksum_values(values)), number) for number, values in rows],
            )

    def move_pictures(self, moves: Sequence[tuple[int, int, int, int]]) -> None:
        """Record moves (new segment, new slot, old segment, old slot) of descriptors; the old slots become dead."""
        with self._lock:
            self.connection.executemany(
                "UPDATE pictures SET segment = ?, slot = ? WHERE segment = ? AND slot = ?", moves
            )
            self._bury([(segment, slot) for _, _, segment, slot in moves])

    def drop_pictures(self, pictures: Iterable[PictureRow]) -> None:
        """Remove pictures, wherever they are stored now; their descriptors become dead."""
        ids = [(picture.id,) for picture in pictures]
        with self._lock:
            self.connection.executemany(
                "INSERT OR IGNORE INTO dead SELECT segment, slot FROM pictures WHERE id = ? AND segment IS NOT NULL",
                ids,
            )
            self.connection.executemany("DELETE FROM pictures WHERE id = ?", ids)

    def drop_dead_segments(self) -> None:
        """Remove the segments whose slots are all dead."""
        with self._lock:
            self.connection.execute(
                "DELETE FROM segments WHERE slots = (SELECT count(*) FROM dead WHERE dead.segment = segments.id)"
            )
            self.connection.execute("DELETE FROM dead WHERE segment NOT IN (SELECT id FROM segments)")

    def check(self) -> list[str]:
        """Read all of the catalogue and return what is wrong with it, one line each."""
        try:
            with self.transaction(write=False):
                return catalogue_problems(self.connection, self._since)
        except (sqlite3.DatabaseError, StoreError) as error:
            return [f"{CATALOGUE}: damaged ({error})"]

    def _places(self, paths: Sequence[str]) -> dict[str, tuple[int | None, int | None]]:
        found = {}
        for chunk in _batched(paths, 500):
            sql = f"SELECT path, segment, slot FROM pictures WHERE path IN ({', '.join('?' * len(chunk))})"
            for path, segment, slot in self._all(sql, [os.fsencode(path) for path in chunk]):
                found[os.fsdecode(path)] = (segment, slot)
        return found

    def _bury(self, places: Iterable[tuple[int | None, int | None]]) -> None:
        self.connection.executemany("INSERT OR IGNORE INTO dead VALUES (?, ?)", places)


_PUT_PICTURE = """
INSERT INTO pictures (path, size, mtime_ns, digest, width, height, words, problem, missing_since, crc, segment, slot)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (path) DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns, digest = excluded.digest,
    width = excluded.width, height = excluded.height, words = excluded.words, problem = excluded.problem,
    missing_since = excluded.missing_since, crc = excluded.crc, segment = excluded.segment, slot = excluded.slot
"""


def _batched(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))

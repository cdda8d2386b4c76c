"""The catalogue of an index, in SQLite: its settings, its pictures, and which segments are live.

A commit here is what makes a change visible: segment files are written and synced first, then one transaction names
them. Readers (WAL mode) are never blocked and see one consistent state. Rows carry checksums of what they say, which
SQLite itself does not keep.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from d2r.errors import D2RError
from d2r.support.files import CATALOGUE, display_path, is_index, replacing

FORMAT = 6
"""Version of the layout on disk; it changes whenever an index written by one build cannot be read by another."""

_BEFORE = 5  # is read as it is, with nothing missing, and becomes FORMAT when it is opened for writing
_APPLICATION_ID = 0x44325249  # "D2RI"
_ENCODING = sys.getfilesystemencoding()  # os.fsdecode asks for it each time, which a thousand rows feel
_Item = TypeVar("_Item")

_SCHEMA = """
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE segments (
    id INTEGER PRIMARY KEY AUTOINCREMENT, slots INTEGER NOT NULL, postings INTEGER NOT NULL,
    search_bytes INTEGER NOT NULL, verify_bytes INTEGER NOT NULL, digests TEXT NOT NULL, crc INTEGER NOT NULL
);
CREATE TABLE pictures (
    id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, digest BLOB,
    width INTEGER, height INTEGER, words INTEGER, problem TEXT, crc INTEGER NOT NULL,
    segment INTEGER, slot INTEGER, missing_since INTEGER
);
CREATE INDEX picture_places ON pictures (segment, slot);
CREATE INDEX missing_places ON pictures (segment, slot) WHERE missing_since IS NOT NULL;
CREATE TABLE dead (segment INTEGER NOT NULL, slot INTEGER NOT NULL, PRIMARY KEY (segment, slot)) WITHOUT ROWID;
"""
_UPGRADE = (
    "ALTER TABLE pictures ADD COLUMN missing_since INTEGER",
    "CREATE INDEX missing_places ON pictures (segment, slot) WHERE missing_since IS NOT NULL",
    f"PRAGMA user_version = {FORMAT}",
)


class StoreError(D2RError):
    """An index that cannot be opened or changed; the message names it and says what to do."""


class RemovedError(StoreError):
    """A picture that was removed from the index since it was looked up."""


class PictureRow(NamedTuple):
    """One picture of the collection, as the catalogue knows it; a tuple because a thousand are made for an answer.

    Attributes:
        id: stays the same as long as the path is in the index.
        path: absolute, as the file system spells it (``os.fsencode`` for the exact bytes).
        size: of the file, in bytes, when it was described.
        mtime_ns: its modification time then.
        digest: BLAKE2b of its content; None when it could not be read.
        width: in pixels, upright; None when it was skipped.
        height: in pixels, upright; None when it was skipped.
        words: visual words in its descriptor; 0 when it has no features.
        segment: where its descriptor is; None when it was skipped.
        slot: its place in the segment.
        problem: why it was skipped, or that it has no features; None when all is well.
        missing_since: when its file was first not found, in seconds since 1970; it is kept, and not searched. None when
            the file was there.
    """

    id: int
    path: str
    size: int
    mtime_ns: int
    digest: bytes | None
    width: int | None
    height: int | None
    words: int | None
    segment: int | None
    slot: int | None
    problem: str | None
    missing_since: int | None = None

    @property
    def findable(self) -> bool:
        """Whether a search can find it: it has a descriptor, and its file is not missing."""
        return self.segment is not None and self.missing_since is None


@dataclass(frozen=True)
class SegmentRow:
    """One live segment: its pictures (dead ones too), postings, bytes on disk by purpose, and digests by file."""

    id: int
    slots: int
    postings: int
    search_bytes: int
    verify_bytes: int
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Layout:
    """Which segments are live, and which of their slots are not searched, at one moment.

    Attributes:
        segments: the live ones.
        dead: slots of pictures that were removed or replaced, int64 ascending, by the number of their segment.
        missing: slots of pictures whose files are missing; nobody else may use these.
    """

    segments: tuple[SegmentRow, ...]
    dead: Mapping[int, NDArray[np.int64]]
    missing: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)

    @property
    def hidden(self) -> dict[int, NDArray[np.int64]]:
        """The slots that are not searched, dead or missing, int64 ascending, by the number of their segment."""
        hidden = dict(self.dead)
        for number, slots in self.missing.items():
            hidden[number] = np.union1d(hidden[number], slots) if number in hidden else slots
        return hidden


class Catalogue:
    """One connection to the catalogue of the index in ``folder``; safe to use from several threads.

    Raises:
        StoreError: there is no index, it is of another format, or its catalogue is damaged.
    """

    def __init__(self, folder: Path, *, write: bool = False) -> None:
        self.folder = folder
        file = folder / CATALOGUE
        if not file.is_file():
            raise StoreError(f"{folder}: not an index; make one with `d2r index PHOTOS --out {folder}`")
        self._lock = threading.RLock()
        self.connection = _connect(file, write=write)
        self._tells_missing = False
        try:
            self._check_format()
            if write and self._value("PRAGMA user_version") == _BEFORE:
                with self.transaction():
                    for change in _UPGRADE:
                        self.connection.execute(change)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def exists(folder: Path) -> bool:
        """Say whether there is an index in a folder."""
        return is_index(folder)

    @staticmethod
    def create(folder: Path, settings: Mapping[str, Any]) -> None:
        """Make an empty index in a folder that is empty or does not exist.

        Raises:
            StoreError: the folder holds something else, or cannot be made.
        """
        Catalogue.make_room(folder)
        with replacing(folder / CATALOGUE) as part:
            connection = sqlite3.connect(part, isolation_level=None)
            try:
                connection.executescript(_SCHEMA)
                connection.executemany(_PUT_SETTING, [_setting(key, value) for key, value in settings.items()])
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {FORMAT}")
                connection.execute("PRAGMA journal_mode = WAL")
            finally:
                connection.close()

    @staticmethod
    def make_room(folder: Path) -> None:
        """Make the folder of a new index, or see that it is empty but for names that begin with a dot.

        Raises:
            StoreError: it holds something, an index perhaps, or cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if Catalogue.exists(folder):
                raise StoreError(f"{folder}: it is an index already; open it (Engine.open), or choose another folder")
            if any(not file.name.startswith(".") for file in folder.iterdir()):
                raise StoreError(f"{folder}: it exists and is not an index; choose an empty or a new folder")
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            why = getattr(error, "strerror", None) or error
            raise StoreError(f"{display_path(folder)}: an index cannot be made there ({why})") from error

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _check_format(self) -> None:
        application = self._value("PRAGMA application_id")
        version = self._value("PRAGMA user_version")
        if application != _APPLICATION_ID:
            raise StoreError(f"{self.folder}: not an index; {CATALOGUE} belongs to another program")
        if version not in (_BEFORE, FORMAT):
            age = "a newer" if version > FORMAT else "an older"
            todo = "upgrade d2r to read it" if version > FORMAT else "index the photos again into a new folder"
            raise StoreError(f"{self.folder}: written by {age} d2r (format {version}, this one is {FORMAT}); {todo}")

    @property
    def _since(self) -> str:
        """The column ``missing_since``, or what stands for it in the format before, which a writer may change now."""
        self._tells_missing = self._tells_missing or self._value("PRAGMA user_version") != _BEFORE
        return "missing_since" if self._tells_missing else "NULL"

    @property
    def _columns(self) -> str:
        """The columns of :class:`PictureRow`."""
        return f"{_COLUMNS}, {self._since}"

    def _value(self, sql: str) -> Any:
        return self._all(sql)[0][0]

    def _all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        try:
            with self._lock:
                return self.connection.execute(sql, parameters).fetchall()
        except sqlite3.ProgrammingError as error:
            raise StoreError(f"{self.folder}: the index was closed") from error
        except sqlite3.OperationalError:
            raise  # busy, full or the like: nothing is wrong with the file
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{self.folder}: its catalogue is damaged ({error}); restore it or index again") from error

    def _sound(self, table: str, columns: str) -> list[Any]:
        """Return the rows of a small table; :class:`StoreError` when one is not what was written."""
        rows = self._all(f"SELECT {columns}, crc FROM {table} ORDER BY 1")
        if any(_crc(row[:-1]) != row[-1] for row in rows):
            raise StoreError(f"{self.folder}: its catalogue is damaged ({table}); restore it or index again")
        return [row[:-1] for row in rows]

    def version(self) -> int:
        """Return a number that changes when another connection has committed."""
        return int(self._value("PRAGMA data_version"))

    def settings(self) -> dict[str, Any]:
        """Return the settings of the index."""
        return {key: json.loads(value) for key, value in self._sound("settings", "key, value")}

    def layout(self) -> Layout:
        """Return the live segments and those of their slots that are not searched, of one moment."""
        with self.transaction(write=False):
            segments = self._sound("segments", _SEGMENT_COLUMNS)
            dead = self._all("SELECT segment, slot FROM dead ORDER BY segment, slot")
            missing = self._all(
                f"SELECT segment, slot FROM pictures WHERE {self._since} IS NOT NULL ORDER BY segment, slot"
            )
        return Layout(tuple(_segment(segment) for segment in segments), _by_segment(dead), _by_segment(missing))

    def counts(self) -> tuple[int, int, int]:
        """Return how many pictures can be found, how many files were skipped, and how many pictures are missing."""
        with self.transaction(write=False):
            described, every = self._all("SELECT count(segment), count(*) FROM pictures")[0]
            missing = self._value(f"SELECT count(*) FROM pictures WHERE {self._since} IS NOT NULL")
        return described - missing, every - described, missing

    def pictures(self, under: str | None = None) -> Iterator[PictureRow]:
        """Yield pictures by path, skipped ones too: all, or those at the path ``under`` or in that folder.

        They are read a thousand at a time, so that a large catalogue is never all in memory; what is committed
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
            yield from (_picture(row) for row in rows)
            last = rows[-1][1]

    def at_path(self, path: str) -> PictureRow | None:
        """Return the picture of a path."""
        rows = self._all(f"SELECT {self._columns} FROM pictures WHERE path = ?", [os.fsencode(path)])
        return _picture(rows[0]) if rows else None

    def at_id(self, number: int) -> PictureRow | None:
        """Return the picture of a number."""
        rows = self._all(f"SELECT {self._columns} FROM pictures WHERE id = ?", [number])
        return _picture(rows[0]) if rows else None

    def after(self, number: int, most: int) -> list[PictureRow]:
        """Return the first pictures of a higher number that can be found, at most so many, by number."""
        sql = (
            f"SELECT {self._columns} FROM pictures WHERE id > ? AND segment IS NOT NULL AND {self._since} IS NULL"
            " ORDER BY id LIMIT ?"
        )
        return [_picture(row) for row in self._all(sql, [number, most])]

    def in_segment(self, segment: int) -> dict[int, PictureRow]:
        """Return the pictures of a segment that can be found, by slot; none when it was merged or removed meanwhile."""
        rows = self._all(f"SELECT {self._columns} FROM pictures WHERE segment = ? AND {self._since} IS NULL", [segment])
        return {row[9]: _picture(row) for row in rows}

    def at_places(self, places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], PictureRow]:
        """Return the live pictures of (segment, slot) places; those that were removed or moved meanwhile are not in."""
        found = {}
        for chunk in _batched(places, 400):
            values = ", ".join(["(?, ?)"] * len(chunk))
            sql = (
                f"WITH places (a, b) AS (VALUES {values})"
                f" SELECT {self._columns} FROM places JOIN pictures ON segment = a AND slot = b"
            )
            for row in self._all(sql, [number for place in chunk for number in place]):
                found[row[8], row[9]] = _picture(row)
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
        """Move what the write-ahead log holds into the database, and give its space back, if that can be done now."""
        with self._lock, suppress(sqlite3.OperationalError):  # readers are busy, or the disk is full
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def next_segment(self) -> int:
        """Return a segment number that was never used; a transaction later, use it or lose it."""
        rows = self._all("SELECT seq FROM sqlite_sequence WHERE name = 'segments' UNION SELECT max(id) FROM segments")
        return max((row[0] or 0 for row in rows), default=0) + 1

    def put_setting(self, key: str, value: Any) -> None:
        """Set a setting."""
        with self._lock:
            self.connection.execute(_PUT_SETTING, _setting(key, value))

    def put_segment(self, segment: SegmentRow) -> None:
        """Make a segment live."""
        values = (
            segment.id, segment.slots, segment.postings, segment.search_bytes, segment.verify_bytes,
            json.dumps(dict(segment.digests)),
        )  # fmt: skip
        with self._lock:
            self.connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?)", (*values, _crc(values)))

    def put_pictures(self, pictures: Sequence[PictureRow]) -> None:
        """Add pictures, or replace those of the same path; their numbers stay, their old descriptors die."""
        places = self._places([picture.path for picture in pictures])
        rows, dead = [], []
        for picture in pictures:
            place = (picture.segment, picture.slot)
            old = places.get(picture.path)
            if old is not None and old[0] is not None and old != place:
                dead.append(old)
            places[picture.path] = place
            values = _values(picture)
            rows.append((*values, _crc(_told(values)), *place))
        with self._lock:
            self.connection.executemany(_PUT_PICTURE, rows)
            self._bury(dead)

    def mark_missing(self, pictures: Iterable[PictureRow], since: int | None) -> None:
        """Say since when the files of pictures are missing; None says that they are there again.

        The pictures keep their descriptors.
        """
        rows = [(picture.id, _values(picture._replace(missing_since=since))) for picture in pictures]
        with self._lock:
            self.connection.executemany(
                "UPDATE pictures SET missing_since = ?, crc = ? WHERE id = ?",
                [(since, _crc(_told(values)), number) for number, values in rows],
            )

    def move_pictures(self, moves: Sequence[tuple[int, int, int, int]]) -> None:
        """Say that descriptors are elsewhere: new segment, new slot, old segment, old slot; the old ones are dead."""
        with self._lock:
            self.connection.executemany(
                "UPDATE pictures SET segment = ?, slot = ? WHERE segment = ? AND slot = ?", moves
            )
            self._bury([(segment, slot) for _, _, segment, slot in moves])

    def drop_pictures(self, pictures: Iterable[PictureRow]) -> None:
        """Remove pictures, wherever they are by now; their descriptors are dead from then on."""
        ids = [(picture.id,) for picture in pictures]
        with self._lock:
            self.connection.executemany(
                "INSERT OR IGNORE INTO dead SELECT segment, slot FROM pictures WHERE id = ? AND segment IS NOT NULL",
                ids,
            )
            self.connection.executemany("DELETE FROM pictures WHERE id = ?", ids)

    def drop_dead_segments(self) -> None:
        """Remove the segments of which every slot is dead."""
        with self._lock:
            self.connection.execute(
                "DELETE FROM segments WHERE slots = (SELECT count(*) FROM dead WHERE dead.segment = segments.id)"
            )
            self.connection.execute("DELETE FROM dead WHERE segment NOT IN (SELECT id FROM segments)")

    def check(self) -> list[str]:
        """Return what is wrong with the catalogue, one line each; reads all of it."""
        try:
            with self.transaction(write=False):
                return self._check()
        except (sqlite3.DatabaseError, StoreError) as error:
            return [f"{CATALOGUE}: damaged ({error})"]

    def _check(self) -> list[str]:
        problems = [f"{CATALOGUE}: {row[0]}" for row in self._all("PRAGMA integrity_check") if row[0] != "ok"]
        for table, columns in (
            ("settings", "key, value"),
            ("segments", _SEGMENT_COLUMNS),
            ("pictures", f"path, size, mtime_ns, digest, width, height, words, problem, {self._since}"),
        ):
            rows = self.connection.execute(f"SELECT {columns}, crc FROM {table}")
            problems += [
                f"{CATALOGUE}: a row of {table} is not what was written ({row[0]!r})"
                for row in rows
                if _crc(row[:-1] if table != "pictures" else _told(row[:-1])) != row[-1]
            ]
        # Every slot of a segment is one picture's, or dead; nothing else is.
        for segment, slots, used, different in self._all(
            "SELECT id, slots, count(slot), count(DISTINCT slot) FROM segments LEFT JOIN ("
            " SELECT segment, slot FROM pictures WHERE segment IS NOT NULL UNION ALL SELECT segment, slot FROM dead"
            ") ON segment = id AND slot BETWEEN 0 AND slots - 1 GROUP BY id"
        ):
            if not slots == used == different:
                problems.append(
                    f"{CATALOGUE}: segment {segment} of {slots} slots has {used} uses of {different} of them"
                )
        strays = (
            "SELECT count(*) FROM (SELECT segment, slot FROM pictures WHERE segment IS NOT NULL"
            " UNION ALL SELECT segment, slot FROM dead) LEFT JOIN segments ON segment = id"
            " WHERE id IS NULL OR slot IS NULL OR slot NOT BETWEEN 0 AND slots - 1"
        )
        if self._value(strays):
            problems.append(f"{CATALOGUE}: it names slots that no segment has")
        return problems

    def _places(self, paths: Sequence[str]) -> dict[str, tuple[int | None, int | None]]:
        found = {}
        for chunk in _batched(paths, 500):
            sql = f"SELECT path, segment, slot FROM pictures WHERE path IN ({', '.join('?' * len(chunk))})"
            for path, segment, slot in self._all(sql, [os.fsencode(path) for path in chunk]):
                found[os.fsdecode(path)] = (segment, slot)
        return found

    def _bury(self, places: Iterable[tuple[int | None, int | None]]) -> None:
        self.connection.executemany("INSERT OR IGNORE INTO dead VALUES (?, ?)", places)


_COLUMNS = "id, path, size, mtime_ns, digest, width, height, words, segment, slot, problem"
_SEGMENT_COLUMNS = "id, slots, postings, search_bytes, verify_bytes, digests"
_PUT_SETTING = "INSERT OR REPLACE INTO settings VALUES (?, ?, ?)"
_PUT_PICTURE = """
INSERT INTO pictures (path, size, mtime_ns, digest, width, height, words, problem, missing_since, crc, segment, slot)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (path) DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns, digest = excluded.digest,
    width = excluded.width, height = excluded.height, words = excluded.words, problem = excluded.problem,
    missing_since = excluded.missing_since, crc = excluded.crc, segment = excluded.segment, slot = excluded.slot
"""


def _batched(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _picture(row: Sequence[Any]) -> PictureRow:
    return PictureRow._make((row[0], row[1].decode(_ENCODING, "surrogateescape"), *row[2:]))


def _values(picture: PictureRow) -> tuple[Any, ...]:
    """Return what the catalogue says of a picture, but for its number and where its descriptor is."""
    return (
        os.fsencode(picture.path), picture.size, picture.mtime_ns, picture.digest,
        picture.width, picture.height, picture.words, picture.problem, picture.missing_since,
    )  # fmt: skip


def _told(values: Sequence[Any]) -> Sequence[Any]:
    """Return what the checksum of a picture is of: a picture that is there has the one that it had in format 5."""
    return values if values[-1] is not None else values[:-1]


def _by_segment(places: Sequence[tuple[int, int]]) -> dict[int, NDArray[np.int64]]:
    """Return the slots of sorted (segment, slot) places by the number of their segment."""
    rows = np.array(places, np.int64).reshape(-1, 2)
    numbers, starts = np.unique(rows[:, 0], return_index=True)
    return dict(zip(numbers.tolist(), np.split(rows[:, 1], starts[1:]), strict=False))


def _segment(row: Sequence[Any]) -> SegmentRow:
    number, slots, postings, search_bytes, verify_bytes, digests = row
    return SegmentRow(number, slots, postings, search_bytes, verify_bytes, json.loads(digests))


def _setting(key: str, value: Any) -> tuple[str, str, int]:
    text = json.dumps(value)
    return key, text, _crc((key, text))


def _crc(values: Sequence[Any]) -> int:
    """Return the checksum of a row's values; not of where a descriptor lies, which moves, and is checked otherwise."""
    return zlib.crc32(repr(tuple(values)).encode("utf-8", "surrogatepass"))


def _connect(file: Path, *, write: bool) -> sqlite3.Connection:
    address = "file:" + quote(os.fsencode(file.absolute()))
    # To read a database with a log SQLite must write beside it, or find the log's files there. Where it can do neither,
    # as on a read-only medium, nothing changes either.
    log = file.with_name(f"{file.name}-wal")
    fixed = not os.access(file.parent, os.W_OK) and not log.exists()
    reading = "ro&immutable=1" if fixed else "ro"
    uri = f"{address}?mode={'rw' if write else reading}"
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=30.0)
        if write:
            connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error as error:
        raise StoreError(f"{file.parent}: its catalogue cannot be opened ({error})") from error
    return connection

"""The tables of the catalogue, their format and its upgrade, and how the file is made and opened."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from d2r.index.errors import StoreError
from d2r.index.rows import setting_values
from d2r.support.files import CATALOGUE, display_path, is_index, replacing

FORMAT = 6
"""Version of the layout on disk; it changes whenever older or newer builds cannot read an index."""

BEFORE = 5
"""The previous format: it can be read, with no picture missing, and becomes FORMAT when opened for writing."""

PUT_SETTING = "INSERT OR REPLACE INTO settings VALUES (?, ?, ?)"

_APPLICATION_ID = 0x44325249  # "D2RI"
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


def create_catalogue(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make an empty index in an empty or new folder.

    Raises:
        StoreError: the folder holds something else, or cannot be made.
    """
    make_room(folder)
    with replacing(folder / CATALOGUE) as part:
        connection = sqlite3.connect(part, isolation_level=None)
        try:
            connection.executescript(_SCHEMA)
            connection.executemany(PUT_SETTING, [setting_values(key, value) for key, value in settings.items()])
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()


def make_room(folder: Path) -> None:
    """Make the folder of a new index, or check that it is empty except for names that begin with a dot.

    Raises:
        StoreError: it holds something, perhaps an index, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if is_index(folder):
            raise StoreError(f"{folder}: it is an index already; open it (Engine.open), or choose another folder")
        if any(not file.name.startswith(".") for file in folder.iterdir()):
            raise StoreError(f"{folder}: it exists and is not an index; choose an empty or a new folder")
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        why = getattr(error, "strerror", None) or error
        raise StoreError(f"{display_path(folder)}: an index cannot be made there ({why})") from error


def connect(file: Path, *, write: bool) -> sqlite3.Connection:
    """Open the file of a catalogue.

    Raises:
        StoreError: it cannot be opened.
    """
    address = "file:" + quote(os.fsencode(file.absolute()))
    # To read a database with a log, SQLite must write next to it, or find the log's files there. Where neither is
    # possible, as on a read-only medium, nothing can change and the file is opened as immutable.
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


def check_format(folder: Path, application: int, version: int) -> None:
    """Raise :class:`StoreError` unless a file is a catalogue of a format that can be read."""
    if application != _APPLICATION_ID:
        raise StoreError(f"{folder}: not an index; {CATALOGUE} belongs to another program")
    if version not in (BEFORE, FORMAT):
        age = "a newer" if version > FORMAT else "an older"
        todo = "upgrade d2r to read it" if version > FORMAT else "index the photos again into a new folder"
        raise StoreError(f"{folder}: written by {age} d2r (format {version}, this one is {FORMAT}); {todo}")


def upgrade(connection: sqlite3.Connection) -> None:
    """Upgrade a catalogue from the previous format to :data:`FORMAT`, in a transaction of the caller."""
    for change in _UPGRADE:
        connection.execute(change)

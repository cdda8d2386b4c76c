"""An index as the version before wrote it."""

import sqlite3

_FORMAT_5 = """
CREATE TABLE pictures (
    id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, digest BLOB,
    width INTEGER, height INTEGER, words INTEGER, problem TEXT, crc INTEGER NOT NULL,
    segment INTEGER, slot INTEGER
);
INSERT INTO pictures SELECT
    id, path, size, mtime_ns, digest, width, height, words, problem, crc, segment, slot FROM newer;
DROP TABLE newer;
CREATE INDEX picture_places ON pictures (segment, slot);
PRAGMA user_version = 5;
"""


def as_format_5(index):
    """Make the catalogue of an index what the format before wrote: of pictures that are there its rows are the same."""
    with sqlite3.connect(index / "catalogue.sqlite", isolation_level=None) as connection:
        connection.execute("DROP INDEX missing_places")
        connection.execute("DROP INDEX picture_places")
        connection.execute("ALTER TABLE pictures RENAME TO newer")
        connection.executescript(_FORMAT_5)
    connection.close()

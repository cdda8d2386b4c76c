"""Check a catalogue: rows that differ from what was written, slots that are used twice or not at all."""

from __future__ import annotations

import sqlite3

from d2r.index.rows import SEGMENT_COLUMNS, checksum, checksum_values
from d2r.support.files import CATALOGUE


def catalogue_problems(connection: sqlite3.Connection, since: str) -> list[str]:
    """Read all of a catalogue, in a transaction of the caller, and return what is wrong with it, one line each.

    Args:
        connection: to the catalogue.
        since: the column ``missing_since``, or NULL in a format without it.

    Raises:
        sqlite3.DatabaseError: it cannot be read.
    """
    problems = [f"{CATALOGUE}: {row[0]}" for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
    for table, columns in (
        ("settings", "key, value"),
        ("segments", SEGMENT_COLUMNS),
        ("pictures", f"path, size, mtime_ns, digest, width, height, words, problem, {since}"),
    ):
        rows = connection.execute(f"SELECT {columns}, crc FROM {table}")
        problems += [
            f"{CATALOGUE}: a row of {table} is not what was written ({row[0]!r})"
            for row in rows
            if checksum(row[:-1] if table != "pictures" else checksum_values(row[:-1])) != row[-1]
        ]
    # Every slot of a segment belongs to one picture or is dead, and no other slots exist.
    for segment, slots, used, different in connection.execute(
        "SELECT id, slots, count(slot), count(DISTINCT slot) FROM segments LEFT JOIN ("
        " SELECT segment, slot FROM pictures WHERE segment IS NOT NULL UNION ALL SELECT segment, slot FROM dead"
        ") ON segment = id AND slot BETWEEN 0 AND slots - 1 GROUP BY id"
    ):
        if not slots == used == different:
            problems.append(f"{CATALOGUE}: segment {segment} of {slots} slots has {used} uses of {different} of them")
    strays = (
        "SELECT count(*) FROM (SELECT segment, slot FROM pictures WHERE segment IS NOT NULL"
        " UNION ALL SELECT segment, slot FROM dead) LEFT JOIN segments ON segment = id"
        " WHERE id IS NULL OR slot IS NULL OR slot NOT BETWEEN 0 AND slots - 1"
    )
    if connection.execute(strays).fetchone()[0]:
        problems.append(f"{CATALOGUE}: it names slots that no segment has")
    return problems

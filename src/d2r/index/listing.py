"""Compare the files that an index should hold with those it holds, on disk, so that a million files take no memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from d2r.index.catalogue import Catalogue
from d2r.index.rows import PictureRow
from d2r.sources import PictureFile


class Listing:
    """Files in temporary tables beside the catalogue; made by :meth:`d2r.index.Writer.listing`.

    Args:
        catalogue: the catalogue of the writer.
        files: absolute paths with size and time; read once, a few at a time. If a path occurs twice, the first counts.

    Attributes:
        files: number of listed files.
        pending: number of listed files to describe: new, changed, or skipped the last time, which are tried again.
    """

    def __init__(self, catalogue: Catalogue, files: Iterable[PictureFile]) -> None:
        self._catalogue = catalogue
        with catalogue.transaction():
            for name in ("listed", "pending"):
                self._run(f"DROP TABLE IF EXISTS temp.{name}")
            self._run("CREATE TEMP TABLE listed (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, size, mtime_ns)")
        source = iter(files)
        # In short transactions: a walk over a slow disk must not hold the catalogue.
        while chunk := [(os.fsencode(file.path), file.size, file.mtime_ns) for file in islice(source, 1000)]:
            with catalogue.transaction():
                catalogue.connection.executemany(
                    "INSERT OR IGNORE INTO listed (path, size, mtime_ns) VALUES (?, ?, ?)", chunk
                )
        with catalogue.transaction():
            self._run(
                "CREATE TEMP TABLE pending AS SELECT listed.path, listed.size, listed.mtime_ns,"
                " CASE WHEN segment IS NOT NULL THEN digest END AS digest FROM listed LEFT JOIN pictures USING (path)"
                " WHERE segment IS NULL OR pictures.size != listed.size OR pictures.mtime_ns != listed.mtime_ns"
                " ORDER BY listed.id"
            )
        self.files = int(self._run("SELECT count(*) FROM listed")[0][0])
        self.pending = int(self._run("SELECT count(*) FROM pending")[0][0])

    def pending_files(self) -> Iterator[PictureFile]:
        """Yield the pending files in the order they were listed."""
        last = 0
        while rows := self._run(
            "SELECT rowid, path, size, mtime_ns, digest FROM pending WHERE rowid > ? ORDER BY rowid LIMIT 500", [last]
        ):
            yield from (_picture_file(row[1:]) for row in rows)
            last = rows[-1][0]

    def sample(self, count: int, seed: int) -> list[PictureFile]:
        """Return ``count`` random pending files, in the order they were listed; all if there are fewer."""
        rows = np.sort(np.random.default_rng(seed).permutation(self.pending)[:count]) + 1
        sql = "SELECT path, size, mtime_ns, digest FROM pending WHERE rowid = ?"
        return [_picture_file(self._run(sql, [int(row)])[0]) for row in rows]

    def gone(self, under: str) -> Iterator[PictureRow]:
        """Yield the pictures of the index under a folder that were not listed."""
        for picture in self._catalogue.pictures(under):
            if not self._run("SELECT 1 FROM listed WHERE path = ?", [os.fsencode(picture.path)]):
                yield picture

    def returned(self, limit: int) -> list[PictureRow]:
        """Return at most ``limit`` missing pictures whose files were listed, with the size and time they had."""
        paths = self._run(
            "SELECT path FROM listed JOIN pictures USING (path, size, mtime_ns)"
            " WHERE segment IS NOT NULL AND missing_since IS NOT NULL ORDER BY listed.id LIMIT ?",
            [limit],
        )
        rows = [self._catalogue.at_path(os.fsdecode(path)) for (path,) in paths]
        return [row for row in rows if row is not None]

    def _run(self, sql: str, parameters: Any = ()) -> list[Any]:
        return self._catalogue.connection.execute(sql, parameters).fetchall()


def _picture_file(row: Any) -> PictureFile:
    return PictureFile(os.fsdecode(row[0]), *row[1:])

"""The CSV files of Google Landmark Boxes: fixed columns, and errors that name the file and the row.

Rows are counted as in a spreadsheet: the header is row 1.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from d2r.errors import D2RError
from d2r.support.files import display_path, replacing


class LandmarkBoxesError(D2RError, ValueError):
    """A file of landmark boxes that cannot be used; ``str(error)`` names the file and the row and says what is wrong.

    Attributes:
        name: the file's path.
        reason: the row and what is wrong with it, without the name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def wrong_row(path: Path, row: int, reason: str) -> LandmarkBoxesError:
    """Return an error about one row of a file."""
    return LandmarkBoxesError(display_path(path), f"row {row}: {reason}")


def read_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Yield each row's number and its fields in the order of ``columns``; skip blank rows.

    Raises:
        LandmarkBoxesError: the file cannot be read, a column is missing or unknown, or a row has too few or too many
            fields.
    """
    row = 1
    try:
        # Ids come from file names, which may be any bytes.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            lines = csv.reader(file)
            order = _order(path, next(lines, []), columns)
            for row, values in enumerate(lines, start=2):
                if len(values) == len(columns):
                    yield row, [values[place] for place in order]
                elif values:
                    raise wrong_row(path, row, f"{len(values)} fields, where the header has {len(columns)}")
    except OSError as error:
        raise LandmarkBoxesError(display_path(path), f"cannot be read: {error.strerror or error}") from error
    except csv.Error as error:
        raise wrong_row(path, row, f"damaged CSV after it ({error})") from error


def write_rows(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Write a file atomically: an existing one is replaced, or kept if writing fails."""
    with replacing(path) as part, part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        # Everything is quoted, as in the published train.csv: a file name may have any character.
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _order(path: Path, header: list[str], columns: tuple[str, ...]) -> list[int]:
    names = [name.strip() for name in header]
    if sorted(names) == sorted(columns):
        return [names.index(column) for column in columns]
    missing = [column for column in columns if column not in names]
    extra = [name for place, name in enumerate(names) if name not in columns or name in names[:place]]
    problems = [
        f"{what} {', '.join(repr(name[:80]) for name in found)}"
        for what, found in (("missing", missing), ("unknown or repeated", extra))
        if found
    ]
    raise wrong_row(path, 1, f"the columns must be {','.join(columns)}; {'; '.join(problems)}")

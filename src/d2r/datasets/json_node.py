"""Strict reading of JSON: errors name the file and the field, for instance ``queries[3].box``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from d2r.boxes import PixelBox
from d2r.support.files import display_path


def read_json(path: Path, error: type[Exception]) -> Node:
    """Read a file.

    Raises:
        error: the file cannot be read or is not JSON; reading values from the result raises it too.
    """
    name = display_path(path)
    try:
        return Node(json.loads(path.read_text(encoding="utf-8")), name, error)
    except OSError as failure:
        raise error(f"{name}: cannot be read: {failure.strerror or failure}") from failure
    except (ValueError, RecursionError) as failure:
        raise error(f"{name}: not JSON ({failure})") from failure


@dataclass(frozen=True)
class Node:
    """A value of a JSON document that knows its file and field, for errors."""

    value: object
    file: str
    error: type[Exception]
    field: str = ""

    def wrong(self, expected: str) -> Exception:
        """Return an error that says what was expected instead of this value."""
        return self.error(f"{self.file}: {self.field or 'the document'}: expected {expected}, found {self.value!r:.60}")

    def __getitem__(self, key: str) -> Node:
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        field = f"{self.field}.{key}".lstrip(".")
        if key not in self.value:
            raise self.error(f"{self.file}: {field}: missing")
        return Node(self.value[key], self.file, self.error, field)

    def has(self, key: str) -> bool:
        """Return whether it is an object with this field."""
        return isinstance(self.value, dict) and key in self.value

    def __iter__(self) -> Iterator[Node]:
        return iter(self.items())

    def items(self, count: int | None = None) -> list[Node]:
        """Return the values of a list, which must have ``count`` values if that is given."""
        if not isinstance(self.value, list) or count not in (None, len(self.value)):
            raise self.wrong("a list" if count is None else f"a list of {count}")
        return [Node(value, self.file, self.error, f"{self.field}[{k}]") for k, value in enumerate(self.value)]

    def text(self) -> str:
        """Return a string."""
        if not isinstance(self.value, str):
            raise self.wrong("text")
        return self.value

    def inside(self) -> str:
        """Return a relative path, which must not lead out of the folder."""
        path = PurePosixPath(self.text())
        if path.is_absolute() or ".." in path.parts:
            raise self.wrong("a path within the folder")
        return self.text()

    def number(self) -> float:
        """Return a finite number."""
        if (
            isinstance(self.value, bool)
            or not isinstance(self.value, int | float)
            or not abs(self.value) <= sys.float_info.max
        ):
            raise self.wrong("a number")
        return self.value

    def whole(self) -> int:
        """Return a whole number."""
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise self.wrong("a whole number")
        return self.value

    def numbers(self, count: int) -> tuple[float, ...]:
        """Return a list of ``count`` numbers."""
        return tuple(node.number() for node in self.items(count))

    def box(self) -> PixelBox:
        """Return a box x1, y1, x2, y2, which must not be empty."""
        x1, y1, x2, y2 = self.numbers(4)
        if x2 <= x1 or y2 <= y1:
            raise self.wrong("a box x1, y1, x2, y2 with x1 < x2 and y1 < y2")
        return (x1, y1, x2, y2)

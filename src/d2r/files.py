"""Files that appear whole or not at all, and paths as people can read them."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

PathLike: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def display_path(path: PathLike) -> str:
    r"""Return a path as printable text; bytes that are not UTF-8 appear as ``\xNN``."""
    name = os.fsdecode(path)
    try:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # no file has such a name, and a message about it must be possible all the same
        return name.encode("utf-8", "backslashreplace").decode()


def printable_path(path: PathLike) -> str:
    """Return a path without anything that a page cannot show or that would reorder its text, such as newlines."""
    shown = display_path(path)
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in shown)


def is_url(path: str) -> bool:
    """Say whether a path is a URL, such as ``s3://photos/castle.jpg``, and so names a file in object storage."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def read_bytes(path: PathLike) -> bytes:
    """Return the content of a file, or of one in object storage (:mod:`d2r.remote`).

    Raises:
        OSError: it cannot be read.
        ValueError: a path that no file can have, with a zero byte in it.
    """
    name = os.fsdecode(path)
    if is_url(name):
        from d2r.remote import read_object  # needs pyarrow, which only that needs

        return read_object(name)
    return Path(name).read_bytes()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what is written there takes its place when the block ends well.

    The data is on the disk before the name is. After an error the old file is as it was and nothing is left over.
    """
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        yield part
        sync(part)
        part.replace(path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

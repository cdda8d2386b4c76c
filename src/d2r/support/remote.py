"""Pictures in object storage, by URL: ``s3://BUCKET/FOLDER``, ``gs://...``, or another scheme that fsspec knows.

URLs are percent-encoded. After ``?`` come options of the storage for pyarrow, such as ``endpoint_override``; they stay
part of the URL of every picture.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit


class RemoteFile(NamedTuple):
    """A file in object storage: its URL, its size in bytes, and its time, 0 if the storage reports none."""

    url: str
    size: int
    mtime_ns: int


def read_object(url: str) -> bytes:
    """Return the content of a file; ``OSError`` if it cannot be read."""
    storage, path = _place(url)
    try:
        with storage.open_input_stream(path) as stream:
            return bytes(stream.read())
    except Exception as error:  # each storage has its own exceptions
        raise _failure(url, error) from error


def object_at(url: str) -> RemoteFile:
    """Return the size and time of a file; ``OSError`` if there is none."""
    storage, path = _place(url)
    try:
        info = storage.get_file_info(path)
    except Exception as error:
        raise _failure(url, error) from error
    if not info.is_file:
        raise FileNotFoundError(2, "there is no such file", url)
    return RemoteFile(url, info.size or 0, _mtime_ns(storage, info))


def objects_under(url: str, *, on_error: Callable[[OSError], None]) -> Iterator[RemoteFile]:
    """Yield every file under a folder, folder by folder: its own files, then its subfolders.

    Names that begin with a dot are skipped.

    Args:
        url: URL of the folder.
        on_error: called for each folder that cannot be listed.
    """
    from pyarrow.fs import FileSelector

    parts = urlsplit(url)
    try:
        storage, path = _place(url)
        found = storage.get_file_info(FileSelector(path, recursive=False))
    except ModuleNotFoundError:
        raise
    except Exception as error:
        on_error(_failure(url, error))
        return
    folders = []
    for info in sorted(found, key=lambda info: str(info.path)):
        name = posixpath.basename(info.path.rstrip("/"))
        if name.startswith("."):
            continue
        below = urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}"))
        if info.is_file:
            yield RemoteFile(below, info.size or 0, _mtime_ns(storage, info))
        else:
            folders.append(below)
    for folder in folders:
        yield from objects_under(folder, on_error=on_error)


def _place(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    parts = urlsplit(url)
    try:
        storage, root = _storage(urlunsplit(parts._replace(path="/", fragment="")))
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in ("pyarrow", "fsspec"):
            raise
        raise _failure(url, error) from error
    return storage, root.rstrip("/") + unquote(parts.path)


@lru_cache(maxsize=16)
def _storage(root: str) -> tuple[Any, str]:
    """Return the file system of a root URL, and the path of the root in it."""
    from pyarrow import ArrowInvalid, fs

    try:
        storage, path = fs.FileSystem.from_uri(root)
    except ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise
        import fsspec  # knows many more, each of which needs its own package

        inner, path = fsspec.core.url_to_fs(root)
        storage = fs.PyFileSystem(fs.FSSpecHandler(inner))
    return storage, path


def _mtime_ns(storage: Any, info: Any) -> int:
    if info.mtime_ns is not None:
        return int(info.mtime_ns)
    handler = getattr(storage, "handler", None)
    with suppress(Exception):  # not every storage reports it
        return int(handler.fs.modified(info.path).timestamp() * 1e9)  # type: ignore[union-attr]
    return 0


def _failure(url: str, error: Exception) -> OSError:
    if isinstance(error, OSError):
        return type(error)(error.errno or 5, error.strerror or str(error), url)
    return OSError(5, f"{type(error).__name__}: {error}", url)

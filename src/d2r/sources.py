"""Find the pictures under a folder, in object storage, or in a list."""

from __future__ import annotations

import codecs
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from d2r.errors import UsageError
from d2r.filetypes import is_picture, seems_to_be
from d2r.images import SUFFIXES
from d2r.support.files import PathLike, display_path, is_index, is_url

_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class SourceError(UsageError):
    """A source that no pictures can come from; the message names it and says what it seems to be."""


def absolute(path: PathLike) -> str:
    """Return the absolute path under which an index lists a picture or a folder; a URL stays unchanged."""
    name = os.fsdecode(path)
    return name if is_url(name) else os.path.abspath(name)


def kind_of(source: str) -> Literal["folder", "url", "picture", "list"]:
    """Return the kind of a source of pictures: a folder, or the URL of one; a picture; or a list of paths.

    Raises:
        SourceError: it is none of these, or a list with a line that cannot be a path.
    """
    if is_url(source):
        return "url"
    path, shown = Path(source), display_path(source)
    if path.is_dir():
        if is_index(path):
            raise SourceError(f"{shown}: it is an index; give the folder of its pictures")
        return "folder"
    if not path.exists():
        raise SourceError(f"{shown}: there is no such folder or file")
    if not path.is_file():
        raise SourceError(f"{shown}: it is neither a folder nor a file")
    try:
        if is_picture(path):
            return "picture"
        kind = seems_to_be(path)
        if kind is not None:
            raise SourceError(
                f"{shown}: it seems to be {kind}; give a folder of pictures, a URL, a picture, or a text file of paths"
            )
        for _ in listed_paths(path):  # check every line before any is used
            pass
    except OSError as error:
        raise SourceError(f"{shown}: cannot be read ({error.strerror or error})") from error
    return "list"


def find_pictures(folder: Path, *, on_error: Callable[[OSError], None] = lambda error: None) -> Iterator[PictureFile]:
    """Yield every picture file under a folder, with its size and time: a folder's own files, then its subfolders.

    A picture is a file whose name ends in one of :data:`d2r.images.SUFFIXES`, in any case. Names that begin with a
    dot are skipped: they are thumbnails and leftovers of other programs.

    Args:
        folder: searched to any depth; links to folders are not followed.
        on_error: called for each folder or file that cannot be read.
    """
    for parent, folders, files in os.walk(folder.absolute(), onerror=on_error):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith(".") or Path(name).suffix.lower() not in SUFFIXES:
                continue
            try:
                yield picture_file(Path(parent, name))
            except OSError as error:  # a dangling link, a pipe, or deleted since the folder was listed
                on_error(error)


def find_objects(url: str, *, on_error: Callable[[OSError], None] = lambda error: None) -> Iterator[PictureFile]:
    """Yield every picture under a folder of object storage, by the rules of :func:`find_pictures`."""
    from d2r.support.remote import objects_under  # needs pyarrow

    for file in objects_under(url, on_error=on_error):
        if Path(urlsplit(file.url).path).suffix.lower() in SUFFIXES:
            yield PictureFile(*file)


def listed_paths(file: Path) -> Iterator[str]:
    """Yield the paths and URLs of a list, one per line; skip empty lines and lines that begin with ``#``.

    Raises:
        SourceError: a line cannot be a path.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if b"\0" in line or (number == 1 and line.startswith(_BOMS)):
                encoded = "save it as UTF-8" if number == 1 and line.startswith(_BOMS) else "is it a list of paths?"
                raise SourceError(f"{display_path(file)}, line {number}: it has a zero byte; {encoded}")
            path = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
            if path and not path.startswith(b"#"):
                yield os.fsdecode(path)


def picture_file_at(path: str) -> PictureFile:
    """Return the file at a path or URL, with its size and time; ``OSError`` if there is no such file."""
    if is_url(path):
        from d2r.support.remote import object_at

        return PictureFile(*object_at(path))
    return picture_file(Path(path))


def is_gone(path: str) -> bool:
    """Return whether there is certainly no file at a path; one that cannot be accessed may be there."""
    try:
        picture_file_at(path)
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    return False


def picture_file(path: Path) -> PictureFile:
    """Return a file with its size and time; ``OSError`` if there is none, or it is a pipe, which may never end."""
    path = path.absolute()
    try:
        status = path.stat()
    except ValueError as error:  # a zero byte, or a character that the file system's encoding lacks
        raise OSError(errno.EINVAL, "no file can have this name", os.fspath(path)) from error
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a file", os.fspath(path))
    return PictureFile(os.fspath(path), status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class PictureFile:
    """One picture file: its path, its size and time when it was listed, and its digest if known."""

    path: str
    size: int
    mtime_ns: int
    digest: bytes | None = None

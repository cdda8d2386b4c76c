"""Find the pictures under a folder, in object storage, or in a list."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from d2r.files import is_url
from d2r.images import SUFFIXES
from d2r.index import Job


def find_pictures(folder: Path, *, on_error: Callable[[OSError], None] = lambda error: None) -> Iterator[Job]:
    """Yield every picture file under a folder, with its size and time: a folder's own files, then its sub-folders.

    A picture is a file whose name ends in one of :data:`d2r.images.SUFFIXES`, in any case. Names that begin with a
    dot are passed over: they are thumbnails and litter of other programs.

    Args:
        folder: walked to any depth; links to folders are not followed.
        on_error: told of each folder or file that cannot be read.
    """
    for parent, folders, files in os.walk(folder.absolute(), onerror=on_error):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith(".") or Path(name).suffix.lower() not in SUFFIXES:
                continue
            try:
                yield picture_job(Path(parent, name))
            except OSError as error:  # a dangling link, a pipe, or gone since the folder was listed
                on_error(error)


def find_objects(url: str, *, on_error: Callable[[OSError], None] = lambda error: None) -> Iterator[Job]:
    """Yield every picture under a folder of object storage, by the rules of :func:`find_pictures`."""
    from d2r.remote import objects_under  # needs pyarrow

    for file in objects_under(url, on_error=on_error):
        if Path(urlsplit(file.url).path).suffix.lower() in SUFFIXES:
            yield Job(*file)


def listed_paths(file: Path) -> Iterator[str]:
    """Yield the paths and URLs of a list, one a line; empty lines and lines that begin with ``#`` are passed over."""
    with file.open("rb") as lines:
        for line in lines:
            path = line.strip()
            if path and not path.startswith(b"#"):
                yield os.fsdecode(path)


def job_at(path: str) -> Job:
    """Return the job of one file, by its path or its URL; ``OSError`` when there is none."""
    if is_url(path):
        from d2r.remote import object_at

        return Job(*object_at(path))
    return picture_job(Path(path))


def picture_job(path: Path) -> Job:
    """Return the job of one file; ``OSError`` when there is none, or it is a pipe or the like, which may never end."""
    path = path.absolute()
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a file", os.fspath(path))
    return Job(os.fspath(path), status.st_size, status.st_mtime_ns)

"""Change which pictures an index finds: add those of a folder or a list, and remove or mark those that are gone."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from d2r.images import SUFFIXES
from d2r.index import Index, Listing, PictureRow, StoreError, Writer
from d2r.indexing.entry import Progress, recipe_of
from d2r.indexing.fill import Report, fill
from d2r.indexing.workers import Describers
from d2r.sources import PictureFile, absolute, find_objects, find_pictures, is_gone, picture_file_at
from d2r.support.files import PathLike, display_path, is_url


def sync_folder(
    index: Index,
    folder: PathLike,
    *,
    prune: bool,
    workers: Describers,
    max_pixels: int,
    progress: Progress,
    meanwhile: Callable[[], None],
) -> Report:
    """Have an index find exactly the pictures under a folder, see :meth:`d2r.engine.Engine.sync`.

    ``meanwhile`` is called if there are pictures to describe, to prepare something else in that time.
    """
    root = absolute(folder)
    unreadable: list[OSError] = []
    if is_url(root):
        root = root.rstrip("/")
        found = find_objects(root, on_error=unreadable.append)
    elif Path(root).is_dir():
        found = find_pictures(Path(root), on_error=unreadable.append)
    else:
        raise NotADirectoryError(f"{display_path(root)}: not a folder{_what_stays(index, root)}")
    with index.writing() as writer:
        listing = writer.listing(found)
        if not listing.files:
            endings = ", ".join(sorted(SUFFIXES))
            why = f"{unreadable[0].strerror}" if unreadable else endings
            raise StoreError(f"{display_path(root)}: no pictures there ({why}){_what_stays(index, root)}")
        # Files in or under what could not be read may still be there.
        unread = {str(error.filename) for error in unreadable if not isinstance(error, FileNotFoundError)}
        under = tuple(os.path.join(path, "") for path in unread)
        gone = [
            row
            for row in listing.gone(root)
            if row.path not in unread and not row.path.startswith(under) and _has_no_file(row)
        ]
        return _fill(index, writer, listing, gone, unreadable, prune, workers, max_pixels, progress, meanwhile)


def add_files(
    index: Index,
    pictures: Iterable[PathLike],
    *,
    prune: bool,
    workers: Describers,
    max_pixels: int,
    progress: Progress,
    meanwhile: Callable[[], None],
) -> Report:
    """Add picture files to an index, see :meth:`d2r.engine.Engine.add` and :func:`sync_folder`."""
    unreadable: list[OSError] = []
    with index.writing() as writer:
        listing = writer.listing(_files(pictures, unreadable))
        rows = (_without_file(index, error) for error in unreadable)
        gone = list({row.id: row for row in rows if row is not None}.values())
        return _fill(index, writer, listing, gone, unreadable, prune, workers, max_pixels, progress, meanwhile)


def prune_missing(index: Index, paths: Iterable[PathLike]) -> int:
    """Remove pictures that are marked as missing, see :meth:`d2r.engine.Engine.prune`."""
    with index.writing() as writer:
        gone = {
            row.id: row
            for path in paths
            for row in _held(index, absolute(path))
            if row.missing_since is not None and _has_no_file(row)
        }
        writer.remove(list(gone.values()))
    return len(gone)


def remove_pictures(index: Index, paths: Iterable[PathLike]) -> int:
    """Remove pictures by path, see :meth:`d2r.engine.Engine.remove`."""
    found: dict[int, PictureRow] = {}
    for path in paths:
        wanted = absolute(path)
        named = {row.id: row for row in _held(index, wanted)}
        if not named:
            raise StoreError(f"{display_path(wanted)}: not in the index; nothing was removed")
        found |= named
    with index.writing() as writer:
        writer.remove(list(found.values()))
    return len(found)


def _fill(
    index: Index,
    writer: Writer,
    listing: Listing,
    gone: Sequence[PictureRow],
    unreadable: Sequence[OSError],
    prune: bool,
    workers: Describers,
    max_pixels: int,
    progress: Progress,
    meanwhile: Callable[[], None],
) -> Report:
    """Remove or mark pictures that are gone, add those that are listed, and report both."""
    # There is nothing to keep of a skipped file.
    writer.remove(gone if prune else [row for row in gone if row.segment is None])
    pictures = [row for row in gone if row.segment is not None]
    if not prune:
        writer.mark_missing(pictures)
    report = fill(
        index,
        writer,
        recipe_of(index),
        listing,
        num_words=index.settings.get("words"),
        bits=index.settings.get("bits"),
        workers=workers,
        max_pixels=max_pixels,
        progress=progress,
        meanwhile=meanwhile,
    )
    report.vanished.update(os.path.dirname(row.path) for row in pictures)
    if prune:
        report.removed = len(pictures)
    else:
        report.missing = len(pictures)
    report.skipped += [(str(error.filename), f"cannot be read: {error.strerror}") for error in unreadable]
    return report


def _files(pictures: Iterable[PathLike], unreadable: list[OSError]) -> Iterator[PictureFile]:
    """Yield the files at paths, and append the errors of the others to ``unreadable``."""
    for picture in pictures:
        try:
            yield picture_file_at(absolute(picture))
        except OSError as error:
            unreadable.append(error)


def _held(index: Index, path: str) -> Iterator[PictureRow]:
    """Yield the pictures of an index at or under a path."""
    with suppress(UnicodeEncodeError):  # no file has such a name
        yield from index.pictures(path)


def _what_stays(index: Index, root: str) -> str:
    """Return the end of a message: nothing was changed, and how to remove the pictures of a folder from the index.

    It begins with a semicolon; it is empty if the index has no pictures from there.
    """
    if next(_held(index, root), None) is None:
        return ""
    command = shlex.join(["d2r", "remove", display_path(index.folder), display_path(root)])
    return f"; the index is as it was, and `{command}` removes what it has from there"


def _without_file(index: Index, error: OSError) -> PictureRow | None:
    """Return the picture of an index at the path of an error, if the error says that the file is gone."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        return None
    row = index.picture(os.fsdecode(error.filename))
    return row if row is not None and row.segment is not None else None


def _has_no_file(row: PictureRow) -> bool:
    """Say whether the file of an unlisted picture is gone, because not every existing file is listed.

    The listing of an object storage is trusted: checking would take a request per picture.
    """
    return is_url(row.path) or is_gone(row.path)

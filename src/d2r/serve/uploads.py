"""The folder in which a service keeps added pictures, and the rules for deleting files there.

The name of a picture is the digest of its content, so the file alone proves that it is one. Partial uploads have unique
names in a tagged sub-folder of the service. No other file is ever deleted or overwritten.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from d2r.index import Index
from d2r.serve.settings import ServeError
from d2r.support.files import display_path, replacing, sync

JOURNAL: Final = "jobs.sqlite"
"""File in the folder with the jobs that clients requested; see :class:`d2r.serve.journal.Journal`."""

_LOCK: Final = ".service.lock"
_OWN: Final = ".d2r-uploads"  # sub-folder of partial uploads
_TAG: Final = "UPLOADS.TAG"  # in it: the purpose of the folders, and their index
_SIGNATURE: Final = (
    b"d2r serve keeps added pictures in the folder above, and deletes files in this one: keep nothing of yours here.\n"
)
_PART: Final = re.compile(r"\.[0-9a-f]{32}\.part")
_PICTURE: Final = re.compile(r"[0-9a-f]{32}\.[a-z]{3,4}")


class Uploads:
    """The pictures added to one index, in a folder locked by this process and unreadable to other users.

    A folder is accepted if it is new, empty or tagged, or if it holds only pictures of a service whose tag and journal
    are gone. Partial uploads left by a process that died are deleted.

    Args:
        folder: the folder; created if it does not exist.
        index: folder of the index.
        adopt: accept the folder whatever it holds, because it has a journal of a version that left no tag.

    Raises:
        ServeError: the folder holds other files, another service or another index uses it, or it cannot be written.
    """

    def __init__(self, folder: Path, *, index: Path, adopt: bool) -> None:
        self.folder = Path(os.path.abspath(folder))
        self._own = self.folder / _OWN
        index = Path(os.path.abspath(index))
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = self._owner()
            if owner is None and not adopt:
                self._check_strangers()
            if owner is not None and Index.exists(owner) and not owner.samefile(index):
                raise ServeError(
                    f"{folder}: holds the pictures added to {display_path(owner)}; give another folder with --uploads"
                )
            self._make_private()
            self._lock = FileLock(self.folder / _LOCK)
            self._lock.acquire(timeout=0)
            self._own.mkdir(mode=0o700, exist_ok=True)
            if owner != index:  # the folder is new, or the index was moved
                with replacing(self._own / _TAG) as part:
                    part.write_bytes(_SIGNATURE + os.fsencode(index))
            self._sweep()
        except Timeout as error:
            raise ServeError(
                f"{folder}: another d2r serve keeps its uploads there; give another folder with --uploads"
            ) from error
        except OSError as error:
            raise ServeError(f"{folder}: cannot keep uploads there ({error.strerror or error})") from error

    def close(self) -> None:
        """Release the folder for another service."""
        self._lock.release()

    def keep(self, data: bytes, ending: str) -> tuple[str, bool]:
        """Keep a picture; it is on disk when this returns.

        Args:
            data: content of the picture file, not empty.
            ending: suffix of its name, for example ``.jpg``.

        Returns:
            The name of the file, and whether the file is new.

        Raises:
            FileExistsError: another file has that name; it is left unchanged.
            OSError: the disk is full.
        """
        file = _digest(data) + ending
        if self.holds(file):
            return file, False
        path = self.folder / file
        part = self._own / f".{uuid.uuid4().hex}.part"
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                stream.write(data)
            sync(part)
            _take(path)
            part.replace(path)
            sync(self.folder)
        finally:
            part.unlink(missing_ok=True)
        return file, True

    def holds(self, file: str) -> bool:
        """Return whether a file is the picture that was kept under this name: whether its content has this digest."""
        path = self.folder / file
        try:
            regular = stat.S_ISREG(path.lstat().st_mode)
            return regular and _PICTURE.fullmatch(file) is not None and _digest(path.read_bytes()) == path.stem
        except FileNotFoundError:
            return False

    def discard(self, file: str) -> bool:
        """Delete a kept picture, and return whether no file of this name is left; any other file is left unchanged."""
        path = self.folder / file
        if self.holds(file):
            path.unlink()
        return not os.path.lexists(path)

    def files(self) -> Iterator[str]:
        """Yield the names of files that look like kept pictures; :meth:`holds` checks their content."""
        return (path.name for path in sorted(self.folder.iterdir()) if _PICTURE.fullmatch(path.name))

    def _owner(self) -> Path | None:
        """Return the index named in the tag; None without a tag."""
        if self._own.is_symlink():
            raise ServeError(f"{self._own}: is a link; remove it, or give another folder with --uploads")
        try:
            tag = (self._own / _TAG).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Path(os.fsdecode(tag.removeprefix(_SIGNATURE))) if tag.startswith(_SIGNATURE) else None

    def _check_strangers(self) -> None:
        """Raise :class:`ServeError` if the folder holds anything that no service put there."""
        for path in sorted(self.folder.iterdir()):
            known = path.name == _LOCK or path.name.startswith(f"{JOURNAL}-")
            # The sub-folder has no tag if a process died just after creating it.
            untagged = path == self._own and path.is_dir() and all(map(_is_part, path.iterdir()))
            if not known and not untagged and not self.holds(path.name):
                raise ServeError(
                    f"{display_path(self.folder)}: holds a file that is not from d2r serve"
                    f" ({display_path(path.name)}); give a new or empty folder with --uploads"
                )

    def _make_private(self) -> None:
        if self.folder.stat().st_mode & 0o077:
            try:
                self.folder.chmod(0o700)
            except OSError as error:
                raise ServeError(
                    f"{display_path(self.folder)}: cannot be made private ({error.strerror or error}); become its"
                    " owner, or give a new folder with --uploads"
                ) from error

    def _sweep(self) -> None:
        """Delete the partial uploads of processes that died."""
        for path in self._own.iterdir():
            if _is_part(path):
                path.unlink()


def uploaded_file(folder: Path, path: str) -> str | None:
    """Return the file name of an added picture; None if the path is in another folder or has another kind of name."""
    parent, file = os.path.split(path)
    return file if parent == os.path.abspath(folder) and _PICTURE.fullmatch(file) else None


def _is_part(path: Path) -> bool:
    return _PART.fullmatch(path.name) is not None and stat.S_ISREG(path.lstat().st_mode)


def _take(path: Path) -> None:
    """Create an empty file, so that the file to be overwritten is known to be this process's own."""
    try:
        path.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size:  # otherwise left by a process that died
            raise


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()

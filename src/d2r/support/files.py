"""Atomic writing of files, protection against overwriting, and readable paths.

Commands write their output with :func:`writing`. It overwrites a file only if the content says that this program wrote
it, or with ``--force``; but never a picture that d2r did not draw, an input of the command, a link, or anything in an
index. Work in progress is in a folder that :func:`own_folder` made; no other folder is ever removed.
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeAlias

from d2r.errors import D2RError

PathLike: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

Ours: TypeAlias = Callable[[Path], bool]
"""Returns whether this program wrote an existing file, of the kind that is to be written now."""

GENERATOR: Final = "d2r"
"""Generator that files of this program name: pages, JSON, and the metadata of pictures and arrays."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_SOFTWARE: Final = len(b"Software\0d2r").to_bytes(4, "big") + b"tEXtSoftware\0d2r"  # as the PNG format has it
_HEAD: Final = 1 << 16  # bytes at the beginning of a file in which its mark is searched
CATALOGUE: Final = "catalogue.sqlite"  # what marks a folder as an index, see d2r.index
_OWN: Final = ".made-by-d2r"
_PICTURES: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG2000", "PPM")  # recognised by their content


class OutputError(D2RError, OSError):
    """A file or a folder that must not be written to; the message names it and says what to do."""


def display_path(path: PathLike) -> str:
    r"""Return a path as printable text; bytes that are not UTF-8 appear as ``\xNN``."""
    name = os.fsdecode(path)
    try:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # no file has this name, but a message must be able to show it
        return name.encode("utf-8", "backslashreplace").decode()


def printable_path(path: PathLike) -> str:
    """Return a path with escapes for characters that a page cannot show or that reorder its text, such as newlines."""
    shown = display_path(path)
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in shown)


def is_url(path: str) -> bool:
    """Return whether a path is the URL of a file in object storage, such as ``s3://photos/castle.jpg``."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def read_bytes(path: PathLike) -> bytes:
    """Return the content of a file, on disk or in object storage (:mod:`d2r.support.remote`).

    Raises:
        OSError: it cannot be read.
        ValueError: the path has a zero byte, so no file can have it.
    """
    name = os.fsdecode(path)
    if is_url(name):
        from d2r.support.remote import read_object  # needs pyarrow

        return read_object(name)
    return Path(name).read_bytes()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; the file written there replaces ``path`` if the block succeeds.

    The data is on disk before the file gets its name. After an error the old file is unchanged and nothing is left.

    Raises:
        OutputError: ``path`` is a link, which would be lost, or not a file.
    """
    check_plain(path)
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        yield part
        sync(part)
        part.replace(path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, ours: Ours, *, force: bool = False) -> Iterator[Path]:
    """Do what :func:`replacing` does, for an output of a command: do not overwrite a file that is not ours.

    Args:
        path: path of the file.
        ours: see :data:`Ours`.
        force: overwrite a file that is not ours too; see :func:`check_output` for what is refused even then.

    Raises:
        OutputError: see :func:`check_output`. It is checked again at the end: the file may have appeared meanwhile.
    """
    check_output(path, ours, force=force)
    with replacing(path) as part:
        yield part
        check_output(path, ours, force=force)
        with suppress(FileNotFoundError):
            shutil.copymode(path, part)  # a file that was made private stays private


def check_output(path: Path, ours: Ours, *, force: bool = False, inputs: Iterable[Path | None] = ()) -> None:
    """Check that a file can be written without losing anything of the user's; call it before the work.

    Args:
        path: path of the file.
        ours: see :data:`Ours`.
        force: see :func:`writing`.
        inputs: files that the command reads, which are never overwritten; a None is skipped.

    Raises:
        OutputError: the folder is missing or belongs to an index; or ``path`` is a link, a device, a folder, one of the
            inputs, a picture that is not ours, or without ``force`` another file that is not ours and not empty.
    """
    shown = display_path(path)
    if not path.parent.is_dir():
        raise OutputError(f"{shown}: there is no folder {display_path(path.parent)}; make it, or give another name")
    check_no_index(path.parent)
    check_plain(path)
    if not path.exists():
        return
    if any(one is not None and one.exists() and one.samefile(path) for one in inputs):
        raise OutputError(f"{shown}: it is an input of this command and would be lost; give another name")
    if not path.stat().st_size or ours(path):
        return
    if _is_picture(path):
        raise OutputError(f"{shown}: it is a picture, which is not overwritten even with --force; give another name")
    if not force:
        raise OutputError(f"{shown}: it exists and was not written by d2r; give another name, or --force")


def check_plain(path: Path) -> None:
    """Raise :class:`OutputError` if ``path`` is not a file, or is a link, which would be lost."""
    shown = display_path(path)
    if path.is_symlink():
        raise OutputError(f"{shown}: it is a link to {display_path(path.readlink())}; give the name of the file itself")
    if path.is_dir():
        raise OutputError(f"{shown}: it is a folder; give the name of a file")
    if path.exists() and not path.is_file():
        raise OutputError(f"{shown}: it is a device or a pipe; give the name of a file")


def is_index(folder: Path) -> bool:
    """Return whether a folder is an index."""
    return (folder / CATALOGUE).is_file()


def check_no_index(folder: Path) -> None:
    """Raise :class:`OutputError` if a folder, which need not exist, is an index or lies in one."""
    place = folder.resolve()
    for one in (place, *place.parents):
        with suppress(PermissionError):  # a folder that cannot be read cannot be written to either
            if is_index(one):
                shown = display_path(folder), display_path(one)
                raise OutputError("{}: it belongs to the index {}; give another place".format(*shown))


def is_our_page(path: Path) -> bool:
    """Return whether a file is an HTML page of this program: it names its generator."""
    return b'<meta name="generator" content="d2r">' in _head(path)


def is_our_json(path: Path) -> bool:
    """Return whether a file is JSON of this program: the first key is ``"generator": "d2r"``, see :func:`marked`."""
    return re.match(rb'\s*\{\s*"generator"\s*:\s*"d2r"', _head(path)) is not None


def is_our_png(path: Path) -> bool:
    """Return whether a file is a PNG that this program drew: its text chunk ``Software`` says so."""
    head = _head(path)
    return head.startswith(_PNG) and _SOFTWARE in head


def is_our_svg(path: Path) -> bool:
    """Return whether a file is an SVG that this program drew: its metadata name the creator."""
    return b"<dc:title>d2r</dc:title>" in _head(path)


def is_our_onnx(path: Path) -> bool:
    """Return whether this program exported an ONNX file: the producer's name comes after the format's version."""
    return re.match(rb"\x08.\x12\x03d2r", _head(path), re.DOTALL) is not None


def is_our_safetensors(path: Path) -> bool:
    """Return whether a file is a safetensors file of this program: its metadata name the generator."""
    head = _head(path)
    try:
        about = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])["__metadata__"]
        return bool(about["generator"] == GENERATOR)
    except (ValueError, KeyError, TypeError):
        return False


def marked(document: dict[str, object]) -> dict[str, object]:
    """Return a document with its generator first, so that :func:`is_our_json` recognises the file."""
    return {"generator": GENERATOR, **document}


def own_folder(folder: Path) -> None:
    """Make a folder for work in progress, with a marker in it, or check that an existing folder has the marker.

    Raises:
        OutputError: it is a link or a file, or a folder that is not empty and has no marker.
    """
    if folder.is_symlink() or (os.path.lexists(folder) and not folder.is_dir()):
        raise OutputError(f"{display_path(folder)}: a folder for work in progress is needed here; move what is there")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / _OWN).is_file() and any(folder.iterdir()):
        raise OutputError(
            f"{display_path(folder)}: it holds files that d2r did not put there; move it, or give another place"
        )
    (folder / _OWN).touch()


def remove_own_folder(folder: Path, *, filled: bool = True) -> None:
    """Remove a folder that :func:`own_folder` made, with all its content; keep any other folder, and a link.

    Args:
        folder: may be missing.
        filled: False keeps a folder that is not empty.
    """
    if folder.is_symlink() or not (folder / _OWN).is_file():
        return
    if not filled and sum(1 for _ in folder.iterdir()) > 1:
        return
    # Renamed first, so that what a kill leaves over is not mistaken for the folder.
    going = folder.with_name(f".{uuid.uuid4().hex}.part")
    folder.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def move_new(source: Path, target: Path) -> None:
    """Move a file to a name that must be free.

    Raises:
        OutputError: a file, a folder or a link has that name.
    """
    if os.path.lexists(target):
        raise OutputError(f"{display_path(target)}: it exists and is never overwritten; move it")
    source.rename(target)


def is_temporary(path: Path) -> bool:
    """Return whether a name is one that :func:`replacing` makes: a kill may leave the file over."""
    return re.fullmatch(r"\.[0-9a-f]{32}\.part", path.name) is not None


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file or a folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _is_picture(path: Path) -> bool:
    """Return whether a file is a picture of any format, by its name or its content."""
    if (mimetypes.guess_type(path.name)[0] or "").startswith("image/"):
        return True
    from PIL import Image  # only needed if a file is in the way

    try:
        with Image.open(path, formats=_PICTURES):
            return True
    except Image.DecompressionBombError:
        return True
    except (OSError, ValueError, SyntaxError):
        return False

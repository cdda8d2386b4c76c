"""Files that appear whole or not at all, what may be written over, and paths as people can read them.

What a command is told to write, it writes through :func:`writing`. A file that is there already is written over only
where its content says that this program wrote it, or where somebody insists (``--force``); a picture that d2r did not
draw, a file that the command reads, a link, and what lies in an index never are. What is under way lies in a folder
that :func:`own_folder` made, and nothing else is ever removed as a whole.
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
"""Says of a file that is there whether this program wrote it, as one of the kind that is to be written now."""

GENERATOR: Final = "d2r"
"""What files of this program call their generator: in a page, in JSON and in the metadata of pictures and arrays."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_SOFTWARE: Final = len(b"Software\0d2r").to_bytes(4, "big") + b"tEXtSoftware\0d2r"  # as the PNG format has it
_HEAD: Final = 1 << 16  # bytes at the beginning of a file that its mark is looked for in
CATALOGUE: Final = "catalogue.sqlite"  # by which an index is known, see d2r.index
_OWN: Final = ".made-by-d2r"
_PICTURES: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG2000", "PPM")  # known by their content


class OutputError(D2RError, OSError):
    """A file or a folder that must not be written; the message names it and says what to do."""


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
    """Return the content of a file, or of one in object storage (:mod:`d2r.support.remote`).

    Raises:
        OSError: it cannot be read.
        ValueError: a path that no file can have, with a zero byte in it.
    """
    name = os.fsdecode(path)
    if is_url(name):
        from d2r.support.remote import read_object  # needs pyarrow, which only that needs

        return read_object(name)
    return Path(name).read_bytes()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what is written there takes its place when the block ends well.

    The data is on the disk before the name is. After an error the old file is as it was and nothing is left over.

    Raises:
        OutputError: ``path`` is a link, which would be lost, or no file.
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
    """As :func:`replacing`, for a file that somebody asked for: what is not ours is not written over.

    Args:
        path: of the file.
        ours: see :data:`Ours`.
        force: write over a file that is not ours, too; see :func:`check_output` for what is refused even then.

    Raises:
        OutputError: see :func:`check_output`. It is looked at when all is written: the file may be new by then.
    """
    check_output(path, ours, force=force)
    with replacing(path) as part:
        yield part
        check_output(path, ours, force=force)
        with suppress(FileNotFoundError):
            shutil.copymode(path, part)  # a page that was made private stays so


def check_output(path: Path, ours: Ours, *, force: bool = False, inputs: Iterable[Path | None] = ()) -> None:
    """Make sure that a file can be written and nothing of anybody's is lost by it; to be asked before the work.

    Args:
        path: of the file.
        ours: see :data:`Ours`.
        force: see :func:`writing`.
        inputs: files that are read for this, and never written over; None is none.

    Raises:
        OutputError: its folder is not there, or of an index; or there is a link, a device, a folder, one of the inputs,
            a picture that is not ours, or without ``force`` another file that is not ours and not empty.
    """
    shown = display_path(path)
    if not path.parent.is_dir():
        raise OutputError(f"{shown}: there is no folder {display_path(path.parent)}; make it, or give another name")
    check_no_index(path.parent)
    check_plain(path)
    if not path.exists():
        return
    if any(one is not None and one.exists() and one.samefile(path) for one in inputs):
        raise OutputError(f"{shown}: it is read here, and would be lost; give another name")
    if not path.stat().st_size or ours(path):
        return
    if _is_picture(path):
        raise OutputError(f"{shown}: it is a picture, not written over even with --force; give another name")
    if not force:
        raise OutputError(f"{shown}: it exists and was not written by d2r; give another name, or --force")


def check_plain(path: Path) -> None:
    """Raise :class:`OutputError` at what is no file, and at a link: it would be lost, or another place changed."""
    shown = display_path(path)
    if path.is_symlink():
        raise OutputError(f"{shown}: it is a link to {display_path(path.readlink())}; give the name of the file itself")
    if path.is_dir():
        raise OutputError(f"{shown}: it is a folder; give the name of a file")
    if path.exists() and not path.is_file():
        raise OutputError(f"{shown}: it is a device or a pipe, and a file is to be written; give the name of a file")


def is_index(folder: Path) -> bool:
    """Say whether there is an index in a folder."""
    return (folder / CATALOGUE).is_file()


def check_no_index(folder: Path) -> None:
    """Raise :class:`OutputError` where a folder, which need not exist, is an index or lies in one."""
    place = folder.resolve()
    for one in (place, *place.parents):
        with suppress(PermissionError):  # what cannot be looked into cannot be written to either
            if is_index(one):
                shown = display_path(folder), display_path(one)
                raise OutputError("{}: it belongs to the index {}; give another place".format(*shown))


def is_our_page(path: Path) -> bool:
    """Say whether a file is an HTML page of this program: it names its generator."""
    return b'<meta name="generator" content="d2r">' in _head(path)


def is_our_json(path: Path) -> bool:
    """Say whether a file is JSON of this program: the first key is ``"generator": "d2r"``, see :func:`marked`."""
    return re.match(rb'\s*\{\s*"generator"\s*:\s*"d2r"', _head(path)) is not None


def is_our_png(path: Path) -> bool:
    """Say whether a file is a PNG that this program drew: its text chunk ``Software`` says so."""
    head = _head(path)
    return head.startswith(_PNG) and _SOFTWARE in head


def is_our_svg(path: Path) -> bool:
    """Say whether a file is an SVG that this program drew: its metadata name the creator."""
    return b"<dc:title>d2r</dc:title>" in _head(path)


def is_our_onnx(path: Path) -> bool:
    """Say whether a file is an ONNX file that this program exported: it names its producer, after its version."""
    return re.match(rb"\x08.\x12\x03d2r", _head(path), re.DOTALL) is not None


def is_our_safetensors(path: Path) -> bool:
    """Say whether a file is of arrays and its metadata name this program as the generator."""
    head = _head(path)
    try:
        about = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])["__metadata__"]
        return bool(about["generator"] == GENERATOR)
    except (ValueError, KeyError, TypeError):
        return False


def marked(document: dict[str, object]) -> dict[str, object]:
    """Return what is to be written as JSON with its generator, by which :func:`is_our_json` knows it."""
    return {"generator": GENERATOR, **document}


def own_folder(folder: Path) -> None:
    """Make a folder for what is under way, or make sure that it was made by this: a marker in it says so.

    Raises:
        OutputError: there is a link or a file, or a folder of somebody else's with something in it.
    """
    if folder.is_symlink() or (os.path.lexists(folder) and not folder.is_dir()):
        raise OutputError(f"{display_path(folder)}: a folder is needed here for what is under way; move what is there")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / _OWN).is_file() and any(folder.iterdir()):
        raise OutputError(
            f"{display_path(folder)}: it holds what d2r did not put there; move it, or give another place"
        )
    (folder / _OWN).touch()


def remove_own_folder(folder: Path, *, filled: bool = True) -> None:
    """Remove a folder that :func:`own_folder` made, with all that is in it; another one stays, and so does a link.

    Args:
        folder: may be missing.
        filled: False keeps one in which there is still something.
    """
    if folder.is_symlink() or not (folder / _OWN).is_file():
        return
    if not filled and sum(1 for _ in folder.iterdir()) > 1:
        return
    # under a name that only this has, so that what is left after a kill is nobody's folder
    going = folder.with_name(f".{uuid.uuid4().hex}.part")
    folder.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def move_new(source: Path, target: Path) -> None:
    """Move a file to a name that no file has.

    Raises:
        OutputError: there is a file, a folder or a link of that name.
    """
    if os.path.lexists(target):
        raise OutputError(f"{display_path(target)}: it exists, and is not written over; move it")
    source.rename(target)


def is_temporary(path: Path) -> bool:
    """Say whether a name is one that :func:`replacing` makes: after a kill such a file may be left."""
    return re.fullmatch(r"\.[0-9a-f]{32}\.part", path.name) is not None


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


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _is_picture(path: Path) -> bool:
    """Say whether a file is a picture by its name or by its content, in whatever format."""
    if (mimetypes.guess_type(path.name)[0] or "").startswith("image/"):
        return True
    from PIL import Image  # only needed where a file is in the way

    try:
        with Image.open(path, formats=_PICTURES):
            return True
    except Image.DecompressionBombError:
        return True
    except (OSError, ValueError, SyntaxError):
        return False

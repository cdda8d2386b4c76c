"""Image pairs for structure from motion and localisation: the plain two-column file of hloc and COLMAP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from d2r.engine import Engine
from d2r.index import PictureRow, StoreError
from d2r.indexing.entry import Progress
from d2r.support.files import display_path, writing

_MARK: Final = b"\r\n"  # ends the last line: hloc, COLMAP and others that split lines ignore white space there


def write_pairs(
    engine: Engine, file: Path, *, top: int, verify: bool, root: Path | None, progress: Progress, force: bool = False
) -> tuple[list[tuple[str, str]], str]:
    """Pair every picture with the ``top`` pictures most similar to it, and write one pair per line.

    The last line ends with a carriage return too, which marks the file as written by d2r: the format has no comments.

    Args:
        engine: engine of the index.
        file: the file, written completely or not at all.
        top: most similar pictures to pair each picture with; each pair appears once, its pictures sorted by name.
        verify: leave out pairs that do not pass spatial verification.
        root: names are relative to this folder; None for the deepest folder that holds all pictures.
        progress: called with the progress of the stage "pairs".
        force: see :func:`d2r.support.files.writing`.

    Returns:
        The pairs of names, in the order of the file, and the folder that names are relative to.

    Raises:
        d2r.support.files.OutputError: ``file`` exists and was not written by this function (see :func:`is_ours`).
        StoreError: the index has no pictures, a picture is outside ``root``, or a name has white space, which the
            format cannot hold.
    """
    paths = [row.path for row in engine.index.pictures() if row.findable]
    if not paths:
        raise StoreError(f"{engine.index.folder}: the index has no pictures to pair")
    folder = os.path.abspath(root) if root is not None else os.path.commonpath(map(os.path.dirname, paths))
    names = {path: _name(path, folder) for path in paths}
    found: set[tuple[str, str]] = set()
    for done, near in enumerate(_confirmed(engine, top) if verify else _similar(engine, top), start=1):
        for one, other in near:
            first, second = sorted((names[one.path], names[other.path]))
            found.add((first, second))
        progress("pairs", done, len(paths))
    pairs = sorted(found, key=_line)
    with writing(file, is_ours, force=force) as part, part.open("wb") as stream:
        stream.writelines(_line(pair) + (_MARK if pair is pairs[-1] else b"\n") for pair in pairs)
    return pairs, folder


def is_ours(file: Path) -> bool:
    """Return whether :func:`write_pairs` wrote a file: pairs in order, each once, and its mark at the end."""
    before = b""
    with file.open("rb") as lines:
        for line in lines:
            if line.endswith(_MARK):
                names = line.removesuffix(_MARK)
                return _is_pair(names) and before < names and next(lines, None) is None
            names = line.removesuffix(b"\n")
            if not _is_pair(names) or names <= before:
                return False
            before = names
    return False


def _line(pair: tuple[str, str]) -> bytes:
    return os.fsencode(" ".join(pair))


def _is_pair(line: bytes) -> bool:
    names = line.split()
    return len(names) == 2 and line == b" ".join(names)


def _similar(engine: Engine, top: int) -> Iterator[list[tuple[PictureRow, PictureRow]]]:
    for picture, hits in engine.pairs(top):
        yield [(picture, hit.picture) for hit in hits]


def _confirmed(engine: Engine, top: int) -> Iterator[list[tuple[PictureRow, PictureRow]]]:
    for _, links in engine.links(top):
        yield [(link.first, link.second) for link in links]


def _name(path: str, folder: str) -> str:
    name = os.path.relpath(path, folder)
    if Path(name).parts[0] == os.pardir:
        raise StoreError(f"{display_path(path)}: is outside {display_path(folder)}; give another --root")
    if any(letter.isspace() for letter in name):
        raise StoreError(f"{display_path(path)}: a pairs file cannot hold a name with white space; rename it")
    return name

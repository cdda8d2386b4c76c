"""Image pairs for structure from motion and localisation: the plain two-column file of hloc and COLMAP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from d2r.build import Progress
from d2r.engine import Engine
from d2r.files import display_path, replacing
from d2r.index import PictureRow, StoreError


def write_pairs(
    engine: Engine, file: Path, *, top: int, verify: bool, root: Path | None, progress: Progress
) -> tuple[int, str]:
    """Pair every picture with the ``top`` pictures most similar to it, and write one pair a line.

    Args:
        engine: the index.
        file: written whole or not at all.
        top: pairs a picture asks for; each pair appears once, the pictures in order of name.
        verify: leave out pairs whose geometry is not confirmed.
        root: names are relative to this folder; None is the deepest that holds all pictures.
        progress: told how far it is, stage "pairs".

    Returns:
        number of pairs, and the folder that names are relative to.

    Raises:
        StoreError: a picture lies outside ``root``, or a name has white space, which the format cannot hold.
    """
    paths = [row.path for row in engine.index.pictures() if row.findable]
    if not paths:
        raise StoreError(f"{engine.index.folder}: it holds no pictures to pair")
    folder = os.path.abspath(root) if root is not None else os.path.commonpath(map(os.path.dirname, paths))
    names = {path: _name(path, folder) for path in paths}
    found: set[tuple[str, str]] = set()
    for done, pairs in enumerate(_confirmed(engine, top) if verify else _similar(engine, top), start=1):
        for one, other in pairs:
            first, second = sorted((names[one.path], names[other.path]))
            found.add((first, second))
        progress("pairs", done, len(paths))
    with replacing(file) as part, part.open("wb") as stream:
        stream.writelines(os.fsencode(f"{first} {second}\n") for first, second in sorted(found))
    return len(found), folder


def _similar(engine: Engine, top: int) -> Iterator[list[tuple[PictureRow, PictureRow]]]:
    for picture, hits in engine.pairs(top):
        yield [(picture, hit.picture) for hit in hits]


def _confirmed(engine: Engine, top: int) -> Iterator[list[tuple[PictureRow, PictureRow]]]:
    for _, links in engine.links(top):
        yield [(link.first, link.second) for link in links]


def _name(path: str, folder: str) -> str:
    name = os.path.relpath(path, folder)
    if Path(name).parts[0] == os.pardir:
        raise StoreError(f"{display_path(path)}: it lies outside {display_path(folder)}; give another --root")
    if any(letter.isspace() for letter in name):
        raise StoreError(f"{display_path(path)}: a pairs file cannot hold a name with white space; rename it")
    return name

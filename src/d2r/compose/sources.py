"""The source photographs of a clutter set: instances and backgrounds, in folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from d2r.datasets.ground_truth import ClutterError, Instance
from d2r.images import SUFFIXES
from d2r.support.files import display_path


def read_instances(folder: Path) -> list[Instance]:
    """Return the instances in a folder: each subfolder with pictures, and each picture directly in it.

    Raises:
        ClutterError: it is not a folder, or holds no pictures.
    """
    instances = [Instance(path.name, tuple(_pictures(path.iterdir()))) for path in _entries(folder) if path.is_dir()]
    instances += [Instance(path.stem, (path,)) for path in _pictures(_entries(folder))]
    instances = [instance for instance in instances if instance.photos]
    if not instances:
        raise ClutterError(f"{display_path(folder)}: no pictures in it or in its subfolders")
    return instances


def draw_instances(folder: Path, limit: int | None, seed: int) -> list[Instance]:
    """Return the instances in a folder, at most ``limit`` of them, drawn by the seed; None returns all.

    Raises:
        ClutterError: see :func:`read_instances`.
    """
    instances = read_instances(folder)
    if limit is None or limit >= len(instances):
        return instances
    rows = np.random.default_rng(seed).permutation(len(instances))[:limit]
    return [instances[row] for row in sorted(rows)]


def read_backgrounds(folder: Path) -> list[Path]:
    """Return the pictures anywhere below a folder, sorted.

    Raises:
        ClutterError: it is not a folder, or holds no pictures.
    """
    _entries(folder)
    photos = _pictures(folder.rglob("*"))
    if not photos:
        raise ClutterError(f"{display_path(folder)}: no pictures in it or below it")
    return photos


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise ClutterError(f"{display_path(folder)}: cannot be read: {error.strerror or error}") from error


def _pictures(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())

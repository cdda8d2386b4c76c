"""Near-duplicates: files of the same photograph, rescaled or recompressed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from d2r.images import ImageError, read_image

_SIDE = 24  # side of the thumbnails to compare, pixels
_CORRELATION = 0.95


def near_duplicates(first: Sequence[Path], second: Sequence[Path]) -> list[tuple[int, int]]:
    """Return the pairs (row of ``first``, row of ``second``) of pictures that are near-duplicates.

    Two pictures are near-duplicates if their 24 x 24 thumbnails, each minus its mean, correlate above 0.95. Unreadable
    files have no duplicates.
    """
    rows = _thumbnails(first)
    products = rows @ (rows if second is first else _thumbnails(second)).T
    return [(int(row), int(column)) for row, column in np.argwhere(products > _CORRELATION)]


def _thumbnails(paths: Sequence[Path]) -> NDArray[np.float32]:
    """Return float32 (N, 3 * 24 * 24), centred and of unit length; zero for a picture that cannot be read."""
    rows = np.zeros((len(paths), 3 * _SIDE * _SIDE), np.float32)
    for row, path in zip(rows, paths, strict=True):
        try:
            picture = read_image(path)
        except ImageError:
            continue
        small = cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32).reshape(-1)
        small -= small.mean()
        row[:] = small / max(float(np.linalg.norm(small)), 1e-6)
    return rows

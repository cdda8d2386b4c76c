"""Photographs of facades from several viewpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from d2r.images import Picture
from synthetic import texture, write

VIEWS = (
    [(30, 20), (290, 20), (290, 220), (30, 220)],
    [(50, 30), (270, 15), (280, 215), (40, 200)],
    [(20, 10), (260, 40), (270, 190), (30, 230)],
)


def seen_from(facade: Picture, corners: list[tuple[int, int]], around: int) -> Picture:
    """A photograph of a facade: it fills the quadrilateral ``corners``, with another texture around it."""
    height, width = facade.shape[:2]
    flat = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    photo = texture(around)
    matrix = cv2.getPerspectiveTransform(flat, np.array(corners, np.float32))
    cv2.warpPerspective(facade, matrix, (photo.shape[1], photo.shape[0]), photo, borderMode=cv2.BORDER_TRANSPARENT)
    return photo


@pytest.fixture
def folder_of_views(tmp_path) -> Callable[..., Path]:
    """A function that writes ``instances/NAME/K.jpg``: facade ``facade`` from each of the viewpoints ``views``."""

    def make(name: str, facade: int, views: tuple[int, ...] = (0, 1, 2), around: int = 0) -> Path:
        for k in views:
            photo = seen_from(texture(facade), VIEWS[k], 500 + 10 * around + k)
            write(tmp_path / "instances" / name / f"{k}.jpg", photo)
        return tmp_path / "instances"

    return make

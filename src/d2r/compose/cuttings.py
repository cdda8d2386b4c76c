"""Cut landmarks, and decoys that could take their places, from photographs to plant them in scenes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from d2r.boxes import PixelBox
from d2r.compose.planting import Matrix, Planting, plant
from d2r.compose.texture import textured_box
from d2r.datasets import difficulty
from d2r.datasets.difficulty import ClutterConfig
from d2r.images import Picture

_STRIP: Final = 0.3  # widest strip around a box to cut out with it, relative to the box's side
_LARGEST: Final = 0.95  # largest share of a picture that a box with its strips may cover
_ENLARGE: Final = 2.0  # largest enlargement of a photograph, whose blur would give it away
_TRIES: Final = 3  # sizes tried for an object, each half as large in area as the one before


def planting_config() -> ClutterConfig:
    """Return how objects are planted; ``share`` is the range of a landmark's box."""
    return dataclasses.replace(
        difficulty.DIFFICULTIES["medium"],
        name="detection",
        share=(0.05, 0.9),
        tilt=20,
        roll=5,
        stretch=1.2,
        lighting=0.5,
        occlusion=0.25,
        decoys=(1, 3),
        quality=(60, 95),
        side=512,
    )


@dataclass(frozen=True, eq=False)
class Cutting:
    """A part of a photograph: a box, and ``whole``, the box with the strip around it, in pixels."""

    photo: Picture
    box: PixelBox
    whole: PixelBox


@dataclass(frozen=True, eq=False)
class Cut:
    """A landmark and the decoy that could take its place; ``pixels`` is the area of the smaller one's box."""

    landmark: Cutting
    decoy: Cutting
    pixels: float


def cut(
    landmark: Picture, shares: tuple[float, float, float, float], ordinary: Picture, rng: np.random.Generator
) -> Cut:
    """Return a landmark with a strip around its box, and part of an ordinary photograph with the same proportions."""
    height, width = landmark.shape[:2]
    sides = np.array([width, height, width, height], np.float64)
    box = np.array(shares) * sides
    extent = np.tile(box[2:] - box[:2], 2)
    whole = np.clip(box + _STRIP * rng.uniform(0, 1, 4) ** 2 * extent * [-1, -1, 1, 1], 0, sides)

    x1, y1, x2, y2 = textured_box(ordinary)
    size = np.array([ordinary.shape[1], ordinary.shape[0]], np.float64)
    scale = min(1.0, float((size / (whole[2:] - whole[:2])).min()))
    corner = np.array([x1 + x2, y1 + y2]) / 2 - (whole[2:] - whole[:2]) * scale / 2
    corner = np.clip(corner, 0, np.maximum(size - (whole[2:] - whole[:2]) * scale, 0))
    offset = np.tile(corner - whole[:2] * scale, 2)
    return Cut(
        Cutting(landmark, _as_box(box), _as_box(whole)),
        Cutting(ordinary, _as_box(box * scale + offset), _as_box(whole * scale + offset)),
        float(extent[0] * extent[1]) * scale**2,
    )


def plant_cutting(
    picture: Picture,
    cutting: Cutting,
    pixels: float,
    rng: np.random.Generator,
    occluder: Picture | None,
    taken: Sequence[PixelBox],
) -> Planting | None:
    """Plant a cutting at a random size; None if it finds no place at that size or a fraction of it."""
    total = picture.shape[0] * picture.shape[1]
    config = planting_config()
    share = min(rng.uniform(*config.share), _ENLARGE**2 * pixels / total)
    share *= _area(cutting.whole) / _area(cutting.box)
    for _ in range(_TRIES):
        top = min(share, _LARGEST)
        config = dataclasses.replace(config, share=(0.85 * top, top))
        planting = plant(picture, cutting.photo, cutting.whole, config, rng, occluder=occluder, taken=taken)
        if planting is not None:
            return planting
        share /= 2
    return None


def visible_box(box: PixelBox, planting: Planting) -> PixelBox:
    """Return the visible box of an object in ``box``: its rounded outline after the homography, as far as planted."""
    x1, y1, x2, y2 = box
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    # As round as the planted outline (d2r.compose.planting.outline): objects rarely reach the corners of their boxes.
    outline = circle * (circle**4).sum(axis=1, keepdims=True) ** -0.25
    points = outline * [(x2 - x1) / 2, (y2 - y1) / 2] + [(x1 + x2) / 2, (y1 + y2) / 2]
    seen = cv2.perspectiveTransform(points[None], planting.homography)[0]
    low = np.maximum(seen.min(axis=0), planting.box[:2])
    high = np.minimum(seen.max(axis=0), planting.box[2:])
    return _as_box(np.round(np.concatenate([low, high]), 2))


def _as_box(corners: Matrix) -> PixelBox:
    x1, y1, x2, y2 = corners.tolist()
    return (x1, y1, x2, y2)


def _area(box: PixelBox) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])

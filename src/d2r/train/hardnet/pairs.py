"""Pairs of patches of the same place in a photo and in a warp of it, where SIFT finds a keypoint in both.

SIFT finds the two at slightly different positions, sizes and angles, which descriptors must tolerate. All random
choices come from the generator given. Keypoints are in pixels, whose centres are at half-integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from d2r.features.frames import Frames, grey, make_sift, strongest
from d2r.features.patches import cut_patches
from d2r.images import Picture
from d2r.train.delf.views import recoloured
from d2r.train.hardnet.network import PATCH_SIDE

WIDTH: Final = 6.0
"""Side of the area that a patch shows, in diameters of its keypoint."""

_TOP: Final = 1000  # keypoints per picture
_CONTRAST: Final = 0.02
_ZOOM: Final = (0.35, 1.15)  # of the warp
_TURN: Final = 12.0  # degrees, standard deviation
_STRETCH: Final = 0.3  # logarithm of the largest stretch of x against y
_SHEAR: Final = 0.25
_TILT: Final = 0.3  # of perspective, over the longer side
_LONGEST: Final = 1100  # pixels of a warped photo
_NOISE: Final = 8.0  # largest deviation of the added noise

# Largest differences between a keypoint and the mapped one that it matches.
_OFF: Final = (1.5, 0.25)  # pixels, or share of the smaller diameter if that is more
_LARGER: Final = 1.5
_TURNED: Final = 25.0  # degrees


@dataclass(frozen=True)
class PatchPairs:
    """P pairs of patches of one photo.

    Attributes:
        first: uint8 (P, 32, 32), patches of the photo.
        second: uint8 (P, 32, 32), patches of the warped photo.
        places: float32 (P, 3): x, y and diameter of the first's keypoints.
    """

    first: NDArray[np.uint8]
    second: NDArray[np.uint8]
    places: NDArray[np.float32]


def patch_pairs(photo: Picture, limit: int, random: np.random.Generator) -> PatchPairs:
    """Return at most ``limit`` pairs of a photo, uint8 (H, W, 3), and one random warp of it."""
    matrix, size = _warp(photo.shape[0], photo.shape[1], random)
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
    # blurred before a warp that shrinks, against aliasing
    source = cv2.GaussianBlur(photo, (0, 0), 0.5 * np.sqrt(scale**-2 - 1.0)) if scale < 0.8 else photo
    warped = np.asarray(cv2.warpPerspective(source, matrix, size, borderMode=cv2.BORDER_REFLECT), np.uint8)
    warped = recoloured(warped, random)
    noise = random.normal(0.0, random.uniform(0.0, _NOISE), warped.shape)
    warped = np.clip(warped + noise, 0, 255).astype(np.uint8)

    here, there = grey(photo), grey(warped)
    frames, others = _detect(here), _detect(there)
    rows = same_places(frames, others, matrix)
    rows = rows[random.permutation(len(rows))[:limit]]
    frames, others = frames.take(rows[:, 0]), others.take(rows[:, 1])
    return PatchPairs(
        cut_patches(here, frames, PATCH_SIDE, WIDTH),
        cut_patches(there, others, PATCH_SIDE, WIDTH),
        np.concatenate([frames.positions, frames.sizes[:, None]], axis=1),
    )


def same_places(frames: Frames, others: Frames, matrix: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the rows of the keypoints of two pictures that match under a homography, (P, 2).

    Args:
        frames: the N keypoints of the first picture.
        others: the M keypoints of the second.
        matrix: homography (3, 3) from pixels of the first to those of the second, counted from the centre of pixel 0.
    """
    if not len(frames) or not len(others):
        return np.zeros((0, 2), np.intp)
    places, sizes, angles = _mapped(frames, matrix)
    distances = np.linalg.norm(places[:, None] - others.positions, axis=2)
    allowed = np.maximum(_OFF[0], _OFF[1] * np.minimum(sizes[:, None], others.sizes))
    larger = np.abs(np.log(sizes[:, None] / others.sizes)) / np.log(_LARGER)
    turned = np.degrees(np.abs(np.angle(np.exp(1j * (angles[:, None] - others.angles))))) / _TURNED
    off = distances / allowed
    cost = np.where(np.maximum(np.maximum(off, larger), turned) <= 1.0, off + larger + turned, np.inf)
    nearest = cost.argmin(axis=1)
    rows = np.arange(len(frames))
    mutual = np.isfinite(cost[rows, nearest]) & (cost.argmin(axis=0)[nearest] == rows)
    return np.stack([rows[mutual], nearest[mutual]], axis=1)


def _detect(image: NDArray[np.uint8]) -> Frames:
    return strongest(make_sift(_TOP, _CONTRAST).detect(image, None), _TOP)[0]


def _warp(height: int, width: int, random: np.random.Generator) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Return a random homography of a photo, and the width and height of the warp, at most :data:`_LONGEST`."""
    zoom = np.exp(random.uniform(*np.log(_ZOOM)))
    angle = np.radians(random.normal(0.0, _TURN))
    stretch = np.exp(random.uniform(-_STRETCH, _STRETCH))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.eye(3)
    matrix[:2, :2] = zoom * turn @ np.array([[stretch, random.uniform(-_SHEAR, _SHEAR)], [0.0, 1.0 / stretch]])
    matrix[2, :2] = random.uniform(-_TILT, _TILT, 2) / max(height, width)
    middle = np.eye(3)
    middle[:2, 2] = -width / 2, -height / 2
    matrix = matrix @ middle
    corners = _project(matrix, np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64))
    shift = np.eye(3)
    shift[:2, 2] = -corners.min(axis=0)
    columns, lines = np.clip(np.ceil(np.ptp(corners, axis=0)), 1, _LONGEST).astype(int)
    return shift @ matrix, (int(columns), int(lines))


def _project(matrix: NDArray[np.float64], places: NDArray[np.floating]) -> NDArray[np.float64]:
    mapped = np.c_[places, np.ones(len(places))] @ matrix.T
    return np.asarray(mapped[:, :2] / mapped[:, 2:], np.float64)


def _mapped(
    frames: Frames, matrix: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return positions, sizes and angles of keypoints after a homography, by the local similarity nearest to it."""
    places = frames.positions.astype(np.float64) - 0.5
    axes = np.stack([np.cos(frames.angles), np.sin(frames.angles)], axis=1)
    mapped = _project(matrix, places)
    along = _project(matrix, places + axes) - mapped
    beside = _project(matrix, places + axes[:, ::-1] * [-1.0, 1.0]) - mapped
    area = along[:, 0] * beside[:, 1] - along[:, 1] * beside[:, 0]
    angles = np.arctan2(along[:, 1] - beside[:, 0], along[:, 0] + beside[:, 1])
    sizes = frames.sizes.astype(np.float64) * np.sqrt(np.maximum(area, 1e-9))
    return mapped + 0.5, sizes, angles.astype(np.float64)

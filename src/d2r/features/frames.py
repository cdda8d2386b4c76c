"""SIFT's keypoints (Lowe, IJCV 2004): the positions, sizes and orientations of local features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from d2r.images import Picture

# Pixel centres are at half-integers here and at integers in OpenCV, whose SIFT also finds everything a quarter of a
# pixel too far right and down, at every scale, because of how it first doubles the picture.
_OFFSET = np.float32(0.5 - 0.25)


@dataclass(frozen=True)
class Frames:
    """The frames (position, size and angle) of N local features of one picture, strongest response first.

    Attributes:
        positions: float32 (N, 2), x and y in pixels, whose centres are at half-integers.
        sizes: float32 (N,), diameter in pixels.
        angles: float32 (N,), the direction of the strongest gradient, in radians from the x axis towards the y axis.
        responses: float32 (N,).
    """

    positions: NDArray[np.float32]
    sizes: NDArray[np.float32]
    angles: NDArray[np.float32]
    responses: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Frames:
        """Return the frames at ``rows`` (indices or a mask), in that order."""
        return Frames(self.positions[rows], self.sizes[rows], self.angles[rows], self.responses[rows])


def make_sift(top: int, contrast: float) -> cv2.SIFT:
    """Return a detector of the ``top`` strongest keypoints; a lower ``contrast`` keeps weaker ones."""
    return cv2.SIFT.create(nfeatures=top, contrastThreshold=contrast)


def detected(top: int, views: int) -> int:
    """Return how many keypoints to detect in a picture to get ``top`` in each of ``views`` views.

    Keypoints that are weak in the picture may be the strongest in a view.
    """
    return top * min(views, 4)


def grey(image: Picture) -> NDArray[np.uint8]:
    """Return the grey picture for SIFT, uint8 (H, W), of a picture, uint8 (H, W, 3)."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def strongest(found: Sequence[cv2.KeyPoint], top: int) -> tuple[Frames, list[int]]:
    """Return the frames of the strongest of OpenCV's keypoints, and their rows.

    OpenCV keeps all that tie for the last place, unordered. Sorted by response, then by position, the same picture
    always gives the same keypoints in the same order.
    """
    keys = [(-point.response, point.pt, point.size, point.angle) for point in found]
    order = sorted(range(len(found)), key=keys.__getitem__)[:top]
    kept = [found[row] for row in order]
    frames = Frames(
        positions=np.array([point.pt for point in kept], np.float32).reshape(-1, 2) + _OFFSET,
        sizes=np.array([point.size for point in kept], np.float32),
        angles=np.radians(np.array([point.angle for point in kept], np.float32)),
        responses=np.array([point.response for point in kept], np.float32),
    )
    return frames, order

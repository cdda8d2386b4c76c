"""Patches of a picture at its keypoints, rotated upright and scaled to one size."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from d2r.features.frames import Frames

_AT_ONCE = 1000  # patches cut together: OpenCV takes at most 32,767 rows
_SMALLEST = 8  # pixels of the smaller side; pictures are not halved below this


def cut_patches(image: NDArray[np.uint8], frames: Frames, side: int, width: float) -> NDArray[np.uint8]:
    """Cut patches around local features.

    The picture is first halved until the pixels of a patch are one to two picture pixels apart.

    Args:
        image: uint8 (H, W), grey.
        frames: frames of N local features.
        side: side S of a patch, in its own pixels.
        width: side of the area that a patch shows, in diameters of its keypoint.

    Returns:
        uint8 (N, S, S); the x axis of a patch has the angle of its keypoint. Beyond its border the picture is mirrored.
    """
    patches = np.empty((len(frames), side, side), np.uint8)
    steps = frames.sizes * np.float32(width / side)  # picture pixels per patch pixel
    halvings = np.maximum(0, np.floor(np.log2(np.maximum(steps, 1e-6)))).astype(int)
    most = max(0, int(np.log2(max(1, min(image.shape[:2]) / _SMALLEST))))
    halvings = np.minimum(halvings, most)
    axis = (np.arange(side) - (side - 1) / 2).astype(np.float32)
    across, down = np.meshgrid(axis, axis)
    level = image
    for halved in range(int(halvings.max(initial=-1)) + 1):
        if halved:
            level = np.asarray(cv2.pyrDown(level), np.uint8)
        rows = np.flatnonzero(halvings == halved)
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            step = steps[some] / 2**halved
            cosines, sines = (step * turn(frames.angles[some]) for turn in (np.cos, np.sin))
            # pyrDown keeps the centre of the first pixel in place, which is the origin in OpenCV
            x, y = ((frames.positions[some] - 0.5) / 2**halved).T
            columns = x[:, None, None] + cosines[:, None, None] * across - sines[:, None, None] * down
            lines = y[:, None, None] + sines[:, None, None] * across + cosines[:, None, None] * down
            cut = cv2.remap(
                level,
                columns.reshape(-1, side).astype(np.float32),
                lines.reshape(-1, side).astype(np.float32),
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REFLECT,
            )
            patches[some] = cut.reshape(-1, side, side)
    return patches

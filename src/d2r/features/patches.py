"""Patches of a picture at its key points, turned upright and scaled to one size."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from d2r.features.frames import Frames

_AT_ONCE = 1000  # patches cut together: OpenCV takes at most 32,767 rows
_SMALLEST = 8  # pixels of the smaller side that a picture is not halved below


def cut_patches(image: NDArray[np.uint8], frames: Frames, side: int, width: float) -> NDArray[np.uint8]:
    """Cut the surroundings of local features.

    A patch is sampled from the picture halved so often that its own pixels are one to two of the picture's apart.

    Args:
        image: uint8 (H, W), grey.
        frames: of N local features.
        side: S of a patch, in its own pixels.
        width: side of what a patch shows, in diameters of its key point.

    Returns:
        uint8 (N, S, S); the x axis of a patch lies along the angle of its key point. Beyond the picture it is mirrored.
    """
    patches = np.empty((len(frames), side, side), np.uint8)
    steps = frames.sizes * np.float32(width / side)  # pixels of the picture to one of the patch
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
            # pyrDown keeps the first pixel where it is, counted from its centre, as OpenCV counts
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

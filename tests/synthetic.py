"""Made-up photographs, and small configurations to plant them with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np

from d2r.datasets.difficulty import DIFFICULTIES
from d2r.images import Picture, encode_jpeg

SMALL = dataclasses.replace(DIFFICULTIES["medium"], views=3, decoy_pictures=2, distractors=2, side=320)
MILD = dataclasses.replace(
    DIFFICULTIES["easy"], tilt=10, roll=5, stretch=1.05, lighting=0.2, blur=0, noise=0, share=(0.15, 0.25)
)


def texture(seed: int, width: int = 320, height: int = 240) -> Picture:
    """A picture with detail at every scale, unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for cell in (3, 6, 12, 24, 48):
        coarse = rng.uniform(-1, 1, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 60 * total, 0, 255).astype(np.uint8)


def write(path: Path, picture: Picture) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_jpeg(picture, 95))
    return path

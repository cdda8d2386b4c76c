"""RootSIFT: SIFT (Lowe, IJCV 2004), Hellinger-mapped (Arandjelovic and Zisserman, CVPR 2012)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from d2r.features.base import Features
from d2r.images import Picture


@dataclass(frozen=True)
class RootSIFT:
    """SIFT on the grey picture, descriptors mapped by ``sqrt(d / ||d||_1)``, which gives them unit length.

    Attributes:
        top: at most this many features a picture, those of strongest response.
        contrast: OpenCV's contrast threshold; lower keeps weaker key points.
    """

    top: int = 1000
    contrast: float = 0.02

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError("top must be 1 or more")
        if self.contrast < 0:
            raise ValueError("contrast must be 0 or more")

    @property
    def dim(self) -> int:
        """128."""
        return 128

    def extract(self, images: Sequence[Picture]) -> list[Features]:
        """See :meth:`d2r.features.FeatureExtractor.extract`; attention is the SIFT response."""
        sift = cv2.SIFT.create(contrastThreshold=self.contrast)
        return [self._extract(sift, image) for image in images]

    def _extract(self, sift: Any, image: Picture) -> Features:
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        keypoints = sift.detect(gray, None)
        if not keypoints:
            return Features.empty(self.dim)
        # Sorted by response here, and by place where responses tie, so that the same picture always gives the same
        # features in the same order; SIFT's own nfeatures keeps an arbitrary number of ties.
        keypoints = sorted(keypoints, key=lambda point: (-point.response, point.pt, point.size, point.angle))
        keypoints, raw = sift.compute(gray, keypoints[: self.top])
        sums = raw.sum(axis=1, keepdims=True)
        descriptors = np.sqrt(raw / np.maximum(sums, 1e-12))
        positions = np.array([point.pt for point in keypoints], np.float32) + np.float32(0.5)
        scales = np.array([point.size for point in keypoints], np.float32)
        responses = np.array([point.response for point in keypoints], np.float32)
        alive = sums[:, 0] > 0
        return Features(positions, scales, descriptors.astype(np.float32), responses).take(alive)

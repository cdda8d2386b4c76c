"""RootSIFT: SIFT (Lowe, IJCV 2004), Hellinger-mapped (Arandjelovic and Zisserman, CVPR 2012)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
        if not self.contrast >= 0:  # nor not-a-number
            raise ValueError("contrast must be 0 or more")

    @property
    def dim(self) -> int:
        """128."""
        return 128

    def extract(self, images: Sequence[Picture]) -> list[Features]:
        """See :meth:`d2r.features.FeatureExtractor.extract`; attention is the SIFT response."""
        # The limit is set here too, so that descriptors of key points that would be dropped are never computed.
        sift = cv2.SIFT.create(nfeatures=self.top, contrastThreshold=self.contrast)
        return [self._extract(sift, image) for image in images]

    def _extract(self, sift: cv2.SIFT, image: Picture) -> Features:
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        keypoints, raw = sift.detectAndCompute(gray, None)
        if not keypoints:
            return Features.empty(self.dim)
        # OpenCV keeps all that tie for the last place, in no order. Sorted by response, and where that ties by place,
        # the same picture always gives the same features in the same order.
        keys = [(-point.response, point.pt, point.size, point.angle) for point in keypoints]
        order = sorted(range(len(keypoints)), key=keys.__getitem__)[: self.top]
        kept = [keypoints[row] for row in order]
        raw = raw[order]
        sums = raw.sum(axis=1, keepdims=True)
        features = Features(
            # Pixel centres are at half-integers here and at integers in OpenCV, whose SIFT moreover finds everything a
            # quarter of a pixel too far right and down, at every scale, because of how it doubles the picture first.
            positions=np.array([point.pt for point in kept], np.float32) + np.float32(0.5 - 0.25),
            scales=np.array([point.size for point in kept], np.float32),
            descriptors=np.sqrt(raw / np.maximum(sums, 1e-12)).astype(np.float32),
            attention=np.array([point.response for point in kept], np.float32),
            angles=np.radians(np.array([point.angle for point in kept], np.float32)),
        )
        return features.take(sums[:, 0] > 0)

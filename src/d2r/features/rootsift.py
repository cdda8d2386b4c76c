"""RootSIFT: SIFT (Lowe, IJCV 2004), Hellinger-mapped (Arandjelovic and Zisserman, CVPR 2012)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from d2r.features.base import Features
from d2r.features.frames import grey, make_sift, strongest
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
        sift = make_sift(self.top, self.contrast)
        return [self._extract(sift, image) for image in images]

    def _extract(self, sift: cv2.SIFT, image: Picture) -> Features:
        found, raw = sift.detectAndCompute(grey(image), None)
        if not found:
            return Features.empty(self.dim)
        frames, rows = strongest(found, self.top)
        raw = raw[rows]
        sums = raw.sum(axis=1, keepdims=True)
        descriptors = np.sqrt(raw / np.maximum(sums, 1e-12)).astype(np.float32)
        features = Features(frames.positions, frames.sizes, descriptors, frames.responses, frames.angles)
        return features.take(sums[:, 0] > 0)

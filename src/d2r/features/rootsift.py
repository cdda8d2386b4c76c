"""RootSIFT: SIFT (Lowe, IJCV 2004), Hellinger-mapped (Arandjelovic and Zisserman, CVPR 2012)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from d2r.boxes import Boxes
from d2r.features.base import Features, strongest_in_views, whole_views
from d2r.features.frames import detected, grey, make_sift, strongest
from d2r.images import Picture


@dataclass(frozen=True)
class RootSIFT:
    """SIFT on the grey picture, descriptors mapped by ``sqrt(d / ||d||_1)``, which gives them unit length.

    Attributes:
        top: maximum number of features per picture, those with the strongest response.
        contrast: OpenCV's contrast threshold; a lower one keeps weaker keypoints.
    """

    top: int = 1000
    contrast: float = 0.02

    precise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError("top must be 1 or more")
        if not self.contrast >= 0:  # rejects NaN too
            raise ValueError("contrast must be 0 or more")

    @property
    def dim(self) -> int:
        """128."""
        return 128

    def extract(self, images: Sequence[Picture]) -> list[Features]:
        """See :meth:`d2r.features.FeatureExtractor.extract`; attention is the SIFT response."""
        return [found[0] for found in self.extract_views(images, whole_views(images))]

    def extract_views(self, images: Sequence[Picture], views: Sequence[Boxes]) -> list[list[Features]]:
        """See :meth:`d2r.features.ViewExtractor.extract_views`."""
        found = []
        for image, own in zip(images, views, strict=True):
            features = self._extract(image, detected(self.top, len(own)))
            found.append([features.take(rows) for rows in strongest_in_views(features, own, self.top)])
        return found

    def _extract(self, image: Picture, most: int) -> Features:
        # The limit is also set here, so that no descriptors are computed for keypoints that would be dropped.
        found, raw = make_sift(most, self.contrast).detectAndCompute(grey(image), None)
        if not found:
            return Features.empty(self.dim)
        frames, rows = strongest(found, most)
        raw = raw[rows]
        sums = raw.sum(axis=1, keepdims=True)
        descriptors = np.sqrt(raw / np.maximum(sums, 1e-12)).astype(np.float32)
        features = Features(frames.positions, frames.sizes, descriptors, frames.responses, frames.angles)
        return features.take(sums[:, 0] > 0)

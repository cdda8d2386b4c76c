"""Statistics of a set of landmark boxes: pictures per landmark, and sizes of the boxes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2r.datasets.landmark_boxes import LandmarkBoxes

BINS = 10
"""Number of equally wide bins of the distribution of areas."""


@dataclass(frozen=True, eq=False)
class LandmarkStatistics:
    """Counts and distributions of a data set with L landmarks and B boxes.

    Attributes:
        pictures: number of pictures.
        training: number of boxes for training.
        validation: number of boxes for validation; B is the sum of both.
        without_box: number of pictures without a box.
        without_landmark: number of pictures whose landmark is unknown.
        without_url: number of pictures without an address.
        pictures_each: int64 (L,), pictures of each landmark, in descending order.
        areas: float64 (B,), each box's share of its picture's area, in (0, 1].
    """

    pictures: int
    training: int
    validation: int
    without_box: int
    without_landmark: int
    without_url: int
    pictures_each: NDArray[np.int64]
    areas: NDArray[np.float64]

    @property
    def area_histogram(self) -> NDArray[np.int64]:
        """Number of boxes in each of :data:`BINS` equal ranges of area from 0 to 1, int64 (BINS,)."""
        return np.histogram(self.areas, bins=BINS, range=(0.0, 1.0))[0].astype(np.int64)


def landmark_statistics(dataset: LandmarkBoxes) -> LandmarkStatistics:
    """Return the statistics of a data set."""
    pictures = dataset.pictures.values()
    counts = Counter(picture.landmark for picture in pictures)
    without_landmark = counts.pop(None, 0)
    boxes = (*dataset.training.values(), *dataset.validation.values())
    return LandmarkStatistics(
        pictures=len(pictures),
        training=len(dataset.training),
        validation=len(dataset.validation),
        without_box=len(pictures) - len(boxes),
        without_landmark=without_landmark,
        without_url=sum(picture.url is None for picture in pictures),
        pictures_each=np.array(sorted(counts.values(), reverse=True), np.int64),
        areas=np.array([box.area for box in boxes], np.float64),
    )

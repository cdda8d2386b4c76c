"""Selective Search (Uijlings et al., IJCV 2013) from OpenCV: class-agnostic region proposals."""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass

import cv2
import numpy as np

from d2r.boxes import as_boxes, clip, iou
from d2r.images import Picture, shrink
from d2r.regions.base import Regions

_SIDE = 320  # pixels; proposals are found on a small copy, without which the method is too slow
_SMALLEST = 0.01  # of the picture's area; a smaller box holds too few features to be worth a region
_SAME = 0.9  # IoU from which two proposals, or a proposal and the whole picture, count as the same region

_lock = threading.Lock()


@dataclass(frozen=True)
class SelectiveSearch:
    """The first ``top`` proposals of the fast variant, without tiny ones, duplicates, and the whole picture."""

    top: int = 5

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError("top must be 1 or more")

    def select(self, image: Picture) -> Regions:
        """See :meth:`d2r.regions.RegionSelector.select`."""
        height, width = image.shape[:2]
        small = shrink(image, _SIDE)
        scale = np.array([width / small.shape[1], height / small.shape[0]] * 2, np.float32)
        frame = as_boxes([0, 0, width, height])
        kept = frame
        for x, y, w, h in self._proposals(small):
            if w * h < _SMALLEST * small.shape[0] * small.shape[1]:
                continue
            box = clip(as_boxes([x, y, x + w, y + h]) * scale, width, height)  # rounding may pass the edge
            if iou(box, kept).max() < _SAME:
                kept = np.concatenate([kept, box])
                if len(kept) > self.top:
                    break
        return Regions.unscored(kept[1:])

    @staticmethod
    def _proposals(small: Picture) -> list[tuple[int, int, int, int]]:
        if min(small.shape[:2]) < 16:  # the segmentation needs a few pixels to work on
            return []
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.ascontiguousarray(small[:, :, ::-1]))
        search.switchToSelectiveSearchFast()
        with _lock:
            # OpenCV orders proposals by C's rand(): without a fixed seed a picture would have other regions each
            # time.
            ctypes.CDLL(None).srand(0)
            return [tuple(rectangle) for rectangle in search.process()]

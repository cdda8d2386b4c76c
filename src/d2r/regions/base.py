"""The interface of region selection: which boxes of a picture to describe besides the whole picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from d2r.boxes import Boxes
from d2r.images import Picture


@dataclass(frozen=True)
class Regions:
    """R regions of one picture.

    Attributes:
        boxes: float32 (R, 4), inside the picture.
        scores: float32 (R,), confidence in [0, 1]; 1 if the selector does not score.
    """

    boxes: Boxes
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.boxes)

    @staticmethod
    def unscored(boxes: Boxes) -> Regions:
        """Return regions with a score of 1."""
        return Regions(boxes, np.ones(len(boxes), np.float32))


class RegionSelector(Protocol):
    """Chooses regions. Implementations are frozen dataclasses, picklable and thread-safe."""

    def select(self, image: Picture) -> Regions:
        """Return the regions of a picture, best first. The whole picture, which is always described, is not among them.

        Args:
            image: uint8 (H, W, 3).
        """
        ...

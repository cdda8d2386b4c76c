"""Region proposals from a trained landmark detector (:mod:`d2r.regions.network`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from d2r.boxes import Boxes, clip, iou
from d2r.images import Picture
from d2r.models import DETECTOR
from d2r.models.onnx import check_pinned, check_sha256, find_file, pinned_model
from d2r.regions.base import Regions
from d2r.regions.network import DetectorError, Network, load_network

_SAME = 0.9  # IoU with the whole picture from which a region would only describe it again


@dataclass(frozen=True)
class Detector:
    """Selects the boxes that a network scores highest.

    Attributes:
        model: path of an ONNX file (it ends in ``.onnx``), or the name of a model (`d2r models list`).
        threshold: minimum score of a box, in [0, 1].
        top: maximum number of boxes.
        nms: a box is dropped if its IoU with a better one is above this.
        sha256: the SHA-256 that the file must have, in hexadecimal; empty takes any. An index stores it, so that its
            pictures are never described with different models of one name.
    """

    model: str = DETECTOR
    threshold: float = 0.1
    top: int = 5
    nms: float = 0.5
    sha256: str = ""

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError("threshold must be 0 to 1")
        if self.top < 1:
            raise ValueError("top must be 1 or more")
        if not 0.0 <= self.nms <= 1.0:
            raise ValueError("nms must be 0 to 1")
        check_sha256(self.sha256)

    def select(self, image: Picture) -> Regions:
        """See :meth:`d2r.regions.RegionSelector.select`.

        Raises:
            DetectorError: see :meth:`network`.
        """
        network = self.network()
        shares, scores = network.run(squash(image, network.side)[None])
        return self.regions(image, shares[0], scores[0])

    def regions(self, image: Picture, shares: NDArray[np.float32], scores: NDArray[np.float32]) -> Regions:
        """Return the regions that :meth:`select` would, from the network's outputs, which another machine may compute.

        Args:
            image: uint8 (H, W, 3).
            shares: float32 (K, 4), boxes as shares of width and height (:mod:`d2r.regions.network`).
            scores: float32 (K,).
        """
        height, width = image.shape[:2]
        boxes, scores = self._usable(image, shares, scores)
        fresh = iou(boxes, [0, 0, width, height])[:, 0] < _SAME
        return Regions(boxes[fresh][: self.top], scores[fresh][: self.top])

    def detect(self, images: Sequence[Picture]) -> list[Regions]:
        """Find boxes in several pictures, in one run of the network if it takes several pictures at once.

        Args:
            images: uint8 (H, W, 3) each, of any sizes.

        Returns:
            for each picture its boxes, in its pixels, best first. Unlike with :meth:`select`, a box may be the whole
            picture: a landmark that fills it.

        Raises:
            DetectorError: see :meth:`network`.
        """
        return [Regions(boxes[: self.top], scores[: self.top]) for boxes, scores in self._find(images)]

    def network(self) -> Network:
        """Return the network, which is loaded once per process.

        Raises:
            DetectorError: the file is missing, is not a detector, or has another SHA-256 than given.
        """
        network = load_network(find_file(self.model, DetectorError))
        check_pinned(network.path, network.sha256, self.sha256, DetectorError)
        return network

    def pinned(self) -> Detector:
        """Return this detector with the absolute path and the SHA-256 of its model.

        Raises:
            ValueError: the path has a comma, which a specification cannot hold.
            DetectorError: see :meth:`network`.
        """
        network = self.network()
        return replace(self, model=pinned_model(self.model, network.path), sha256=network.sha256)

    def _find(self, images: Sequence[Picture]) -> list[tuple[Boxes, NDArray[np.float32]]]:
        """Return all boxes of each picture that pass the threshold and non-maximum suppression, and their scores."""
        if not len(images):
            return []
        network = self.network()
        shares, scores = network.run(np.stack([squash(image, network.side) for image in images]))
        return [self._usable(*found) for found in zip(images, shares, scores, strict=True)]

    def _usable(
        self, image: Picture, shares: NDArray[np.float32], scores: NDArray[np.float32]
    ) -> tuple[Boxes, NDArray[np.float32]]:
        height, width = image.shape[:2]
        boxes = clip(shares * np.array([width, height, width, height], np.float32), width, height)
        usable = (scores >= self.threshold) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        boxes, scores = boxes[usable], scores[usable]
        kept = suppress(boxes, scores, self.nms)
        return boxes[kept], np.clip(scores[kept], 0.0, 1.0)


def squash(image: Picture, side: int) -> Picture:
    """Scale a picture to a square, without keeping its aspect ratio, as input of a detector: uint8 (side, side, 3)."""
    shrinks = image.shape[0] * image.shape[1] > side * side
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (side, side), interpolation=method), dtype=np.uint8)


def suppress(boxes: Boxes, scores: NDArray[np.float32], overlap: float) -> NDArray[np.intp]:
    """Return the rows of the boxes that non-maximum suppression keeps, best first.

    Args:
        boxes: float32 (N, 4).
        scores: float32 (N,); among equal scores the first box is the better.
        overlap: a box is dropped if its IoU with a better kept one is above this, in [0, 1].
    """
    order = np.argsort(-scores, kind="stable")
    overlaps = iou(boxes, boxes) > overlap
    kept: list[int] = []
    dropped = np.zeros(len(boxes), bool)
    for row in order.tolist():
        if not dropped[row]:
            kept.append(row)
            dropped |= overlaps[row]
    return np.array(kept, np.intp)

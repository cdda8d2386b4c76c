"""Detection scores by the COCO evaluation: average precision, and recall with a few boxes per picture."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from d2r.boxes import as_boxes

MAX_BOXES = 100
"""Maximum number of boxes per picture, best first, for average precision, as in COCO."""

_CATEGORY = 1


@dataclass(frozen=True, eq=False)
class DetectionScores:
    """Scores of one class of boxes over a set of pictures, each in [0, 1].

    Attributes:
        ap50: average precision at intersection over union 0.5.
        ap: average precision, mean over the ten thresholds 0.5, 0.55, ..., 0.95.
        ks: the K numbers of boxes per picture at which recall is measured.
        recall50: float64 (K,), share of true boxes found at 0.5 by the best k boxes of each picture.
        recall: float64 (K,), the same, mean over the ten thresholds (COCO's average recall).
        pictures: number of pictures.
        boxes: number of true boxes.
    """

    ap50: float
    ap: float
    ks: tuple[int, ...]
    recall50: NDArray[np.float64]
    recall: NDArray[np.float64]
    pictures: int
    boxes: int


def evaluate_boxes(
    predicted: Sequence[ArrayLike],
    scores: Sequence[ArrayLike],
    truth: Sequence[ArrayLike],
    ks: Sequence[int] = (1, 2, 5),
) -> DetectionScores:
    """Score predicted boxes against true ones, all of one class.

    Args:
        predicted: for each picture a float array (N, 4), x1, y1, x2, y2 in pixels.
        scores: for each picture a float array (N,), the confidence of each box, comparable across pictures.
        truth: for each picture a float array (M, 4). A picture without true boxes counts: boxes found there are wrong.
        ks: numbers of boxes per picture at which recall is measured, 1 to :data:`MAX_BOXES`.

    Raises:
        ValueError: the lists or arrays differ in length, a number is not finite, a true box is empty, a k is
            out of range, or there is no true box.
    """
    if not len(predicted) == len(scores) == len(truth):
        raise ValueError(f"boxes of {len(predicted)}, scores of {len(scores)}, true boxes of {len(truth)} pictures")
    if min(ks) < 1 or max(ks) > MAX_BOXES:
        raise ValueError(f"boxes per picture must be 1 to {MAX_BOXES}, not {tuple(ks)}")
    found: list[dict[str, Any]] = []
    wanted: list[dict[str, Any]] = []
    for picture, (boxes, confidence, true) in enumerate(zip(predicted, scores, truth, strict=True), start=1):
        found += _annotations(picture, as_boxes(boxes), np.asarray(confidence, dtype=np.float64), len(found))
        true_boxes = as_boxes(true)
        if (true_boxes[:, 2:] <= true_boxes[:, :2]).any():
            raise ValueError(f"picture {picture - 1}: a true box is empty")
        wanted += _annotations(picture, true_boxes, np.ones(len(true_boxes)), len(wanted))
    if not wanted:
        raise ValueError("no picture has a true box: there is nothing to measure")

    cuts = sorted({*ks, MAX_BOXES})
    with contextlib.redirect_stdout(io.StringIO()):  # the library reports its progress with print
        evaluation = COCOeval(_coco(wanted, len(truth)), _coco(found, len(truth)), "bbox")
        evaluation.params.maxDets = cuts
        evaluation.params.areaRng = [[0.0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    # (thresholds, recalls, class, area, cuts) and (thresholds, class, area, cuts); the first threshold is 0.5
    precision = evaluation.eval["precision"][:, :, 0, 0, -1].mean(axis=1)
    recall = evaluation.eval["recall"][:, 0, 0, [cuts.index(k) for k in ks]]
    return DetectionScores(
        ap50=float(precision[0]),
        ap=float(precision.mean()),
        ks=tuple(ks),
        recall50=recall[0],
        recall=recall.mean(axis=0),
        pictures=len(truth),
        boxes=len(wanted),
    )


def _annotations(
    picture: int, boxes: NDArray[np.float32], scores: NDArray[np.float64], offset: int
) -> list[dict[str, Any]]:
    """Return one COCO annotation per box; ids start at ``offset`` + 1.

    The library uses the id 0 for "not found", so ids start at 1.
    """
    if scores.shape != (len(boxes),):
        raise ValueError(f"picture {picture - 1}: {len(boxes)} boxes and scores of shape {scores.shape}")
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError(f"picture {picture - 1}: a box or a score is not finite")
    corners = boxes.astype(np.float64)
    sizes = np.maximum(corners[:, 2:] - corners[:, :2], 0.0)
    return [
        {
            "id": number,
            "image_id": picture,
            "category_id": _CATEGORY,
            "bbox": [*corner.tolist(), *size.tolist()],
            "area": float(size.prod()),
            "iscrowd": 0,
            "score": float(score),
        }
        for number, (corner, size, score) in enumerate(
            zip(corners[:, :2], sizes, scores, strict=True), start=offset + 1
        )
    ]


def _coco(annotations: list[dict[str, Any]], pictures: int) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in range(1, pictures + 1)],
        "categories": [{"id": _CATEGORY}],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco

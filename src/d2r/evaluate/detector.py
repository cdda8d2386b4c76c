"""Measure how well a region selector finds the boxes of a set of pictures, and where it fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2r.boxes import Boxes, as_boxes, iou
from d2r.datasets.detection import DetectionDataError, DetectionPicture
from d2r.evaluate.detection import MAX_BOXES, DetectionScores, evaluate_boxes
from d2r.images import ImageError, Picture, read_image
from d2r.regions import Detector, Regions, RegionSelector
from d2r.support.files import display_path

LOW_THRESHOLD = 0.01


@dataclass(frozen=True, eq=False)
class Judged:
    """A picture with its true boxes and the regions found in it.

    Attributes:
        path: path of the file.
        true: true boxes, float32 (M, 4), in pixels.
        found: regions found, in pixels, best first.
    """

    path: Path
    true: Boxes
    found: Regions

    @property
    def overlap(self) -> float:
        """IoU of the best found box with the nearest true box; 0 if either is missing."""
        if not len(self.found) or not len(self.true):
            return 0.0
        return float(iou(self.found.boxes[:1], self.true).max())

    @property
    def failure(self) -> float:
        """Error of the best found box, in [0, 1]: 1 - IoU with a true box, or its score if there is no true box."""
        if len(self.true):
            return 1.0 - self.overlap
        return float(self.found.scores[0]) if len(self.found) else 0.0


@dataclass(frozen=True, eq=False)
class SourceScores:
    """The measurements on one source.

    Attributes:
        source: the source, as given.
        scores: scores over all pictures that could be read.
        milliseconds: median time per picture, with the picture in memory.
        judged: the pictures.
        skipped: path and reason of each picture that could not be read.
    """

    source: str
    scores: DetectionScores
    milliseconds: float
    judged: list[Judged]
    skipped: list[tuple[str, str]]


def scoring_spec(spec: str) -> str:
    """Return a specification whose detector returns boxes of any score, as average precision needs.

    A detector's threshold becomes 0.01 and its ``top`` 100 unless the specification gives them.
    """
    name, _, text = spec.strip().partition(":")
    if name != "detector":
        return spec
    options = [option for option in text.split(",") if option]
    given = {option.partition("=")[0].strip() for option in options}
    wanted = {"threshold": f"{LOW_THRESHOLD}", "top": f"{MAX_BOXES}"}
    options += [f"{key}={value}" for key, value in wanted.items() if key not in given]
    return f"{name}:{','.join(options)}"


def judge_source(
    selector: RegionSelector,
    source: str,
    pictures: Sequence[DetectionPicture],
    *,
    max_pixels: int,
    progress: Callable[[str, int, int], None],
) -> SourceScores:
    """Detect boxes in pictures, one at a time, and score them.

    Args:
        selector: any region selector; for a detector, boxes that are the whole picture count too.
        source: name of the pictures.
        pictures: with their true boxes. Pictures that cannot be read are left out and listed.
        max_pixels: see :func:`d2r.images.read_image`.
        progress: called with the stage, "detect", the number done and the total.

    Raises:
        DetectionDataError: no picture that can be read has a box.
        d2r.regions.DetectorError: the detector cannot be used.
    """
    judged: list[Judged] = []
    skipped: list[tuple[str, str]] = []
    seconds: list[float] = []
    for done, picture in enumerate(pictures, start=1):
        try:
            image = read_image(picture.path, max_pixels=max_pixels)
        except ImageError as error:
            skipped.append((display_path(picture.path), error.reason))
        else:
            if not judged:
                _find(selector, image)  # the first run allocates memory, which should not count
            started = time.perf_counter()
            found = _find(selector, image)
            seconds.append(time.perf_counter() - started)
            height, width = image.shape[:2]
            true = as_boxes(picture.boxes) * np.array([width, height, width, height], np.float32)
            judged.append(Judged(picture.path, true, found))
        progress("detect", done, len(pictures))
    if not any(len(one.true) for one in judged):
        first = f"; the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise DetectionDataError(
            f"{display_path(source)}: no picture that can be read has a box, so there is nothing to measure"
            f" ({len(judged):,} pictures without a box, {len(skipped):,} that cannot be read{first})"
        )
    scores = evaluate_boxes(
        [one.found.boxes for one in judged], [one.found.scores for one in judged], [one.true for one in judged]
    )
    return SourceScores(source, scores, 1000 * float(np.median(seconds)), judged, skipped)


def _find(selector: RegionSelector, image: Picture) -> Regions:
    return selector.detect([image])[0] if isinstance(selector, Detector) else selector.select(image)


def worst_failures(judged: Sequence[Judged], limit: int) -> list[Judged]:
    """Return the pictures with the largest error, worst first; only those with an IoU below 0.5."""
    failed = [one for one in judged if one.failure > 0.5]
    return sorted(failed, key=lambda one: -one.failure)[:limit]


def detector_as_json(one: SourceScores) -> dict[str, Any]:
    """Return the measurements as JSON types."""
    scores = one.scores
    return {
        "source": one.source,
        "pictures": scores.pictures,
        "boxes": scores.boxes,
        "ap50": scores.ap50,
        "ap": scores.ap,
        "recall50": {str(k): float(value) for k, value in zip(scores.ks, scores.recall50, strict=True)},
        "recall": {str(k): float(value) for k, value in zip(scores.ks, scores.recall, strict=True)},
        "milliseconds": one.milliseconds,
        "skipped": [list(row) for row in one.skipped],
    }

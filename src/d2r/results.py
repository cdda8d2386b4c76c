"""The results and answers of a search, and links between pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2r.boxes import Boxes, PixelBox
from d2r.describe import Description
from d2r.images import Picture, read_image
from d2r.index import PictureRow
from d2r.ordering import is_confirmed
from d2r.search import Candidate
from d2r.support.files import PathLike
from d2r.verify.localise import found_box


@dataclass(frozen=True)
class Result:
    """One found picture.

    Attributes:
        id: its number in the index.
        path: of the file, absolute.
        score: R-ASMK* similarity to the query, or to the expanded query, at most 1.
        inliers: number of inliers of one affine transform, for the kind of features that has the most; None if it was
            not verified.
        confirmed: whether it has enough inliers to be more than similar (:func:`d2r.ordering.is_confirmed`); None if it
            was not verified.
        kinds: number of inliers of each kind of features, by name; None if it was not verified.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        boxes: float32 (R, 4), the regions that were described, the whole picture first.
        box_scores: float32 (R,).
        transform: float64 (2, 3), maps query pixels to this picture's; None without inliers.
        found: box of the query object in this picture, see :func:`d2r.verify.localise.found_box`; None without inliers.
        query_positions: float32 (inliers, 2), the inliers in pixels of the query picture.
        positions: float32 (inliers, 2), the same keypoints in this picture.
    """

    id: int
    path: str
    score: float
    inliers: int | None
    confirmed: bool | None
    kinds: dict[str, int] | None
    width: int
    height: int
    boxes: Boxes
    box_scores: NDArray[np.float32]
    transform: NDArray[np.float64] | None
    found: PixelBox | None
    query_positions: NDArray[np.float32]
    positions: NDArray[np.float32]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types; a path that is not UTF-8 keeps its bytes as lone surrogates (os.fsencode)."""
        size = {"width": self.width, "height": self.height}
        return {"id": self.id, "path": self.path, **size, **self.measured()}

    def measured(self) -> dict[str, Any]:
        """Return :meth:`to_json` without the fields that identify the picture."""
        return {
            "score": round(self.score, 6),
            "inliers": self.inliers,
            "confirmed": self.confirmed,
            "kinds": self.kinds,
            "regions": tenths(self.boxes),
            "region_scores": rounded_scores(self.box_scores),
            "transform": None if self.transform is None else self.transform.tolist(),
            "found": None if self.found is None else [round(float(side), 1) for side in self.found],
            "query_points": tenths(self.query_positions),
            "points": tenths(self.positions),
        }


@dataclass(frozen=True)
class Link:
    """Two pictures of an index that verification confirms to show the same object.

    Attributes:
        first: the picture with the lower number.
        second: the other picture.
        score: R-ASMK* similarity.
        inliers: number of inliers of one affine transform.
        keypoint_counts: number of keypoints of ``first`` and of ``second``.
        transform: float64 (2, 3), maps pixels of ``first`` to those of ``second``.
        boxes: boxes around the inliers in ``first`` and in ``second``.
    """

    first: PictureRow
    second: PictureRow
    score: float
    inliers: int
    keypoint_counts: tuple[int, int]
    transform: NDArray[np.float64]
    boxes: tuple[PixelBox, PixelBox]


@dataclass(frozen=True)
class Answer:
    """The answer to a query.

    Attributes:
        query: the regions and features of the query.
        results: best first.
        seconds: wall-clock time of each stage: "describe", "search", "verify"; "expand" if the query was expanded.
        missing: number of pictures that could not be searched, because their machine did not answer; the results are
            from the others. Always 0 on one machine.
    """

    query: Description
    results: list[Result]
    seconds: dict[str, float]
    missing: int = 0

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types, results best first with their rank."""
        return {
            "query": {
                "width": self.query.width,
                "height": self.query.height,
                "box": tenths(self.query.boxes)[0],
                "features": len(self.query.features),
            },
            "seconds": {stage: round(value, 5) for stage, value in self.seconds.items()},
            "missing": self.missing,
            "results": [{"rank": rank, **result.to_json()} for rank, result in enumerate(self.results, start=1)],
        }

    def to_html(self, query: PathLike | Picture, *, title: str | None = None) -> str:
        """Return an HTML page that shows it, with its pictures embedded.

        Args:
            query: the query picture, a path or uint8 (H, W, 3) RGB.
            title: name of the query; None for the name of its file.
        """
        from d2r.report.page import search_page  # the page imports this module

        pixels = query if isinstance(query, np.ndarray) else read_image(query)
        name = title or ("the query" if isinstance(query, np.ndarray) else Path(os.fsdecode(query)).name)
        x1, y1, x2, y2 = (float(side) for side in self.query.boxes[0])
        whole = (x1, y1, x2, y2) == (0.0, 0.0, float(self.query.width), float(self.query.height))
        return search_page(pixels, self, query_name=name, box=None if whole else (x1, y1, x2, y2))


def tenths(pixels: NDArray[np.floating]) -> Any:
    """Return an array of pixels as nested lists of numbers with one decimal, unlike float32."""
    return pixels.astype(np.float64).round(1).tolist()


def rounded_scores(scores: NDArray[np.floating]) -> Any:
    """Return an array of scores as a list of numbers with four decimals."""
    return scores.astype(np.float64).round(4).tolist()


def make_result(
    query: Description,
    candidate: Candidate,
    boxes: Boxes,
    box_scores: NDArray[np.float32],
    kinds: Mapping[str, bool],
) -> Result:
    """Make the result for a picture.

    Args:
        query: the query.
        candidate: the picture, as ranked and verified.
        boxes: its regions, float32 (R, 4).
        box_scores: float32 (R,).
        kinds: the names of the kinds of features, and whether each is precise.
    """
    picture, verified = candidate.picture, candidate.verified
    size = picture.width or 0, picture.height or 0
    transform = None if verified is None else verified.transform
    found = None
    if verified is not None and transform is not None:
        whole = query.boxes[0].tolist() == [0, 0, query.width, query.height]
        found = found_box(query.boxes[0], whole, transform, verified.positions, size)
    none = np.zeros((0, 2), np.float32)
    return Result(
        id=picture.id,
        path=picture.path,
        score=candidate.score,
        inliers=candidate.inliers,
        confirmed=None if verified is None else is_confirmed(verified.inliers, list(kinds.values())),
        kinds=None if verified is None else dict(zip(kinds, verified.inliers, strict=True)),
        width=size[0],
        height=size[1],
        boxes=boxes,
        box_scores=box_scores,
        transform=transform,
        found=found,
        query_positions=none if verified is None else query.features.positions[verified.rows],
        positions=none if verified is None else verified.positions,
    )

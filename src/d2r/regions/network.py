"""A detector's network: an ONNX file, run by ONNX Runtime.

The format of the file, which ``d2r train export`` writes:

- ``metadata_props``: ``d2r`` is ``detector-1``; ``arch`` names the architecture; ``side`` is S, in decimal.
- input ``pictures``: uint8 (N, S, S, 3), RGB, each picture squashed to a square (:func:`d2r.regions.detector.squash`).
  N is free, or 1 if the network takes one picture at a time. The graph normalises the pictures.
- output ``boxes``: float32 (N, K, 4), x1, y1, x2, y2 as shares of width and height; output ``scores``: float32 (N, K),
  in [0, 1]. The graph applies no threshold and no non-maximum suppression.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from d2r.models.onnx import PICTURES_INPUT, Format, ModelError, OnnxFile, load

DETECTOR_FORMAT: Final = "detector-1"
INPUT: Final = PICTURES_INPUT
DETECTOR_OUTPUTS: Final = ("boxes", "scores")


class DetectorError(ModelError):
    """A detector's file that cannot be used; ``str(error)`` names it and says why."""


@dataclass(frozen=True, eq=False)
class Network:
    """A network that is ready to run; thread-safe, not picklable.

    Attributes:
        path: its file.
        sha256: SHA-256 of the file, in hexadecimal.
        bytes: size of the file.
        arch: the architecture, from the file's metadata.
        side: S, in pixels.
        batches: whether it takes any number of pictures at once; otherwise one.
        provider: ONNX Runtime's name of what it runs on.
    """

    path: Path
    sha256: str
    bytes: int
    arch: str
    side: int
    batches: bool
    provider: str
    _file: OnnxFile

    def run(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the boxes, float32 (N, K, 4), and scores, float32 (N, K), of pictures, uint8 (N, S, S, 3).

        Raises:
            DetectorError: the network fails, or returns arrays of another shape or values that are not finite.
        """
        parts = [pictures] if self.batches else [picture[None] for picture in pictures]
        found = [self._run(part) for part in parts]
        if len(found) == 1:
            return found[0]
        return np.concatenate([boxes for boxes, _ in found]), np.concatenate([scores for _, scores in found])

    def _run(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        boxes, scores = self._file.run(DETECTOR_OUTPUTS, pictures)
        if boxes.ndim != 3 or boxes.shape[::2] != (len(pictures), 4) or scores.shape != boxes.shape[:2]:
            given = f"boxes {boxes.shape} and scores {scores.shape}"
            expected = f"({len(pictures)}, K, 4) and ({len(pictures)}, K)"
            raise self._file.error(f"it gives {given} for {len(pictures)} pictures; expected {expected}")
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise self._file.error("it gives boxes or scores that are not finite: training went wrong")
        return boxes, scores


def load_network(path: Path) -> Network:
    """Return the network of a file, loaded once per process and again when the file changes.

    Raises:
        DetectorError: the file is missing, cannot be run, or is not a detector of this format.
    """
    return load(path, _FORMAT, _read)


_FORMAT: Final = Format(DETECTOR_FORMAT, "a detector", DetectorError, one_size=True)


def _read(file: OnnxFile) -> Network:
    side = file.metadata.get("side", "")
    if not (side.isascii() and side.isdecimal() and int(side) > 0):
        raise file.error(f"its metadata must give side as a number of pixels, not {side!r}")
    file.check_shapes(
        {INPUT: ("tensor(uint8)", (None, int(side), int(side), 3))},
        {"boxes": ("tensor(float)", (None, None, 4)), "scores": ("tensor(float)", (None, None))},
    )
    return Network(
        path=file.path,
        sha256=file.sha256,
        bytes=file.bytes,
        arch=file.metadata["arch"],
        side=int(side),
        batches=file.pictures_at_once() is None,
        provider=file.provider,
        _file=file,
    )

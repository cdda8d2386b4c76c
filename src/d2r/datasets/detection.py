"""Pictures with boxes for a detector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from d2r.datasets.landmark_boxes import picture_path, read_dataset


@dataclass(frozen=True)
class DetectionPicture:
    """A picture and its boxes, x1, y1, x2, y2 in shares of its width and height; no boxes: nothing to find here."""

    path: Path
    boxes: tuple[tuple[float, float, float, float], ...]


class DetectionDataError(Exception):
    """Labels that cannot be used; the message names file and row."""


def read_training(source: str) -> list[DetectionPicture]:
    """Return the pictures for training of ``LABELS[=PICTURES]``."""
    return _read(source, training=True)


def read_validation(source: str) -> list[DetectionPicture]:
    """Return the pictures for validation of ``LABELS[=PICTURES]``."""
    return _read(source, training=False)


def _read(source: str, *, training: bool) -> list[DetectionPicture]:
    labels, _, pictures = source.partition("=")
    dataset = read_dataset(Path(labels))
    boxes = dataset.training if training else dataset.validation
    folder = Path(pictures or labels)
    return [
        DetectionPicture(picture_path(folder, name), ((box.left, box.top, box.right, box.bottom),))
        for name, box in boxes.items()
    ]

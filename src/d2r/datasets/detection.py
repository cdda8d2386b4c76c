"""Pictures with boxes to train and to evaluate a detector with, in several formats.

A source is ``LABELS[=PICTURES]``. LABELS is one of

- a folder in the format of Google Landmark Boxes: training reads ``boxes_split1.csv``, validation ``boxes_split2.csv``.
  Pictures without a box are left out, because in the published files they are unlabelled;
- a COCO file (``.json``): all categories are one class, annotations with ``iscrowd`` are left out, and a picture
  without annotations has nothing to find;
- a folder with a composed clutter set (``d2r dataset compose``): the boxes of the planted instances; decoys are
  background.

The last two have no split, and are the same for training and validation. PICTURES is the folder that ids and file names
are relative to; by default the folder of the labels, or its ``jpg``, where ``d2r dataset get landmark-boxes`` puts
pictures.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from d2r.boxes import PixelBox
from d2r.datasets.ground_truth import GROUND_TRUTH, ClutterError, load_set
from d2r.datasets.json_node import Node, read_json
from d2r.datasets.landmark_boxes import (
    PICTURES,
    TRAINING,
    VALIDATION,
    FractionBox,
    LandmarkBoxes,
    LandmarkBoxesError,
    picture_path,
    read_dataset,
)
from d2r.datasets.landmark_pictures import FAILURES, PICTURES_FOLDER, read_failures
from d2r.errors import D2RError
from d2r.support.files import display_path

ShareBox: TypeAlias = tuple[float, float, float, float]
"""x1, y1, x2, y2 as shares of a picture's width and height, 0 to 1."""

_SLACK: Final = 1.0  # pixels by which a box of a COCO file may leave its picture, due to rounding


@dataclass(frozen=True)
class DetectionPicture:
    """A picture and the boxes that a detector should find in it.

    Attributes:
        path: path of the file.
        boxes: x1, y1, x2, y2 as shares of the width and height of the decoded, upright picture; none is empty. Without
            boxes there is nothing to find.
    """

    path: Path
    boxes: tuple[ShareBox, ...]


class DetectionDataError(D2RError):
    """A source that cannot be used; the message names the file and the row or field, and says what is wrong."""


def read_training(source: str) -> list[DetectionPicture]:
    """Return the training pictures of a source, ``LABELS[=PICTURES]``, in the order of its file.

    Raises:
        DetectionDataError: the source cannot be read, has a wrong row or no pictures, or lists a picture that is not on
            disk.
    """
    return _read(source, validation=False)


def read_validation(source: str) -> list[DetectionPicture]:
    """Return the validation pictures of a source; see :func:`read_training`."""
    return _read(source, validation=True)


def _read(source: str, *, validation: bool) -> list[DetectionPicture]:
    labels, folder = _split(source)
    try:
        if labels.suffix.lower() == ".json":
            pictures = _read_coco(labels, folder or labels.parent)
        elif (labels / GROUND_TRUTH).exists():
            pictures = _read_composed(labels, folder or labels)
        elif (labels / PICTURES).exists():
            pictures = _read_landmark_boxes(labels, folder, validation=validation)
        else:
            problem = "not labels, which are" if labels.exists() else "there is no such file or folder; labels are"
            raise DetectionDataError(
                f"{display_path(labels)}: {problem} a COCO file (.json), a folder with {PICTURES}, {TRAINING} and"
                f" {VALIDATION}, or a composed set with {GROUND_TRUTH}"
            )
    except (ClutterError, LandmarkBoxesError) as error:
        raise DetectionDataError(str(error)) from error
    if not pictures:
        raise DetectionDataError(f"{display_path(labels)}: it lists no pictures")
    _check_files(labels, pictures)
    return pictures


def _split(source: str) -> tuple[Path, Path | None]:
    """Return LABELS and PICTURES; a name that exists is LABELS, even with an equals sign in it."""
    if source and Path(source).exists():
        return Path(source), None
    labels, equals, folder = source.partition("=")
    if not labels or (equals and not folder):
        raise DetectionDataError(f"{display_path(source)!r}: write LABELS or LABELS=PICTURES")
    if equals and not Path(folder).is_dir():
        raise DetectionDataError(f"{display_path(folder)}: not a folder of pictures")
    return Path(labels), Path(folder) if equals else None


def _check_files(labels: Path, pictures: Iterable[DetectionPicture]) -> None:
    missing = [picture.path for picture in pictures if not picture.path.is_file()]
    if missing:
        others = len(missing) - 1
        more = f", like {others:,} other{'s' if others > 1 else ''}" if others else ""
        raise DetectionDataError(
            f"{display_path(missing[0])}: listed in {display_path(labels)} but not on disk{more}; give the folder"
            " of the pictures with LABELS=PICTURES, or remove them from the labels"
        )


def _read_landmark_boxes(labels: Path, folder: Path | None, *, validation: bool) -> list[DetectionPicture]:
    dataset = read_dataset(labels)
    boxes, name = (dataset.validation, VALIDATION) if validation else (dataset.training, TRAINING)
    if not boxes:
        raise DetectionDataError(f"{display_path(labels / name)}: it has no boxes")
    if folder is None:
        folder = labels / PICTURES_FOLDER if (labels / PICTURES_FOLDER).is_dir() else labels
    found = _fetched(labels, dataset, boxes)
    if not found:
        raise DetectionDataError(
            f"{display_path(labels / FAILURES)}: no picture with a box in {name} could be fetched; try again with"
            " `d2r dataset get landmark-boxes --retry-failed`"
        )
    return [
        DetectionPicture(picture_path(folder, picture), ((box.left, box.top, box.right, box.bottom),))
        for picture, box in found.items()
    ]


def _fetched(labels: Path, dataset: LandmarkBoxes, boxes: Mapping[str, FractionBox]) -> dict[str, FractionBox]:
    """Return the boxes, except of pictures that cannot be fetched because their address is dead or unknown."""
    if not (labels / FAILURES).exists():
        return dict(boxes)
    failed = read_failures(labels / FAILURES)
    return {name: box for name, box in boxes.items() if name not in failed and dataset.pictures[name].url}


def _read_composed(labels: Path, folder: Path) -> list[DetectionPicture]:
    found = []
    for number, picture in enumerate(load_set(labels).database):
        row = f"{display_path(labels / GROUND_TRUTH)}: database[{number}]"
        boxes = [planted.box for planted in picture.planted if planted.kind == "instance"]
        shares = tuple(_shares(box, picture.width, picture.height, row) for box in boxes)
        found.append(DetectionPicture(folder / picture.path, shares))
    return found


@dataclass(frozen=True)
class _CocoPicture:
    path: Path
    width: int
    height: int
    boxes: list[ShareBox]


def _read_coco(labels: Path, folder: Path) -> list[DetectionPicture]:
    root = read_json(labels, DetectionDataError)
    pictures: dict[Hashable, _CocoPicture] = {}
    names: set[str] = set()
    for image in root["images"]:
        key, name = _key(image["id"]), image["file_name"].inside()
        if key in pictures:
            raise image["id"].wrong("an id that no other picture has")
        if name in names:
            raise image["file_name"].wrong("a file that no other picture has")
        width, height = image["width"].whole(), image["height"].whole()
        if width < 1 or height < 1:
            raise image.wrong("a width and a height of at least 1 pixel")
        names.add(name)
        pictures[key] = _CocoPicture(folder / name, width, height, [])
    for annotation in root["annotations"]:
        picture = pictures.get(_key(annotation["image_id"]))
        if picture is None:
            raise annotation["image_id"].wrong("the id of a picture in images")
        if annotation.has("iscrowd") and annotation["iscrowd"].value:
            continue
        x, y, w, h = annotation["bbox"].numbers(4)
        row = f"{annotation.file}: {annotation.field}.bbox"
        picture.boxes.append(_shares((x, y, x + w, y + h), picture.width, picture.height, row))
    return [DetectionPicture(picture.path, tuple(picture.boxes)) for picture in pictures.values()]


def _key(node: Node) -> Hashable:
    if isinstance(node.value, str):
        return node.text()
    return node.whole()


def _shares(box: PixelBox, width: int, height: int, row: str) -> ShareBox:
    """Return a box in pixels as shares of its picture's sides; ``row`` names its place in the file."""
    x1, y1, x2, y2 = box
    shown = f"box from {x1:g},{y1:g} to {x2:g},{y2:g}"
    if x2 <= x1 or y2 <= y1:
        raise DetectionDataError(f"{row}: {shown} has no area")
    if x1 < -_SLACK or y1 < -_SLACK or x2 > width + _SLACK or y2 > height + _SLACK:
        raise DetectionDataError(f"{row}: {shown} lies outside its picture, which is {width} x {height} pixels")
    shares = (max(x1 / width, 0.0), max(y1 / height, 0.0), min(x2 / width, 1.0), min(y2 / height, 1.0))
    if shares[2] <= shares[0] or shares[3] <= shares[1]:
        raise DetectionDataError(f"{row}: {shown} has no area inside its picture, which is {width} x {height} pixels")
    return shares

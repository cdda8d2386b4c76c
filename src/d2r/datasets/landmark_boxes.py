"""Google Landmark Boxes: which landmark a picture shows, and where, in the published format.

A folder holds three CSV files. ``train.csv`` lists the pictures: ``id,url,landmark_id``. ``boxes_split1.csv`` (for
training) and ``boxes_split2.csv`` (for validation) have at most one box per picture: ``id,box``, the box as four
numbers "top left bottom right" in [0, 1], shares of the picture's height and width. An unknown address or landmark is
an empty field or "None", as in the published files. A picture of ``train.csv`` without a box has no prominent landmark,
or is unlabelled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from d2r.boxes import PixelBox
from d2r.datasets.landmark_csv import LandmarkBoxesError, read_rows, write_rows, wrong_row
from d2r.images import SUFFIXES
from d2r.support.files import check_no_index, check_output

__all__ = [
    "FILES",
    "PICTURES",
    "TRAINING",
    "VALIDATION",
    "FractionBox",
    "LandmarkBoxes",
    "LandmarkBoxesError",
    "LandmarkPicture",
    "from_pixels",
    "picture_path",
    "read_boxes",
    "read_dataset",
    "read_pictures",
    "to_pixels",
    "write_boxes",
    "write_dataset",
    "write_pictures",
]

PICTURES: Final = "train.csv"
TRAINING: Final = "boxes_split1.csv"
VALIDATION: Final = "boxes_split2.csv"
FILES: Final = (TRAINING, VALIDATION, PICTURES)

_PICTURE_COLUMNS: Final = ("id", "url", "landmark_id")
_BOX_COLUMNS: Final = ("id", "box")
_UNKNOWN: Final = "None"


@dataclass(frozen=True, slots=True)
class LandmarkPicture:
    """A row of ``train.csv``.

    Attributes:
        id: identifies the picture in all three files; see :func:`picture_path`.
        url: the address to fetch it from; None if unknown.
        landmark: the landmark it shows; None if unknown.
        row: its row in the file it was read from; None if it was not read from a file.
    """

    id: str
    url: str | None
    landmark: str | None
    row: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class FractionBox:
    """A box in shares of the picture's height (top, bottom) and width (left, right), in [0, 1]; it is not empty."""

    top: float
    left: float
    bottom: float
    right: float

    def __post_init__(self) -> None:
        sides = (self.top, self.left, self.bottom, self.right)
        shown = f"box {' '.join(f'{side:g}' for side in sides)}"
        if not all(0.0 <= side <= 1.0 for side in sides):  # also refuses NaN
            raise ValueError(f"{shown}: top, left, bottom and right must be in [0, 1]")
        if self.bottom <= self.top or self.right <= self.left:
            raise ValueError(f"{shown}: it has no area; bottom must be above top and right above left")

    @property
    def area(self) -> float:
        """Its share of the picture's area, in (0, 1]."""
        return (self.bottom - self.top) * (self.right - self.left)


@dataclass(frozen=True)
class LandmarkBoxes:
    """The content of a folder of landmark boxes.

    Attributes:
        pictures: id to picture, in the order of the file.
        training: id to box; each id is in ``pictures``.
        validation: the same; no id is in both.
    """

    pictures: Mapping[str, LandmarkPicture]
    training: Mapping[str, FractionBox]
    validation: Mapping[str, FractionBox]

    def box(self, picture: str) -> FractionBox | None:
        """Return the box of a picture, or None."""
        return self.training.get(picture) or self.validation.get(picture)


def to_pixels(box: FractionBox, width: int, height: int) -> PixelBox:
    """Return a box as x1, y1, x2, y2 in pixels, half-open, in a picture of ``width`` x ``height``."""
    return (box.left * width, box.top * height, box.right * width, box.bottom * height)


def from_pixels(box: PixelBox, width: int, height: int) -> FractionBox:
    """Return a box, x1, y1, x2, y2 in pixels, half-open, as shares of a picture of ``width`` x ``height``.

    Raises:
        ValueError: the box is empty or does not lie in the picture.
    """
    x1, y1, x2, y2 = box
    return FractionBox(top=y1 / height, left=x1 / width, bottom=y2 / height, right=x2 / width)


def picture_path(folder: Path, picture: str) -> Path:
    """Return the path of a picture in a folder: its id, with .jpg appended unless it has the ending of a picture."""
    return folder / (picture if PurePosixPath(picture).suffix.lower() in SUFFIXES else f"{picture}.jpg")


def read_dataset(folder: Path) -> LandmarkBoxes:
    """Read a folder of landmark boxes: its three files, which must agree.

    Raises:
        LandmarkBoxesError: see :func:`read_pictures` and :func:`read_boxes`; or a picture has a box in both files.
    """
    pictures = read_pictures(folder / PICTURES)
    training = read_boxes(folder / TRAINING, pictures)
    return LandmarkBoxes(pictures, training, read_boxes(folder / VALIDATION, pictures, training))


def read_pictures(path: Path) -> dict[str, LandmarkPicture]:
    """Read ``train.csv``: id to picture, in the order of the file.

    Raises:
        LandmarkBoxesError: the file cannot be read, a column is missing or unknown, a row has too few or too many
            fields, an id cannot be the name of a picture, or a picture is named twice.
    """
    pictures: dict[str, LandmarkPicture] = {}
    for row, (picture, url, landmark) in read_rows(path, _PICTURE_COLUMNS):
        if not _is_name(picture):
            raise wrong_row(path, row, f"id {picture[:80]!r} cannot be the name of a picture")
        if picture in pictures:
            raise wrong_row(path, row, f"picture {picture!r} is named twice, first in row {pictures[picture].row}")
        pictures[picture] = LandmarkPicture(picture, _known(url), _known(landmark), row)
    return pictures


def read_boxes(
    path: Path, pictures: Mapping[str, LandmarkPicture] | None, others: Mapping[str, FractionBox] | None = None
) -> dict[str, FractionBox]:
    """Read ``boxes_split1.csv`` or ``boxes_split2.csv``: id to box, in the order of the file.

    Args:
        path: path of the file.
        pictures: the pictures that can have a box; None accepts any picture.
        others: the boxes of the other file; no picture may have a box in both.

    Raises:
        LandmarkBoxesError: the file cannot be read, a column is missing or unknown, a row has too few or too many
            fields, a box is not four numbers in [0, 1] or has no area, or a picture is unknown or has two boxes.
    """
    boxes: dict[str, FractionBox] = {}
    for row, (picture, text) in read_rows(path, _BOX_COLUMNS):
        if pictures is not None and picture not in pictures:
            reason = f"box of {picture[:80]!r}, which is not in {PICTURES}; add the picture or remove the box"
            raise wrong_row(path, row, reason)
        if picture in boxes:
            raise wrong_row(path, row, f"picture {picture!r} has a second box; keep one")
        if others is not None and picture in others:
            raise wrong_row(path, row, f"picture {picture!r} has a box in the other file too; keep one")
        try:
            boxes[picture] = _parse_box(text)
        except ValueError as error:
            raise wrong_row(path, row, str(error)) from error
    return boxes


def write_dataset(folder: Path, dataset: LandmarkBoxes, *, force: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Write a folder of landmark boxes; each file is replaced atomically, or kept if writing fails.

    Nothing in the format says who wrote it, and it may be days of somebody's work: files with other content than
    ``dataset`` are overwritten only with ``force``.

    Args:
        folder: created if missing.
        dataset: the data set to write.
        force: overwrite files with other content.
        inputs: files that are never overwritten.

    Raises:
        d2r.support.files.OutputError: there are files with other content; or see
            :func:`d2r.support.files.check_output`.
    """
    check_no_index(folder)
    if not force and _holds(folder, dataset):
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        check_output(folder / name, lambda file: False, force=force, inputs=inputs)
    write_pictures(folder / PICTURES, dataset.pictures.values())
    write_boxes(folder / TRAINING, dataset.training)
    write_boxes(folder / VALIDATION, dataset.validation)


def _holds(folder: Path, dataset: LandmarkBoxes) -> bool:
    try:
        return read_dataset(folder) == dataset
    except LandmarkBoxesError:  # files are missing or have another format
        return False


def write_pictures(path: Path, pictures: Iterable[LandmarkPicture]) -> None:
    """Write ``train.csv`` atomically: an existing file is replaced, or kept if writing fails."""
    write_rows(path, _PICTURE_COLUMNS, ((row.id, row.url or _UNKNOWN, row.landmark or _UNKNOWN) for row in pictures))


def write_boxes(path: Path, boxes: Mapping[str, FractionBox]) -> None:
    """Write a file of boxes atomically: an existing file is replaced, or kept if writing fails."""
    rows = ((picture, f"{box.top!r} {box.left!r} {box.bottom!r} {box.right!r}") for picture, box in boxes.items())
    write_rows(path, _BOX_COLUMNS, rows)


def _known(text: str) -> str | None:
    return None if text.strip() in ("", _UNKNOWN) else text


def _is_name(text: str) -> bool:
    """Return whether an id can become a path: it must stay in the folder of the pictures."""
    path = PurePosixPath(text)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in text


def _parse_box(text: str) -> FractionBox:
    try:
        top, left, bottom, right = (float(part) for part in text.split())
    except ValueError as error:
        raise ValueError(f"box {text[:80]!r}: expected four numbers, top left bottom right") from error
    return FractionBox(top, left, bottom, right)

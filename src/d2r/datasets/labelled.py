"""Photos to learn local features from, with the landmark that each shows if known.

A source is one of

- a folder with ``train.csv`` of Google Landmarks (``id,url,landmark_id``), version 1 or 2. If the pictures are in
  another folder, write ``LABELS=PICTURES``. There, or in its ``jpg`` or ``train``, a picture is ``<id>.jpg`` or, as in
  version 2, ``a/b/c/<id>.jpg`` with the first three letters of its id. Pictures not on disk are left out;
- a folder of landmarks: each subfolder is one landmark, with all pictures below it. Pictures directly in the folder
  have no known landmark. If the folder has only ``train``, or ``train`` and ``test``, ``train`` is used.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from d2r.datasets.landmark_boxes import PICTURES, LandmarkBoxesError, picture_path, read_pictures
from d2r.datasets.landmark_pictures import PICTURES_FOLDER
from d2r.errors import D2RError
from d2r.sources import find_pictures
from d2r.support.files import display_path

_TRAIN: Final = "train"


@dataclass(frozen=True)
class LabelledPicture:
    """A photo.

    Attributes:
        path: path of the file.
        landmark: the landmark it shows; None if unknown. Landmarks of different sources always differ.
    """

    path: Path
    landmark: str | None


class LabelledDataError(D2RError):
    """A source of photos that cannot be used; the message names it and says what is wrong."""


def read_labelled(source: str) -> list[LabelledPicture]:
    """Return the photos of a source, in the order of its file or of their names.

    Raises:
        LabelledDataError: the source is not a folder, has no pictures, or has a wrong row in its file.
    """
    labels, pictures = _split(source)
    if (labels / PICTURES).is_file():
        return _read_google(labels, pictures)
    if pictures is not None:
        raise LabelledDataError(f"{display_path(labels)}: it has no {PICTURES}; give only the folder of the pictures")
    return _read_folder(labels)


def _split(source: str) -> tuple[Path, Path | None]:
    """Return LABELS and PICTURES; a name that exists is LABELS, even with an equals sign in it."""
    if source and Path(source).is_dir():
        return Path(source), None
    labels, equals, pictures = source.partition("=")
    for folder in (labels, pictures) if equals else (labels,):
        if not folder or not Path(folder).is_dir():
            raise LabelledDataError(f"{display_path(folder or source)!r}: there is no such folder of pictures")
    return Path(labels), Path(pictures) if equals else None


def _read_google(labels: Path, pictures: Path | None) -> list[LabelledPicture]:
    try:
        rows = read_pictures(labels / PICTURES)
    except LandmarkBoxesError as error:
        raise LabelledDataError(str(error)) from error
    root = labels if pictures is None else pictures
    folders = [folder for folder in (root, root / PICTURES_FOLDER, root / _TRAIN) if folder.is_dir()]
    found = []
    for name, row in rows.items():
        shards = Path(*name[:3]) if len(name) > 3 else Path()
        places = (picture_path(folder / way, name) for folder in folders for way in ("", shards))
        path = next((place for place in places if place.is_file()), None)
        if path is not None:
            landmark = None if row.landmark is None else f"{labels}:{row.landmark}"
            found.append(LabelledPicture(path, landmark))
    if not found:
        raise LabelledDataError(
            f"{display_path(labels / PICTURES)}: none of its {len(rows):,} pictures is in {display_path(root)}; give"
            " their folder with LABELS=PICTURES"
        )
    return found


def _read_folder(folder: Path) -> list[LabelledPicture]:
    names = {entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")}
    if _TRAIN in names and names <= {_TRAIN, "test"}:
        folder = folder / _TRAIN
    root = folder.absolute()
    found = []
    for file in find_pictures(folder):
        path = Path(file.path)
        inside = path.relative_to(root).parts
        landmark = os.fspath(root / inside[0]) if len(inside) > 1 else None
        found.append(LabelledPicture(path, landmark))
    if not found:
        raise LabelledDataError(f"{display_path(folder)}: no pictures in it or below it")
    return found

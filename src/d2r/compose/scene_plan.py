"""The sources of scenes for a detector: boxed landmarks, and ordinary photographs of the same split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import blake2b
from pathlib import Path
from typing import Final

from d2r.compose.sources import read_backgrounds
from d2r.datasets.detection import DetectionDataError, DetectionPicture
from d2r.datasets.ground_truth import ClutterError
from d2r.support.files import display_path

_HELD_OUT: Final = 5  # one in this many backgrounds is for validation


@dataclass(frozen=True)
class Landmark:
    """A photograph of a landmark and its box, x1, y1, x2, y2 as shares of width and height."""

    path: Path
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class ScenePlan:
    """The sources of scenes; see :func:`plan_scenes`."""

    landmarks: tuple[Landmark, ...]
    backgrounds: tuple[Path, ...]
    seed: int


def split_backgrounds(folder: Path, leave_out: Sequence[str] = (), *, validation: bool = False) -> tuple[Path, ...]:
    """Return the photographs below a folder for training, or the others, about a fifth, for validation.

    The hash of a photograph's path below the folder decides, so that adding photographs moves none.

    Args:
        folder: folder of ordinary photographs.
        leave_out: patterns of paths below ``folder``, such as ``*castle*``: photographs that show landmarks.
        validation: return the photographs for validation.

    Raises:
        d2r.datasets.ground_truth.ClutterError: it is not a folder or holds no pictures, a pattern matches none, or none
            is left.
    """
    found = {path: path.relative_to(folder).as_posix() for path in read_backgrounds(folder)}
    for pattern in leave_out:
        if not any(fnmatchcase(name, pattern) for name in found.values()):
            raise ClutterError(f"{display_path(folder)}: no picture to leave out matches {pattern!r}")
    chosen = tuple(
        path
        for path, name in found.items()
        if _is_held_out(name) == validation and not any(fnmatchcase(name, each) for each in leave_out)
    )
    if not chosen:
        purpose = "validation" if validation else "training"
        raise ClutterError(f"{display_path(folder)}: none of its {len(found)} pictures is left for {purpose}")
    return chosen


def plan_scenes(pictures: Sequence[DetectionPicture], backgrounds: Sequence[Path], seed: int) -> ScenePlan:
    """Return the sources of scenes: every box of ``pictures`` is a landmark.

    Args:
        pictures: pictures of one split.
        backgrounds: photographs of the same split, to plant in and to cut decoys from; those also in ``pictures`` are
            left out.
        seed: seed of everything random, 0 or more.

    Raises:
        DetectionDataError: no picture has a box.
        d2r.datasets.ground_truth.ClutterError: no background is left.
    """
    landmarks = tuple(Landmark(picture.path, box) for picture in pictures for box in picture.boxes)
    if not landmarks:
        raise DetectionDataError("no picture has a box: there is no landmark to plant")
    own = {picture.path.resolve() for picture in pictures}
    free = tuple(path for path in backgrounds if path.resolve() not in own)
    if not free:
        raise ClutterError("no background is left that is not a photograph of a landmark")
    return ScenePlan(landmarks, free, seed)


def _is_held_out(name: str) -> bool:
    digest = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=4).digest()
    return int.from_bytes(digest, "little") % _HELD_OUT == 0

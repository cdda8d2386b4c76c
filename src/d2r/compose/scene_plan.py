"""What scenes for a detector are composed of: boxed landmarks, and ordinary photographs of the same split."""

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

_HELD_OUT: Final = 5  # one background in so many is for validation


@dataclass(frozen=True)
class Landmark:
    """A photograph of a landmark and its box, x1, y1, x2, y2 as shares of width and height."""

    path: Path
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class ScenePlan:
    """What scenes are composed of; see :func:`plan_scenes`."""

    landmarks: tuple[Landmark, ...]
    backgrounds: tuple[Path, ...]
    seed: int


def split_backgrounds(folder: Path, leave_out: Sequence[str] = (), *, validation: bool = False) -> tuple[Path, ...]:
    """Return the photographs below a folder that are for training, or the others, about a fifth, for validation.

    The hash of a photograph's path below the folder decides, so that it stays where it is when others join.

    Args:
        folder: of ordinary photographs.
        leave_out: patterns such as ``*castle*``, matched to the path below ``folder``: photographs that show landmarks.
        validation: return those for validation.

    Raises:
        d2r.datasets.ground_truth.ClutterError: it is no folder or holds no pictures, a pattern matches none, or none is
            left.
    """
    found = {path: path.relative_to(folder).as_posix() for path in read_backgrounds(folder)}
    for pattern in leave_out:
        if not any(fnmatchcase(name, pattern) for name in found.values()):
            raise ClutterError(f"{display_path(folder)}: no picture matches {pattern!r}, which is to be left out")
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
    """Return what scenes are composed of: every box of ``pictures`` is a landmark.

    Args:
        pictures: of one split.
        backgrounds: of the same split, to plant in and to cut decoys from; those that are also in ``pictures`` are
            left out.
        seed: of all that is random, 0 or more.

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

"""Hold pictures out of training for validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from d2r.datasets.duplicates import near_duplicates
from d2r.datasets.labelled import LabelledPicture, read_labelled
from d2r.support.files import display_path
from d2r.train.settings import RunSettings, TrainError

_COMPARED = 5000  # pictures; with more, comparing all pairs takes too long, and a duplicate matters little


class _Picture(Protocol):
    @property
    def path(self) -> Path: ...


_P = TypeVar("_P", bound=_Picture)


def hold_out(pictures: Sequence[_P], share: float, seed: int) -> tuple[list[_P], list[_P]]:
    """Split pictures into those to train on and those to validate on.

    The share is drawn evenly from the folders of the pictures. Near-duplicates stay together, in a collection of at
    most 5,000 pictures.

    Args:
        pictures: the pictures to split.
        share: share to hold out, between 0 and 1; at least one picture is held out, and one is left.
        seed: seed of the draw.

    Raises:
        ValueError: there are no two different pictures.
    """
    groups = _groups(pictures)
    if len(groups) < 2:
        raise ValueError("there is only one picture to train on: none can be held out for validation")
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    order.sort(key=lambda number: pictures[groups[number][0]].path.parent)
    count = min(max(1, round(share * len(groups))), len(groups) - 1)
    drawn = {order[int((k + 0.5) * len(order) / count)] for k in range(count)}
    chosen = {picture for number in drawn for picture in groups[number]}
    return (
        [picture for number, picture in enumerate(pictures) if number not in chosen],
        [picture for number, picture in enumerate(pictures) if number in chosen],
    )


def hold_out_photos(settings: RunSettings) -> tuple[list[LabelledPicture], list[LabelledPicture]]:
    """Return the photos of a run to train on and those to validate on, whatever they show.

    Raises:
        TrainError: a source does not have two different photos.
        d2r.datasets.labelled.LabelledDataError: a source cannot be read.
    """
    training: list[LabelledPicture] = []
    validation: list[LabelledPicture] = []
    for source in settings.data:
        try:
            kept, held = hold_out(read_labelled(source), settings.hold_out, settings.seed)
        except ValueError as error:
            raise TrainError(f"--data {display_path(source)}: {error}") from error
        training += kept
        validation += held
    return training, validation


def _groups(pictures: Sequence[_Picture]) -> list[list[int]]:
    """Return the numbers of the pictures, with near-duplicates in one list."""
    first = list(range(len(pictures)))  # picture to the first of its group, perhaps by way of others

    def root(number: int) -> int:
        while first[number] != number:
            number = first[number]
        return number

    if len(pictures) <= _COMPARED:
        paths = [picture.path for picture in pictures]
        for one, other in near_duplicates(paths, paths):
            low, high = sorted((root(one), root(other)))
            first[high] = low
    groups: dict[int, list[int]] = {}
    for number in range(len(pictures)):
        groups.setdefault(root(number), []).append(number)
    return list(groups.values())

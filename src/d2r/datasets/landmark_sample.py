"""The sampling of Google Landmark Boxes: a few pictures of each landmark, drawn at random, for training and validation.

A picture's place in the draw depends only on the seed and its id: adding or removing pictures of a collection changes
the draw of their own landmark only, and that as little as possible.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from d2r.datasets.landmark_boxes import LandmarkBoxes, LandmarkBoxesError, LandmarkPicture

EACH = 4
"""Pictures per landmark drawn for training, and again for validation: the paper's choice."""


@dataclass(frozen=True)
class Sample:
    """The drawn pictures; no picture is in both parts.

    Attributes:
        training: ids, landmark by landmark.
        validation: the same.
        rare: landmarks left out because they have too few pictures.
        unlabelled: number of pictures that could not be drawn because their landmark is unknown.
    """

    training: tuple[str, ...]
    validation: tuple[str, ...]
    rare: tuple[str, ...]
    unlabelled: int


@dataclass(frozen=True)
class SampledBoxes:
    """A sample of a data set, without the pictures that have no box.

    Attributes:
        dataset: the drawn pictures that have a box, and the boxes, in the part that each was drawn for.
        sample: all drawn pictures.
        without_box: ids of the drawn pictures left out because they show no prominent landmark.
    """

    dataset: LandmarkBoxes
    sample: Sample
    without_box: tuple[str, ...]


def draw_sample(
    pictures: Iterable[LandmarkPicture], seed: int, *, each: int = EACH, leave_out_rare: bool = False, name: str
) -> Sample:
    """Draw ``each`` pictures of every landmark for training, and up to ``each`` of the rest for validation.

    Args:
        pictures: a labelled collection, in any order. Pictures without a landmark are only counted.
        seed: the same seed draws the same pictures.
        each: pictures per landmark and part, at least 1.
        leave_out_rare: leave out landmarks with fewer than ``each`` pictures, instead of refusing the collection.
        name: name of the collection in errors, for instance its file or folder.

    Raises:
        LandmarkBoxesError: a landmark has fewer than ``each`` pictures.
    """
    if each < 1:
        raise ValueError(f"at least one picture of a landmark must be drawn, not {each}")
    landmarks: defaultdict[str, list[LandmarkPicture]] = defaultdict(list)
    unlabelled = 0
    for picture in pictures:
        if picture.landmark is None:
            unlabelled += 1
        else:
            landmarks[picture.landmark].append(picture)
    training: list[str] = []
    validation: list[str] = []
    rare: list[str] = []
    for landmark, shown in landmarks.items():
        if len(shown) < each:
            if not leave_out_rare:
                raise _too_few(name, landmark, shown, each)
            rare.append(landmark)
            continue
        drawn = sorted((picture.id for picture in shown), key=lambda picture: _lot(seed, picture))
        training += drawn[:each]
        validation += drawn[each : 2 * each]
    return Sample(tuple(training), tuple(validation), tuple(rare), unlabelled)


def sample_dataset(
    dataset: LandmarkBoxes, seed: int, *, each: int = EACH, leave_out_rare: bool = False, name: str
) -> SampledBoxes:
    """Draw from a fully labelled data set as the paper does: leave out pictures without a box.

    They are left out after the draw, so that a landmark that is rarely prominent gets fewer pictures.

    Args:
        dataset: which of its two parts a box is in does not matter.
        seed: see :func:`draw_sample`.
        each: see there.
        leave_out_rare: see there.
        name: see there.

    Raises:
        LandmarkBoxesError: a landmark has fewer than ``each`` pictures.
    """
    sample = draw_sample(dataset.pictures.values(), seed, each=each, leave_out_rare=leave_out_rare, name=name)
    training, validation = (
        {picture: box for picture in part if (box := dataset.box(picture)) is not None}
        for part in (sample.training, sample.validation)
    )
    pictures = {picture: dataset.pictures[picture] for picture in (*training, *validation)}
    without_box = tuple(picture for picture in (*sample.training, *sample.validation) if picture not in pictures)
    return SampledBoxes(LandmarkBoxes(pictures, training, validation), sample, without_box)


def _lot(seed: int, picture: str) -> bytes:
    text = f"{seed} {picture}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=16).digest()


def _too_few(name: str, landmark: str, shown: list[LandmarkPicture], each: int) -> LandmarkBoxesError:
    row = "" if shown[0].row is None else f"row {shown[0].row}: "
    count = f"{len(shown)} picture{'' if len(shown) == 1 else 's'}"
    return LandmarkBoxesError(
        name,
        f"{row}landmark {landmark!r} has {count}, but {each} are drawn per landmark; add pictures of it, or leave"
        " out landmarks with too few (--leave-out-rare)",
    )

"""Describe a picture in three steps, for clusters with GPUs for the middle one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.codebook import Codebook
from d2r.images import ImageError, Picture, decode_image
from d2r.index import PictureState
from d2r.indexing.entry import Outcome, Recipe, enter_file
from d2r.regions import Detector, Regions, make_selector
from d2r.regions.detector import squash
from d2r.sources import PictureFile
from d2r.support.files import display_path, read_bytes


@dataclass(frozen=True)
class DecodedPicture:
    """A picture that was decoded without error.

    Attributes:
        file: the picture.
        data: content of the file, so that it is read only once. The pixels would take many times the space.
        squashed: uint8 (S, S, 3), the input of the detector's network.
    """

    file: PictureFile
    data: bytes
    squashed: Picture


@dataclass(frozen=True)
class FoundRegions:
    """The network's outputs for a picture: boxes as shares of its sides, float32 (K, 4), and scores, float32 (K,)."""

    file: PictureFile
    data: bytes
    shares: NDArray[np.float32]
    scores: NDArray[np.float32]


def decode_picture(max_pixels: int, side: int, file: PictureFile) -> DecodedPicture | Outcome:
    """Read and decode a picture; return its outcome if that settles it.

    Args:
        max_pixels: see :func:`d2r.images.read_image`.
        side: S, in pixels.
        file: the picture.
    """
    state = PictureState(file.path, file.size, file.mtime_ns, digest=None)
    try:
        data = read_bytes(file.path)
    except OSError as error:
        return Outcome(replace(state, problem=f"cannot be read: {error.strerror or error}"))
    state = replace(state, digest=hashlib.blake2b(data, digest_size=16).digest())
    if state.digest == file.digest:
        return Outcome(state, unchanged=True)
    try:
        image = decode_image(data, name=display_path(file.path), max_pixels=max_pixels)
    except ImageError as error:
        return Outcome(replace(state, problem=error.reason))
    return DecodedPicture(file, data, squash(image, side))


def find(detector: Detector, seen: Sequence[DecodedPicture]) -> list[FoundRegions]:
    """Run a detector's network once, over several pictures."""
    if not seen:
        return []
    shares, scores = detector.network().run(np.stack([one.squashed for one in seen]))
    return [FoundRegions(one.file, one.data, *said) for one, *said in zip(seen, shares, scores, strict=True)]


def describe_decoded(
    recipe: Recipe, max_pixels: int, staging: Path, codebook: Codebook, given: PictureFile | FoundRegions
) -> Outcome:
    """Call :func:`d2r.indexing.entry.enter_file` for a picture, with its regions if they were found already."""
    if isinstance(given, PictureFile):
        return enter_file(recipe, max_pixels, staging, codebook, given)
    detector = make_selector(recipe.regions)
    assert isinstance(detector, Detector)
    chosen = _Chosen(detector, given)
    return enter_file(recipe, max_pixels, staging, codebook, given.file, data=given.data, selector=chosen)


@dataclass(frozen=True)
class _Chosen:
    """Selects regions that were found already."""

    detector: Detector
    found: FoundRegions

    def select(self, image: Picture) -> Regions:
        return self.detector.regions(image, self.found.shares, self.found.scores)

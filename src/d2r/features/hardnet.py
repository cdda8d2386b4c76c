"""A network describes the patches at SIFT's keypoints (HardNet: Mishchuk et al., NeurIPS 2017).

The file, as ``d2r train`` exports it:

- ``metadata_props``: ``d2r`` is ``patch-descriptors-1``; ``arch`` names the architecture; ``width``, a decimal number,
  is the side of the area that a patch shows, in diameters of its keypoint. - input ``pictures``: uint8 (N, S, S), grey
  patches (:func:`d2r.features.patches.cut_patches`). N is free. Normalisation is in the graph. - output
  ``descriptors``: float32 (N, D), of unit length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from d2r.boxes import Boxes
from d2r.features.base import Features, strongest_in_views, whole_views
from d2r.features.frames import detected, grey, make_sift, strongest
from d2r.features.network import FeatureError
from d2r.features.network_extractor import NetworkExtractor
from d2r.features.patches import cut_patches
from d2r.images import Picture
from d2r.models import PATCH_DESCRIPTORS
from d2r.models.onnx import PICTURES_INPUT, Format, OnnxFile, check_sha256, load

PATCH_DESCRIPTORS_FORMAT: Final = "patch-descriptors-1"
PATCH_DESCRIPTORS_OUTPUTS: Final = ("descriptors",)

_AT_ONCE: Final = 256  # patches; more are not faster on a CPU


@dataclass(frozen=True)
class HardNet(NetworkExtractor["PatchNetwork"]):
    """SIFT's keypoints, described by a network.

    Attributes:
        model: path of an ONNX file (it ends in ``.onnx``), or the name of a model (`d2r models list`).
        top: maximum number of features per picture, those with the strongest response.
        contrast: OpenCV's contrast threshold; a lower one keeps weaker keypoints.
        sha256: required SHA-256 of the file, in hexadecimal; empty accepts any file. An index stores it, so that its
            pictures are not described with different models of the same name.
    """

    model: str = PATCH_DESCRIPTORS
    top: int = 1000
    contrast: float = 0.02
    sha256: str = ""

    precise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError("top must be 1 or more")
        if not self.contrast >= 0:  # rejects NaN too
            raise ValueError("contrast must be 0 or more")
        check_sha256(self.sha256)

    def extract(self, images: Sequence[Picture]) -> list[Features]:
        """See :meth:`d2r.features.FeatureExtractor.extract`; attention is the SIFT response.

        Raises:
            FeatureError: see :meth:`network`; or the network fails.
        """
        return [found[0] for found in self.extract_views(images, whole_views(images))]

    def extract_views(self, images: Sequence[Picture], views: Sequence[Boxes]) -> list[list[Features]]:
        """See :meth:`d2r.features.ViewExtractor.extract_views`, and :meth:`extract`."""
        network = self.network()
        return [self._extract(network, image, own) for image, own in zip(images, views, strict=True)]

    def load(self, path: Path) -> PatchNetwork:
        """See :class:`d2r.features.network_extractor.NetworkExtractor`."""
        return load_patch_network(path)

    def _extract(self, network: PatchNetwork, image: Picture, views: Boxes) -> list[Features]:
        gray, most = grey(image), detected(self.top, len(views))
        frames, _ = strongest(make_sift(most, self.contrast).detect(gray, None), most)
        places = Features(frames.positions, frames.sizes, np.zeros((len(frames), 0), np.float32), frames.responses)
        rows = strongest_in_views(places, views, self.top)
        used = np.unique(np.concatenate(rows))
        if not len(used):
            return [Features.empty(network.dim) for _ in rows]
        chosen = frames.take(used)
        descriptors = network.run(cut_patches(gray, chosen, network.side, network.width))
        features = Features(chosen.positions, chosen.sizes, descriptors, chosen.responses, chosen.angles)
        return [features.take(np.searchsorted(used, own)) for own in rows]


@dataclass(frozen=True, eq=False)
class PatchNetwork:
    """A network that is ready to run; safe to use from several threads, not picklable.

    Attributes:
        path: path of its file.
        sha256: SHA-256 of the file, in hexadecimal.
        arch: name of the architecture.
        side: side S of a patch, in pixels.
        width: side of the area that a patch shows, in diameters of its keypoint.
        dim: dimension D of a descriptor.
    """

    path: Path
    sha256: str
    arch: str
    side: int
    width: float
    dim: int
    _file: OnnxFile

    def run(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the descriptors of patches, uint8 (N, S, S): float32 (N, D), of unit length.

        Raises:
            FeatureError: the network fails, or its output does not fit the format.
        """
        if not len(patches):
            return np.zeros((0, self.dim), np.float32)
        starts = range(0, len(patches), _AT_ONCE)
        parts = [self._file.run(PATCH_DESCRIPTORS_OUTPUTS, patches[start : start + _AT_ONCE])[0] for start in starts]
        descriptors = np.concatenate(parts)
        if descriptors.shape != (len(patches), self.dim):
            raise self._file.error(f"it gives descriptors {descriptors.shape} for {len(patches)} patches")
        if not np.isfinite(descriptors).all():
            raise self._file.error("it gives descriptors that are not finite: training went wrong")
        return descriptors


def load_patch_network(path: Path) -> PatchNetwork:
    """Return the network of a file, loaded once per process, and again if the file changes.

    Raises:
        FeatureError: the file is missing, cannot be run, or is not a patch-descriptor network.
    """
    return load(path, _FORMAT, _read)


_FORMAT: Final = Format(PATCH_DESCRIPTORS_FORMAT, "a file of patch descriptors", FeatureError, one_size=True)


def _read(file: OnnxFile) -> PatchNetwork:
    text = file.metadata.get("width", "")
    try:
        width = float(text)
    except ValueError:
        width = math.nan
    if not 0.0 < width < math.inf:
        raise file.error(f"its metadata must give width as a number above 0, not {text!r}")
    file.check_shapes(
        {PICTURES_INPUT: ("tensor(uint8)", (None, None, None))}, {"descriptors": ("tensor(float)", (None, None))}
    )
    count, side, other = file.shape(PICTURES_INPUT)
    dim = file.shape("descriptors")[1]
    if count is not None or side is None or side != other or dim is None:
        raise file.error("its patches must be squares of one size, any number of them, and its descriptors of one size")
    return PatchNetwork(file.path, file.sha256, file.metadata["arch"], side, width, dim, file)

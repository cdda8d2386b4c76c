"""Deep local features (DELF: Noh et al., ICCV 2017): a network describes every cell of a picture at several scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2r.boxes import Boxes
from d2r.features.base import Features, concatenate, strongest_in_views, whole_views
from d2r.features.network import FeatureNetwork, load_feature_network
from d2r.features.network_extractor import NetworkExtractor
from d2r.features.pyramid import Level, levels, runs, scaled_level
from d2r.images import Picture
from d2r.models import LOCAL_FEATURES
from d2r.models.onnx import check_sha256, pixels_a_run

_LARGEST_SCALE = 4.0


@dataclass(frozen=True)
class Delf(NetworkExtractor[FeatureNetwork]):
    """The cells with the highest attention of a network (:mod:`d2r.features.network`), over all scales.

    Attributes:
        model: path of an ONNX file (it ends in ``.onnx``), or the name of a model (`d2r models list`).
        top: maximum number of features per picture, those with the highest attention.
        threshold: least attention of a feature; below 0 takes the threshold of the file.
        nms: a feature is dropped if its centre is within this distance of that of a stronger kept one, at any scale. In
            pixels of the scaled picture in which it was found, so that it means the same number of cells at every
            scale; 0 drops none.
        scales: scales of the pyramid, separated by ``+``, for example ``0.5+0.71+1``; empty takes those of the file.
        sha256: required SHA-256 of the file, in hexadecimal; empty accepts any file. An index stores it, so that its
            pictures are not described with different models of the same name.
    """

    model: str = LOCAL_FEATURES
    top: int = 1000
    threshold: float = -1.0
    nms: float = 0.0
    scales: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError("top must be 1 or more")
        if math.isnan(self.threshold):
            raise ValueError("threshold must be a number")
        if not (self.nms >= 0.0 and math.isfinite(self.nms)):
            raise ValueError("nms must be 0 or more pixels")
        _parse_scales(self.scales)
        check_sha256(self.sha256)

    def extract(self, images: Sequence[Picture]) -> list[Features]:
        """See :meth:`d2r.features.FeatureExtractor.extract`; attention is the network's.

        Positions are the centres of cells, which lie ``stride`` pixels of the scaled picture apart; scales are the
        sides of receptive fields. Scaled pictures of equal size run together.

        Raises:
            FeatureError: see :meth:`network`; or the network fails.
        """
        return [found[0] for found in self.extract_views(images, whole_views(images))]

    def extract_views(self, images: Sequence[Picture], views: Sequence[Boxes]) -> list[list[Features]]:
        """See :meth:`d2r.features.ViewExtractor.extract_views`, and :meth:`extract`."""
        if not len(images):
            return []
        network = self.network()
        every = levels(images, _parse_scales(self.scales) or network.scales, network.stride)
        cells: dict[Level, _Cells] = {}
        for run in runs(every, pixels_a_run(on_gpu=network.on_gpu)):
            found = network.run(np.stack([scaled_level(images[level.picture], level) for level in run]))
            for level, descriptors, attention in zip(run, *found, strict=True):
                all_of_it = len(views[level.picture]) == 1
                cells[level] = self._worth_keeping(network, level, descriptors, attention, all_of_it)
        parts: list[list[_Cells]] = [[] for _ in images]
        for level in every:  # not in the order of runs, which depends on the other pictures
            parts[level.picture].append(cells[level])
        return [self._strongest(of_one, own) for of_one, own in zip(parts, views, strict=True)]

    def load(self, path: Path) -> FeatureNetwork:
        """See :class:`d2r.features.network_extractor.NetworkExtractor`."""
        return load_feature_network(path)

    def _worth_keeping(
        self,
        network: FeatureNetwork,
        level: Level,
        descriptors: NDArray[np.float32],
        attention: NDArray[np.float32],
        all_of_it: bool,
    ) -> _Cells:
        """Return the cells of a level, row by row, that pass the threshold.

        Args:
            network: the network that found them.
            level: their level.
            descriptors: float32 (h, w, D).
            attention: float32 (h, w).
            all_of_it: whether the only view is the whole picture.
        """
        threshold = network.threshold if self.threshold < 0.0 else self.threshold
        chosen = (attention >= threshold) & descriptors.any(axis=-1)
        if all_of_it and not self.nms:  # nothing else drops features, so only the first `top` are needed
            chosen &= _among_strongest(np.where(chosen, attention, -np.inf), self.top)
        rows, columns = np.nonzero(chosen)
        centres = network.offset + network.stride * np.stack([columns, rows], axis=1)
        scale = math.sqrt(level.scales[0] * level.scales[1])
        features = Features(
            positions=(centres / level.scales).astype(np.float32),
            scales=np.full(len(rows), network.field / scale, np.float32),
            descriptors=descriptors[chosen],
            attention=attention[chosen],
        )
        return _Cells(features, np.full(len(rows), self.nms / scale, np.float32))

    def _strongest(self, parts: Sequence[_Cells], views: Boxes) -> list[Features]:
        """Return the features of each view of a picture over all levels, strongest first; ties keep their order."""
        features = concatenate([part.features for part in parts])
        order = np.argsort(-features.attention, kind="stable")
        ordered = features.take(order)
        if not self.nms:
            return [ordered.take(rows) for rows in strongest_in_views(ordered, views, self.top)]
        reach = np.concatenate([part.reach for part in parts])[order]
        found = []
        for rows in strongest_in_views(ordered, views, len(ordered)):
            kept = suppress_near(ordered.positions[rows], reach[rows], self.top)
            found.append(ordered.take(rows[kept]))
        return found


@dataclass(frozen=True)
class _Cells:
    """Features of one level, and the distance within which a stronger one drops each, float32 (N,), in pixels."""

    features: Features
    reach: NDArray[np.float32]


def suppress_near(positions: NDArray[np.float32], reach: NDArray[np.float32], limit: int) -> NDArray[np.intp]:
    """Return the rows of points without an earlier kept point nearby, in order (non-maximum suppression).

    Args:
        positions: float32 (N, 2), strongest first.
        reach: float32 (N,), least distance of each point from earlier kept ones, in the same unit.
        limit: stop after this many points.
    """
    kept: list[int] = []
    dropped = np.zeros(len(positions), bool)
    for row in range(len(positions)):
        if dropped[row]:
            continue
        kept.append(row)
        if len(kept) == limit:
            break
        dropped |= np.hypot(*(positions - positions[row]).T) <= reach
    return np.array(kept, np.intp)


def _among_strongest(attention: NDArray[np.float32], limit: int) -> NDArray[np.bool_]:
    """Mark the ``limit`` largest values, in the same shape; of equal ones the first."""
    chosen = np.zeros(attention.size, bool)
    chosen[np.argsort(-attention, axis=None, kind="stable")[:limit]] = True
    return chosen.reshape(attention.shape)


def _parse_scales(text: str) -> tuple[float, ...]:
    """Parse scales such as ``"0.5+1"``; raises ``ValueError``."""
    try:
        scales = tuple(float(part) for part in text.split("+")) if text else ()
    except ValueError:
        scales = (math.nan,)
    if not all(0.0 < scale <= _LARGEST_SCALE for scale in scales):
        wanted = f"numbers above 0 and at most {_LARGEST_SCALE:g}, separated by +"
        raise ValueError(f"scales must be {wanted}, for instance 0.5+1, not {text!r}")
    return scales

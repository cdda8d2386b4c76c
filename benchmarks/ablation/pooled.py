"""Global descriptors: the last map of a backbone, pooled to one vector per picture.

GeM: Radenovic, Tolias and Chum (PAMI 2019). R-MAC: Tolias, Sicre and Jegou (ICLR 2016). The map is that of the
network of the local features (:mod:`d2r.features.network`), which was not trained to be pooled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from d2r.features.network import FeatureNetwork
from d2r.features.pyramid import Level, levels, runs, scaled_level
from d2r.images import Picture
from d2r.models.onnx import pixels_a_run
from d2r.regions.rmac import rmac_boxes

SCALES: Final = (0.5, 0.7071, 1.0)
"""Of the pyramid that a picture is pooled over."""

Pool: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From a map, float32 (C, h, w), to a vector, float32 (C,), of unit length or zero."""

_ZERO: Final = 1e-12


def gem(features: NDArray[np.float32], p: float = 3.0) -> NDArray[np.float32]:
    """Return the generalised mean of a map over its cells, of unit length.

    ``f_c = ((1 / |X|) sum_{x in X} x_c^p)^(1/p)``: the mean at p = 1, the largest value as p grows.

    Args:
        features: float32 (C, h, w), at least 0, as all backbones here end with a ReLU. The linear bottleneck before
            that of EfficientNet-Lite0 finds less: on the medium clutter set GeM has mAP 2.2 with it cut off at 0, 3.0
            with signed powers, and 8.1 with this map.
        p: above 0.

    Returns:
        float32 (C,), of unit length; all zero where the map is.

    Raises:
        ValueError: p is not above 0.
    """
    if not p > 0.0:
        raise ValueError(f"p must be above 0, not {p:g}")
    largest = max(float(features.max(initial=0.0)), _ZERO)  # so that no power overflows, whatever p is
    powers = (features / np.float32(largest)) ** np.float32(p)
    return unit(powers.mean(axis=(1, 2), dtype=np.float64) ** (1.0 / p))


def rmac(features: NDArray[np.float32], levels: int = 3) -> NDArray[np.float32]:
    """Return the sum of the regions' maxima, each of unit length, of unit length.

    ``f = sum_R m(R) / |m(R)|`` with ``m_c(R) = max_{x in R} x_c``, R the whole map and the squares of
    :func:`d2r.regions.rmac.rmac_boxes` in cells. There is no whitening in between, see :class:`Whitening`.

    Args:
        features: float32 (C, h, w).
        levels: of the grid, 1 or more.

    Returns:
        float32 (C,), of unit length; all zero where the map is.
    """
    _, height, width = features.shape
    total = unit(features.max(axis=(1, 2)))
    for x1, y1, x2, y2 in rmac_boxes(width, height, levels).astype(np.int64).tolist():
        total = total + unit(features[:, y1:y2, x1:x2].max(axis=(1, 2)))
    return unit(total)


def pool_pictures(
    network: FeatureNetwork, images: Sequence[Picture], pools: Sequence[Pool], scales: Sequence[float] = SCALES
) -> NDArray[np.float32]:
    """Pool pictures in several ways at once: the normalised sum over scales of unit vectors, per picture.

    Args:
        network: outputs the map.
        images: uint8 (H, W, 3) each, of any sizes.
        pools: P functions like :func:`gem` and :func:`rmac`.
        scales: of the pyramid, see :func:`d2r.features.pyramid.levels`.

    Returns:
        float32 (P, N, C), of unit length, or zero if a map is.

    Raises:
        FeatureError: the network does not output its map, or fails.
    """
    every = levels(images, scales, network.stride)
    found: dict[Level, NDArray[np.float32]] = {}
    for run in runs(every, pixels_a_run(on_gpu=network.on_gpu)):
        maps = network.maps(np.stack([scaled_level(images[level.picture], level) for level in run]))
        for level, features in zip(run, maps, strict=True):
            found[level] = np.stack([pool(features) for pool in pools])
    sums = np.zeros((len(pools), len(images), network.channels or 0), np.float32)
    for level in every:  # in a fixed order: that of the batches depends on the other pictures
        sums[:, level.picture] += found[level]
    return unit(sums)


@dataclass(frozen=True, eq=False)
class Whitening:
    """Whitening of global descriptors, which reduces their common directions before the inner product.

    ``y = L^T (x - m)``, of unit length, with ``L = V (S + s I)^(-1/2)``, V and S the largest eigenvectors and
    eigenvalues of the covariance of the descriptors that it was learned from, s its shrinkage.

    Attributes:
        mean: float32 (C,).
        projection: float32 (C, D).
    """

    mean: NDArray[np.float32]
    projection: NDArray[np.float32]

    def apply(self, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return descriptors, float32 (N, C), whitened: float32 (N, D), of unit length; zero stays zero."""
        return unit((descriptors - self.mean) @ self.projection * descriptors.any(axis=1, keepdims=True))


def learn_whitening(descriptors: NDArray[np.float32], dim: int, shrinkage: float) -> Whitening:
    """Learn a whitening, without labels.

    Args:
        descriptors: float32 (N, C).
        dim: D; fewer if there are fewer descriptors or channels.
        shrinkage: s as a share of the mean of the C eigenvalues: 0 whitens fully, including the noise of few
            descriptors; a larger value reduces directions of small variance.

    Raises:
        ValueError: there is no descriptor, D is below 1, or s below 0.
    """
    if len(descriptors) == 0:
        raise ValueError("a whitening is learned from one descriptor or more")
    if dim < 1 or not shrinkage >= 0.0:
        raise ValueError(f"dim must be 1 or more and shrinkage at least 0, not {dim} and {shrinkage:g}")
    mean = descriptors.mean(axis=0, dtype=np.float64)
    centred = descriptors - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(descriptors))
    kept = min(dim, len(descriptors), len(values))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    scales = 1.0 / np.sqrt(np.maximum(values[:kept] + shrinkage * values.mean(), _ZERO))
    return Whitening(mean.astype(np.float32), (vectors[:, :kept] * scales).astype(np.float32))


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return vectors (..., C) of unit length, float32; zero stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, _ZERO), np.float32)

"""The interface of local features and their extractors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from d2r.boxes import Boxes
from d2r.images import Picture


@dataclass(frozen=True)
class Features:
    """N local features of one picture, strongest first.

    Attributes:
        positions: float32 (N, 2), x and y of each centre, in pixels of the picture described; pixel centres are
            at half-integers, so that positions scale with the picture.
        scales: float32 (N,), diameter of the described patch, in the same pixels.
        descriptors: float32 (N, D), each of unit Euclidean length.
        attention: float32 (N,), confidence of the extractor in each feature; larger is better.
        angles: float32 (N,), the orientation to which the patch was rotated before it was described, in radians from
            the x axis towards the y axis; None if patches are described upright.
        kinds: uint8 (N,), the kind of each feature; None if all are of one kind.
    """

    positions: NDArray[np.float32]
    scales: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    attention: NDArray[np.float32]
    angles: NDArray[np.float32] | None = None
    kinds: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.positions)

    @staticmethod
    def empty(dim: int) -> Features:
        """Return no features, for descriptors with ``dim`` dimensions."""
        zeros = np.zeros(0, np.float32)
        return Features(np.zeros((0, 2), np.float32), zeros, np.zeros((0, dim), np.float32), zeros)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Features:
        """Return the features at ``rows`` (indices or a mask), in that order."""
        angles = None if self.angles is None else self.angles[rows]
        kinds = None if self.kinds is None else self.kinds[rows]
        return Features(
            self.positions[rows], self.scales[rows], self.descriptors[rows], self.attention[rows], angles, kinds
        )

    def by_kind(self, count: int) -> list[Features]:
        """Return the features of each of ``count`` kinds."""
        if self.kinds is None:
            return [self, *(self.take(np.zeros(0, np.intp)) for _ in range(count - 1))]
        return [self.take(self.kinds == kind) for kind in range(count)]

    def placed(self, scale: float | tuple[float, float], x: float, y: float) -> Features:
        """Return the features of a crop in the coordinates of its picture: enlarged by ``scale``, then moved by (x, y).

        Two scales are those of x and y, which differ slightly if a picture was scaled to whole pixels.
        """
        enlarged = np.broadcast_to(np.asarray(scale, np.float32), 2)
        positions = self.positions * enlarged + np.array([x, y], np.float32)
        return replace(self, positions=positions, scales=self.scales * np.sqrt(enlarged.prod()))


def concatenate(parts: Sequence[Features]) -> Features:
    """Concatenate the features of several parts (at least one) from one extractor."""
    some = [part for part in parts if len(part)]  # empty parts do not say whether there are angles and kinds
    if not some:
        return parts[0]
    angles = [part.angles for part in some if part.angles is not None]
    kinds = [part.kinds for part in some if part.kinds is not None]
    return Features(
        np.concatenate([part.positions for part in some]),
        np.concatenate([part.scales for part in some]),
        np.concatenate([part.descriptors for part in some]),
        np.concatenate([part.attention for part in some]),
        np.concatenate(angles) if len(angles) == len(some) else None,
        np.concatenate(kinds) if len(kinds) == len(some) else None,
    )


def strongest_in_views(features: Features, views: Boxes, top: int) -> list[NDArray[np.intp]]:
    """Return for each view of a picture the rows of its ``top`` strongest features, by their centres.

    Args:
        features: of the picture, strongest first.
        views: float32 (V, 4), boxes in pixels of the picture.
        top: maximum number of features per view.
    """
    x, y = features.positions.T
    rows = []
    for x1, y1, x2, y2 in views:
        rows.append(np.flatnonzero((x >= x1) & (x < x2) & (y >= y1) & (y < y2))[:top])
    return rows


class FeatureExtractor(Protocol):
    """Describes pictures by local features. Implementations are frozen dataclasses, picklable and thread-safe.

    If an extractor locates its features to a few pixels and rotates patches upright, it may have an attribute
    ``precise`` that is True: verification then trusts them more.
    """

    @property
    def dim(self) -> int:
        """Number of dimensions D of a descriptor."""
        ...

    def extract(self, images: Sequence[Picture]) -> list[Features]:
        """Return the features of each picture, in order.

        Args:
            images: uint8 (H, W, 3) each, of any sizes: the picture and the crops of its regions come together, so that
                a network can batch them.

        Returns:
            one :class:`Features` per picture, strongest first; empty for a picture without texture.
        """
        ...


@runtime_checkable
class ViewExtractor(FeatureExtractor, Protocol):
    """An extractor that processes a picture once, and returns the features of several views of it."""

    def extract_views(self, images: Sequence[Picture], views: Sequence[Boxes]) -> list[list[Features]]:
        """Return the features of views of pictures.

        Args:
            images: uint8 (H, W, 3) each.
            views: for each picture float32 (V, 4), boxes in its pixels.

        Returns:
            for each picture one :class:`Features` per view, strongest first, with positions in pixels of the picture.
        """
        ...


def has_views(extractor: FeatureExtractor) -> TypeGuard[ViewExtractor]:
    """Say whether an extractor, and each kind of a combined one, is a :class:`ViewExtractor`."""
    kinds: Sequence[FeatureExtractor] = getattr(extractor, "kinds", (extractor,))
    return all(isinstance(kind, ViewExtractor) for kind in kinds)


def whole_views(images: Sequence[Picture]) -> list[Boxes]:
    """Return for each picture one view, the whole picture."""
    return [np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32) for image in images]

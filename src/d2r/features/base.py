"""The interface of local features: what an extractor gives for each picture."""

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
        scales: float32 (N,), diameter of the patch described, in the same pixels.
        descriptors: float32 (N, D), each of unit Euclidean length.
        attention: float32 (N,), how much the extractor believes in each feature; larger is better.
        angles: float32 (N,), the direction that the patch was turned to before it was described, in radians from the
            x axis towards the y axis; None where patches are described upright.
        kinds: uint8 (N,), which kind of features each is; None where they are all of one kind.
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
        """Return no features, of descriptors with ``dim`` dimensions."""
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
        """Return the features of a crop in the frame of its picture: enlarged by ``scale``, then moved by (x, y).

        Two scales are those of x and y, which differ a little where a picture was scaled to whole pixels.
        """
        enlarged = np.broadcast_to(np.asarray(scale, np.float32), 2)
        positions = self.positions * enlarged + np.array([x, y], np.float32)
        return replace(self, positions=positions, scales=self.scales * np.sqrt(enlarged.prod()))


def concatenate(parts: Sequence[Features]) -> Features:
    """Return the features of several parts (at least one) of one extractor one after another."""
    some = [part for part in parts if len(part)]  # of no features, what they would have is not known
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
    """Return for each view of a picture the rows of the ``top`` strongest features whose centres lie in it.

    Args:
        features: of the picture, strongest first.
        views: float32 (V, 4), in its pixels.
        top: of each view.
    """
    x, y = features.positions.T
    rows = []
    for x1, y1, x2, y2 in views:
        rows.append(np.flatnonzero((x >= x1) & (x < x2) & (y >= y1) & (y < y2))[:top])
    return rows


class FeatureExtractor(Protocol):
    """Describes pictures by local features. Implementations are frozen dataclasses, picklable and thread-safe.

    One that locates its features to a few pixels, and turns patches upright, may say so by an attribute ``precise``
    that is True: verification then trusts them more.
    """

    @property
    def dim(self) -> int:
        """Number of dimensions D of a descriptor."""
        ...

    def extract(self, images: Sequence[Picture]) -> list[Features]:
        """Return the features of each picture, in order.

        Args:
            images: uint8 (H, W, 3) each, of any sizes: the picture and the crops of its regions come together, so
                that a network may batch them.

        Returns:
            one :class:`Features` a picture, strongest first; a picture without texture has none.
        """
        ...


@runtime_checkable
class ViewExtractor(FeatureExtractor, Protocol):
    """An extractor that looks at a picture once, and says what is in several views of it."""

    def extract_views(self, images: Sequence[Picture], views: Sequence[Boxes]) -> list[list[Features]]:
        """Return the features of views of pictures.

        Args:
            images: uint8 (H, W, 3) each.
            views: for each of them float32 (V, 4), in its pixels.

        Returns:
            for each picture one :class:`Features` a view, strongest first, with positions in pixels of the picture.
        """
        ...


def has_views(extractor: FeatureExtractor) -> TypeGuard[ViewExtractor]:
    """Say whether an extractor, and each kind of a combined one, can say what is in views of a picture."""
    kinds: Sequence[FeatureExtractor] = getattr(extractor, "kinds", (extractor,))
    return all(isinstance(kind, ViewExtractor) for kind in kinds)


def whole_views(images: Sequence[Picture]) -> list[Boxes]:
    """Return for each picture the one view that is all of it."""
    return [np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32) for image in images]

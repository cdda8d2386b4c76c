"""Several kinds of local features at once: each finds what the others miss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from d2r.boxes import Boxes
from d2r.features.base import FeatureExtractor, Features, ViewExtractor, concatenate
from d2r.images import Picture
from d2r.support.registry import SpecError


@dataclass(frozen=True)
class Combined:
    """The features of several extractors, kind by kind, each strongest first.

    Attributes:
        kinds: at least two extractors, whose descriptors have the same number of dimensions.
    """

    kinds: tuple[FeatureExtractor, ...]

    @property
    def dim(self) -> int:
        """Dimensions of a descriptor.

        Raises:
            SpecError: the kinds have different dimensions.
        """
        dims = [kind.dim for kind in self.kinds]
        if len(set(dims)) > 1:
            raise SpecError(f"features of {' and '.join(map(str, dims))} dimensions cannot be combined in one index")
        return dims[0]

    def extract(self, images: Sequence[Picture]) -> list[Features]:
        """See :meth:`d2r.features.FeatureExtractor.extract`; :attr:`Features.kinds` gives the kind of each feature."""
        found = [kind.extract(images) for kind in self.kinds]
        return [self._joined(of_one) for of_one in zip(*found, strict=True)]

    def extract_views(self, images: Sequence[Picture], views: Sequence[Boxes]) -> list[list[Features]]:
        """See :meth:`d2r.features.ViewExtractor.extract_views`; only if :func:`has_views`."""
        found = [kind.extract_views(images, views) for kind in self.kinds if isinstance(kind, ViewExtractor)]
        return [
            [self._joined(of_view) for of_view in zip(*of_image, strict=True)] for of_image in zip(*found, strict=True)
        ]

    def _joined(self, parts: Sequence[Features]) -> Features:
        return concatenate([self._of_kind(number, part) for number, part in enumerate(parts)])

    def _of_kind(self, number: int, features: Features) -> Features:
        angles = np.zeros(len(features), np.float32) if features.angles is None else features.angles
        return replace(features, angles=angles, kinds=np.full(len(features), number, np.uint8))

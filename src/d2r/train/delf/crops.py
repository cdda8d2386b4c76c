"""Batches of crops of photos, mirrored and recoloured; and whole photos for validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from d2r.train.data import DecodedPictures, derived_seed
from d2r.train.delf.views import random_crop, scaled_photo


class Crops(Dataset[tuple[Tensor, int]]):
    """Crops of photos, new ones in each epoch, with a label each.

    The key of an item is (epoch, number of the draw, photo); the item is uint8 (3, side, side) and its label.

    Args:
        photos: the photos.
        labels: labels of the photos.
        side: side of the crops, in pixels.
        area: range of a crop's share of its photo.
        seed: seed of the draw.
    """

    def __init__(
        self, photos: DecodedPictures, labels: Sequence[int], side: int, area: tuple[float, float], seed: int
    ) -> None:
        self._photos = photos
        self._labels = list(labels)
        self._side = side
        self._area = area
        self._seed = seed

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int]:
        epoch, draw, number = key
        random = np.random.default_rng(derived_seed(self._seed, epoch, draw))
        crop = random_crop(self._photos[number], self._side, self._area, random)
        return torch.from_numpy(crop).permute(2, 0, 1), self._labels[number]


def collate_crops(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Return crops uint8 (N, 3, side, side) and labels int64 (N,)."""
    return torch.stack([crop for crop, _ in items]), torch.tensor([label for _, label in items])


def whole_photos(photos: DecodedPictures, numbers: Sequence[int], side: int, batch: int) -> Iterator[Tensor]:
    """Yield batches of whole photos, squashed, in order: uint8 (n, 3, side, side)."""
    for start in range(0, len(numbers), batch):
        part = np.stack([scaled_photo(photos[number], side) for number in numbers[start : start + batch]])
        yield torch.from_numpy(part).permute(0, 3, 1, 2)

"""Training pictures, as batches that depend only on the seed and the epoch."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from d2r.datasets.detection import DetectionPicture
from d2r.images import Picture, read_image, shrink
from d2r.regions.detector import squash
from d2r.train.detector.augment import training_transforms

DetectionBatch: TypeAlias = tuple[Tensor, list[dict[str, Tensor]]]
"""Pictures, uint8 (N, 3, side, side), and the ``boxes`` in pixels and ``labels`` of each."""

CACHE_BYTES = 6 * 2**30
"""Memory for decoded pictures; pictures that do not fit are decoded each time."""

_MARGIN = 1.5  # times the side: pictures are kept at most this large; crops of them are scaled to the side


class DecodedPictures:
    """Pictures by number, with sides of at most ``longest`` pixels, in memory as far as they fit."""

    def __init__(self, paths: Sequence[Path], longest: int) -> None:
        self._paths = list(paths)
        self._longest = longest
        self._kept: list[Picture] = []
        size = 0
        for path in self._paths:
            decoded = self._decode(path)
            size += decoded.nbytes
            if size > CACHE_BYTES:
                break
            self._kept.append(decoded)

    def _decode(self, path: Path) -> Picture:
        return np.array(shrink(read_image(path), self._longest))  # writable, as torch requires

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> Picture:
        return self._kept[number] if number < len(self._kept) else self._decode(self._paths[number])


class TrainingPictures(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Augmented pictures, changed anew in each epoch. The key of an item is (epoch, number of the draw, picture)."""

    def __init__(self, pictures: Sequence[DetectionPicture], side: int, seed: int) -> None:
        self._pictures = list(pictures)
        self._seed = seed
        self._transform = training_transforms(side)
        self._decoded = DecodedPictures([picture.path for picture in pictures], round(_MARGIN * side))

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, dict[str, Tensor]]:
        epoch, draw, number = key
        picture = self._pictures[number]
        pixels = self._decoded[number]
        height, width = pixels.shape[:2]
        boxes = torch.tensor(picture.boxes, dtype=torch.float32).reshape(-1, 4) * torch.tensor([width, height] * 2)
        image = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            "labels": torch.ones(len(boxes), dtype=torch.int64),
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self._seed, epoch, draw))
            image, target = self._transform(image, target)
        return image.as_subclass(Tensor), {name: value.as_subclass(Tensor) for name, value in target.items()}


def derived_seed(*parts: int) -> int:
    """Return a seed of 63 bits that depends on all the given non-negative numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


class EpochBatches:
    """The pictures of each batch of an epoch, for a ``DataLoader``; they depend only on the seed and the epoch.

    Args:
        sizes: number of pictures of each source; pictures are numbered consecutively.
        shares: for each source, how often an epoch takes a picture of it on average: 1 takes each once, 0.5 takes half
            of them, different ones in each epoch.
        batch: pictures per batch. An incomplete last batch is left out, unless it is the only one.
        seed: seed of the order.
    """

    def __init__(self, sizes: Sequence[int], shares: Sequence[float], batch: int, seed: int) -> None:
        self._sizes = list(sizes)
        self._shares = list(shares)
        self._batch = batch
        self._seed = seed
        self.epoch = 0

    def order(self) -> NDArray[np.int64]:
        """Return the numbers of the epoch's pictures in order, int64 (N,)."""
        random = np.random.default_rng(derived_seed(self._seed, self.epoch))
        drawn, first = [], 0
        for size, share in zip(self._sizes, self._shares, strict=True):
            count = max(1, round(size * share))
            rounds = [random.permutation(size) for _ in range(-(-count // size))]
            drawn.append(first + np.concatenate(rounds)[:count])
            first += size
        return random.permutation(np.concatenate(drawn))

    def __len__(self) -> int:
        total = sum(max(1, round(size * share)) for size, share in zip(self._sizes, self._shares, strict=True))
        return max(1, total // self._batch)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        order = self.order().tolist()
        for start in range(0, len(self) * self._batch, self._batch):
            chosen = order[start : start + self._batch]
            yield [(self.epoch, start + k, number) for k, number in enumerate(chosen)]


def _collate(samples: list[tuple[Tensor, dict[str, Tensor]]]) -> DetectionBatch:
    return torch.stack([image for image, _ in samples]), [target for _, target in samples]


def training_loader(
    pictures: Dataset[Any],
    batches: Iterable[list[tuple[int, int, int]]],
    workers: int,
    *,
    pin_memory: bool,
    collate: Callable[[list[Any]], Any] = _collate,
) -> DataLoader[Any]:
    """Return a loader of items joined by ``collate``; set the epoch of ``batches`` before each pass."""
    # Forked workers share the pictures in memory; with another start method each would get a copy.
    method = "fork" if workers and "fork" in multiprocessing.get_all_start_methods() else None
    return DataLoader(
        pictures,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        multiprocessing_context=method,
        worker_init_fn=_quiet if workers else None,
    )


def _quiet(_: int) -> None:
    cv2.setNumThreads(0)  # the parent's threads do not exist in a forked worker
    torch.set_num_threads(1)


class ValidationPictures:
    """Validation pictures in memory, squashed as input of the detector.

    Attributes:
        pixels: uint8 (N, side, side, 3).
        boxes: for each picture float64 (M, 4), in pixels of the squashed picture.
    """

    def __init__(self, pictures: Sequence[DetectionPicture], side: int) -> None:
        self.pixels = np.empty((len(pictures), side, side, 3), np.uint8)
        for row, picture in zip(self.pixels, pictures, strict=True):
            row[:] = squash(read_image(picture.path), side)
        self.boxes = [side * np.array(picture.boxes, np.float64).reshape(-1, 4) for picture in pictures]

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yield the pictures in order, uint8 (n, 3, side, side)."""
        for start in range(0, len(self.pixels), size):
            yield torch.from_numpy(self.pixels[start : start + size]).permute(0, 3, 1, 2)


@functools.cache
def default_loader_workers() -> int:
    """Return how many processes prepare pictures: one on a CPU, where the network is the bottleneck, more for a GPU."""
    return min(12, (multiprocessing.cpu_count() or 2) - 1) if torch.cuda.is_available() else 1

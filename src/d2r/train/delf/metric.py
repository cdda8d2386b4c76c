"""The recipe "metric": make pictures of a landmark similar, and dissimilar to the most similar ones of others.

As in HOW (Tolias, Jenicek and Chum, "Learning and aggregating deep local descriptors for instance-level recognition",
ECCV 2020): a picture is the sum of its local features, each weighted by its norm, averaged over 3 x 3 cells and reduced
by a whitening that is fitted before training and then fixed. The loss is contrastive, and the hardest negatives are
mined before each epoch with the current weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from d2r.train.data import DecodedPictures, derived_seed, training_loader
from d2r.train.delf.crops import Crops, collate_crops, whole_photos
from d2r.train.delf.networks import LocalNetwork, freeze_local_network
from d2r.train.delf.settings import DelfSettings
from d2r.train.settings import TrainError

_MARGIN: Final = 0.8  # distance from which a negative has no loss
_AREA: Final = (0.5, 1.0)
_POOL: Final = 20_000  # pictures among which negatives are mined, drawn anew in each epoch
_MEASURED: Final = 32  # pictures at once, outside training


class _Tuples:
    """Batches of queries, each with its positive and its negatives; they depend only on the seed and the epoch."""

    def __init__(self, queries: int, batch: int, seed: int) -> None:
        self._queries = queries
        self._batch = batch
        self._seed = seed
        self.epoch = 0
        self.tuples: NDArray[np.int64] = np.zeros((0, 0), np.int64)

    def __len__(self) -> int:
        return max(1, self._queries // self._batch)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        order = np.random.default_rng(derived_seed(self._seed, self.epoch)).permutation(len(self.tuples))
        width = self.tuples.shape[1]
        for start in range(0, len(self) * self._batch, self._batch):
            numbers = self.tuples[order[start : start + self._batch]].ravel().tolist()
            yield [(self.epoch, start * width + k, number) for k, number in enumerate(numbers)]


class MetricTrainer:
    """The :class:`d2r.train.course.Trainer` of the recipe "metric".

    Args:
        settings: settings of the run.
        network: a network of kind "how".
        training: photos to train on.
        landmarks: number of each photo's landmark; a photo without a known landmark has a number of its own.
        validation: photos to validate on.
        measured: their landmarks.
        workers: number of processes that prepare pictures.
        write: writes the best weights.
    """

    def __init__(
        self,
        settings: DelfSettings,
        network: LocalNetwork,
        training: DecodedPictures,
        landmarks: NDArray[np.int64],
        validation: DecodedPictures,
        measured: NDArray[np.int64],
        workers: int,
        write: Callable[[nn.Module, dict[str, float]], None],
    ) -> None:
        self._settings = settings
        self._training = training
        self._landmarks = landmarks
        self._validation = validation
        self._measured = measured
        self._write = write
        self._device = next(network.parameters()).device
        counts = np.bincount(landmarks)
        if (counts > 1).sum() < 2:
            raise TrainError(
                "--data: the recipe metric needs at least two landmarks with two pictures to train on, besides the"
                " held-out ones; without landmarks use --recipe self"
            )
        self._queries = np.flatnonzero(counts[landmarks] > 1)
        self._tuples = _Tuples(len(self._queries), settings.batch, settings.seed)
        self.steps = len(self._tuples)
        crops = Crops(training, landmarks.tolist(), settings.side, _AREA, settings.seed)
        self._loader = training_loader(
            crops, self._tuples, workers, pin_memory=self._device.type == "cuda", collate=collate_crops
        )

    def batches(self, average: nn.Module, epoch: int) -> Iterable[Any]:
        """See :meth:`d2r.train.course.Trainer.batches`."""
        random = np.random.default_rng(derived_seed(self._settings.seed, epoch, 0))
        pool = np.arange(len(self._training))
        if len(pool) > _POOL:
            drawn = random.choice(np.setdiff1d(pool, self._queries), max(0, _POOL - len(self._queries)), replace=False)
            pool = np.sort(np.concatenate([self._queries, drawn]))
        vectors = self._describe(average, self._training, pool)
        self._tuples.epoch = epoch
        queries = np.flatnonzero(np.isin(pool, self._queries))
        self._tuples.tuples = pool[mine(vectors, self._landmarks[pool], queries, self._settings.hard, random)]
        return self._loader

    def train_mode(self, network: nn.Module) -> None:
        """See :meth:`d2r.train.course.Trainer.train_mode`."""
        assert isinstance(network, LocalNetwork)
        freeze_local_network(network, self._settings.freeze, statistics=self._settings.init != "none")

    def losses(self, network: nn.Module, batch: Any) -> dict[str, Tensor]:
        """See :meth:`d2r.train.course.Trainer.losses`."""
        pictures, _ = batch
        pictures = pictures.to(self._device, non_blocking=True, memory_format=torch.channels_last)
        vectors = pooled(network, pictures).reshape(-1, 2 + self._settings.hard, self._settings.dim)
        apart = (vectors[:, :1] - vectors[:, 1:]).square().sum(dim=2)
        near = (_MARGIN - (apart[:, 1:] + 1e-6).sqrt()).clamp(min=0.0).square().sum(dim=1)
        return {"positive": 0.5 * apart[:, 0].mean(), "negative": 0.5 * near.mean()}

    def validate(self, network: nn.Module) -> dict[str, float]:
        """See :meth:`d2r.train.course.Trainer.validate`."""
        vectors = self._describe(network, self._validation, np.arange(len(self._validation)))
        return {"map": landmark_average_precision(vectors, self._measured)}

    def write_best(self, network: nn.Module, best: dict[str, float]) -> None:
        """See :meth:`d2r.train.course.Trainer.write_best`."""
        self._write(network, best)

    @torch.no_grad()
    def _describe(self, network: nn.Module, photos: DecodedPictures, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        network.eval()
        whole = whole_photos(photos, numbers.tolist(), self._settings.side, _MEASURED)
        return np.concatenate([pooled(network, pictures.to(self._device)).cpu().numpy() for pictures in whole])


def pooled(network: nn.Module, pictures: Tensor) -> Tensor:
    """Return a vector of unit length for each picture, (N, D): the sum of its features, weighted by attention."""
    assert isinstance(network, LocalNetwork)
    features = network.features(pictures)
    projected = network.projection(network.to_project(features))
    return functional.normalize((projected * network.attend(features)[:, None]).sum(dim=(2, 3)))


def mine(
    vectors: NDArray[np.float32],
    landmarks: NDArray[np.int64],
    queries: NDArray[np.intp],
    hard: int,
    random: np.random.Generator,
) -> NDArray[np.int64]:
    """Return for each query its row, that of a positive and those of its hardest negatives: int64 (Q, 2 + hard).

    The positive is drawn from the more similar half of the landmark's pictures, as others may show another part of it.
    Negatives are the most similar pictures, one per landmark as long as there are landmarks.

    Args:
        vectors: float32 (N, D), of unit length.
        landmarks: landmark of each picture; a query's has another picture, and there is another landmark.
        queries: rows of the queries.
        hard: number of negatives.
        random: draws the positives.
    """
    rows = []
    for query in queries.tolist():
        order = np.argsort(-(vectors @ vectors[query]), kind="stable")
        same = landmarks[order] == landmarks[query]
        alike = order[same & (order != query)]
        positive = int(alike[random.integers(-(-len(alike) // 2))])
        others = order[~same]
        first = np.sort(np.unique(landmarks[others], return_index=True)[1])
        rest = np.setdiff1d(np.arange(len(others)), first)
        chosen = others[np.concatenate([first, rest])][:hard]
        rows.append([query, positive, *np.resize(chosen, hard).tolist()])
    return np.array(rows, np.int64)


def landmark_average_precision(vectors: NDArray[np.float32], landmarks: NDArray[np.int64]) -> float:
    """Return the mAP of searches with each picture for the others of its landmark, if it has any."""
    found = []
    similar = vectors @ vectors.T
    for query, row in enumerate(similar):
        order = np.argsort(-row, kind="stable")
        right = landmarks[order[order != query]] == landmarks[query]
        if right.any():
            places = np.flatnonzero(right) + 1
            found.append(float(np.mean(np.arange(1, len(places) + 1) / places)))
    return float(np.mean(found))


def hold_out_landmarks(landmarks: Sequence[str | None], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the rows of the pictures to train on and of the held-out ones.

    At least two landmarks with two pictures or more are held out, and the same share of all other pictures.

    Args:
        landmarks: landmark of each picture, or None.
        share: share of the landmarks to hold out.
        seed: seed of the draw.

    Raises:
        ValueError: there are fewer than four landmarks with two pictures or more.
    """
    rows: dict[str, list[int]] = {}
    for row, landmark in enumerate(landmarks):
        if landmark is not None:
            rows.setdefault(landmark, []).append(row)
    several = [landmark for landmark, found in rows.items() if len(found) > 1]
    if len(several) < 4:
        raise ValueError(f"it has {len(several)} landmarks with two pictures or more, but at least four are needed")
    random = np.random.default_rng(seed)
    drawn = random.permutation(len(several))[: min(max(2, round(share * len(several))), len(several) - 2)]
    alone = [row for row, name in enumerate(landmarks) if name is None or len(rows[name]) == 1]
    held = {row for number in drawn.tolist() for row in rows[several[number]]}
    held |= {alone[number] for number in random.permutation(len(alone))[: round(share * len(alone))].tolist()}
    return [row for row in range(len(landmarks)) if row not in held], sorted(held)

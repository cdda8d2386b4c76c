"""Training of patch descriptors: from photos to a folder with a checkpoint, the best weights and a log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from d2r.datasets.labelled import LabelledPicture
from d2r.train.course import BEST, NOBODY, Listener, autocast, begin, train_network, write_weights
from d2r.train.data import DecodedPictures, EpochBatches, default_loader_workers, derived_seed, training_loader
from d2r.train.hardnet.network import PATCH_DIM, HardNetModule, build_hardnet
from d2r.train.hardnet.pairs import WIDTH, PatchPairs, patch_pairs
from d2r.train.hardnet.settings import HardNetSettings
from d2r.train.holdout import hold_out_photos
from d2r.train.log import EpochRow
from d2r.train.settings import TrainError

KIND: Final = "hardnet"
"""Kind of network in the metadata of the weights."""

_LONGEST: Final = 640  # pixels of a photo
_PAIRS: Final = 128  # per photo and warp
_STEPS: Final = 8  # over which these pairs are spread, as making pairs takes longer than learning from them
_MEASURED: Final = 32  # pairs per photo, in validation
_AT_ONCE: Final = 1024  # patches, in validation
_WEIGHT_DECAY: Final = 1e-4
_MARGIN: Final = 1.0
_TEMPERATURE: Final = 0.06
_CROSS_ENTROPY: Final = 0.3  # weight of this loss; the margin's is 1


@dataclass(frozen=True)
class PatchBatch:
    """P pairs of patches of several photos.

    Attributes:
        first, second: uint8 (P, 32, 32).
        photos: int64 (P,), the photo of each pair.
        places: float32 (P, 3), see :class:`d2r.train.hardnet.pairs.PatchPairs`.
    """

    first: Tensor
    second: Tensor
    photos: Tensor
    places: Tensor


class PhotoPairs(Dataset[PatchPairs]):
    """Patch pairs of photos, new ones in each epoch. The key of an item is (epoch, number of the draw, photo)."""

    def __init__(self, photos: DecodedPictures, max_pairs: int, seed: int) -> None:
        self._photos = photos
        self._max_pairs = max_pairs
        self._seed = seed

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, key: tuple[int, int, int]) -> PatchPairs:
        epoch, draw, number = key
        random = np.random.default_rng(derived_seed(self._seed, epoch, draw))
        return patch_pairs(self._photos[number], self._max_pairs, random)


def collate_patch_pairs(items: list[PatchPairs]) -> PatchBatch:
    """Return the pairs of several photos as one batch."""
    return PatchBatch(
        torch.from_numpy(np.concatenate([item.first for item in items])),
        torch.from_numpy(np.concatenate([item.second for item in items])),
        torch.from_numpy(np.repeat(np.arange(len(items)), [len(item.first) for item in items])),
        torch.from_numpy(np.concatenate([item.places for item in items])),
    )


def train_hardnet(
    settings: HardNetSettings,
    folder: Path,
    *,
    resume: bool = False,
    workers: int | None = None,
    listener: Listener = NOBODY,
) -> list[EpochRow]:
    """Train patch descriptors, or resume a run that was stopped.

    Args:
        settings: settings of the run.
        folder: folder of the run, for ``settings.json``, ``last.pt``, ``best.safetensors``, ``log.csv`` and
            ``curves.png``.
        resume: continue from ``last.pt``.
        workers: number of processes that prepare pairs; None chooses one for the machine.
        listener: callbacks for the progress.

    Returns:
        all epochs, including those before a resume.

    Raises:
        TrainError: see its message; d2r.datasets.labelled.LabelledDataError and d2r.images.ImageError from the data.
    """
    stored = begin(settings, folder, resume)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training, validation = hold_out_photos(settings)
    torch.manual_seed(settings.seed)
    network = build_hardnet(settings.channels).to(device)
    trainer = PatchTrainer(settings, network, _decoded(training), _decoded(validation), workers, folder)
    groups = [{"params": list(network.parameters())}]
    return train_network(
        network,
        trainer,
        groups,
        settings,
        folder,
        stored,
        decay=_WEIGHT_DECAY,
        epochs=settings.epochs,
        pictures=(len(training), len(validation)),
        left_out=[],
        listener=listener,
    )


class PatchTrainer:
    """The :class:`d2r.train.course.Trainer` of patch descriptors."""

    def __init__(
        self,
        settings: HardNetSettings,
        network: HardNetModule,
        training: DecodedPictures,
        validation: DecodedPictures,
        workers: int | None,
        folder: Path,
    ) -> None:
        self._device = next(network.parameters()).device
        self._folder = folder
        self._batches = EpochBatches([len(training)], [1.0], settings.batch, settings.seed)
        self.steps = _STEPS * len(self._batches)
        self._loader = training_loader(
            PhotoPairs(training, _PAIRS, settings.seed),
            self._batches,
            default_loader_workers() if workers is None else workers,
            pin_memory=False,
            collate=collate_patch_pairs,
        )
        measured = PhotoPairs(validation, _MEASURED, settings.seed)
        self._measured = collate_patch_pairs([measured[0, number, number] for number in range(len(validation))])
        if len(self._measured.photos) < 2:
            raise TrainError("--data: no keypoints match in the held-out photos; give more photos")

    def batches(self, average: nn.Module, epoch: int) -> Iterator[PatchBatch]:
        """Yield the batches of an epoch: each has a share of the pairs of every photo."""
        self._batches.epoch = epoch
        for batch in self._loader:
            for step in range(_STEPS):
                # pairs of a photo are adjacent, so that every eighth pair covers nearly every photo
                yield PatchBatch(
                    *(getattr(batch, name)[step::_STEPS] for name in ("first", "second", "photos", "places"))
                )

    def train_mode(self, network: nn.Module) -> None:
        """Do nothing: nothing is frozen."""

    def losses(self, network: nn.Module, batch: PatchBatch) -> dict[str, Tensor]:
        """Return the losses of a batch: HardNet's margin to the hardest negative, and cross-entropy over all negatives.

        With d = sqrt(2 - 2 a.b) they are the mean of max(0, 1 + d(a_i, b_i) - min over j of d(a_i, b_j), d(a_j, b_i)),
        and 0.3 times the cross-entropy of a_i . b_j / 0.06 in both directions. Pairs of the same photo are not
        negatives of each other if their keypoints are nearer than the smaller of their diameters.
        """
        count = len(batch.photos)
        with autocast(network, processor=False):
            described: Tensor = network(torch.cat([batch.first, batch.second]).to(self._device))
        similar = described[:count] @ described[count:].T
        places, photos = batch.places.to(self._device), batch.photos.to(self._device)
        near = torch.cdist(places[:, :2], places[:, :2]) < torch.minimum(places[:, None, 2], places[:, 2])
        own = torch.eye(count, dtype=torch.bool, device=self._device)
        similar = similar.masked_fill(near & (photos[:, None] == photos) & ~own, -1.0)
        right = similar.diagonal()
        wrong = similar.masked_fill(own, -1.0)
        hardest = torch.maximum(wrong.amax(dim=1), wrong.amax(dim=0))
        margin = functional.relu(_MARGIN + _distance(right) - _distance(hardest)).mean()
        targets = torch.arange(count, device=self._device)
        there, back = (functional.cross_entropy(one / _TEMPERATURE, targets) for one in (similar, similar.T))
        return {"margin": margin, "entropy": _CROSS_ENTROPY / 2 * (there + back)}

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Return the share of patches whose nearest neighbour among those of all held-out photos is their match."""
        network.eval()
        with torch.no_grad():
            first, second = (
                torch.cat([network(part.to(self._device)) for part in torch.split(patches, _AT_ONCE)])
                for patches in (self._measured.first, self._measured.second)
            )
            nearest = (first @ second.T).argmax(dim=1).cpu()
        return {"matched": float((nearest == torch.arange(len(nearest))).float().mean())}

    def write_best(self, network: nn.Module, best: dict[str, float]) -> None:
        """Write ``best.safetensors``."""
        assert isinstance(network, HardNetModule)
        about = {"kind": KIND, "channels": str(network.channels), "dim": str(PATCH_DIM), "width": f"{WIDTH:g}"}
        write_weights(self._folder / BEST, network, about, best)


def _distance(similarity: Tensor) -> Tensor:
    return (2.0 - 2.0 * similarity).clamp_min(1e-6).sqrt()


def _decoded(pictures: list[LabelledPicture]) -> DecodedPictures:
    return DecodedPictures([picture.path for picture in pictures], _LONGEST)

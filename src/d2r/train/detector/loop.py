"""Training of a detector: from settings to a folder with a checkpoint, the best weights and a log.

See :mod:`d2r.train.course` for why a run is repeatable.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from d2r.datasets.detection import DetectionPicture, read_training, read_validation
from d2r.evaluate.detection import DetectionScores, evaluate_boxes
from d2r.support.files import display_path
from d2r.train.course import BEST, NOBODY, Listener, autocast, begin, train_network, write_weights
from d2r.train.data import (
    EpochBatches,
    TrainingPictures,
    ValidationPictures,
    default_loader_workers,
    training_loader,
)
from d2r.train.detector.architectures import build_detector, freeze_detector, initialise_detector
from d2r.train.detector.settings import DetectorSettings
from d2r.train.holdout import hold_out
from d2r.train.log import EpochRow
from d2r.train.settings import TrainError

_WEIGHT_DECAY = 0.05


class _DetectorTrainer:
    """The :class:`d2r.train.course.Trainer` of detectors."""

    def __init__(
        self,
        settings: DetectorSettings,
        folder: Path,
        training: list[DetectionPicture],
        sizes: list[int],
        validation: list[DetectionPicture],
        device: torch.device,
        workers: int | None,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._device = device
        pictures = TrainingPictures(training, settings.side, settings.seed)
        self._measured = ValidationPictures(validation, settings.side)
        self._batches = EpochBatches(sizes, settings.shares, settings.batch, settings.seed)
        self.steps = len(self._batches)
        self._loader = training_loader(
            pictures,
            self._batches,
            default_loader_workers() if workers is None else workers,
            pin_memory=device.type == "cuda",
        )

    def batches(self, average: nn.Module, epoch: int) -> Iterable[Any]:
        self._batches.epoch = epoch
        return self._loader

    def train_mode(self, network: nn.Module) -> None:
        _freeze(network, self._settings)

    def losses(self, network: nn.Module, batch: Any) -> dict[str, Tensor]:
        images, targets = batch
        images = images.to(self._device, non_blocking=True, memory_format=torch.channels_last)
        targets = [
            {name: value.to(self._device, non_blocking=True) for name, value in target.items()} for target in targets
        ]
        with autocast(network, processor=True):
            losses: dict[str, Tensor] = network(images, targets)
        return losses

    def validate(self, network: nn.Module) -> dict[str, float]:
        scores = validate(network, self._measured, self._settings.batch, self._device)
        return {"ap50": scores.ap50, "ap": scores.ap}

    def write_best(self, network: nn.Module, best: dict[str, float]) -> None:
        write_best(self._folder, network, self._settings, best)


def train_detector(
    settings: DetectorSettings,
    folder: Path,
    *,
    resume: bool = False,
    workers: int | None = None,
    listener: Listener = NOBODY,
) -> list[EpochRow]:
    """Train a detector, or resume a run that was stopped; return all its epochs.

    The arguments are those of :func:`d2r.train.hardnet.loop.train_hardnet`.

    Raises:
        TrainError: see its message; d2r.datasets.detection.DetectionDataError and d2r.images.ImageError from the data;
        d2r.train.detector.architectures.InitError.
    """
    stored = begin(settings, folder, resume)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training, sizes, validation = _read(settings)
    trainer = _DetectorTrainer(settings, folder, training, sizes, validation, device, workers)

    torch.manual_seed(settings.seed)
    network = build_detector(settings.arch, settings.side)
    left_out = initialise_detector(network, settings.arch, settings.init) if stored is None else []
    _freeze(network, settings)
    network.to(device)
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
        left_out=left_out,
        listener=listener,
    )


def _read(settings: DetectorSettings) -> tuple[list[DetectionPicture], list[int], list[DetectionPicture]]:
    """Return the pictures to train on, their number per source, and those to validate on."""
    training: list[DetectionPicture] = []
    sizes: list[int] = []
    validation = read_validation(settings.validation) if settings.validation is not None else []
    for source in settings.data:
        pictures = read_training(source)
        if not pictures:
            raise TrainError(f"--data {display_path(source)}: there is no picture to train on")
        if settings.validation is None:
            try:
                pictures, held = hold_out(pictures, settings.hold_out, settings.seed)
            except ValueError as error:
                raise TrainError(f"--data {display_path(source)}: {error}; give --validation") from error
            validation += held
        training += pictures
        sizes.append(len(pictures))
    if not any(picture.boxes for picture in validation):
        raise TrainError("no picture to validate on has a box; give another --validation or a larger --hold-out")
    if len(training) < 2:
        raise TrainError("there is only one picture to train on; give more --data")
    return training, sizes, validation


def _freeze(network: nn.Module, settings: DetectorSettings) -> None:
    try:
        freeze_detector(network, settings.arch, settings.freeze)
    except ValueError as error:
        raise TrainError(f"--freeze: {error}") from error


@torch.no_grad()
def validate(network: nn.Module, pictures: ValidationPictures, batch: int, device: torch.device) -> DetectionScores:
    """Evaluate a network on pictures with known boxes, in full precision."""
    network.eval()
    found: list[dict[str, Any]] = []
    for images in pictures.batches(batch):
        found += [
            {name: value.float().cpu().numpy() for name, value in one.items()} for one in network(images.to(device))
        ]
    return evaluate_boxes([one["boxes"] for one in found], [one["scores"] for one in found], pictures.boxes)


def write_best(folder: Path, network: nn.Module, settings: DetectorSettings, best: dict[str, float]) -> None:
    """Write weights as ``best.safetensors``, with their description in its metadata."""
    write_weights(folder / BEST, network, {"arch": settings.arch, "side": str(settings.side)}, best)

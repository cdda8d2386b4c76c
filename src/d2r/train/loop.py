"""Training of a detector: from settings to a folder with a checkpoint, the best weights and a log.

A run depends on its settings alone: what is drawn at random is drawn anew in each epoch from the seed and the epoch's
number, so that no generator's state outlives an epoch. Checkpoints are written at the end of an epoch. Two runs on the
same machine and libraries, one of them stopped and resumed, end with the same weights; a GPU may round otherwise.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from d2r.datasets.detection import DetectionPicture, read_training, read_validation
from d2r.evaluate.detection import DetectionScores, evaluate_boxes
from d2r.files import display_path, replacing
from d2r.train.architectures import build, freeze, initialise
from d2r.train.checkpoint import LAST, read_checkpoint, write_checkpoint
from d2r.train.data import (
    EpochBatches,
    TrainingPictures,
    ValidationPictures,
    default_workers,
    derived_seed,
    training_loader,
)
from d2r.train.holdout import hold_out
from d2r.train.log import EpochRow, as_plain, as_rows, write_log
from d2r.train.settings import Settings, TrainError, as_document, check_same, write_settings

BEST: Final = "best.safetensors"

_WARM_UP: Final = 0.05  # share of all steps
_LAST_LR: Final = 0.01  # share of the highest learning rate that the cosine ends at
_WEIGHT_DECAY: Final = 0.05
_LARGEST_GRADIENT: Final = 10.0  # norm over all weights
_AVERAGING: Final = 0.998  # how much of the averaged weights a step keeps, once there have been many steps


@dataclass(frozen=True)
class Sizes:
    """What a run turned out to have: numbers of pictures and of steps an epoch, and weights not taken from --init."""

    training: int
    validation: int
    steps: int
    left_out: Sequence[str]
    first_epoch: int
    device: str


@dataclass
class _Run:
    """The parts of a run that change as it goes."""

    network: nn.Module
    average: AveragedModel
    optimiser: torch.optim.Optimizer
    schedule: LambdaLR
    scaler: torch.amp.GradScaler
    best: dict[str, float] | None = None  # "epoch" and "ap50" of the best validation
    history: list[EpochRow] = field(default_factory=list)

    def parts(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "average": self.average,
            "optimiser": self.optimiser,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }


def train_detector(
    settings: Settings,
    folder: Path,
    *,
    resume: bool = False,
    workers: int | None = None,
    started: Callable[[Sizes], None] = lambda sizes: None,
    stepped: Callable[[int, int, int], None] = lambda epoch, step, steps: None,
    finished: Callable[[EpochRow], None] = lambda row: None,
) -> list[EpochRow]:
    """Train a detector, or go on with a run that was stopped.

    Args:
        settings: of the run.
        folder: of the run; gets ``settings.json``, ``last.pt``, ``best.safetensors``, ``log.csv``, ``curves.png``.
        resume: go on from ``last.pt``.
        workers: processes that prepare pictures; None for a number that suits the machine.
        started: told once what the run has.
        stepped: told after each step: epoch from 1, step from 1, steps an epoch.
        finished: told after each epoch, when it is on the disk.

    Returns:
        all epochs, those before a resume included.

    Raises:
        TrainError: see its message; d2r.datasets.detection.DetectionDataError and d2r.images.ImageError from the data;
        d2r.train.architectures.InitError.
    """
    stored = _begin(settings, folder, resume)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training, sizes, validation = _read(settings)
    pictures = TrainingPictures(training, settings.side, settings.seed)
    measured = ValidationPictures(validation, settings.side)
    batches = EpochBatches(sizes, settings.shares, settings.batch, settings.seed)

    torch.manual_seed(settings.seed)
    network = build(settings.arch, settings.side)
    left_out = initialise(network, settings.arch, settings.init) if stored is None else []
    _freeze(network, settings)
    run = _assemble(network.to(device), settings, len(batches))
    if stored is None:
        write_settings(settings, folder)
    else:
        _restore(run, stored, folder / LAST)
    started(Sizes(len(training), len(validation), len(batches), left_out, len(run.history) + 1, device.type))

    loader = training_loader(
        pictures,
        batches,
        default_workers() if workers is None else workers,
        pin_memory=device.type == "cuda",
    )
    while len(run.history) < settings.epochs and not _out_of_patience(run, settings):
        epoch = batches.epoch = len(run.history) + 1
        torch.manual_seed(derived_seed(settings.seed, epoch))
        start = time.monotonic()
        losses = _train_epoch(run, settings, loader, device, partial(stepped, epoch))
        scores = None
        if epoch % settings.validate_every == 0 or epoch == settings.epochs:
            scores = validate(run.average.module, measured, settings.batch, device)
            if run.best is None or scores.ap50 > run.best["ap50"]:
                run.best = {"epoch": epoch, "ap50": scores.ap50}
                write_best(folder, run.average.module, settings, run.best)
        row = EpochRow(
            epoch=epoch,
            lr=float(run.schedule.get_last_lr()[0]),
            loss=sum(losses.values()),
            losses=losses,
            ap50=None if scores is None else scores.ap50,
            ap=None if scores is None else scores.ap,
            seconds=time.monotonic() - start,
        )
        run.history.append(row)
        state = {name: part.state_dict() for name, part in run.parts().items()}
        rest = {"settings": as_document(settings), "epoch": epoch, "best": run.best, "history": as_plain(run.history)}
        write_checkpoint(folder / LAST, {**state, **rest})
        write_log(folder, run.history)
        finished(row)
    return run.history


def _begin(settings: Settings, folder: Path, resume: bool) -> dict[str, Any] | None:
    """Return the checkpoint to go on from, or None for a new run, whose folder is made."""
    last = folder / LAST
    if resume:
        stored = read_checkpoint(last)
        check_same(stored["settings"], settings, folder)
        return stored
    if last.exists():
        raise TrainError(
            f"{display_path(folder)}: there is a run here; give --resume to go on with it, or another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return None


def _read(settings: Settings) -> tuple[list[DetectionPicture], list[int], list[DetectionPicture]]:
    """Return the pictures to train on, how many of them are of each source, and those to validate on."""
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


def _assemble(network: nn.Module, settings: Settings, steps: int) -> _Run:
    total = steps * settings.epochs
    # a gain or a bias is not to be drawn to zero
    decayed = [weight for weight in network.parameters() if weight.requires_grad and weight.dim() > 1]
    others = [weight for weight in network.parameters() if weight.requires_grad and weight.dim() <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": _WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}], lr=settings.lr
    )
    return _Run(
        network=network,
        average=AveragedModel(network, avg_fn=_average, use_buffers=True),
        optimiser=optimiser,
        schedule=LambdaLR(optimiser, partial(_share_of_lr, total=total)),
        scaler=torch.amp.GradScaler("cuda", enabled=_half(network) is torch.float16),
    )


def _freeze(network: nn.Module, settings: Settings) -> None:
    try:
        freeze(network, settings.arch, settings.freeze)
    except ValueError as error:
        raise TrainError(f"--freeze: {error}") from error


def _share_of_lr(step: int, total: int) -> float:
    """Return the share of the highest learning rate at a step of ``total``: linear up, then half a cosine down."""
    warm_up = max(1, round(_WARM_UP * total))
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, total - warm_up)
    return _LAST_LR + (1.0 - _LAST_LR) * 0.5 * (1.0 + math.cos(math.pi * done))


def _average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """Return the exponential moving average; over the first steps it forgets faster, or it would stay at the first."""
    if not averaged.is_floating_point():
        return current
    keep = min(_AVERAGING, (1.0 + float(count)) / (10.0 + float(count)))
    return torch.lerp(current, averaged, keep)


def _half(network: nn.Module) -> torch.dtype:
    """Return the type that convolutions are computed in, where the network is."""
    if next(network.parameters()).is_cuda and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16


def _autocast(network: nn.Module, device: torch.device) -> AbstractContextManager[None]:
    return torch.autocast(device.type, dtype=_half(network))


def _train_epoch(
    run: _Run,
    settings: Settings,
    loader: DataLoader[Any],
    device: torch.device,
    stepped: Callable[[int, int], None],
) -> dict[str, float]:
    """Train for one epoch; return the mean of each loss."""
    run.network.train()
    _freeze(run.network, settings)
    totals: dict[str, Tensor] = {}
    for step, (images, targets) in enumerate(loader, start=1):
        images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
        targets = [{name: value.to(device, non_blocking=True) for name, value in target.items()} for target in targets]
        with _autocast(run.network, device):
            losses = run.network(images, targets)
        loss = sum(losses.values())
        if not torch.isfinite(loss):
            raise TrainError(f"the loss is not finite in step {step} of epoch {len(run.history) + 1}; lower --lr")
        run.optimiser.zero_grad()
        run.scaler.scale(loss).backward()
        run.scaler.unscale_(run.optimiser)
        nn.utils.clip_grad_norm_(run.network.parameters(), _LARGEST_GRADIENT)
        run.scaler.step(run.optimiser)
        run.scaler.update()
        run.schedule.step()
        run.average.update_parameters(run.network)
        for name, value in losses.items():
            totals[name] = totals.get(name, torch.zeros((), device=device)) + value.detach()
        stepped(step, len(loader))
    return {name: float(value) / len(loader) for name, value in totals.items()}


@torch.no_grad()
def validate(network: nn.Module, pictures: ValidationPictures, batch: int, device: torch.device) -> DetectionScores:
    """Measure a network on pictures with known boxes, in full precision."""
    network.eval()
    found: list[dict[str, Any]] = []
    for images in pictures.batches(batch):
        found += [
            {name: value.float().cpu().numpy() for name, value in one.items()} for one in network(images.to(device))
        ]
    return evaluate_boxes([one["boxes"] for one in found], [one["scores"] for one in found], pictures.boxes)


def write_best(folder: Path, network: nn.Module, settings: Settings, best: dict[str, float]) -> None:
    """Write weights as ``best.safetensors``, with what they are in its metadata."""
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    about = {"arch": settings.arch, "side": str(settings.side), "best": json.dumps(best)}
    with replacing(folder / BEST) as part:
        save_file(weights, part, metadata=about)


def _restore(run: _Run, stored: dict[str, Any], path: Path) -> None:
    try:
        for name, part in run.parts().items():
            part.load_state_dict(stored[name])
        run.best = stored["best"]
        run.history = as_rows(stored["history"])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise TrainError(f"{display_path(path)}: the checkpoint does not fit its settings ({error})") from error


def _out_of_patience(run: _Run, settings: Settings) -> bool:
    if run.best is None:
        return False
    since = [row for row in run.history if row.ap50 is not None and row.epoch > run.best["epoch"]]
    return len(since) >= settings.patience

"""Training of local features: from settings to a folder with a checkpoint, the best weights and a log.

``best.safetensors`` is complete whenever it is written: projection, and in its metadata the threshold on attention.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import nn

from d2r.datasets.labelled import LabelledPicture, read_labelled
from d2r.files import display_path
from d2r.train.course import BEST, Listener, Sizes, assemble, begin, start, train_epochs, write_weights
from d2r.train.data import DecodedPictures, default_workers
from d2r.train.delf.matching import MatchingTrainer
from d2r.train.delf.networks import LocalNetwork, build, freeze, initialise
from d2r.train.delf.projection import fit_projection, fit_threshold
from d2r.train.delf.settings import DelfSettings
from d2r.train.holdout import hold_out
from d2r.train.log import EpochRow
from d2r.train.settings import TrainError

_WEIGHT_DECAY: Final = 1e-4
_BACKBONE: Final = 0.1  # share of the learning rate that weights of the backbone move at
_LONGEST: Final = 2.5  # times the side: photos are kept no larger


def train_delf(
    settings: DelfSettings,
    folder: Path,
    *,
    resume: bool = False,
    workers: int | None = None,
    started: Callable[[Sizes], None] = lambda sizes: None,
    stepped: Callable[[int, int, int], None] = lambda epoch, step, steps: None,
    finished: Callable[[EpochRow], None] = lambda row: None,
) -> list[EpochRow]:
    """Train local features, or go on with a run that was stopped.

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
        TrainError: see its message; d2r.datasets.labelled.LabelledDataError and d2r.images.ImageError from the data;
        d2r.train.architectures.InitError.
    """
    stored = begin(settings, folder, resume)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workers = default_workers() if workers is None else workers
    training, validation = _read(settings)
    longest = round(_LONGEST * settings.side)
    photos = DecodedPictures([picture.path for picture in training], longest)
    measured = DecodedPictures([picture.path for picture in validation], longest)

    torch.manual_seed(settings.seed)
    network = build(settings.arch, "delf", settings.dim)
    left_out = initialise(network, settings.init) if stored is None else []
    network.to(device)
    _freeze(network, settings)
    if stored is None:
        fit_projection(network, photos, settings.seed, whiten=0.5, attended=False)

    trainer = MatchingTrainer(
        settings, network, photos, measured, workers, partial(_write_best, folder, settings, photos)
    )
    body = {"params": list(network.body.parameters()), "lr": _BACKBONE * settings.lr}
    rest = {"params": [*network.projection.parameters(), *network.attention.parameters()]}
    run = assemble(network, [body, rest], settings.lr, _WEIGHT_DECAY, trainer.steps * settings.epochs)
    start(run, settings, folder, stored)
    started(Sizes(len(training), len(validation), trainer.steps, left_out, len(run.history) + 1, device.type))
    return train_epochs(run, trainer, settings, folder, trainer.steps, Listener(started, stepped, finished))


def _read(settings: DelfSettings) -> tuple[list[LabelledPicture], list[LabelledPicture]]:
    """Return the photos to train on and those to validate on."""
    training: list[LabelledPicture] = []
    validation: list[LabelledPicture] = []
    for source in settings.data:
        try:
            kept, held = hold_out(read_labelled(source), settings.hold_out, settings.seed)
        except ValueError as error:
            raise TrainError(f"--data {display_path(source)}: {error}") from error
        training += kept
        validation += held
    return training, validation


def _freeze(network: LocalNetwork, settings: DelfSettings) -> None:
    try:
        freeze(network, settings.freeze, statistics=settings.init != "none")
    except ValueError as error:
        raise TrainError(f"--freeze: {error}") from error


def _write_best(
    folder: Path, settings: DelfSettings, photos: DecodedPictures, network: nn.Module, best: dict[str, float]
) -> None:
    assert isinstance(network, LocalNetwork)
    threshold = fit_threshold(network, photos, settings.seed)
    about = {"arch": network.arch, "kind": network.kind, "dim": str(network.dim), "threshold": f"{threshold:.6g}"}
    write_weights(folder / BEST, network, about, best)

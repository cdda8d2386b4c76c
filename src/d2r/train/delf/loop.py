"""Training of local features: from settings to a folder with a checkpoint, the best weights and a log.

``best.safetensors`` is always complete: it has the projection, and in its metadata the threshold on attention.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from d2r.datasets.labelled import LabelledPicture, read_labelled
from d2r.train.checkpoint import LAST
from d2r.train.course import (
    BEST,
    DESCRIPTORS,
    NOBODY,
    Listener,
    Trainer,
    begin,
    check_new,
    train_network,
    write_weights,
)
from d2r.train.data import DecodedPictures, default_loader_workers
from d2r.train.delf.classify import ClassifyTrainer, LandmarkClassifier, prepare_stage
from d2r.train.delf.matching import MatchingTrainer
from d2r.train.delf.metric import MetricTrainer, hold_out_landmarks
from d2r.train.delf.networks import (
    LocalNetwork,
    NetworkKind,
    build_local_network,
    freeze_local_network,
    initialise_local_network,
)
from d2r.train.delf.projection import fit_projection, fit_threshold
from d2r.train.delf.settings import DelfSettings
from d2r.train.holdout import hold_out, hold_out_photos
from d2r.train.log import EpochRow
from d2r.train.settings import TrainError

_WEIGHT_DECAY: Final = 1e-4
_BACKBONE: Final = 0.1  # share of the learning rate for weights of the backbone
_WHITEN_SELF: Final = 0.5  # for the initial projection
_LONGEST: Final = 2.5  # times the side: photos are kept at most this large


def train_delf(
    settings: DelfSettings,
    folder: Path,
    *,
    resume: bool = False,
    workers: int | None = None,
    listener: Listener = NOBODY,
) -> list[EpochRow]:
    """Train local features, or resume a run that was stopped; return all its epochs.

    The arguments are those of :func:`d2r.train.hardnet.loop.train_hardnet`. A run of the recipe "classify" has its
    first stage in the subfolder ``descriptors``.

    Raises:
        TrainError: see its message; d2r.datasets.labelled.LabelledDataError and d2r.images.ImageError from the data;
        d2r.train.detector.architectures.InitError.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stage = _Stage(settings, folder, device, default_loader_workers() if workers is None else workers, listener)
    recipe = {"self": _train_self, "metric": _train_metric, "classify": _train_classify}[settings.recipe]
    return recipe(stage, resume)


@dataclass(frozen=True)
class _Stage:
    """A run, or a stage of one with its own folder, and where and how to train it."""

    settings: DelfSettings
    folder: Path
    device: torch.device
    workers: int
    listener: Listener

    def network(self, kind: NetworkKind, *, init: bool) -> tuple[LocalNetwork, list[str]]:
        """Return a network, with its initial weights if ``init``, and the names of weights that were not loaded."""
        torch.manual_seed(self.settings.seed)
        network = build_local_network(self.settings.arch, kind, self.settings.dim)
        left_out = initialise_local_network(network, self.settings.init) if init else []
        try:
            freeze_local_network(network, self.settings.freeze, statistics=self.settings.init != "none")
        except ValueError as error:
            raise TrainError(f"--freeze: {error}") from error
        return network.to(self.device), left_out

    def photos(self, pictures: Sequence[LabelledPicture]) -> DecodedPictures:
        """Return photos, decoded no larger than needed."""
        return DecodedPictures([picture.path for picture in pictures], round(_LONGEST * self.settings.side))

    def train(
        self,
        stored: dict[str, Any] | None,
        network: nn.Module,
        trainer: Trainer,
        groups: list[dict[str, Any]],
        epochs: int,
        sizes: tuple[int, int, list[str]],
    ) -> list[EpochRow]:
        """Train from the checkpoint, or the beginning; ``sizes`` are photos, held-out photos, weights not loaded."""
        return train_network(
            network,
            trainer,
            groups,
            self.settings,
            self.folder,
            stored,
            decay=_WEIGHT_DECAY,
            epochs=epochs,
            pictures=sizes[:2],
            left_out=sizes[2],
            listener=self.listener,
        )


def _train_self(stage: _Stage, resume: bool) -> list[EpochRow]:
    settings = stage.settings
    stored = begin(settings, stage.folder, resume)
    training, validation = hold_out_photos(settings)
    photos, measured = stage.photos(training), stage.photos(validation)
    network, left_out = stage.network("delf", init=stored is None)
    if stored is None:
        fit_projection(network, photos, settings.seed, whiten=_WHITEN_SELF, attended=False)
    write = partial(_write_best, stage.folder, settings, photos)
    trainer = MatchingTrainer(settings, network, photos, measured, stage.workers, write)
    groups = _groups(network.body, [network.projection, network.attention], settings.lr)
    return stage.train(stored, network, trainer, groups, settings.epochs, (len(training), len(validation), left_out))


def _train_metric(stage: _Stage, resume: bool) -> list[EpochRow]:
    settings = stage.settings
    stored = begin(settings, stage.folder, resume)
    training, validation = _hold_out_landmarks(settings)
    photos, measured = stage.photos(training), stage.photos(validation)
    network, left_out = stage.network("how", init=stored is None)
    if stored is None:
        fit_projection(network, photos, settings.seed, whiten=1.0, attended=True)
    network.projection.requires_grad_(requires_grad=False)
    write = partial(_write_best, stage.folder, settings, photos)
    trainer = MetricTrainer(
        settings, network, photos, _numbers(training), measured, _numbers(validation), stage.workers, write
    )
    groups = [{"params": list(network.body.parameters())}]
    return stage.train(stored, network, trainer, groups, settings.epochs, (len(training), len(validation), left_out))


def _train_classify(stage: _Stage, resume: bool) -> list[EpochRow]:
    settings, folder = stage.settings, stage.folder
    first = dataclasses.replace(stage, folder=folder / DESCRIPTORS)
    second = resume and (folder / LAST).exists()
    if not second:
        check_new(folder)
    stored = begin(settings, folder if second else first.folder, resume)

    training, validation, names = _labelled_photos(settings)
    photos, measured = stage.photos(training), stage.photos(validation)
    labels = ([names.index(picture.landmark) for picture in part] for part in (training, validation))
    known, to_find = labels
    sizes = len(training), len(validation)
    network, left_out = stage.network("delf", init=stored is None)
    classifier = LandmarkClassifier(network, len(names)).to(stage.device)
    groups = _groups(network.body, [network.attention, classifier.classes, classifier.attended_classes], settings.lr)
    make = partial(ClassifyTrainer, settings, classifier, photos, known, measured, to_find, stage.workers)
    if not second:
        write = partial(_write_classifier, first.folder)
        trainer = make(write, attention=False)
        first.train(stored, classifier, trainer, groups, settings.epochs, (*sizes, left_out))
        classifier.load_state_dict(load_file(first.folder / BEST))
        stored = begin(settings, folder, resume=False)
    prepare_stage(classifier, settings, attention=True)
    trainer = make(partial(_write_attended, folder, settings, photos), attention=True)
    return stage.train(stored, classifier, trainer, groups, settings.attention_epochs, (*sizes, []))


def _groups(body: nn.Module, new: Sequence[nn.Module], lr: float) -> list[dict[str, Any]]:
    rest = [weight for module in new for weight in module.parameters()]
    return [{"params": list(body.parameters()), "lr": _BACKBONE * lr}, {"params": rest}]


def _hold_out_landmarks(settings: DelfSettings) -> tuple[list[LabelledPicture], list[LabelledPicture]]:
    """Return the photos to train on, and those of held-out landmarks."""
    pictures = [picture for source in settings.data for picture in read_labelled(source)]
    try:
        kept, held = hold_out_landmarks([picture.landmark for picture in pictures], settings.hold_out, settings.seed)
    except ValueError as error:
        raise TrainError(f"--data: the recipe metric needs labels, and {error}; see --recipe self") from error
    return [pictures[row] for row in kept], [pictures[row] for row in held]


def _labelled_photos(settings: DelfSettings) -> tuple[list[LabelledPicture], list[LabelledPicture], list[str | None]]:
    """Return the photos with a known landmark to train on and to validate on, and the landmarks."""
    pictures = [picture for source in settings.data for picture in read_labelled(source)]
    counts = Counter(picture.landmark for picture in pictures)
    known = [picture for picture in pictures if picture.landmark is not None and counts[picture.landmark] > 1]
    try:
        training, held = hold_out(known, settings.hold_out, settings.seed)
    except ValueError as error:
        raise TrainError(f"--data: among photos with a landmark, {error}; see --recipe self") from error
    names = sorted({str(picture.landmark) for picture in training})
    validation = [picture for picture in held if picture.landmark in names]
    if len(names) < 2 or not validation:
        raise TrainError(
            f"--data: the recipe classify needs two landmarks with photos, but there are {len(names)}; see"
            " --recipe self"
        )
    return training, validation, list(names)


def _numbers(pictures: Sequence[LabelledPicture]) -> NDArray[np.int64]:
    """Return the number of each picture's landmark; a picture without a known landmark has a number of its own."""
    names = [picture.landmark or f"{number}" for number, picture in enumerate(pictures)]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _write_classifier(folder: Path, classifier: nn.Module, best: dict[str, float]) -> None:
    write_weights(folder / BEST, classifier, {}, best)


def _write_attended(
    folder: Path, settings: DelfSettings, photos: DecodedPictures, classifier: nn.Module, best: dict[str, float]
) -> None:
    assert isinstance(classifier, LandmarkClassifier)
    network = copy.deepcopy(classifier.network)
    fit_projection(network, photos, settings.seed, whiten=0.0, attended=True)
    _write_best(folder, settings, photos, network, best)


def _write_best(
    folder: Path, settings: DelfSettings, photos: DecodedPictures, network: nn.Module, best: dict[str, float]
) -> None:
    assert isinstance(network, LocalNetwork)
    threshold = fit_threshold(network, photos, settings.seed)
    about = {"arch": network.arch, "kind": network.kind, "dim": str(network.dim), "threshold": f"{threshold:.6g}"}
    write_weights(folder / BEST, network, about, best)

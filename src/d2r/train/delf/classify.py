"""The recipe "classify": classify the landmark of a picture, first from all its features, then from the attended ones.

As in DELF (Noh, Araujo, Sim, Weyand and Han, "Large-scale image retrieval with attentive deep local features", ICCV
2017): descriptors are learned by classifying crops from the mean of their features. Then the backbone is frozen, and
attention is learned by classifying pictures of various scales from the sum of their features weighted by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from d2r.train.data import DecodedPictures, EpochBatches, training_loader
from d2r.train.delf.crops import Crops, collate_crops, whole_photos
from d2r.train.delf.networks import LocalNetwork, freeze_local_network, unit
from d2r.train.delf.settings import DelfSettings

_SMOOTHING: Final = 0.1  # of labels
_AREAS: Final = ((0.3, 1.0), (0.6, 1.0))  # share of a photo, of the crops for descriptors and for attention
_SMALLEST: Final = 0.35  # smallest share of its side that a crop is scaled to, for attention
_LARGER: Final = 1.5  # times the side: crops for attention, before scaling


class LandmarkClassifier(nn.Module):
    """A network with two classifiers, which only training needs.

    Args:
        network: a network of kind "delf".
        classes: number of landmarks.
    """

    def __init__(self, network: LocalNetwork, classes: int) -> None:
        super().__init__()
        self.network = network
        self.classes = nn.Linear(network.projection.in_channels, classes)
        self.attended_classes = nn.Linear(network.projection.in_channels, classes)

    def forward(self, pictures: Tensor, *, attention: bool) -> Tensor:
        """Return logits of pictures, (N, classes), from the mean of all features or of the attended ones."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not attention):
            features = self.network.features(pictures)
        if not attention:
            logits: Tensor = self.classes(features.mean(dim=(2, 3)))
            return logits
        # the mean instead of DELF's sum, so that a larger picture does not get a higher confidence
        attended = (unit(features) * self.network.attend(features)[:, None]).mean(dim=(2, 3))
        logits_attended: Tensor = self.attended_classes(attended)
        return logits_attended


class ClassifyTrainer:
    """The :class:`d2r.train.course.Trainer` of one of the two stages of the recipe "classify".

    Args:
        settings: settings of the run.
        classifier: the network to train.
        training: photos to train on.
        labels: number of each photo's landmark.
        validation: photos to validate on.
        measured: their labels.
        attention: whether this is the second stage.
        workers: number of processes that prepare pictures.
        write: writes the best weights.
    """

    def __init__(
        self,
        settings: DelfSettings,
        classifier: LandmarkClassifier,
        training: DecodedPictures,
        labels: Sequence[int],
        validation: DecodedPictures,
        measured: Sequence[int],
        workers: int,
        write: Callable[[nn.Module, dict[str, float]], None],
        *,
        attention: bool,
    ) -> None:
        self._settings = settings
        self._validation = validation
        self._measured = torch.tensor(measured)
        self._attention = attention
        self._write = write
        self._device = next(classifier.parameters()).device
        side = 32 * round(_LARGER * settings.side / 32) if attention else settings.side
        crops = Crops(training, labels, side, _AREAS[attention], settings.seed)
        self._batches = EpochBatches([len(training)], [1.0], settings.batch, settings.seed)
        self.steps = len(self._batches)
        self._loader = training_loader(
            crops, self._batches, workers, pin_memory=self._device.type == "cuda", collate=collate_crops
        )

    def batches(self, average: nn.Module, epoch: int) -> Iterable[Any]:
        """See :meth:`d2r.train.course.Trainer.batches`."""
        self._batches.epoch = epoch
        return self._loader

    def train_mode(self, network: nn.Module) -> None:
        """See :meth:`d2r.train.course.Trainer.train_mode`."""
        assert isinstance(network, LandmarkClassifier)
        prepare_stage(network, self._settings, attention=self._attention)

    def losses(self, network: nn.Module, batch: Any) -> dict[str, Tensor]:
        """See :meth:`d2r.train.course.Trainer.losses`."""
        pictures, labels = (part.to(self._device, non_blocking=True) for part in batch)
        if self._attention:
            share = _SMALLEST + (1.0 - _SMALLEST) * float(torch.rand(()))
            side = 32 * max(2, round(share * pictures.shape[2] / 32))
            pictures = functional.interpolate(pictures.float(), (side, side), mode="bilinear", antialias=True)
        logits = network(pictures.contiguous(memory_format=torch.channels_last), attention=self._attention)
        return {"class": functional.cross_entropy(logits, labels, label_smoothing=_SMOOTHING)}

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """See :meth:`d2r.train.course.Trainer.validate`."""
        network.eval()
        numbers = range(len(self._validation))
        whole = whole_photos(self._validation, numbers, self._settings.side, self._settings.batch)
        logits = [network(pictures.to(self._device), attention=self._attention).cpu() for pictures in whole]
        return {"accuracy": float((torch.cat(logits).argmax(dim=1) == self._measured).float().mean())}

    def write_best(self, network: nn.Module, best: dict[str, float]) -> None:
        """See :meth:`d2r.train.course.Trainer.write_best`."""
        self._write(network, best)


def prepare_stage(classifier: LandmarkClassifier, settings: DelfSettings, *, attention: bool) -> None:
    """Freeze what a stage does not train.

    Raises:
        ValueError: the backbone has fewer blocks than are to be frozen.
    """
    freeze_local_network(classifier.network, settings.freeze, statistics=settings.init != "none" or attention)
    if attention:
        classifier.network.body.requires_grad_(requires_grad=False)
        classifier.network.body.eval()

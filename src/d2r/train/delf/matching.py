"""The recipe "self": learn to tell the same place in two views of a photo from all other places.

Each cell of a view is matched among all cells of all other views of the step: the loss is the cross-entropy of its
similarities. Attention learns, without changing the features, the probability that the match is found. It weights the
cells in the loss, so that empty areas such as sky are not memorised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from d2r.train.data import DecodedPictures, EpochBatches, derived_seed, training_loader
from d2r.train.delf.networks import Field, LocalNetwork, freeze_local_network, receptive_field, unit
from d2r.train.delf.settings import DelfSettings
from d2r.train.delf.views import warped_pair

_TEMPERATURE: Final = 0.07
_ASKED: Final = 96  # cells per view to match in a step, on average
_NEAR: Final = 1.6  # cells; nearer than this to the match, cells are neither right nor wrong
_RIGHT: Final = 1.5  # largest distance of a right match from the true one in validation, cells
_FLOOR: Final = 0.1  # minimum weight of a cell in the loss


class WarpedPairs(Dataset[tuple[Tensor, Tensor]]):
    """Warped pairs, new ones in each epoch. The key of an item is (epoch, number of the draw, photo)."""

    def __init__(self, photos: DecodedPictures, side: int, field: Field, seed: int) -> None:
        self._photos = photos
        self._side = side
        self._field = field
        self._seed = seed

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        epoch, draw, number = key
        random = np.random.default_rng(derived_seed(self._seed, epoch, draw))
        other = int(random.integers(len(self._photos)))
        pair = warped_pair(self._photos[number], self._photos[other], self._side, self._field, random)
        return torch.from_numpy(pair.views).permute(0, 3, 1, 2), torch.from_numpy(pair.matches)


def collate_warped_pairs(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return views uint8 (2, N, 3, side, side) and matches float32 (2, N, h * w, 2)."""
    return torch.stack([views for views, _ in items], dim=1), torch.stack([matches for _, matches in items], dim=1)


class MatchingTrainer:
    """The :class:`d2r.train.course.Trainer` of the recipe "self"."""

    def __init__(
        self,
        settings: DelfSettings,
        network: LocalNetwork,
        training: DecodedPictures,
        validation: DecodedPictures,
        workers: int,
        write: Callable[[nn.Module, dict[str, float]], None],
    ) -> None:
        self._settings = settings
        self._device = next(network.parameters()).device
        self._write = write
        field = receptive_field(network)
        pairs = WarpedPairs(training, settings.side, field, settings.seed)
        self._batches = EpochBatches([len(training)], [1.0], settings.batch, settings.seed)
        self.steps = len(self._batches)
        self._loader = training_loader(
            pairs, self._batches, workers, pin_memory=self._device.type == "cuda", collate=collate_warped_pairs
        )
        measured = WarpedPairs(validation, settings.side, field, settings.seed)
        keys = [(0, number, number) for number in range(len(validation))]
        self._measured = [
            collate_warped_pairs([measured[key] for key in keys[start : start + settings.batch]])
            for start in range(0, len(keys), settings.batch)
        ]

    def batches(self, average: nn.Module, epoch: int) -> Iterable[Any]:
        """See :meth:`d2r.train.course.Trainer.batches`."""
        self._batches.epoch = epoch
        return self._loader

    def train_mode(self, network: nn.Module) -> None:
        """See :meth:`d2r.train.course.Trainer.train_mode`."""
        assert isinstance(network, LocalNetwork)
        freeze_local_network(network, self._settings.freeze, statistics=self._settings.init != "none")

    def losses(self, network: nn.Module, batch: Any) -> dict[str, Tensor]:
        """See :meth:`d2r.train.course.Trainer.losses`."""
        assert isinstance(network, LocalNetwork)
        views, matches = (part.to(self._device, non_blocking=True) for part in batch)
        descriptors, logits = _describe(network, views)
        parts = [
            _direction(descriptors[here], logits[here], descriptors[1 - here], logits[1 - here], matches[here])
            for here in (0, 1)
        ]
        return {"match": (parts[0][0] + parts[1][0]) / 2, "attention": (parts[0][1] + parts[1][1]) / 2}

    def validate(self, network: nn.Module) -> dict[str, float]:
        """See :meth:`d2r.train.course.Trainer.validate`."""
        assert isinstance(network, LocalNetwork)
        return matched(network, self._measured)

    def write_best(self, network: nn.Module, best: dict[str, float]) -> None:
        """See :meth:`d2r.train.course.Trainer.write_best`."""
        self._write(network, best)


def _describe(network: LocalNetwork, views: Tensor) -> tuple[Tensor, Tensor]:
    """Return descriptors (2, N, h * w, D) of unit length, and logits of attention (2, N, h * w)."""
    flat = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    features = network.features(flat)
    descriptors = unit(network.projection(network.to_project(features))).flatten(2).transpose(1, 2)
    logits = network.attention.logits(features.detach()).flatten(1)  # type: ignore[operator]
    return descriptors.reshape(*views.shape[:2], *descriptors.shape[1:]), logits.reshape(*views.shape[:2], -1)


def _direction(
    here: Tensor, logits: Tensor, there: Tensor, logits_there: Tensor, matches: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the loss of matching from one view of each photo to the other, and the loss of attention.

    Args:
        here: descriptors of one view of each photo, (N, h * w, D).
        logits: logits of their attention, (N, h * w).
        there: descriptors of the other view.
        logits_there: logits of their attention.
        matches: positions of the cells of one view in the other, (N, h * w, 2), in cells, or NaN.
    """
    count, cells, _ = here.shape
    asked = matches[..., 0].isfinite().flatten().nonzero()[:, 0].cpu()
    if not len(asked):
        return here.sum() * 0.0, logits.sum() * 0.0
    asked = asked[torch.randperm(len(asked))[: _ASKED * count]].to(here.device)
    true, photo = matches.flatten(0, 1)[asked], asked // cells
    width = round(cells**0.5)
    column, row = true.round().clamp(0, width - 1).unbind(dim=1)
    target = photo * cells + (row * width + column).long()

    similar = here.flatten(0, 1)[asked] @ there.flatten(0, 1).T / _TEMPERATURE
    own = photo[:, None] * cells + torch.arange(cells, device=here.device)
    far = _distances(true, width) >= _NEAR
    # of a photo's own cells, those near the match are ignored, except the match itself
    kept = torch.zeros(len(asked), cells, device=here.device).masked_fill(~far & (own != target[:, None]), -torch.inf)
    similar = similar.scatter_add(1, own, kept)
    losses = functional.cross_entropy(similar, target, reduction="none")

    found = torch.exp(-losses.detach())
    attention = functional.binary_cross_entropy_with_logits(logits.flatten()[asked], found)
    with torch.no_grad():
        weights = logits.flatten()[asked].sigmoid() * logits_there.flatten()[target].sigmoid()
        weights = weights + _FLOOR
        weights /= weights.sum()
    return (weights * losses).sum(), attention


def _distances(points: Tensor, width: int) -> Tensor:
    """Return the distance of points (M, 2), in cells, to each cell of a square grid: (M, width * width)."""
    axis = torch.arange(width, device=points.device, dtype=points.dtype)
    across = (points[:, :1] - axis).square()
    down = (points[:, 1:] - axis).square()
    return (down[:, :, None] + across[:, None, :]).flatten(1).sqrt()


@torch.no_grad()
def matched(network: LocalNetwork, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return the share of cells whose nearest neighbour, among all cells of the other views, is the right match.

    Args:
        network: the network to evaluate.
        batches: batches of :func:`collate_warped_pairs`; neighbours are searched within a batch.

    Returns:
        "attended", among the half of a batch's cells with the most attention, and "all".
    """
    network.eval()
    device = next(network.parameters()).device
    right: dict[str, list[Tensor]] = {"attended": [], "all": []}
    for views, matches in batches:
        descriptors, logits = _describe(network, views.to(device))
        cells = descriptors.shape[2]
        for here in (0, 1):
            asked = matches[here, ..., 0].isfinite().flatten().nonzero()[:, 0].to(device)
            nearest = (descriptors[here].flatten(0, 1)[asked] @ descriptors[1 - here].flatten(0, 1).T).argmax(dim=1)
            distances = _distances(matches[here].to(device).flatten(0, 1)[asked], round(cells**0.5))
            near = distances.gather(1, (nearest % cells)[:, None])[:, 0] <= _RIGHT
            hits = (nearest // cells == asked // cells) & near
            order = logits[here].flatten()[asked].argsort(descending=True, stable=True)
            right["attended"].append(hits[order[: -(-len(order) // 2)]].float().cpu())
            right["all"].append(hits.float().cpu())
    return {name: float(torch.cat(parts).mean()) for name, parts in right.items()}

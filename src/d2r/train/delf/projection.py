"""Fit the projection to the descriptor and the threshold on attention to features of training photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2r.images import Picture
from d2r.train.data import DecodedPictures, derived_seed
from d2r.train.delf.networks import LocalNetwork
from d2r.train.settings import TrainError

_FITTED, _WEIGHED = 100, 40  # photos, drawn by the seed, for the projection and for the threshold
_EACH: Final = 100  # features per picture
_SCALES: Final = (0.35, 0.5, 0.71, 1.0)  # of photos with a longer side of at most _LONGEST
_LONGEST: Final = 512
_DROPPED: Final = 0.25


def fit_projection(network: LocalNetwork, photos: DecodedPictures, seed: int, *, whiten: float, attended: bool) -> None:
    """Fit the projection of a network to features of photos at several scales, by principal components.

    Args:
        network: the network, on its device; sets its projection.
        photos: photos to learn from; uses 100 of them, drawn by the seed, and 100 cells of each.
        seed: seed of the draw.
        whiten: 0 keeps the variances of the components, 1 makes them equal.
        attended: take the cells with the most attention; otherwise any, drawn by the seed.

    Raises:
        TrainError: there are too few features for the dimensions of a descriptor.
    """
    found = []
    for number, features, attention in _cells(network, photos, seed, _FITTED):
        order = attention.argsort(descending=True, stable=True) if attended else None
        if order is None:
            order = torch.from_numpy(np.random.default_rng(derived_seed(seed, 1, number)).permutation(len(features)))
        found.append(features[order[:_EACH]])
    rows = torch.cat(found).double()
    if len(rows) <= network.dim:
        raise TrainError(
            f"--data: there are too few photos: {len(rows)} features to fit {network.dim} components to; give more, or"
            " larger ones"
        )
    mean = rows.mean(dim=0)
    variances, components = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    chosen = torch.arange(len(variances) - 1, len(variances) - 1 - network.dim, -1)
    variances, components = variances[chosen].clamp(min=1e-9 * float(variances[-1])), components[:, chosen].T
    # The sign of a component is arbitrary: make the largest entry positive.
    signs = components.gather(1, components.abs().argmax(dim=1, keepdim=True)).sign()
    matrix = signs * components * variances[:, None] ** (-0.5 * whiten)
    with torch.no_grad():
        network.projection.weight.copy_(matrix[:, :, None, None])
        network.projection.bias.copy_(-matrix @ mean)  # type: ignore[union-attr]


def fit_threshold(network: LocalNetwork, photos: DecodedPictures, seed: int) -> float:
    """Return the lower quartile of the attention of all cells of 40 photos, at several scales."""
    return float(
        torch.cat([attention for _, _, attention in _cells(network, photos, seed, _WEIGHED)]).quantile(_DROPPED)
    )


@torch.no_grad()
def _cells(
    network: LocalNetwork, photos: DecodedPictures, seed: int, limit: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield a photo's number and, for all cells at all scales, the features to project (N, C) and attention (N,)."""
    network.eval()
    device = next(network.parameters()).device
    random = np.random.default_rng(derived_seed(seed, 0))
    for number in sorted(random.permutation(len(photos))[:limit].tolist()):
        rows, attentions = [], []
        for pixels in _levels(photos[number]):
            picture = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2).to(device)
            features = network.features(picture)
            rows.append(network.to_project(features)[0].flatten(1).T.cpu())
            attentions.append(network.attend(features)[0].flatten().cpu())
        yield number, torch.cat(rows), torch.cat(attentions)


def _levels(photo: Picture) -> Sequence[NDArray[np.uint8]]:
    height, width = photo.shape[:2]
    whole = min(1.0, _LONGEST / max(height, width))
    sizes = [[max(32, 32 * round(side * whole * scale / 32)) for side in (width, height)] for scale in _SCALES]
    return [np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8) for size in sizes]

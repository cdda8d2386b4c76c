"""The network that describes patches: HardNet (Mishchuk et al., NeurIPS 2017), of a given width."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

PATCH_SIDE: Final = 32
"""Side of a patch, in pixels."""

PATCH_DIM: Final = 128
"""Dimensions of a descriptor."""

_DROPPED: Final = 0.1
_GAIN: Final = 0.8  # of the initial weights
_FLAT: Final = 0.25  # grey levels, of 255; added to the deviation of a patch, so as not to amplify noise in a flat one


class HardNetModule(nn.Module):
    """Describes patches, uint8 (N, 32, 32), by descriptors, float32 (N, 128), of unit length.

    Args:
        channels: channels of the first two layers; the next two have twice as many, and the last two four times.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        one, two, four = channels, 2 * channels, 4 * channels
        self.layers = nn.Sequential(
            *_layer(1, one),
            *_layer(one, one),
            *_layer(one, two, stride=2),
            *_layer(two, two),
            *_layer(two, four, stride=2),
            *_layer(four, four),
            nn.Dropout(_DROPPED),
            nn.Conv2d(four, PATCH_DIM, PATCH_SIDE // 4, bias=False),
            nn.BatchNorm2d(PATCH_DIM, affine=False),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.orthogonal_(layer.weight, _GAIN)

    def forward(self, patches: Tensor) -> Tensor:
        """See the class; each patch is first normalised to mean 0 and deviation 1."""
        values = patches.unsqueeze(1).float()
        values = values - values.mean(dim=(2, 3), keepdim=True)
        deviation = (values.square().mean(dim=(2, 3), keepdim=True) + 1e-6).sqrt()
        features = self.layers(values / (deviation + _FLAT))
        described: Tensor = functional.normalize(features.flatten(1).float(), dim=1)
        return described


def build_hardnet(channels: int) -> HardNetModule:
    """Return a network with random weights, in the fastest memory layout."""
    return HardNetModule(channels).to(memory_format=torch.channels_last)


def _layer(channels: int, out: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(out, affine=False), nn.ReLU()]

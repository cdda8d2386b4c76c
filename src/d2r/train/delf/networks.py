"""Networks of deep local features: a fully convolutional backbone, attention, and a projection to the descriptor.

A network takes uint8 pictures (N, 3, H, W), RGB, with sides that are multiples of its stride S, and has a cell every S
pixels. There are two kinds, which differ after the backbone:

- ``delf``: attention comes from two convolutions of 1 x 1 and softplus; descriptors are the features, normalised to
  unit length, projected, and normalised again;
- ``how``: attention is the norm of the feature; descriptors are the features, averaged over 3 x 3 cells, projected, and
  only then normalised to unit length.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias
from zipfile import BadZipFile

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import ResNet18_Weights, ResNet50_Weights, resnet18, resnet50
from torchvision.models.mobilenetv2 import InvertedResidual, MobileNetV2
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from d2r.support.files import display_path
from d2r.train.course import autocast
from d2r.train.detector.architectures import InitError, take, try_imagenet
from d2r.train.efficientnet_lite import MEAN, STD, efficientnet_lite0, imagenet_weights

NetworkKind: TypeAlias = Literal["delf", "how"]

DIM: Final = 128
"""Default dimensions of a descriptor."""

_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_STD: Final = (0.229, 0.224, 0.225)
_SMALL: Final = 1e-12  # added to squared norms: a zero vector has no direction, but needs a gradient


@dataclass(frozen=True)
class Backbone:
    """A backbone, which computes features.

    Attributes:
        build: returns its layers, by the names of :attr:`imagenet`, with random weights.
        channels: channels of a feature.
        hidden: channels between the two convolutions of attention.
        mean, std: normalisation of values in [0, 1] for its ImageNet weights.
        imagenet: returns these weights by name, perhaps of more layers.
        blocks: how many of the first layers together form the first block that can be frozen; each later layer is a
            block.
    """

    build: Callable[[], nn.Sequential]
    channels: int
    hidden: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    imagenet: Callable[[], dict[str, Tensor]]
    blocks: int = 1


@dataclass(frozen=True)
class Field:
    """The positions of a network's cells, in pixels, whose centres are at half-integers.

    Attributes:
        stride: distance from one cell to the next.
        offset: x (= y) of the centre of cell 0.
        field: side of the receptive field of a cell.
    """

    stride: int
    offset: float
    field: float


class LocalNetwork(nn.Module):
    """A network of local features.

    Args:
        arch: one of :data:`BACKBONES`.
        kind: what follows the backbone.
        dim: dimensions of a descriptor.
    """

    def __init__(self, arch: str, kind: NetworkKind, dim: int = DIM) -> None:
        super().__init__()
        backbone = BACKBONES[arch]
        self.arch = arch
        self.kind = kind
        self.dim = dim
        self.body = backbone.build()
        self.smoothing = _Smoothing() if kind == "how" else nn.Identity()
        self.attention: nn.Module = (
            _NormAttention() if kind == "how" else _SoftplusAttention(backbone.channels, backbone.hidden)
        )
        self.projection = nn.Conv2d(backbone.channels, dim, 1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255.0 * torch.tensor(backbone.mean)[:, None, None], persistent=False)
        self.register_buffer("std", 255.0 * torch.tensor(backbone.std)[:, None, None], persistent=False)

    def features(self, pictures: Tensor) -> Tensor:
        """Return the backbone's features of pictures, uint8 (N, 3, H, W), as float32 (N, C, H/S, W/S)."""
        # On a CPU, 16 bits are slower for these networks.
        with autocast(self, processor=False):
            features: Tensor = self.body((pictures.float() - self.mean) / self.std)
        # A conversion that changes nothing would become a copy in an exported graph, which outputs the features.
        return features if features.dtype == torch.float32 else features.float()

    def to_project(self, features: Tensor) -> Tensor:
        """Return the input of the projection: features of unit length (delf), or averaged ones (how)."""
        if self.kind == "delf":
            return unit(features)
        smoothed: Tensor = self.smoothing(features)
        return smoothed

    def attend(self, features: Tensor) -> Tensor:
        """Return the attention of features, at least 0: float32 (N, h, w)."""
        attention: Tensor = self.attention(features)
        return attention

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Return projected features, not yet normalised, (N, D, h, w), and attention, (N, h, w)."""
        return self.describe(self.features(pictures))

    def describe(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return what :meth:`forward` returns, from the backbone's features."""
        return self.projection(self.to_project(features)), self.attend(features)


class _SoftplusAttention(nn.Module):
    """Attention as in DELF: softplus of ``logits``."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, hidden, 1)
        self.second = nn.Conv2d(hidden, 1, 1)

    def logits(self, features: Tensor) -> Tensor:
        logits: Tensor = self.second(functional.relu(self.first(features)))
        return logits[:, 0].float()

    def forward(self, features: Tensor) -> Tensor:
        return functional.softplus(self.logits(features))


class _NormAttention(nn.Module):
    """Attention as in HOW: the length of the feature."""

    def forward(self, features: Tensor) -> Tensor:
        return (features.float().square().sum(dim=1) + _SMALL).sqrt()


class _Smoothing(nn.AvgPool2d):
    """The mean over 3 x 3 cells, at the border over those inside."""

    def __init__(self) -> None:
        super().__init__(3, stride=1, padding=1, count_include_pad=False)


def unit(features: Tensor) -> Tensor:
    """Return features (N, C, ...) normalised to unit length over C, float32."""
    features = features.float()
    return features / (features.square().sum(dim=1, keepdim=True) + _SMALL).sqrt()


def build_local_network(arch: str, kind: NetworkKind, dim: int = DIM) -> LocalNetwork:
    """Return a :class:`LocalNetwork` with random weights, in the fastest memory layout."""
    return LocalNetwork(arch, kind, dim).to(memory_format=torch.channels_last)


def freeze_local_network(network: LocalNetwork, blocks: int, *, statistics: bool) -> None:
    """Freeze the first blocks of the backbone.

    Args:
        network: the network.
        blocks: number of blocks of the backbone to freeze, from the input on.
        statistics: also freeze the batch statistics in the rest of the backbone: right for weights that were trained on
            many pictures, if a step has few.

    Raises:
        ValueError: the backbone has fewer blocks.
    """
    layers, first = list(network.body), BACKBONES[network.arch].blocks
    parts: list[nn.Module] = [nn.ModuleList(layers[:first]), *layers[first:]]
    if blocks > len(parts):
        raise ValueError(f"{network.arch} has {len(parts)} blocks that can be frozen, not {blocks}")
    for part in parts[:blocks]:
        part.requires_grad_(requires_grad=False)
        part.eval()
    if statistics:
        for module in network.body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def initialise_local_network(network: LocalNetwork, init: str) -> list[str]:
    """Load the initial weights of a network.

    Args:
        network: a network of :func:`build_local_network`.
        init: "none" keeps its weights, "imagenet" loads the weights of its backbone; anything else is a file, the
            .safetensors of an earlier run or a state dictionary of torchvision's network (.pth), and its weights that
            fit are loaded.

    Returns:
        the names of the weights that were not loaded, and of those that a file does not have.

    Raises:
        InitError: the weights cannot be loaded, or none of them fits.
    """
    if init == "none":
        return []
    if init == "imagenet":
        left_out = take(network.body, try_imagenet(BACKBONES[network.arch].imagenet, network.arch), "ImageNet")
        return [name for name in left_out if name in network.body.state_dict()]
    stored = read_weights(Path(init))
    if not any(name.startswith("body.") for name in stored):
        stored = {f"body.{name}": value for name, value in stored.items()}
    left_out = take(network, stored, display_path(init))
    return [*left_out, *(name for name in network.state_dict() if name not in stored)]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights in a .safetensors file or in a state dictionary of torch. Nothing in the file is executed.

    Raises:
        InitError: the file cannot be read, or holds no weights.
    """
    shown = display_path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, safetensors.SafetensorError) as error:
        raise InitError(f"{shown}: weights cannot be read from it ({error})") from error
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, BadZipFile) as error:
        reason = str(error).partition("\n")[0][:200] or "it is empty"
        raise InitError(f"{shown}: damaged, or not only weights ({reason})") from error
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise InitError(f"{shown}: not a dictionary of weights")
    return {str(name): value for name, value in stored.items()}


def receptive_field(network: LocalNetwork) -> Field:
    """Compute the positions and the receptive field of a network's cells from its layers.

    Of two paths through a block the one with the larger kernels counts: the other has the same centre.
    """
    stride, offset, field = 1, 0.5, 1.0
    for kernel, step, before in _windows(nn.Sequential(network.body, network.smoothing)):
        # the window of cell 0 begins `before` cells before the first
        offset += stride * ((kernel - 1) / 2 - before)
        field += stride * (kernel - 1)
        stride *= step
    return Field(stride, offset, field)


def _windows(layer: nn.Module) -> Iterator[tuple[int, int, int]]:
    """Yield kernel, stride and padding before the first cell of each layer that has them, in order."""
    if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        kernel, step, before = (
            value[0] if isinstance(value, tuple) else value
            for value in (layer.kernel_size, layer.stride, layer.padding)
        )
        yield int(kernel), int(step), int(before)
    elif isinstance(layer, nn.ZeroPad2d):
        yield 1, 1, int(layer.padding[0])
    elif isinstance(layer, BasicBlock):
        for part in (layer.conv1, layer.conv2):
            yield from _windows(part)
    elif isinstance(layer, Bottleneck):
        for part in (layer.conv1, layer.conv2, layer.conv3):
            yield from _windows(part)
    elif isinstance(layer, InvertedResidual):
        yield from _windows(layer.conv)
    elif isinstance(layer, nn.Sequential):
        for part in layer:
            yield from _windows(part)


def _resnet(network: ResNet, *, conv5: bool = False) -> nn.Sequential:
    names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", *(["layer4"] if conv5 else [])]
    return nn.Sequential(OrderedDict((name, getattr(network, name)) for name in names))


def _efficientnet(network: MobileNetV2) -> nn.Sequential:
    """Return the layers before stride 32, with the expansion of the block that has it.

    The 672 channels of the expansion are more discriminative than the 112 that it is computed from.
    """
    blocks: Any = list(network.features[:-1])
    cut = max(k for k, block in enumerate(blocks) if k and block.stride == 2)
    return nn.Sequential(*blocks[:cut], blocks[cut].conv[0])


def _efficientnet_weights() -> dict[str, Tensor]:
    network = efficientnet_lite0()
    network.load_state_dict(imagenet_weights())
    return dict(_efficientnet(network).state_dict())


BACKBONES: Final = {
    "efficientnet-lite0": Backbone(
        build=lambda: _efficientnet(efficientnet_lite0()),
        channels=672,
        hidden=256,
        mean=MEAN,
        std=STD,
        imagenet=_efficientnet_weights,
    ),
    "resnet18": Backbone(
        build=lambda: _resnet(resnet18(weights=None)),
        channels=256,
        hidden=256,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        imagenet=lambda: ResNet18_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True),
        blocks=4,
    ),
    "resnet18-conv5": Backbone(
        build=lambda: _resnet(resnet18(weights=None), conv5=True),
        channels=512,
        hidden=512,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        imagenet=lambda: ResNet18_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True),
        blocks=4,
    ),
    "resnet50": Backbone(
        build=lambda: _resnet(resnet50(weights=None)),
        channels=1024,
        hidden=512,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        imagenet=lambda: ResNet50_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True),
        blocks=4,
    ),
}
"""The backbones by name, cut at stride 16, after conv4; ``resnet18-conv5`` has one more stage."""

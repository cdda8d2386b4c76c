"""Trained local features as an ONNX file that ONNX Runtime runs without torch.

:mod:`d2r.features.network` describes the format.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from d2r.features.network import LOCAL_FEATURES_FORMAT, LOCAL_FEATURES_OUTPUTS, MAP
from d2r.images import Picture, shrink
from d2r.models.onnx import PICTURES_INPUT
from d2r.support.files import display_path
from d2r.train.delf.networks import BACKBONES, LocalNetwork, build_local_network, receptive_field, unit
from d2r.train.onnx_files import store_half, to_onnx, write_onnx
from d2r.train.weights import ExportError, read_run

SCALES: Final = tuple(round(2 ** (k / 2), 4) for k in range(-4, 3))
"""The paper's pyramid: 0.25 to 2 by the square root of 2."""

_TOLERANCE: Final = 1e-4  # of a descriptor's values; for attention and the feature map, a share of the largest value
_LONGEST: Final = 320  # pixels of the photo to compare on


@dataclass(frozen=True)
class ExportedFeatures:
    """An ONNX file.

    Attributes:
        path: its path.
        arch: architecture of the network.
        dim: dimensions of a descriptor.
        bytes: its size.
        threshold: minimum attention of a feature.
        difference: largest difference between its values and torch's on the checked picture; for attention and the
            backbone's feature map, as a share of the largest value.
    """

    path: Path
    arch: str
    dim: int
    bytes: int
    threshold: float
    difference: float


def export_features(
    run: Path,
    path: Path,
    picture: Picture,
    *,
    half: bool = False,
    scales: Sequence[float] = SCALES,
    threshold: float | None = None,
    force: bool = False,
) -> ExportedFeatures:
    """Write the best weights of a run as an ONNX file, and check it against torch on a picture.

    Args:
        run: folder of a run, or its .safetensors file.
        path: path of the ONNX file.
        picture: picture to compare on, uint8 (H, W, 3).
        half: store weights in 16 bits, which halves the file; the computation stays in 32 bits.
        scales: scales of the pyramid to use the file with.
        threshold: minimum attention of a feature; None takes the run's.
        force: see :func:`d2r.support.files.writing`.

    Raises:
        d2r.support.files.OutputError: there is a file at ``path`` that this program did not export.
        ExportError: the weights are missing, damaged or of another program, a scale is not above 0, or ONNX Runtime
            does not agree with torch; then nothing is written. The comparison comes before weights are rounded to 16
            bits.
    """
    network, found = load_features(run)
    threshold = found if threshold is None else threshold
    return write_features(network, path, picture, half=half, scales=scales, threshold=threshold, force=force)


def load_features(run: Path) -> tuple[LocalNetwork, float]:
    """Return the network of a run with its best weights, ready for use, and its threshold.

    Raises:
        ExportError: the weights are missing, damaged or of another program.
    """
    path, weights, about = read_run(run)
    arch, kind = about.get("arch"), about.get("kind")
    try:
        dim, threshold = int(about.get("dim", "")), float(about.get("threshold", ""))
    except ValueError:
        dim, threshold = 0, math.nan
    if arch not in BACKBONES or kind not in ("delf", "how") or dim < 1 or not threshold >= 0.0:
        raise ExportError(f"{display_path(path)}: not the weights of local features: its metadata does not say which")
    network = build_local_network(arch, kind, dim)  # type: ignore[arg-type]
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ExportError(f"{display_path(path)}: not the weights of {arch} ({reason})") from error
    return network.eval(), threshold


def write_features(
    network: LocalNetwork,
    path: Path,
    picture: Picture,
    *,
    half: bool,
    scales: Sequence[float],
    threshold: float,
    arch: str | None = None,
    force: bool = False,
) -> ExportedFeatures:
    """Write a network as an ONNX file; ``arch`` overrides the name in its metadata. See :func:`export_features`."""
    if not scales or not all(0.0 < scale <= 8.0 for scale in scales):
        raise ExportError(f"--scales must be numbers above 0, at most 8, not {', '.join(map(str, scales)) or 'none'}")
    if not 0.0 <= threshold < math.inf:
        raise ExportError(f"--threshold must be at least 0, not {threshold:g}")
    network.eval()
    field = receptive_field(network)
    pixels = _fitted(picture, field.stride)
    graph = to_onnx(
        _Graph(network).eval(),  # the exporter restores the modes of all its modules
        torch.zeros(1, 4 * field.stride, 3 * field.stride, 3, dtype=torch.uint8),
        [PICTURES_INPUT],
        _OUTPUTS,
        _AXES,
    )
    _name_shape(graph.graph.output[0], 3, network.dim)
    _name_shape(graph.graph.output[2], 1, network.projection.in_channels)
    about = {
        "d2r": LOCAL_FEATURES_FORMAT,
        "arch": network.arch if arch is None else arch,
        "stride": str(field.stride),
        "offset": f"{field.offset:g}",
        "field": f"{field.field:g}",
        "scales": ",".join(f"{scale:g}" for scale in scales),
        "threshold": f"{threshold:.6g}",
    }
    for key, value in about.items():
        graph.metadata_props.add(key=key, value=value)
    difference = _difference(network, pixels, graph.SerializeToString())
    if not difference <= _TOLERANCE:
        raise ExportError(
            f"{display_path(path)}: ONNX Runtime does not agree with torch: values differ by {difference:.3g}, over"
            f" {_TOLERANCE:g}; nothing was written"
        )
    if half:
        store_half(graph)
        difference = _difference(network, pixels, graph.SerializeToString())
    write_onnx(graph, path, force=force)
    return ExportedFeatures(path, about["arch"], network.dim, path.stat().st_size, threshold, difference)


_OUTPUTS: Final = (*LOCAL_FEATURES_OUTPUTS, MAP)
_AXES: Final = {
    PICTURES_INPUT: {0: "N", 1: "H", 2: "W"},
    "descriptors": {0: "N", 1: "h", 2: "w"},
    "attention": {0: "N", 1: "h", 2: "w"},
    MAP: {0: "N", 2: "h", 3: "w"},
}


class _Graph(nn.Module):
    """A network from pictures to descriptors of unit length, attention, and the backbone's feature map."""

    def __init__(self, network: LocalNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.network.features(pictures.permute(0, 3, 1, 2))
        projected, attention = self.network.describe(features)
        return unit(projected).permute(0, 2, 3, 1), attention, features


def _name_shape(output: onnx.ValueInfoProto, axis: int, length: int) -> None:
    """Set the fixed length of an axis of an output, which the tracer does not know."""
    side = output.type.tensor_type.shape.dim[axis]
    side.ClearField("dim_param")
    side.dim_value = length


def _fitted(picture: Picture, stride: int) -> NDArray[np.uint8]:
    """Return a picture as input of the graph, uint8 (1, H, W, 3), its sides cut to multiples of the stride."""
    small = shrink(picture, _LONGEST)
    height, width = (max(stride, side - side % stride) for side in small.shape[:2])
    short = max(0, height - small.shape[0]), max(0, width - small.shape[1])
    padded = np.pad(small, ((0, short[0]), (0, short[1]), (0, 0)))
    return padded[None, :height, :width]


def _difference(network: LocalNetwork, pixels: NDArray[np.uint8], graph: bytes) -> float:
    with torch.no_grad():
        expected = _Graph(network)(torch.from_numpy(np.array(pixels)))
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found = session.run(list(_OUTPUTS), {PICTURES_INPUT: pixels})
    if any(have.shape != tuple(want.shape) for have, want in zip(found, expected, strict=True)):
        return math.inf
    apart = [np.abs(have - want.numpy()).max() for have, want in zip(found, expected, strict=True)]
    return float(
        max(apart[0], *(gap / max(1.0, float(want.max())) for gap, want in zip(apart[1:], expected[1:], strict=True)))
    )

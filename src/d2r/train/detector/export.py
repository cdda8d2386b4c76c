"""A trained detector as an ONNX file that ONNX Runtime runs without torch.

The graph takes ``pictures``, uint8 (N, side, side, 3), RGB, squashed by :func:`d2r.regions.detector.squash`. It returns
``boxes``, float32 (N, K, 4), x1, y1, x2, y2 in shares of width and height, in [0, 1], and ``scores``, float32 (N, K),
in [0, 1], best first, before non-maximum suppression. N is 1 for Faster R-CNN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from d2r.images import Picture
from d2r.regions.detector import squash
from d2r.regions.network import DETECTOR_FORMAT, DETECTOR_OUTPUTS, INPUT
from d2r.support.files import display_path
from d2r.train.detector.architectures import ARCHITECTURES, build_detector
from d2r.train.onnx_files import store_half, to_onnx, write_onnx
from d2r.train.weights import ExportError, read_run

_TOP_SSD: Final = 200
_TOP_FASTER: Final = 100
_BOX_TOLERANCE: Final = 1.0  # pixels of the side
_SCORE_TOLERANCE: Final = 1e-3


@dataclass(frozen=True)
class Exported:
    """An ONNX file.

    Attributes:
        path: its path.
        arch, side: architecture and side of the network.
        bytes: its size.
        box_difference: largest difference between its boxes and torch's on the checked picture, in pixels of the side.
        score_difference: the same for the scores.
    """

    path: Path
    arch: str
    side: int
    bytes: int
    box_difference: float
    score_difference: float


def export_detector(run: Path, path: Path, picture: Picture, *, half: bool = False, force: bool = False) -> Exported:
    """Write the best weights of a run as an ONNX file, and check it against torch on a picture.

    Args:
        run: folder of a run, or its .safetensors file.
        path: path of the ONNX file.
        picture: picture to compare on, uint8 (H, W, 3).
        half: store weights in 16 bits, which halves the file; the computation stays in 32 bits.
        force: see :func:`d2r.support.files.writing`.

    Raises:
        d2r.support.files.OutputError: there is a file at ``path`` that this program did not export.
        ExportError: the weights are missing, damaged or of another program, or ONNX Runtime finds other boxes than
            torch; then nothing is written. The comparison comes before weights are rounded to 16 bits.
    """
    network, arch, side = load_detector(run)
    pixels = squash(picture, side)[None]
    graph = _to_onnx(network, side)
    for key, value in (("d2r", DETECTOR_FORMAT), ("arch", arch), ("side", str(side))):
        graph.metadata_props.add(key=key, value=value)
    box, score = _difference(network, pixels, graph.SerializeToString())
    if not (box <= _BOX_TOLERANCE and score <= _SCORE_TOLERANCE):
        raise ExportError(
            f"{display_path(run)}: ONNX Runtime does not agree with torch: boxes differ by {box:.3g} pixels and scores"
            f" by {score:.3g}, over {_BOX_TOLERANCE:g} and {_SCORE_TOLERANCE:g}; nothing was written"
        )
    if half:
        store_half(graph)
        box, score = _difference(network, pixels, graph.SerializeToString())
    write_onnx(graph, path, force=force)
    return Exported(path, arch, side, path.stat().st_size, box, score)


def load_detector(run: Path) -> tuple[nn.Module, str, int]:
    """Return the network of a run with its best weights, ready for use, its architecture and its side.

    Raises:
        ExportError: the weights are missing, damaged or of another program.
    """
    path, weights, about = read_run(run)
    shown = display_path(path)
    arch, side = about.get("arch"), about.get("side", "")
    if arch not in ARCHITECTURES or not side.isdecimal():
        raise ExportError(f"{shown}: not the weights of a detector: its metadata names no known architecture and side")
    network = build_detector(arch, int(side))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ExportError(f"{shown}: not the weights of {arch} ({str(error).splitlines()[-1].strip()})") from error
    return network.eval(), arch, int(side)


class _SSDGraph(nn.Module):
    """An SSD from pictures to the boxes with the highest scores."""

    def __init__(self, network: Any, side: int) -> None:
        super().__init__()
        self.network = network
        self.side = side
        blank = torch.zeros(1, 3, side, side)
        anchors = network.anchor_generator(ImageList(blank, [(side, side)]), list(network.backbone(blank).values()))
        self.anchors: Tensor
        self.register_buffer("anchors", anchors[0])

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        images = self.network.transform.normalised(pictures.permute(0, 3, 1, 2))
        found = self.network.head(list(self.network.backbone(images).values()))
        scores, chosen = found["cls_logits"].softmax(dim=-1)[:, :, 1].topk(min(_TOP_SSD, len(self.anchors)), dim=1)
        changes = found["bbox_regression"].gather(1, chosen[:, :, None].expand(-1, -1, 4))
        boxes = self.network.box_coder.decode_single(changes.reshape(-1, 4), self.anchors[chosen].reshape(-1, 4))
        return (boxes.reshape(-1, chosen.shape[1], 4) / self.side).clamp(0.0, 1.0), scores


class _FasterRCNNGraph(nn.Module):
    """A Faster R-CNN from one picture to the boxes with the highest scores, padded with boxes of score 0."""

    def __init__(self, network: Any, side: int) -> None:
        super().__init__()
        self.network = network
        self.side = side

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        network, sizes = self.network, [(self.side, self.side)]
        images, _ = network.transform(pictures.permute(0, 3, 1, 2))
        features = network.backbone(images.tensors)
        proposals, _ = network.rpn(images, features, None)
        heads = network.roi_heads
        logits, changes = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, proposals, sizes)))
        boxes = heads.box_coder.decode(changes, proposals)[:, 1] / self.side
        boxes = torch.cat([boxes, boxes.new_zeros(_TOP_FASTER, 4)])
        scores = torch.cat([logits.softmax(dim=-1)[:, 1], logits.new_zeros(_TOP_FASTER)])
        best, chosen = scores.topk(_TOP_FASTER)
        return boxes[chosen].clamp(0.0, 1.0)[None], best[None]


def _to_onnx(network: nn.Module, side: int) -> onnx.ModelProto:
    many = isinstance(network, SSD)
    graph = (_SSDGraph if many else _FasterRCNNGraph)(network, side).eval()
    pictures = torch.zeros(1, side, side, 3, dtype=torch.uint8)
    axes = {name: {0: INPUT} for name in (INPUT, *DETECTOR_OUTPUTS)} if many else None
    return to_onnx(graph, pictures, [INPUT], DETECTOR_OUTPUTS, axes)


def _difference(network: nn.Module, pixels: NDArray[np.uint8], graph: bytes) -> tuple[float, float]:
    """Return the largest differences of boxes and of scores between torch and the graph.

    Torch's boxes come from torchvision's own code, with any score. Those that score above the median of the graph's are
    compared with the graph's box nearest in score and place: rounding alone can drop the lowest from the graph's.
    """
    side = pixels.shape[1]
    with torch.no_grad(), _all_scores(network):
        found = network(torch.from_numpy(pixels).permute(0, 3, 1, 2))[0]
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    boxes, scores = (values[0] for values in session.run(list(DETECTOR_OUTPUTS), {INPUT: pixels}))
    compared = found["scores"].numpy() > np.median(scores)
    box, score = (0.0, 0.0) if compared.any() else (math.inf, math.inf)
    for true_box, true_score in zip(found["boxes"].numpy()[compared], found["scores"].numpy()[compared], strict=True):
        apart = np.abs(side * boxes - true_box).max(axis=1)
        missed = np.abs(scores - true_score)
        match = int((apart / _BOX_TOLERANCE + missed / _SCORE_TOLERANCE).argmin())
        box, score = max(box, float(apart[match])), max(score, float(missed[match]))
    return box, score


@contextmanager
def _all_scores(network: nn.Module) -> Iterator[None]:
    """Let a network return boxes of any score."""
    scorer: Any = network if isinstance(network, SSD) else network.roi_heads
    before, scorer.score_thresh = scorer.score_thresh, 0.0
    try:
        yield
    finally:
        scorer.score_thresh = before

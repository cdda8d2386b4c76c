"""Trained patch descriptors as an ONNX file that ONNX Runtime runs without torch, see :mod:`d2r.features.hardnet`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
import torch

from d2r.features.hardnet import PATCH_DESCRIPTORS_FORMAT, PATCH_DESCRIPTORS_OUTPUTS
from d2r.images import Picture
from d2r.models.onnx import PICTURES_INPUT
from d2r.support.files import display_path
from d2r.train.hardnet.network import PATCH_DIM, PATCH_SIDE, HardNetModule, build_hardnet
from d2r.train.hardnet.pairs import WIDTH, patch_pairs
from d2r.train.onnx_files import store_half, to_onnx, write_onnx
from d2r.train.weights import ExportError, read_run

_TOLERANCE: Final = 1e-4  # of a descriptor's values
_COMPARED: Final = 100  # patches


@dataclass(frozen=True)
class ExportedPatches:
    """An ONNX file.

    Attributes:
        path: its path.
        arch: architecture of the network.
        bytes: its size.
        difference: largest difference between its values and torch's on the checked picture.
    """

    path: Path
    arch: str
    bytes: int
    difference: float


def export_hardnet(
    run: Path, path: Path, picture: Picture, *, half: bool = False, force: bool = False
) -> ExportedPatches:
    """Write the best weights of a run as an ONNX file, and check it against torch on the patches of a picture.

    Args:
        run: folder of a run, or its .safetensors file.
        path: path of the ONNX file.
        picture: picture to compare on, uint8 (H, W, 3).
        half: store weights in 16 bits, which halves the file; the computation stays in 32 bits.
        force: see :func:`d2r.support.files.writing`.

    Raises:
        d2r.support.files.OutputError: there is a file at ``path`` that this program did not export.
        ExportError: the weights are missing, damaged or of another program, or ONNX Runtime does not agree with torch;
            then nothing is written. The comparison comes before weights are rounded to 16 bits.
    """
    network = load_hardnet(run)
    patches = patch_pairs(picture, _COMPARED, np.random.default_rng(0)).first
    example = torch.zeros((2, PATCH_SIDE, PATCH_SIDE), dtype=torch.uint8)
    graph = to_onnx(
        network,
        example,
        [PICTURES_INPUT],
        PATCH_DESCRIPTORS_OUTPUTS,
        {name: {0: "N"} for name in (PICTURES_INPUT, *PATCH_DESCRIPTORS_OUTPUTS)},
    )
    arch = f"hardnet-{network.channels}"
    for key, value in (("d2r", PATCH_DESCRIPTORS_FORMAT), ("arch", arch), ("width", f"{WIDTH:g}")):
        graph.metadata_props.add(key=key, value=value)
    difference = _difference(network, patches, graph)
    if not difference <= _TOLERANCE:
        raise ExportError(
            f"{display_path(run)}: ONNX Runtime does not agree with torch: descriptors differ by {difference:.3g}, over"
            f" {_TOLERANCE:g}; nothing was written"
        )
    if half:
        store_half(graph)
        difference = _difference(network, patches, graph)
    write_onnx(graph, path, force=force)
    return ExportedPatches(path, arch, path.stat().st_size, difference)


def load_hardnet(run: Path) -> HardNetModule:
    """Return the network of a run with its best weights, ready for use.

    Raises:
        ExportError: the weights are missing, damaged or of another program.
    """
    path, weights, about = read_run(run)
    channels = about.get("channels", "")
    if not channels.isdecimal() or about.get("dim") != str(PATCH_DIM) or about.get("width") != f"{WIDTH:g}":
        raise ExportError(f"{display_path(path)}: not the weights of patch descriptors of this version")
    network = build_hardnet(int(channels))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ExportError(f"{display_path(path)}: the weights do not fit ({error})") from error
    network.eval()
    return network


def _difference(network: HardNetModule, patches: np.ndarray, graph: onnx.ModelProto) -> float:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(list(PATCH_DESCRIPTORS_OUTPUTS), {PICTURES_INPUT: patches})
    with torch.no_grad():
        expected = network(torch.from_numpy(patches)).numpy()
    return float(np.abs(found - expected).max(initial=0.0))

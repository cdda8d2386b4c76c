"""Convert published weights to an ONNX file of local features.

- HOW (github.com/gtolias/how), ``how-r18`` and ``how-r50``: the checkpoint's backbone, and its whitening as projection.
- torchvision's ResNets: the backbone, with attention as in HOW, and a projection fitted to photos.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from d2r.compose.bundled import bundled_photos
from d2r.errors import D2RError
from d2r.images import read_image
from d2r.support.files import display_path
from d2r.train.data import DecodedPictures
from d2r.train.delf.export import SCALES, ExportedFeatures, write_features
from d2r.train.delf.networks import BACKBONES, LocalNetwork, build_local_network, initialise_local_network
from d2r.train.delf.projection import fit_projection, fit_threshold
from d2r.train.detector.architectures import InitError

HOW: Final = {"how-r18": "resnet18-conv5", "how-r50": "resnet50"}
"""Names of HOW's published networks, and the backbone of each."""

CONVERTIBLE: Final = (*HOW, *(name for name in BACKBONES if name.startswith("resnet")))
"""Architectures that :func:`convert_checkpoint` converts."""

_LONGEST: Final = 640  # pixels of the photos to fit a projection to
_PREFIX: Final = "features."


class ConvertError(D2RError):
    """A checkpoint that cannot be converted; the message names the file and what to do."""


def convert_checkpoint(
    checkpoint: Path, path: Path, *, arch: str, half: bool = False, force: bool = False
) -> ExportedFeatures:
    """Write published weights as an ONNX file of local features. Nothing in the checkpoint is executed.

    Args:
        checkpoint: a torch file: HOW's (a dictionary with ``state_dict``), or a state dictionary of torchvision.
        path: path of the ONNX file.
        arch: one of :data:`CONVERTIBLE`.
        half: store weights in 16 bits, which halves the file.
        force: see :func:`d2r.support.files.writing`.

    Raises:
        ConvertError: the file cannot be read, or is of another architecture.
        d2r.train.weights.ExportError: ONNX Runtime does not agree with torch; then nothing is written.
        d2r.support.files.OutputError: there is a file at ``path`` that this program did not export.
    """
    if arch not in CONVERTIBLE:
        raise ConvertError(f"--arch {arch!r} is not known; there are: {', '.join(CONVERTIBLE)}")
    bundled = bundled_photos()
    if arch in HOW:
        network, threshold = _how(checkpoint, arch), 0.0
    else:
        network = build_local_network(arch, "how")
        try:
            initialise_local_network(network, str(checkpoint))
        except InitError as error:
            raise ConvertError(str(error)) from error
        photos = [*bundled.backgrounds, *(photo for instance in bundled.instances for photo in instance.photos)]
        decoded = DecodedPictures(photos, _LONGEST)
        fit_projection(network, decoded, 0, whiten=1.0, attended=True)
        threshold = fit_threshold(network, decoded, 0)
    photo = read_image(bundled.instances[0].photos[0])
    return write_features(network, path, photo, half=half, scales=SCALES, threshold=threshold, arch=arch, force=force)


def _how(checkpoint: Path, arch: str) -> LocalNetwork:
    shown = display_path(checkpoint)
    stored = _read(checkpoint)
    state = stored.get("state_dict") if isinstance(stored, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConvertError(
            f"{shown}: not a checkpoint of HOW: it has no state_dict; for torchvision's weights give"
            " --arch resnet18 or resnet50"
        )
    if "dim_reduction.weight" not in state:
        raise ConvertError(f"{shown}: its network has no dim_reduction, which computes the descriptors")
    about = stored.get("net_params") or stored.get("meta") or {}
    says = about.get("architecture") if isinstance(about, dict) else None
    backbone = HOW[arch]
    if isinstance(says, str) and says != backbone.partition("-")[0]:
        others = [name for name, other in HOW.items() if other.partition("-")[0] == says]
        advice = f"; give --arch {others[0]}" if others else ""
        raise ConvertError(f"{shown}: it is of {says[:80]}, not of {backbone.partition('-')[0]}{advice}")
    network = build_local_network(backbone, "how", state["dim_reduction.weight"].shape[0])
    names = [name for name, _ in network.body.named_children()]
    weights = {}
    for name, value in state.items():
        number, _, rest = name.removeprefix(_PREFIX).partition(".")
        if name.startswith("dim_reduction."):
            weights[f"projection.{name.removeprefix('dim_reduction.')}"] = value
        elif name.startswith(_PREFIX) and number.isdecimal() and int(number) < len(names):
            weights[f"body.{names[int(number)]}.{rest}"] = value
        else:
            raise ConvertError(f"{shown}: it has weights {name[:80]!r}, which {arch} does not have")
    try:
        missing = network.load_state_dict(weights, strict=False).missing_keys
    except RuntimeError as error:
        raise ConvertError(f"{shown}: not of {arch} ({str(error).splitlines()[-1].strip()})") from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]  # training counts with it
    if missing:
        weights_of = "weight" if len(missing) == 1 else "weights"
        raise ConvertError(f"{shown}: it lacks {len(missing)} {weights_of} of {arch}, for example {missing[0]}")
    return network


def _dictionary(*_: Any) -> dict[Any, Any]:
    return {}


def _read(path: Path) -> Any:
    # Besides weights the file holds scores: numpy numbers, under the names of numpy 1 and 2, in dictionaries that torch
    # would not fill.
    scalar = np.float64(0).__reduce__()[0]
    harmless = [
        (_dictionary, "collections.defaultdict"),
        list,
        np.dtype,
        type(np.dtype(np.float64)),
        type(np.dtype(np.float32)),
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
    ]
    try:
        with torch.serialization.safe_globals(harmless):  # type: ignore[arg-type]
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConvertError(f"{display_path(path)}: cannot be read: {error.strerror or error}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, BadZipFile) as error:
        reason = str(error).partition("\n")[0][:200] or "it is empty"
        raise ConvertError(f"{display_path(path)}: damaged, or not a checkpoint of torch ({reason})") from error

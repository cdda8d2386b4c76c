"""A network of local features: an ONNX file, run by ONNX Runtime.

The file, as ``d2r train`` exports it:

- ``metadata_props``, all of them text: ``d2r`` is ``local-features-1``; ``arch`` names the architecture; ``stride`` is
  S in pixels, a decimal integer; ``offset`` is where the centre of cell 0 lies in pixels, in x as in y, where pixel
  centres are at half-integers, so that the centre of cell i is at ``offset + i S``; ``field`` is the side of the
  receptive field in pixels; ``scales``, numbers separated by commas, is the pyramid of the network; ``threshold`` is
  the least attention of a useful feature; ``licence`` is the licence of the weights, and may be missing. - input
  ``pictures``: uint8 (N, H, W, 3), RGB, where N, H and W are free, and H and W multiples of S. Normalisation is in the
  graph. - output ``descriptors``: float32 (N, H/S, W/S, D), of unit length; the shape must name D, and the reduction to
  D is in the graph. Output ``attention``: float32 (N, H/S, W/S), at least 0. - output ``features``, which may be
  missing: float32 (N, C, H/S, W/S), at least 0, the feature map of the backbone; the shape must name C. Global
  descriptors are pooled from it (``benchmarks/ablation/pooled.py``). Its channels come first as in ONNX Runtime:
  another order would cost a copy in every run, even if the output is not requested.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from d2r.models.onnx import PICTURES_INPUT, Format, ModelError, OnnxFile, load

LOCAL_FEATURES_FORMAT: Final = "local-features-1"
LOCAL_FEATURES_OUTPUTS: Final = ("descriptors", "attention")
MAP: Final = "features"
"""The optional output."""

_LENGTH_TOLERANCE: Final = 0.01  # weights may be stored in 16 bits


class FeatureError(ModelError):
    """A file of local features cannot be used; ``str(error)`` names it and says why."""


@dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """A network that is ready to run; safe to use from several threads, not picklable.

    Attributes:
        path: path of its file.
        sha256: SHA-256 of the file, in hexadecimal.
        bytes: size of the file.
        arch: name of the architecture.
        stride: S, in pixels.
        offset: position of the centre of cell 0, in pixels.
        field: side of the receptive field, in pixels.
        scales: scales of its pyramid.
        threshold: least attention of a useful feature.
        dim: dimension D of a descriptor.
        channels: channels C of the backbone's feature map; None if the file lacks that output.
        licence: licence of the weights; empty if the file names none.
        provider: the execution provider of ONNX Runtime.
        on_gpu: whether that is a GPU.
    """

    path: Path
    sha256: str
    bytes: int
    arch: str
    stride: int
    offset: float
    field: float
    scales: tuple[float, ...]
    threshold: float
    dim: int
    channels: int | None
    licence: str
    provider: str
    on_gpu: bool
    _file: OnnxFile

    def run(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Describe every cell of some pictures.

        Args:
            pictures: uint8 (N, H, W, 3), H and W multiples of S.

        Returns:
            descriptors, float32 (N, H/S, W/S, D), of unit length, or all zero for a cell without content; and
            attention, float32 (N, H/S, W/S).

        Raises:
            FeatureError: the network fails, or its output does not fit the format.
        """
        descriptors, attention = self._file.run(LOCAL_FEATURES_OUTPUTS, pictures)
        count, height, width = pictures.shape[:3]
        cells = (count, height // self.stride, width // self.stride)
        if attention.shape != cells or descriptors.shape != (*cells, self.dim):
            given = f"descriptors {descriptors.shape} and attention {attention.shape}"
            raise self._file.error(
                f"it gives {given} for pictures {pictures.shape}; expected {(*cells, self.dim)} and {cells}"
            )
        if not (np.isfinite(descriptors).all() and np.isfinite(attention).all()):
            raise self._file.error("it gives values that are not finite: training or conversion went wrong")
        if attention.min(initial=0.0) < 0.0:
            raise self._file.error(f"it gives an attention of {attention.min():.3g}; expected 0 or more")
        lengths = np.linalg.norm(descriptors, axis=-1)
        wrong = (lengths > 0.0) & (np.abs(lengths - 1.0) > _LENGTH_TOLERANCE)
        if wrong.any():
            raise self._file.error(f"it gives a descriptor of length {lengths[wrong][0]:.3g}; expected 1")
        return descriptors, attention

    def maps(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the feature map of the backbone, float32 (N, C, H/S, W/S), at least 0, of some pictures.

        Args:
            pictures: uint8 (N, H, W, 3), H and W multiples of S.

        Raises:
            FeatureError: the file lacks this output; or the network fails, or its output does not fit the format.
        """
        if self.channels is None:
            raise self._file.error(f"it does not give the backbone's {MAP}: export it again (`d2r train export`)")
        (features,) = self._file.run((MAP,), pictures)
        count, height, width = pictures.shape[:3]
        expected = (count, self.channels, height // self.stride, width // self.stride)
        if features.shape != expected:
            raise self._file.error(
                f"it gives features {features.shape} for pictures {pictures.shape}; expected {expected}"
            )
        if not (np.isfinite(features).all() and features.min(initial=0.0) >= 0.0):
            raise self._file.error("it gives features that are negative or not finite")
        return features


def load_feature_network(path: Path) -> FeatureNetwork:
    """Return the network of a file, loaded once per process, and again if the file changes.

    Raises:
        FeatureError: the file is missing, cannot be run, or has another format.
    """
    return load(path, _FORMAT, _read)


_FORMAT: Final = Format(LOCAL_FEATURES_FORMAT, "a file of local features", FeatureError, one_size=False)


def _read(file: OnnxFile) -> FeatureNetwork:
    stride = file.metadata.get("stride", "")
    if not (stride.isascii() and stride.isdecimal() and int(stride) > 0):
        raise file.error(f"its metadata must give stride as a number of pixels, not {stride!r}")
    offset, threshold = _number(file, "offset"), _number(file, "threshold")
    field = _number(file, "field")
    if not field > 0.0:
        raise file.error(f"its metadata must give field above 0, not {field:g}")
    scales = tuple(_number(file, "scales", text) for text in file.metadata.get("scales", "").split(","))
    if min(scales) <= 0.0:
        raise file.error(f"its metadata must give scales above 0, not {min(scales):g}")
    file.check_shapes(
        {PICTURES_INPUT: ("tensor(uint8)", (None, None, None, 3))},
        {
            "descriptors": ("tensor(float)", (None, None, None, None)),
            "attention": ("tensor(float)", (None, None, None)),
        },
        optional={MAP: ("tensor(float)", (None, None, None, None))},
    )
    if any(side is not None for side in file.shape(PICTURES_INPUT)[:3]):
        raise file.error("it takes pictures of one size or number only; N, H and W of its input must be free")
    dim = file.shape("descriptors")[3]
    if dim is None:
        raise file.error("the shape of its descriptors must name their dimensions; the last one is free")
    channels = file.shape(MAP)[1] if file.gives(MAP) else None
    if file.gives(MAP) and channels is None:
        raise file.error(f"the shape of its {MAP} must name their channels; the second side is free")
    return FeatureNetwork(
        path=file.path,
        sha256=file.sha256,
        bytes=file.bytes,
        arch=file.metadata["arch"],
        stride=int(stride),
        offset=offset,
        field=field,
        scales=scales,
        threshold=threshold,
        dim=dim,
        channels=channels,
        licence=file.metadata.get("licence", ""),
        provider=file.provider,
        on_gpu=file.on_gpu,
        _file=file,
    )


def _number(file: OnnxFile, key: str, text: str | None = None) -> float:
    """Return a number of the metadata, or parse ``text`` as one of several."""
    text = file.metadata.get(key, "") if text is None else text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        what = "numbers separated by commas" if key == "scales" else "a number"
        raise file.error(f"its metadata must give {key} as {what}, not {text!r}")
    return value

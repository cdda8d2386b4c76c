"""Networks as ONNX files, run by ONNX Runtime: what all formats have in common.

The metadata of a file name its format as ``d2r``. :mod:`d2r.regions.network` describes the format of detectors,
:mod:`d2r.features.network` that of local features.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from d2r.errors import D2RError
from d2r.models import find_model
from d2r.support.files import display_path
from d2r.support.processes import default_workers

if TYPE_CHECKING:
    import onnxruntime

PICTURES_INPUT: Final = "pictures"
"""The name of the one input of every format."""

Shape: TypeAlias = tuple[int | None, ...]
"""Sides of an array; None is any length."""

Nodes: TypeAlias = Mapping[str, tuple[str, Shape]]
"""Inputs or outputs: name to ONNX Runtime's name of the type, and shape."""

_NONE: Final[Nodes] = MappingProxyType({})

_Loaded = TypeVar("_Loaded")

_GPU: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"
_QUIET: Final = 3  # errors only; failures raise anyway
_KEPT: Final = 4  # networks that stay loaded per process

_PIXELS_CPU: Final = 1 << 20  # more at once is no faster there, and takes memory
_PIXELS_GPU: Final = 16 << 20

_lock = threading.Lock()
_threads: int | None = None
_pixels: int | None = None


class ModelError(D2RError):
    """A network's file that cannot be used; ``str(error)`` names it and says why.

    Attributes:
        name: name of the file or the model.
        reason: why it cannot be used, without the name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{display_path(self.name)}: {self.reason}"


def set_threads(count: int) -> None:
    """Set the number of threads of networks loaded from now on in this process; the default is one per processor."""
    global _threads
    _threads = count


def set_pixels_a_run(count: int) -> None:
    """Set how many pixels all pictures of one run together may have in this process; a run takes at least one picture.

    The default is 2^20 on processors and 2^24 on a GPU.
    """
    global _pixels
    _pixels = count


def pixels_a_run(*, on_gpu: bool) -> int:
    """Return the maximum number of pixels per run; see :func:`set_pixels_a_run`."""
    return _pixels or (_PIXELS_GPU if on_gpu else _PIXELS_CPU)


@dataclass(frozen=True)
class Format:
    """A format of network files.

    Attributes:
        name: the value of ``d2r`` in the metadata.
        kind: the kind of network, for messages.
        error: raised if a file is not of the format, or fails.
        one_size: whether all pictures have the same size. Otherwise no memory plan is kept, as each size would have
            one.
    """

    name: str
    kind: str
    error: type[ModelError]
    one_size: bool


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """A file that is ready to run; thread-safe, not picklable.

    Attributes:
        format: its format, which was checked.
        path: path of the file.
        sha256: its SHA-256, in hexadecimal.
        bytes: its size.
        metadata: its metadata.
        provider: ONNX Runtime's name of what it runs on.
    """

    format: Format
    path: Path
    sha256: str
    bytes: int
    metadata: Mapping[str, str]
    provider: str
    _session: onnxruntime.InferenceSession

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return self.provider == _GPU

    def error(self, reason: str) -> ModelError:
        """Return the format's error about this file."""
        return self.format.error(str(self.path), reason)

    def run(self, outputs: tuple[str, ...], pictures: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return the outputs for pictures, uint8 (N, H, W, 3).

        Raises:
            ModelError: the format's error: the network fails.
        """
        try:
            return list(self._session.run(list(outputs), {PICTURES_INPUT: pictures}))
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise self.error(f"it fails on {len(pictures)} pictures: {_first_line(error)}") from error

    def check_shapes(self, inputs: Nodes, outputs: Nodes, optional: Nodes = _NONE) -> None:
        """Check the inputs and outputs of the file; it may have any of the ``optional`` outputs.

        Raises:
            ModelError: the format's error: they differ.
        """
        there = {name: node for name, node in optional.items() if self.gives(name)}
        for kind, expected in (("inputs", inputs), ("outputs", {**outputs, **there})):
            given = self._nodes(kind)
            fits = given.keys() == expected.keys() and all(
                given[name][0] == dtype and _fits(given[name][1], shape) for name, (dtype, shape) in expected.items()
            )
            if not fits:
                raise self.error(
                    f"another shape: expected the {kind} {_shown(expected)}; it has {_shown(given) or 'none'}"
                )

    def gives(self, name: str) -> bool:
        """Return whether it has an output of that name."""
        return name in self._nodes("outputs")

    def shape(self, name: str) -> Shape:
        """Return the shape of an input or output; a free side is None."""
        return (self._nodes("inputs") | self._nodes("outputs"))[name][1]

    def pictures_at_once(self) -> int | None:
        """Return how many pictures it takes at once: one, or None for any number.

        Raises:
            ModelError: the format's error: it takes another number.
        """
        count = self.shape(PICTURES_INPUT)[0]
        if count not in (None, 1):
            raise self.error(f"it takes exactly {count} pictures at once; expected one, or any number")
        return count

    def _nodes(self, kind: str) -> dict[str, tuple[str, Shape]]:
        nodes = self._session.get_inputs() if kind == "inputs" else self._session.get_outputs()
        return {
            node.name: (node.type, tuple(side if isinstance(side, int) else None for side in node.shape))
            for node in nodes
        }


def load(path: Path, format: Format, read: Callable[[OnnxFile], _Loaded]) -> _Loaded:
    """Return what ``read`` makes of a file, which is loaded once per process and again when it changes.

    Args:
        path: path of the file.
        format: the format that the file must have.
        read: the format's function, which checks its other requirements.

    Raises:
        ModelError: the format's error: the file is missing, cannot be run, or has another format.
    """
    try:
        status = path.stat()
        with _lock:
            threads = _threads or default_workers()
            loaded: _Loaded = _load(path.absolute(), status.st_mtime_ns, status.st_size, threads, format, read)
            return loaded
    except OSError as error:
        raise format.error(str(path), f"cannot be read: {error.strerror or error}") from error


@lru_cache(maxsize=_KEPT)
def _load(
    path: Path, mtime_ns: int, size: int, threads: int, format: Format, read: Callable[[OnnxFile], _Loaded]
) -> _Loaded:
    data = path.read_bytes()
    try:
        session = _session(data, threads, keep_plans=format.one_size)
    except Exception as error:
        raise format.error(str(path), f"not an ONNX file that can be run: {_first_line(error)}") from error
    metadata = session.get_modelmeta().custom_metadata_map
    file = OnnxFile(
        format=format,
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        metadata=metadata,
        provider=session.get_providers()[0],
        _session=session,
    )
    if metadata.get("d2r") != format.name:
        found = f"it says {metadata['d2r']!r}" if "d2r" in metadata else "it has no such entry"
        raise file.error(f"not {format.kind} of this project: its metadata must say d2r = {format.name!r}; {found}")
    if not metadata.get("arch"):
        raise file.error("its metadata must name the architecture as arch")
    return read(file)


def _session(data: bytes, threads: int, *, keep_plans: bool) -> onnxruntime.InferenceSession:
    import onnxruntime  # slow to import, and most selectors and extractors do not need it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = keep_plans
    # Threads that spin while they wait take the processors from features and from other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _QUIET
    providers = [name for name in (_GPU, _CPU) if name in onnxruntime.get_available_providers()]
    return onnxruntime.InferenceSession(data, options, providers=providers)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of an ONNX file of any format.

    Raises:
        ModelError: the file is missing, or not an ONNX file that can be run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # the network is not run
    options.log_severity_level = _QUIET
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=[_CPU])
    except OSError as error:
        raise ModelError(str(path), f"cannot be read: {error.strerror or error}") from error
    except Exception as error:
        raise ModelError(str(path), f"not an ONNX file that can be run: {_first_line(error)}") from error
    return dict(session.get_modelmeta().custom_metadata_map)


def check_sha256(sha256: str) -> None:
    """Raise ``ValueError`` unless this is a SHA-256 in lower-case hexadecimal, or empty."""
    if not re.fullmatch(r"([0-9a-f]{64})?", sha256):
        raise ValueError("sha256 must be 64 digits of 0-9 and a-f")


def find_file(model: str, error: type[ModelError]) -> Path:
    """Return the file of a model (:func:`d2r.models.find_model`); raise ``error`` if there is none of that name."""
    try:
        return find_model(model)
    except FileNotFoundError as problem:
        raise error(model, str(problem)) from problem


def check_pinned(path: Path, sha256: str, expected: str, error: type[ModelError]) -> None:
    """Raise ``error`` unless a file has the expected SHA-256; an empty one fits any file."""
    if expected not in ("", sha256):
        raise error(
            str(path),
            f"not the expected file: its SHA-256 is {sha256}, not {expected}. Restore the file that the index"
            " was made with, or make another index with this one",
        )


def pinned_model(model: str, path: Path) -> str:
    """Return a name of a model that does not depend on the current folder: its name, or the absolute path of its file.

    Args:
        model: a name or a path, as given.
        path: absolute path of its file.

    Raises:
        ValueError: the path has a comma, which a specification cannot hold.
    """
    pinned = str(path) if model.lower().endswith(".onnx") else model
    if "," in pinned:
        raise ValueError(f"{pinned}: a path with a comma cannot be written in a specification; rename it")
    return pinned


def _fits(given: Shape, expected: Shape) -> bool:
    """Return whether a shape fits the expected one; a None in either fits any length."""
    return len(given) == len(expected) and all(
        None in (want, have) or want == have for have, want in zip(given, expected, strict=True)
    )


def _shown(nodes: Nodes) -> str:
    return ", ".join(
        f"{name} {dtype.removeprefix('tensor(').removesuffix(')')}"
        f" ({', '.join('?' if side is None else str(side) for side in shape)})"
        for name, (dtype, shape) in nodes.items()
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]

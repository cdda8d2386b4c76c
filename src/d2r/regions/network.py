"""A detector's network: an ONNX file, run by ONNX Runtime.

The file, as ``d2r train`` exports it:

- ``metadata_props``: ``d2r`` is ``detector-1``; ``arch`` names the architecture; ``side`` is S, in decimal.
- input ``pictures``: uint8 (N, S, S, 3), RGB, each picture squashed to a square (:func:`d2r.regions.detector.squash`).
  N is free, or 1 in a network that takes one picture at a time. Normalisation is in the graph.
- output ``boxes``: float32 (N, K, 4), x1, y1, x2, y2 as shares of width and height; output ``scores``: float32 (N, K),
  in [0, 1]. Neither threshold nor suppression of overlapping boxes is in the graph.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from d2r.files import display_path
from d2r.workers import default_workers

if TYPE_CHECKING:
    import onnxruntime

FORMAT: Final = "detector-1"
INPUT: Final = "pictures"
OUTPUTS: Final = ("boxes", "scores")

_GPU: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"
_QUIET: Final = 3  # errors only; what goes wrong is raised anyway

_Nodes: TypeAlias = dict[str, tuple[str, tuple[Any, ...]]]  # name to type and shape

_lock = threading.Lock()
_threads: int | None = None


class DetectorError(Exception):
    """A detector's file that cannot be used; ``str(error)`` names it and says why.

    Attributes:
        name: of the file, or of the shipped model.
        reason: why it cannot be used, without the name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{display_path(self.name)}: {self.reason}"


def set_threads(count: int) -> None:
    """Let networks of this process that are loaded from now on use so many threads; without this, one a processor."""
    global _threads
    _threads = count


@dataclass(frozen=True, eq=False)
class Network:
    """A network that is ready to run; safe to use from several threads, not picklable.

    Attributes:
        path: of its file.
        sha256: of the file, in hexadecimal.
        bytes: size of the file.
        arch: the architecture, as the file says.
        side: S, in pixels.
        batches: it takes any number of pictures at once; otherwise one.
        provider: what it runs on, in ONNX Runtime's words.
    """

    path: Path
    sha256: str
    bytes: int
    arch: str
    side: int
    batches: bool
    provider: str
    _session: onnxruntime.InferenceSession

    def run(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the boxes, float32 (N, K, 4), and scores, float32 (N, K), of pictures, uint8 (N, S, S, 3).

        Raises:
            DetectorError: the network fails, or gives arrays of another shape or boxes that are not finite.
        """
        parts = [pictures] if self.batches else [picture[None] for picture in pictures]
        found = [self._run(part) for part in parts]
        if len(found) == 1:
            return found[0]
        return np.concatenate([boxes for boxes, _ in found]), np.concatenate([scores for _, scores in found])

    def _run(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        try:
            boxes, scores = self._session.run(list(OUTPUTS), {INPUT: pictures})
        except Exception as error:  # ONNX Runtime has an exception for each kind of failure, with no common base
            raise DetectorError(
                str(self.path), f"it fails on {len(pictures)} pictures: {_first_line(error)}"
            ) from error
        if boxes.ndim != 3 or boxes.shape[::2] != (len(pictures), 4) or scores.shape != boxes.shape[:2]:
            given = f"boxes {boxes.shape} and scores {scores.shape}"
            expected = f"({len(pictures)}, K, 4) and ({len(pictures)}, K)"
            raise DetectorError(str(self.path), f"it gives {given} for {len(pictures)} pictures; expected {expected}")
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise DetectorError(str(self.path), "it gives boxes or scores that are not finite: training went wrong")
        return boxes, scores


def load_network(path: Path) -> Network:
    """Return the network of a file, loaded once in a process, and again when the file changes.

    Raises:
        DetectorError: the file is missing, cannot be run, or is not a detector of this format.
    """
    try:
        status = path.stat()
        with _lock:
            return _load(path.absolute(), status.st_mtime_ns, status.st_size, _threads or default_workers())
    except OSError as error:
        raise DetectorError(str(path), f"cannot be read: {error.strerror or error}") from error


@lru_cache(maxsize=4)
def _load(path: Path, mtime_ns: int, size: int, threads: int) -> Network:
    import onnxruntime  # here, because it takes a moment, and most selectors need none

    data = path.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Waiting threads that spin take the processors from what comes next: features, or another worker.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _QUIET
    providers = [name for name in (_GPU, _CPU) if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:
        raise DetectorError(str(path), f"not an ONNX file that can be run: {_first_line(error)}") from error
    arch, side = _metadata(path, session.get_modelmeta().custom_metadata_map)
    count = _check_shapes(path, session, side)
    return Network(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        arch=arch,
        side=side,
        batches=not isinstance(count, int),
        provider=session.get_providers()[0],
        _session=session,
    )


def _metadata(path: Path, metadata: dict[str, str]) -> tuple[str, int]:
    """Return architecture and side."""
    if metadata.get("d2r") != FORMAT:
        found = f"it says {metadata['d2r']!r}" if "d2r" in metadata else "it has no such entry"
        raise DetectorError(
            str(path), f"not a detector of this project: its metadata must say d2r = {FORMAT!r}; {found}"
        )
    arch, side = metadata.get("arch", ""), metadata.get("side", "")
    if not arch:
        raise DetectorError(str(path), "its metadata must name the architecture as arch")
    if not (side.isascii() and side.isdecimal() and int(side) > 0):
        raise DetectorError(str(path), f"its metadata must give side as a number of pixels, not {side!r}")
    return arch, int(side)


def _check_shapes(path: Path, session: onnxruntime.InferenceSession, side: int) -> int | str | None:
    """Refuse a network whose inputs or outputs are not the format's, and return how many pictures it takes at once."""
    expected: dict[str, _Nodes] = {
        "inputs": {INPUT: ("tensor(uint8)", (None, side, side, 3))},
        "outputs": {"boxes": ("tensor(float)", (None, None, 4)), "scores": ("tensor(float)", (None, None))},
    }
    found = {"inputs": session.get_inputs(), "outputs": session.get_outputs()}
    for kind, wanted in expected.items():
        given: _Nodes = {node.name: (node.type, tuple(node.shape)) for node in found[kind]}
        fits = given.keys() == wanted.keys() and all(
            given[name][0] == dtype and _fits(given[name][1], shape) for name, (dtype, shape) in wanted.items()
        )
        if not fits:
            raise DetectorError(
                str(path), f"another shape: expected the {kind} {_shown(wanted)}; it has {_shown(given) or 'none'}"
            )
    count: int | str | None = found["inputs"][0].shape[0]
    if isinstance(count, int) and count != 1:
        raise DetectorError(str(path), f"it takes exactly {count} pictures at once; expected one, or any number")
    return count


def _fits(given: tuple[Any, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether a shape is the wanted one, None in which may be anything; a free side of it may become anything too."""
    return len(given) == len(wanted) and all(
        want is None or want == have or not isinstance(have, int) for have, want in zip(given, wanted, strict=True)
    )


def _shown(nodes: _Nodes) -> str:
    return ", ".join(
        f"{name} {dtype.removeprefix('tensor(').removesuffix(')')}"
        f" ({', '.join(str(side) if isinstance(side, int) else '?' for side in shape)})"
        for name, (dtype, shape) in nodes.items()
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]

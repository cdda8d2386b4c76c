"""Codebooks of visual words: their files, assignment of descriptors to words, and residuals."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from d2r.errors import D2RError
from d2r.support.files import GENERATOR, replacing

Array = NDArray[np.float32]

COARSE_WORDS = 256
"""Maximum number of coarse words (:attr:`Codebook.coarse`): they are stored in a byte."""

_EXACT_WORDS = 16384
_ORIGIN = "origin"  # key in the metadata of a file


class CodebookError(D2RError, ValueError):
    """A codebook cannot be trained, read or used with these descriptors; the message says why."""


@dataclass(frozen=True)
class Origin:
    """What visual words were learned from.

    Attributes:
        features: specification of the local features, pinned (:func:`d2r.features.pinned_features`).
        regions: specification of the regions of the pictures, pinned.
        max_side: longer side, in pixels, that pictures and crops were scaled down to.
        pictures: number of pictures; None if it is not recorded.
        version: version of d2r that learned them; None if it is not recorded.
    """

    features: str
    regions: str
    max_side: int
    pictures: int | None
    version: str | None


@dataclass(frozen=True)
class Codebook:
    """C visual words with D dimensions.

    Attributes:
        centroids: float32 (C, D); a descriptor belongs to the nearest one in Euclidean distance.
        projection: float32 (E, D) with orthonormal rows, E at most D, applied to descriptors before residuals are
            taken; None is the identity. Part of the original ASMK*; with E < D it shortens the codes.
        medians: float32 (C, E), origins of residuals in the projected space; None is the projected centroids. Part of
            the original ASMK*.
        origin: what they were learned from; None if unknown, as for a plain array.
        starts: first word of each kind of features, ascending from 0: a feature belongs to the nearest word of its
            kind.
    """

    centroids: Array
    projection: Array | None = None
    medians: Array | None = None
    origin: Origin | None = None
    starts: tuple[int, ...] = (0,)

    @property
    def num_words(self) -> int:
        """Number of words C."""
        return len(self.centroids)

    @property
    def dim(self) -> int:
        """Number of dimensions D."""
        return int(self.centroids.shape[1])

    @property
    def bits(self) -> int:
        """Number of dimensions E of residuals, which is the number of bits per code."""
        return self.dim if self.projection is None else len(self.projection)

    @property
    def kinds(self) -> int:
        """Number of kinds of features."""
        return len(self.starts)

    @cached_property
    def _parts(self) -> tuple[Codebook, ...]:
        """The words of each kind as a separate codebook, without medians."""
        ends = (*self.starts[1:], self.num_words)
        return tuple(Codebook(self.centroids[start:end]) for start, end in zip(self.starts, ends, strict=True))

    @cached_property
    def _search(self) -> Any:
        index = nearest_index(self.num_words, self.dim)
        index.train(self.centroids)
        index.add(self.centroids)
        return index

    @cached_property
    def coarse(self) -> Codebook:
        """The coarse words of verification: at most 256 of the words, equally many per kind, without projection.

        With many words, two features of the same point often have different ones. k-means leaves words unordered, so
        words at regular steps are as good as random ones.
        """
        most = COARSE_WORDS // self.kinds
        chosen = [
            start + np.arange(min(most, part.num_words)) * part.num_words // min(most, part.num_words)
            for start, part in zip(self.starts, self._parts, strict=True)
        ]
        starts = np.cumsum([0, *(len(rows) for rows in chosen[:-1])]).tolist()
        return Codebook(np.ascontiguousarray(self.centroids[np.concatenate(chosen)]), starts=tuple(starts))

    def same_as(self, other: Codebook) -> bool:
        """Say whether another codebook gives the same words and residuals, whatever its origin."""
        pairs = (
            (self.centroids, other.centroids), (self.projection, other.projection), (self.medians, other.medians)
        )  # fmt: skip
        return self.starts == other.starts and all(
            (one is None) == (two is None) and (one is None or two is None or np.array_equal(one, two))
            for one, two in pairs
        )

    def check_dim(self, dim: int) -> None:
        """Raise :class:`CodebookError` unless the words have ``dim`` dimensions."""
        if self.dim != dim:
            raise CodebookError(f"the codebook has {self.dim} dimensions, but the features have {dim}")

    def project(self, descriptors: Array) -> Array:
        """Return descriptors in the space where residuals are taken, float32 (N, E)."""
        return descriptors if self.projection is None else descriptors @ self.projection.T

    def assign(self, descriptors: Array, nearest: int = 1, kinds: NDArray[np.uint8] | None = None) -> NDArray[np.int32]:
        """Return the ``nearest`` closest words of each descriptor, closest first, int32 (N, nearest).

        ``kinds``, uint8 (N,), is the kind of features of each; None is the first kind for all.

        Of words at equal distance, the one with the lower number comes first. With more than 16,384 words, only those
        in the nearest cells of a coarse partition are searched: this is twenty times faster, but a few descriptors in a
        hundred get one of the next closest words; always the same one.

        Raises:
            CodebookError: the descriptors do not have the codebook's dimension, or are not finite.
        """
        if descriptors.ndim != 2 or descriptors.shape[1] != self.dim:
            raise CodebookError(
                f"descriptors of shape {descriptors.shape} do not fit a codebook of {self.dim} dimensions"
            )
        if descriptors.dtype.kind != "f":
            raise CodebookError(f"descriptors must be floating-point numbers, not {descriptors.dtype}")
        fewest = min(part.num_words for part in self._parts) if self.kinds > 1 else self.num_words
        if not 1 <= nearest <= fewest:
            raise CodebookError(f"cannot assign {nearest} words from a codebook of {fewest}")
        if len(descriptors) == 0:
            return np.zeros((0, nearest), np.int32)
        if self.kinds > 1:
            return self._assign_by_kind(descriptors, nearest, kinds)
        _, words = self._search.search(np.ascontiguousarray(descriptors, np.float32), nearest)
        if words.min() < 0:  # faiss returns -1 if no distance is finite
            raise CodebookError("descriptors must be finite, and so must their squares in float32")
        return np.asarray(words, np.int32)

    def _assign_by_kind(self, descriptors: Array, nearest: int, kinds: NDArray[np.uint8] | None) -> NDArray[np.int32]:
        if kinds is None or len(kinds) != len(descriptors) or kinds.max(initial=0) >= self.kinds:
            raise CodebookError(f"each descriptor must be of one of the {self.kinds} kinds of the codebook's features")
        words = np.empty((len(descriptors), nearest), np.int32)
        for kind, (start, part) in enumerate(zip(self.starts, self._parts, strict=True)):
            words[kinds == kind] = start + part.assign(descriptors[kinds == kind], nearest)
        return words

    def centre(self, descriptors: Array, words: NDArray[np.int32]) -> tuple[Array, Array | None]:
        """Return the two terms of the residuals ``P x - o(c)`` of descriptors x and their words c.

        ``P`` is the projection and ``o(c)`` the median, or by default the identity and the centroid: ``x - q(x)``.

        Returns:
            projected, float32 (N, E), and origins, float32 (C, E): a residual is ``projected[i] - origins[words[i]]``.
            The origins are None if ``projected`` has the residuals already.
        """
        if self.medians is not None:
            return self.project(descriptors), self.medians
        if self.projection is None:
            return descriptors, self.centroids
        # subtracted before projection, so that a descriptor equal to its word has a residual of exactly zero
        return self.project(descriptors - self.centroids[words]), None

    def residuals(self, descriptors: Array, words: NDArray[np.int32]) -> Array:
        """Return ``P x - o(c)`` of each descriptor x and its word c, float32 (N, E); see :meth:`centre`."""
        projected, origins = self.centre(descriptors, words)
        return projected if origins is None else projected - origins[words]

    def save(self, path: Path) -> None:
        """Write the codebook, with its origin, as one safetensors file; an existing file is replaced atomically."""
        named = {"centroids": self.centroids, "projection": self.projection, "medians": self.medians}
        # safetensors writes the memory as it is, whatever the order of the axes.
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in named.items() if tensor is not None}
        if self.kinds > 1:
            tensors["starts"] = np.array(self.starts, np.int64)
        metadata = {"generator": GENERATOR}
        if self.origin is not None:
            metadata[_ORIGIN] = json.dumps(asdict(self.origin))
        with replacing(path) as part:
            part.write_bytes(save(tensors, metadata))

    @staticmethod
    def load(path: Path) -> Codebook:
        """Read a codebook written by :meth:`save`, or a plain ``.npy`` array of centroids (C, D).

        Raises:
            CodebookError: the file is missing or holds something else.
        """
        try:
            tensors, origin = ({"centroids": _read_npy(path)}, None) if path.suffix == ".npy" else _read_tensors(path)
        except Exception as error:  # of many types: both readers pass on errors of their parsers
            raise CodebookError(f"{path}: cannot be read as a codebook ({error})") from error
        for name, tensor in tensors.items():
            if tensor.dtype.isbuiltin == 2:  # a dtype that a package added to numpy, which other processes may lack
                raise CodebookError(
                    f"{path}: cannot be read as a codebook ({name} is of the type {tensor.dtype}, which numpy lacks)"
                )
        starts = _read_starts(path, tensors.pop("starts", np.zeros(1, np.int64)))
        if "centroids" not in tensors or set(tensors) - {"centroids", "projection", "medians"}:
            raise CodebookError(f"{path}: not a codebook; it holds the tensors {sorted(tensors)}")
        centroids = tensors["centroids"]
        if centroids.ndim != 2 or 0 in centroids.shape or not np.issubdtype(centroids.dtype, np.floating):
            raise CodebookError(f"{path}: centroids must be a float array (words, dimensions), not {centroids.shape}")
        num_words, dim = centroids.shape
        bits = len(tensors["projection"]) if "projection" in tensors and tensors["projection"].ndim else dim
        if not 1 <= bits <= dim:
            raise CodebookError(f"{path}: projection must have from 1 to {dim} rows, not {bits}")
        shapes = {"projection": (bits, dim), "medians": (num_words, bits)}
        for name, shape in shapes.items():
            if name in tensors and tensors[name].shape != shape:
                raise CodebookError(f"{path}: {name} must have the shape {shape}, not {tensors[name].shape}")
        with np.errstate(over="ignore"):  # overflow becomes infinite, which is rejected below
            arrays = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise CodebookError(f"{path}: it holds values that are not finite")
        if starts[-1] >= num_words:
            raise CodebookError(f"{path}: starts must be numbers of words, below {num_words}, not {starts}")
        return Codebook(**arrays, origin=_read_origin(path, origin), starts=starts)


def load_codebook(path: Path) -> Codebook:
    """Return :meth:`Codebook.load` of a file, cached in this process until the file is replaced.

    Raises:
        CodebookError: the file is missing or holds something else.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise CodebookError(f"{path}: cannot be read as a codebook ({error})") from error
    return _load_version(path, status.st_ino, status.st_mtime_ns)


@lru_cache(maxsize=2)
def _load_version(path: Path, inode: int, mtime_ns: int) -> Codebook:
    return Codebook.load(path)


def nearest_index(num_words: int, dim: int) -> Any:
    """Return an empty faiss index for words: exact, or with a coarse partition if there are many."""
    flat = faiss.IndexFlatL2(dim)
    if num_words <= _EXACT_WORDS:
        return flat
    cells = 1 << round(math.log2(4.0 * math.sqrt(num_words)))
    index = faiss.IndexIVFFlat(flat, dim, cells)
    index.cp.niter = 3  # fast rather than good: every process that opens the codebook trains it again
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 16
    index.nprobe = cells // 32
    return index


def _read_npy(path: Path) -> NDArray[Any]:
    with path.open("rb") as file:  # not np.load, which also opens archives
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], str | None]:
    """Return the tensors of a file, and the origin in its metadata."""
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get(_ORIGIN)  # noqa: SIM118


def _read_starts(path: Path, starts: NDArray[Any]) -> tuple[int, ...]:
    numbers = starts.tolist() if starts.dtype.kind in "iu" and starts.ndim == 1 else []
    if not numbers or numbers[0] != 0 or sorted(set(numbers)) != numbers:
        raise CodebookError(f"{path}: starts must be whole numbers that ascend from 0, not {starts}")
    return tuple(numbers)


def _read_origin(path: Path, text: str | None) -> Origin | None:
    if text is None:
        return None
    try:
        record = json.loads(text)
        origin = Origin(**{field.name: record[field.name] for field in fields(Origin)})
    except (ValueError, TypeError, KeyError) as error:
        raise CodebookError(f"{path}: its origin cannot be read ({error!r})") from error
    if not isinstance(origin.features, str):
        raise CodebookError(f"{path}: its origin must name the features, not {origin.features!r}")
    return origin

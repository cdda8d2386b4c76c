"""Read the ground truth of Revisited Oxford and Paris in its three formats.

The formats are the authors' ``.pkl`` and ``.mat``, and JSON with the same fields: ``imlist`` and ``qimlist``, names
of database and query pictures without folder and ending; ``gnd``, for each query ``bbx`` (x1, y1, x2, y2 in
pixels) and ``easy``, ``hard``, ``junk`` (indices into ``imlist``, which start at 1 in the ``.mat``).
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from d2r.boxes import Boxes
from d2r.errors import D2RError
from d2r.support.files import display_path

GROUND_TRUTH_SUFFIXES: Final = (".json", ".pkl", ".mat")
"""Endings of ground-truth files, in the search order of :func:`find_ground_truth`."""

_FIELDS: Final = ("imlist", "qimlist", "gnd")
_LABELS: Final = ("easy", "hard", "junk")


class GroundTruthError(D2RError, ValueError):
    """A ground-truth file that cannot be used; ``str(error)`` names the file, the field and what is wrong.

    Attributes:
        name: the file's path.
        reason: the field and what is wrong with it, without the name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The ground truth of a Revisited data set with N database pictures and Q queries.

    Attributes:
        images: N names of database pictures, without folder and ending.
        queries: Q names of query pictures; they are not in the database.
        boxes: float32 (Q, 4), the query box in each query picture.
        easy: Q arrays int64, indices of the database pictures that show it clearly.
        hard: Q arrays int64, indices of those that show it under difficult conditions.
        junk: Q arrays int64, indices of those that show too little of it to be judged. The three do not overlap.
    """

    images: tuple[str, ...]
    queries: tuple[str, ...]
    boxes: Boxes
    easy: tuple[NDArray[np.int64], ...]
    hard: tuple[NDArray[np.int64], ...]
    junk: tuple[NDArray[np.int64], ...]


def find_ground_truth(folder: Path) -> Path | None:
    """Return the ``gnd_*`` file of a data set's folder, or None: JSON before ``.pkl`` before ``.mat``."""
    for suffix in GROUND_TRUTH_SUFFIXES:
        for path in sorted(folder.glob(f"gnd_*{suffix}")):
            return path
    return None


def revisited_picture_path(folder: Path, name: str) -> Path:
    """Return the path of a picture of a Revisited data set: ``folder/jpg/name.jpg``."""
    return folder / "jpg" / f"{name}.jpg"


def read_ground_truth(path: Path) -> GroundTruth:
    """Read a ground-truth file; the content tells the format, or else the ending.

    Nothing in the file is executed: a pickle may hold only plain containers, numbers, strings and numpy arrays.

    Raises:
        GroundTruthError: the file cannot be read, its format is unknown, or a field is missing or malformed.
    """
    name = display_path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise GroundTruthError(name, f"cannot be read: {error.strerror or error}") from error
    match _format(data, path.suffix.lower()):
        case ".json":
            fields, base = _load_json(data, name), 0
        case ".pkl":
            fields, base = _load_pickle(data, name), 0
        case ".mat":
            fields, base = _load_mat(path, name), 1
        case _:
            raise GroundTruthError(name, "neither JSON, nor a pickle, nor a MATLAB file")
    return _parse(fields, base, name)


def _format(data: bytes, suffix: str) -> str:
    if data.lstrip()[:1] == b"{":
        return ".json"
    if data[:1] == pickle.PROTO:  # every pickle since protocol 2 begins with it
        return ".pkl"
    if data.startswith((b"MATLAB", b"\x89HDF")):
        return ".mat"
    return suffix


def _load_json(data: bytes, name: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise GroundTruthError(name, f"damaged JSON ({error})") from error


def _load_pickle(data: bytes, name: str) -> Any:
    try:
        # latin1 keeps arrays and strings pickled by Python 2 unchanged
        return _PlainUnpickler(io.BytesIO(data), encoding="latin1").load()
    except _RefusedError as error:
        raise GroundTruthError(name, str(error)) from error
    except Exception as error:  # a damaged pickle may raise anything
        raise GroundTruthError(name, f"damaged pickle ({error or type(error).__name__})") from error


def _load_mat(path: Path, name: str) -> Any:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise GroundTruthError(name, "reading MATLAB files needs scipy: pip install scipy") from error
    try:
        return loadmat(str(path), appendmat=False, simplify_cells=True)
    except NotImplementedError as error:
        raise GroundTruthError(name, "MATLAB format 7.3 is not supported; save it with -v7") from error
    except Exception as error:  # a damaged file may raise anything
        raise GroundTruthError(name, f"damaged MATLAB file ({error or type(error).__name__})") from error


class _RefusedError(pickle.UnpicklingError):
    """A pickle that needs more than plain data."""


def _new_array(*_: object) -> NDArray[Any]:
    """Stand in for numpy's function: return an empty array, whose shape, type and data the pickle sets next."""
    return np.empty(0, np.int8)


def _array_from_bytes(buffer: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)


def _scalar_from_bytes(dtype: Any, buffer: Any) -> Any:
    return np.frombuffer(buffer, dtype=dtype)[0]


def _bytes_from_text(text: str, encoding: str) -> bytes:
    """Stand in for ``_codecs.encode``, with which old pickle protocols write an array's bytes as text."""
    if encoding != "latin1":
        raise _RefusedError(f"the pickle asks for the codec {encoding!r}; it was not run")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Stand in for ``bytes``, which old pickle protocols call without arguments for an empty array's bytes."""
    return b""


# What pickles of plain containers, numbers, strings and numpy arrays refer to by name.
_ADMITTED: Final[dict[str, object]] = {
    "builtins.bytes": _no_bytes,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "_codecs.encode": _bytes_from_text,
    "numpy.dtype": np.dtype,
    "numpy.ndarray": None,  # only an argument of _reconstruct
    "numpy.core.multiarray._reconstruct": _new_array,
    "numpy.core.multiarray.scalar": _scalar_from_bytes,
    "numpy.core.numeric._frombuffer": _array_from_bytes,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        asked = f"{module}.{name}"
        # the names in numpy 2 and Python 2
        known = asked.replace("numpy._core.", "numpy.core.").replace("__builtin__.", "builtins.")
        if known not in _ADMITTED:
            raise _RefusedError(
                f"the pickle asks for {asked}, which was not run: "
                "only plain containers, numbers, strings and numpy arrays are read"
            )
        return _ADMITTED[known]


def _parse(fields: Any, base: int, name: str) -> GroundTruth:
    if not isinstance(fields, dict):
        raise GroundTruthError(name, f"holds a {type(fields).__name__}, not the fields {', '.join(_FIELDS)}")
    for field in _FIELDS:
        if field not in fields:
            raise GroundTruthError(name, f"{field}: it is missing")
    images = _names(fields["imlist"], "imlist", name)
    queries = _names(fields["qimlist"], "qimlist", name)
    entries = _list(fields["gnd"])
    if entries is None or len(entries) != len(queries):
        found = "not a list" if entries is None else f"{len(entries)} entries"
        raise GroundTruthError(name, f"gnd: {found}, where qimlist has {len(queries)} queries")

    boxes = np.empty((len(queries), 4), np.float32)
    labels: dict[str, list[NDArray[np.int64]]] = {label: [] for label in _LABELS}
    for number, entry in enumerate(entries):
        where = f"gnd[{number}]"
        if not isinstance(entry, dict):
            raise GroundTruthError(name, f"{where}: a {type(entry).__name__}, not fields")
        for field in ("bbx", *_LABELS):
            if field not in entry:
                raise GroundTruthError(name, f"{where}.{field}: it is missing")
        boxes[number] = _box(entry["bbx"], f"{where}.bbx", name)
        for label in _LABELS:
            labels[label].append(_indices(entry[label], base, len(images), f"{where}.{label}", name))
        judged = np.concatenate([labels[label][-1] for label in _LABELS])
        if len(np.unique(judged)) != len(judged):
            raise GroundTruthError(name, f"{where}: a picture is in two of easy, hard and junk, or twice in one")
    return GroundTruth(images, queries, boxes, *(tuple(labels[label]) for label in _LABELS))


def _list(value: Any) -> Sequence[Any] | None:
    """Return the items of a list, tuple or array, or None; scipy returns a list of one item as the item."""
    if isinstance(value, str | dict):
        return [value]
    if isinstance(value, np.ndarray):
        return list(np.atleast_1d(value))
    return value if isinstance(value, list | tuple) else None


def _names(value: Any, field: str, name: str) -> tuple[str, ...]:
    items = _list(value)
    if not items:
        raise GroundTruthError(name, f"{field}: not a list of picture names, or an empty one")
    for number, item in enumerate(items):
        # the name becomes a path: it must stay in the folder of the pictures
        if not isinstance(item, str) or item in ("", ".", "..") or any(sign in item for sign in "/\\\0"):
            raise GroundTruthError(name, f"{field}[{number}]: {item!r} is not the name of a picture")
    if len(set(items)) != len(items):
        raise GroundTruthError(name, f"{field}: it names a picture twice")
    return tuple(str(item) for item in items)


def _numbers(value: Any) -> NDArray[np.float64] | None:
    """Return finite numbers as float64 (N,), or None for anything else."""
    try:
        array = np.atleast_1d(np.asarray(value))
    except ValueError:  # a ragged list
        return None
    if array.size == 0 and array.dtype.kind in "iufO":
        return np.empty(0)
    if array.dtype.kind not in "iuf" or array.ndim != 1 or not np.isfinite(array).all():
        return None
    return array.astype(np.float64)


def _box(value: Any, field: str, name: str) -> NDArray[np.float64]:
    box = _numbers(value)
    if box is None or box.shape != (4,) or (box[2:] <= box[:2]).any():
        raise GroundTruthError(name, f"{field}: {value!r} is not x1, y1, x2, y2 with x1 < x2 and y1 < y2")
    return box


def _indices(value: Any, base: int, count: int, field: str, name: str) -> NDArray[np.int64]:
    numbers = _numbers(value)
    if numbers is None or (numbers != np.rint(numbers)).any():
        raise GroundTruthError(name, f"{field}: not a list of whole numbers")
    wrong = numbers[(numbers < base) | (numbers >= base + count)]
    if len(wrong):
        raise GroundTruthError(
            name,
            f"{field}: index {wrong[0]:.0f} is outside {base} to {base + count - 1}, the pictures of imlist",
        )
    return numbers.astype(np.int64) - base

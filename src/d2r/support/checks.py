"""Checks of the input of compiled functions, which index arrays without bounds checks.

Each check is a pass or two over an array of numbers that comes from outside.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def check_array(name: str, array: NDArray[Any], dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    """Raise ``ValueError`` unless an array has the given dtype and shape."""
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name} must be {np.dtype(dtype)} {shape}, not {array.dtype} {array.shape}")


def check_numbers(name: str, numbers: NDArray[Any], count: int, limit: int) -> None:
    """Raise ``ValueError`` unless numbers are int32 (count,) in [0, limit); ``limit`` is at most 2^31."""
    check_array(name, numbers, np.int32, (count,))
    if count and int(numbers.view(np.uint32).max()) >= limit:  # as uint32, a negative number is above any limit
        raise ValueError(f"{name} must be from 0 to {limit - 1:,}, not from {numbers.min():,} to {numbers.max():,}")


def check_starts(name: str, starts: NDArray[Any], parts: int, rows: int) -> None:
    """Raise ``ValueError`` unless ``starts``, int64 (parts + 1,), divide ``rows`` rows into consecutive parts."""
    check_array(name, starts, np.int64, (parts + 1,))
    if starts[0] != 0 or starts[-1] != rows or (starts[1:] < starts[:-1]).any():
        raise ValueError(f"{name} must ascend from 0 to {rows:,}")

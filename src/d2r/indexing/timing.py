"""Measure the stages of describing pictures, in the process that does the work."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

_seconds: defaultdict[str, float] = defaultdict(float)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Add the time of a block to a stage of this process."""
    started = time.perf_counter()
    try:
        yield
    finally:
        _seconds[name] += time.perf_counter() - started


def taken() -> dict[str, float]:
    """Return the seconds of each stage since the last call."""
    seconds = dict(_seconds)
    _seconds.clear()
    return seconds

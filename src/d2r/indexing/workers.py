"""Workers that describe pictures for an index: processes of this machine; for a cluster see :mod:`d2r.cluster`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from d2r.index import PictureState
from d2r.indexing.entry import Outcome, Recipe, enter_file, prepare_worker, sample_file
from d2r.sources import PictureFile
from d2r.support.processes import WorkerDied, default_workers, map_in_processes

Sampled: TypeAlias = tuple[PictureState, list[NDArray[np.float32]] | None]
"""The result of :func:`d2r.indexing.entry.sample_file`."""


class Describers(Protocol):
    """Describes many pictures at once.

    Both methods consume the files only as fast as they are processed, and yield each file with its result, in order. A
    picture that kills the process that reads it yields :class:`~d2r.support.processes.WorkerDied`.
    """

    def samples(
        self, recipe: Recipe, max_pixels: int, staging: Path | None, quota: int, files: Iterable[PictureFile]
    ) -> Iterator[tuple[PictureFile, Sampled | WorkerDied]]:
        """Call :func:`d2r.indexing.entry.sample_file` for each file."""
        ...

    def entries(
        self, recipe: Recipe, max_pixels: int, staging: Path, codebook: Path, files: Iterable[PictureFile]
    ) -> Iterator[tuple[PictureFile, Outcome | WorkerDied]]:
        """Call :func:`d2r.indexing.entry.enter_file` for each file."""
        ...


@dataclass(frozen=True)
class LocalWorkers:
    """Worker processes of this machine.

    Attributes:
        count: number of processes; None is one per processor, 0 does everything in this process.
        prepare: called once in every process; picklable.
    """

    count: int | None = None
    prepare: Callable[[], None] = prepare_worker

    def samples(
        self, recipe: Recipe, max_pixels: int, staging: Path | None, quota: int, files: Iterable[PictureFile]
    ) -> Iterator[tuple[PictureFile, Sampled | WorkerDied]]:
        """See :meth:`Describers.samples`."""
        function = partial(sample_file, recipe, max_pixels, staging, quota)
        return map_in_processes(function, files, workers=self._processes(), prepare=self.prepare)

    def entries(
        self, recipe: Recipe, max_pixels: int, staging: Path, codebook: Path, files: Iterable[PictureFile]
    ) -> Iterator[tuple[PictureFile, Outcome | WorkerDied]]:
        """See :meth:`Describers.entries`."""
        function = partial(enter_file, recipe, max_pixels, staging, codebook)
        return map_in_processes(function, files, workers=self._processes(), prepare=self.prepare)

    def _processes(self) -> int:
        return default_workers() if self.count is None else self.count


def describers(workers: int | Describers | None) -> Describers:
    """Return the given workers, or :class:`LocalWorkers` with the given number of processes."""
    return LocalWorkers(workers) if workers is None or isinstance(workers, int) else workers

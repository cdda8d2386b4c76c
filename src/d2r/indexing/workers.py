"""What describes pictures for an index: the processes of this machine here, a cluster in :mod:`d2r.cluster`."""

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
"""What :func:`d2r.indexing.entry.sample_file` returns."""


class Describers(Protocol):
    """Describes many pictures at once.

    Both methods read the files only as fast as they are worked on, and yield each with what became of it, in their
    order. A picture that kills the process which reads it yields :class:`~d2r.support.processes.WorkerDied`.
    """

    def samples(
        self, recipe: Recipe, max_pixels: int, staging: Path | None, quota: int, files: Iterable[PictureFile]
    ) -> Iterator[tuple[PictureFile, Sampled | WorkerDied]]:
        """Do :func:`d2r.indexing.entry.sample_file` of each file."""
        ...

    def entries(
        self, recipe: Recipe, max_pixels: int, staging: Path, codebook: Path, files: Iterable[PictureFile]
    ) -> Iterator[tuple[PictureFile, Outcome | WorkerDied]]:
        """Do :func:`d2r.indexing.entry.enter_file` of each file."""
        ...


@dataclass(frozen=True)
class LocalWorkers:
    """Worker processes of this machine.

    Attributes:
        count: of them; None is one a processor, 0 does everything in this process.
        prepare: picklable; called once in every process.
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
    """Return what describes pictures: that which is given, or so many processes, see :class:`LocalWorkers`."""
    return LocalWorkers(workers) if workers is None or isinstance(workers, int) else workers

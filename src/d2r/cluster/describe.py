"""Describe pictures on a cluster, as a Ray Data pipeline.

Ray Data keeps as much in flight as its object store has room for and no more, starts again what a lost machine was
doing, and hands the results on in order. Each of its actors has a process of its own for what decodes pictures, so
that one that makes a decoder crash costs that picture alone.

With a detector and GPUs there are three stages: processors decode and shrink, GPUs look for landmarks, processors
describe and aggregate. Otherwise one stage does everything: features are many times larger than pictures, and would
only travel.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from d2r.asmk.codebook import Codebook
from d2r.cluster.connect import accelerators, processors
from d2r.cluster.stages import DecodedPicture, FoundRegions, decode_picture, describe_decoded, find
from d2r.indexing.entry import Outcome, Recipe, prepare_worker, sample_file
from d2r.indexing.workers import Sampled
from d2r.regions import Detector, make_selector
from d2r.sources import PictureFile
from d2r.support.processes import WorkerDied, WorkerProcesses

if TYPE_CHECKING:
    import pyarrow

_T = TypeVar("_T")

_ROUND = 2048  # files a processor that one pipeline is given: the listing is never all in memory
_TASK = 16  # pictures at most that are lost and described again with a machine
_SHARE = 4  # tasks a processor at least, where there are few pictures
_GPU_BATCH = 32
_DECODED = 16  # processors that one has pictures decoded for; to describe one takes a hundred times as long


@dataclass(frozen=True)
class ClusterWorkers:
    """Describes pictures on the cluster that this process is connected to (:func:`d2r.cluster.connect.connected`).

    Every machine must be able to read the pictures by their paths, and have this package. Those that see the folder of
    the index share the descriptions of the sample through it; without, that sample is described twice.

    Attributes:
        detectors: GPUs that look for landmarks, when the regions come from a detector; None is all that the cluster
            has, 0 leaves that to the processors.
    """

    detectors: int | None = None

    def samples(
        self, recipe: Recipe, max_pixels: int, staging: Path | None, quota: int, files: Iterable[PictureFile]
    ) -> Iterator[tuple[PictureFile, Sampled | WorkerDied]]:
        """See :meth:`d2r.indexing.workers.Describers.samples`."""
        function = partial(_sample, recipe, max_pixels, staging, quota)
        return _in_rounds(lambda data, pool_size: _on_processors(data, function, pool_size), files)

    def entries(
        self, recipe: Recipe, max_pixels: int, staging: Path, codebook: Path, files: Iterable[PictureFile]
    ) -> Iterator[tuple[PictureFile, Outcome | WorkerDied]]:
        """See :meth:`d2r.indexing.workers.Describers.entries`."""
        selector = make_selector(recipe.regions)
        describing = partial(describe_decoded, recipe, max_pixels, staging, Codebook.load(codebook))
        gpus = accelerators() if self.detectors is None else self.detectors
        if not isinstance(selector, Detector) or gpus == 0 or processors() < 2:
            return _in_rounds(lambda data, pool_size: _on_processors(data, describing, pool_size), files)
        looking = partial(decode_picture, max_pixels, selector.network().side)

        def stages(data: Any, pool_size: int) -> Any:
            decoders = max(1, pool_size // _DECODED)
            seen = _on_processors(data, looking, decoders)
            found = seen.map_batches(
                _Finder, fn_constructor_args=(selector,), batch_size=_GPU_BATCH, batch_format="pyarrow",
                compute=_pool(gpus), num_cpus=0, num_gpus=1,
            )  # fmt: skip
            return _on_processors(found, describing, max(1, pool_size - decoders))

        return _in_rounds(stages, files)


def _sample(recipe: Recipe, max_pixels: int, staging: Path | None, quota: int, file: PictureFile) -> Sampled:
    # Kept only where this machine sees the folder: one that it made itself nobody would look into.
    return sample_file(recipe, max_pixels, staging if staging is not None and staging.is_dir() else None, quota, file)


def _in_rounds(stages: Callable[[Any, int], Any], files: Iterable[PictureFile]) -> Iterator[tuple[PictureFile, Any]]:
    """Run files through the stages of a pipeline, a pipeline for so many at a time; yield them with their results."""
    import ray

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells of each pipeline, and of bars it does not show
    source = iter(files)
    cores = processors()
    while chunk := list(islice(source, _ROUND * cores)):
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        context.execution_options.verbose_progress = False
        with ray.data.DataContext.current(context):
            tasks = max(len(chunk) // _TASK, min(len(chunk), _SHARE * cores))
            rows = [{"file": file, "result": file} for file in map(pickle.dumps, chunk)]
            data = stages(ray.data.from_items(rows, override_num_blocks=tasks), min(cores, len(chunk)))
        for table in data.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in table.to_pylist():
                result = pickle.loads(row["result"])
                if isinstance(result, _Raised):
                    raise result.error
                yield pickle.loads(row["file"]), result


def _table(rows: Sequence[tuple[bytes, bytes]]) -> pyarrow.Table:
    import pyarrow

    schema = pyarrow.schema([("file", pyarrow.large_binary()), ("result", pyarrow.large_binary())])
    return pyarrow.table([list(column) for column in zip(*rows, strict=True)], schema=schema)


def _on_processors(data: Any, function: Callable[[Any], Any], pool_size: int) -> Any:
    """Return a data set with ``function(result)`` in place of each row's result, worked out by a pool of actors."""
    import ray

    function_ref = ray.put(pickle.dumps(function))  # once, and not once an actor: it may hold a large codebook
    return data.map_batches(
        _Worker, fn_constructor_args=([function_ref],), batch_size=None, batch_format="pyarrow",
        compute=_pool(pool_size), num_cpus=1,
    )  # fmt: skip


def _pool(pool_size: int) -> Any:
    import ray

    return ray.data.ActorPoolStrategy(min_size=1, max_size=pool_size, initial_size=pool_size)


@dataclass(frozen=True)
class _Raised:
    """Stands for the result of a function that raised: what is wrong is not the picture."""

    error: Exception


class _Worker:
    """An actor, and the process that it hands one picture after the other."""

    def __init__(self, function: list[Any]) -> None:
        import ray

        self._process = WorkerProcesses(1, partial(_begin, ray.get(function[0])))

    def __call__(self, batch: pyarrow.Table) -> Iterator[pyarrow.Table]:
        for row in batch.to_pylist():
            yield _table([(row["file"], self._result(row["result"]))])

    def _result(self, given: bytes) -> bytes:
        try:
            return self._process.submit(_call, given).result()
        except WorkerDied as died:
            return pickle.dumps(died)
        except Exception as error:  # of the process, which cannot begin
            return pickle.dumps(_Raised(error))


_function: Callable[[Any], Any] | None = None  # of this process


def _begin(function: bytes) -> None:
    global _function
    prepare_worker()
    _function = pickle.loads(function)


def _call(given: bytes) -> bytes:
    assert _function is not None
    value = pickle.loads(given)
    if isinstance(value, Outcome | WorkerDied | _Raised):
        return given  # an earlier stage has settled it
    try:
        return pickle.dumps(_function(value))
    except Exception as error:  # raised again where the pipeline is read
        return pickle.dumps(_Raised(error))


class _Finder:
    """An actor with a GPU, which runs the network of a detector over several pictures at once."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        rows = batch.to_pylist()
        values = [pickle.loads(row["result"]) for row in rows]
        seen = [value for value in values if isinstance(value, DecodedPicture)]
        try:
            found: Iterator[FoundRegions | _Raised] = iter(find(self._detector, seen))
        except Exception as error:
            found = iter([_Raised(error)] * len(seen))
        results = [next(found) if isinstance(value, DecodedPicture) else value for value in values]
        return _table([(row["file"], pickle.dumps(result)) for row, result in zip(rows, results, strict=True)])

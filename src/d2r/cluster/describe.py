"""Describe pictures on a cluster, as a Ray Data pipeline.

Ray Data keeps no more in flight than its object store can hold, repeats the work of a lost machine, and returns the
results in order. Each of its actors decodes pictures in a process of its own, so that a picture that crashes a decoder
costs only itself.

With a detector and GPUs there are three stages: processors decode and shrink, GPUs detect landmarks, processors extract
features and aggregate. Otherwise one stage does everything: features are many times larger than pictures, and further
stages would only move them.
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

_ROUND = 2048  # files per processor in one pipeline, so that the listing is never all in memory
_TASK = 16  # pictures per task; if a machine is lost, its tasks are repeated
_SHARE = 4  # minimum tasks per processor, if there are few pictures
_GPU_BATCH = 32
_DECODED = 16  # processors per one that decodes; describing a picture takes a hundred times as long


@dataclass(frozen=True)
class ClusterWorkers:
    """Describes pictures on the cluster that this process is connected to (:func:`d2r.cluster.connect.connected`).

    Every machine must have this package and be able to read the pictures by their paths. Machines that can read the
    folder of the index share the descriptions of the sample through it; otherwise the sample is described twice.

    Attributes:
        detectors: number of GPUs that run the detector, if the regions come from one; None is all of the cluster's, 0
            runs it on processors.
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
    # Kept only if this machine sees the folder: nobody would read one that it made itself.
    return sample_file(recipe, max_pixels, staging if staging is not None and staging.is_dir() else None, quota, file)


def _in_rounds(stages: Callable[[Any, int], Any], files: Iterable[PictureFile]) -> Iterator[tuple[PictureFile, Any]]:
    """Run files through the stages of a pipeline, a new one for each chunk; yield them with their results."""
    import ray

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it logs each pipeline, and hidden progress bars
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
    """Return a data set with ``function(result)`` instead of each row's result, computed by a pool of actors."""
    import ray

    function_ref = ray.put(pickle.dumps(function))  # once, instead of per actor: it may hold a large codebook
    return data.map_batches(
        _Worker, fn_constructor_args=([function_ref],), batch_size=None, batch_format="pyarrow",
        compute=_pool(pool_size), num_cpus=1,
    )  # fmt: skip


def _pool(pool_size: int) -> Any:
    import ray

    return ray.data.ActorPoolStrategy(min_size=1, max_size=pool_size, initial_size=pool_size)


@dataclass(frozen=True)
class _Raised:
    """Stands for the result of a function that raised: the picture is not the cause."""

    error: Exception


class _Worker:
    """An actor with a process to which it passes one picture after the other."""

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
        except Exception as error:  # the process does not start
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

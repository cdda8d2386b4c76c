"""Global descriptors (:mod:`benchmarks.ablation.pooled`) of a benchmark: alone, as the first stage, with R-ASMK*."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeAlias

import faiss
import numpy as np
from benchmarks.ablation.pooled import gem, learn_whitening, pool_pictures, rmac
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from d2r.boxes import Boxes, pixel_slices
from d2r.describe import Description
from d2r.evaluate.benchmark import Benchmark
from d2r.evaluate.extraction import map_pictures
from d2r.features import Delf, make_extractor
from d2r.images import decode_image, shrink
from d2r.indexing.entry import Progress, Recipe, read_description
from d2r.support.files import display_path, read_bytes, replacing

DIM: Final = 256
"""Values of a whitened descriptor."""
SHRINKAGE: Final = 0.1
"""See :func:`benchmarks.ablation.pooled.learn_whitening`."""
WEIGHT: Final = 0.05
"""Of the global similarity in the sum: of seven from 0.02 to 3 the best on the medium clutter set, verified."""
FIRST_RANKS: Final = 60
"""How little the first ranks differ in late fusion, as Cormack, Clarke and Buettcher (SIGIR 2009) chose."""

_Job: TypeAlias = "tuple[Path, Boxes]"


@dataclass(frozen=True)
class Look:
    """How whole pictures are compared.

    Attributes:
        pooling: pooling of the map.
        regions: whether all regions are stored; the score of a picture is then the best of them and of the whole.
        mix: combination with R-ASMK*: none; the sum of the similarities; or late fusion, the sum of reciprocal ranks.
    """

    pooling: Literal["gem", "rmac"]
    regions: bool = False
    mix: Literal["alone", "sum", "ranks"] = "alone"

    @property
    def alone(self) -> bool:
        """Whether only this comparison counts."""
        return self.mix == "alone"


@dataclass(frozen=True, eq=False)
class GlobalDescriptors:
    """The global descriptors of a picture, of unit length, or zero if it has no features.

    Attributes:
        gem: float32 (R, C), of each region, row 0 the whole picture or the query box.
        rmac: float32 (1, C), of row 0.
    """

    gem: NDArray[np.float32]
    rmac: NDArray[np.float32]


class GlobalSearch:
    """A database of global descriptors, whitened as learned from itself, and searched by inner product.

    Args:
        look: the descriptors to use.
        pictures: of the database.
        queries: all queries to score.
    """

    def __init__(self, look: Look, pictures: Sequence[GlobalDescriptors], queries: Sequence[GlobalDescriptors]) -> None:
        rows = [one.rmac if look.pooling == "rmac" else one.gem if look.regions else one.gem[:1] for one in pictures]
        asked = np.concatenate([one.rmac if look.pooling == "rmac" else one.gem[:1] for one in queries])
        every = np.concatenate(rows)
        whitening = learn_whitening(every[every.any(axis=1)], DIM, SHRINKAGE)
        self._starts = np.cumsum([0, *(len(one) for one in rows[:-1])])
        self._queries = whitening.apply(asked)
        self._index = faiss.IndexFlatIP(self._queries.shape[1])
        self._index.add(whitening.apply(every))

    @property
    def descriptor_bytes(self) -> int:
        """Size of the database's descriptors in bytes."""
        return 4 * int(self._index.ntotal) * int(self._index.d)

    @property
    def descriptors(self) -> int:
        """Number of descriptors in the database."""
        return int(self._index.ntotal)

    def scores(self, query: int) -> NDArray[np.float32]:
        """Return the similarity of a query to every picture, float32 (N,), in [-1, 1]; 0 if it has no features."""
        products, rows = self._index.search(self._queries[query : query + 1], self._index.ntotal)
        values = np.empty(self._index.ntotal, np.float32)
        values[rows[0]] = products[0]
        return np.asarray(np.maximum.reduceat(values, self._starts), np.float32)


def mixed(local: NDArray[np.float32], seen: NDArray[np.float32], look: Look) -> NDArray[np.float64]:
    """Return the score of every picture by both similarities, float64 (N,).

    ``local + w max(seen, 0)^3``, or with late fusion ``1 / (60 + rank of local) + 1 / (60 + rank of seen)``. The cube
    is that of R-ASMK*'s selectivity: without it the noise of different pictures outweighs matching words.

    Args:
        local: float32 (N,), of R-ASMK*, at most 1; 0 if a picture shares no word with the query.
        seen: float32 (N,), of global descriptors.
        look: how to combine them.
    """
    if look.mix == "sum":
        return local.astype(np.float64) + WEIGHT * np.maximum(seen, 0.0) ** 3
    return _reciprocal_ranks(local) + _reciprocal_ranks(seen)


def _reciprocal_ranks(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] != 0]
    values = np.zeros(len(scores))
    values[order] = 1.0 / (FIRST_RANKS + 1 + np.arange(len(order)))
    return values


def without_map(features: str) -> str | None:
    """Return why an extractor gives no global descriptors, or None if it does.

    Args:
        features: specification of the extractor.
    """
    extractor = make_extractor(features)
    if not isinstance(extractor, Delf):
        return f"{features} has no network whose map could be pooled"
    network = extractor.network()
    if network.channels is None:
        return f"{display_path(network.path)} does not give the backbone's map; export it again (`d2r train export`)"
    return None


def pool_benchmark(
    benchmark: Benchmark,
    recipe: Recipe,
    files: Sequence[Path | None],
    queries: Sequence[Description],
    folder: Path,
    *,
    workers: int,
    max_pixels: int,
    progress: Progress,
) -> tuple[list[GlobalDescriptors], list[GlobalDescriptors]]:
    """Return the global descriptors of the pictures and of the queries of a benchmark.

    Args:
        benchmark: the data set.
        recipe: how they were described; its extractor outputs a map, see :func:`without_map`.
        files: description of each picture, whose regions are pooled too; None for one that could not be used.
        queries: description of each query; only its box is pooled.
        folder: cache of descriptors, by the content of the picture and its regions.
        workers: processes.
        max_pixels: see :func:`d2r.images.read_image`.
        progress: called with the progress; the stage is "pool".

    Raises:
        BenchmarkError: the process that read a picture died.
        FeatureError: see :func:`benchmarks.ablation.pooled.pool_pictures`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    usable = [(path, file) for path, file in zip(benchmark.database, files, strict=True) if file is not None]
    jobs = [(path, read_description(file).boxes) for path, file in usable]
    jobs += [(query.path, found.boxes[:1]) for query, found in zip(benchmark.queries, queries, strict=True)]
    pool = partial(_pool, recipe, max_pixels, folder)
    found = map_pictures(pool, jobs, lambda job: job[0], "pool", workers=workers, progress=progress)
    nothing = GlobalDescriptors(np.zeros_like(found[0].gem[:1]), np.zeros_like(found[0].rmac))
    rest = iter(found)
    pictures = [nothing if file is None else next(rest) for file in files]
    return pictures, list(rest)


def _pool(recipe: Recipe, max_pixels: int, folder: Path, job: _Job) -> GlobalDescriptors:
    path, boxes = job
    data = read_bytes(str(path))
    file = folder / f"{hashlib.blake2b(data + boxes.tobytes(), digest_size=16).hexdigest()}.safetensors"
    if file.exists():
        return GlobalDescriptors(**load_file(file))
    extractor = make_extractor(recipe.features)
    assert isinstance(extractor, Delf)
    image = decode_image(data, name=display_path(path), max_pixels=max_pixels)
    crops = [np.ascontiguousarray(shrink(image[pixel_slices(box)], recipe.max_side)) for box in boxes]
    network = extractor.network()
    whole = pool_pictures(network, crops[:1], (gem, rmac))
    regions = pool_pictures(network, crops[1:], (gem,))[0]
    made = GlobalDescriptors(np.concatenate([whole[0], regions]), whole[1])
    with replacing(file) as part:
        part.write_bytes(save({"gem": made.gem, "rmac": made.rmac}))
    return made

"""Describe the pictures of a benchmark once and cache that, so that ten methods need one extraction."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.codebook import load_codebook
from d2r.asmk.codes import LocalCodes
from d2r.asmk.kernels import Aggregated, assign
from d2r.boxes import Box
from d2r.describe import Description, assign_words, describe_query
from d2r.evaluate.benchmark import Benchmark, BenchmarkError, QueryPicture
from d2r.evaluate.methods import METHODS, describe_picture
from d2r.features import make_extractor, pinned_features
from d2r.images import read_image
from d2r.indexing.entry import Progress, Recipe, describe_file, keypoints_of, prepare_worker, read_description
from d2r.regions import RMAC, Detector, SelectiveSearch, Whole, make_selector, pinned_regions
from d2r.regions.rmac import rmac_boxes
from d2r.sources import picture_file
from d2r.support.files import display_path
from d2r.support.processes import WorkerDied, map_in_processes
from d2r.verify.keypoints import Keypoints

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")

_VERSION = 3  # of the cached descriptions; 3 has regions as views of the picture


@dataclass(frozen=True)
class Extraction:
    """The cached descriptions of a benchmark.

    Attributes:
        recipe: how pictures were described.
        files: file with the description of each database picture; None if it could not be used.
        skipped: path and reason of each picture that could not be used.
        queries: description of each query.
    """

    recipe: Recipe
    files: tuple[Path | None, ...]
    skipped: tuple[tuple[str, str], ...]
    queries: tuple[Description, ...]


def extract(
    benchmark: Benchmark, recipe: Recipe, cache: Path, *, workers: int, max_pixels: int, progress: Progress
) -> Extraction:
    """Describe the pictures of a benchmark that are not in the cache yet, and its queries.

    Args:
        benchmark: the data set.
        recipe: how to describe pictures; each recipe has its own folder in the cache.
        cache: folder of descriptions, named by content and shared between benchmarks.
        workers: number of processes.
        max_pixels: see :func:`d2r.images.read_image`.
        progress: called with the stage, "describe" or "queries", the number done and the total.

    Raises:
        BenchmarkError: a query cannot be used.
    """
    # descriptions belong to a model, not to its name
    pinned = replace(recipe, regions=pinned_regions(recipe.regions), features=pinned_features(recipe.features))
    folder = cache / _folder_name(pinned)
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path | None] = []
    skipped = []
    describe = partial(_describe, pinned, max_pixels, folder)
    outcomes = map_in_processes(describe, benchmark.database, workers=workers, prepare=prepare_worker)
    for done, (path, outcome) in enumerate(outcomes, start=1):
        file = outcome if isinstance(outcome, Path) else None
        if file is None:
            died = isinstance(outcome, WorkerDied)
            skipped.append((display_path(path), f"the process that read it {outcome}" if died else str(outcome)))
        files.append(file)
        progress("describe", done, len(benchmark.database))
    if all(file is None for file in files):
        raise BenchmarkError(f"{benchmark.name}: no picture can be used: {skipped[0][0]}: {skipped[0][1]}")
    ask = partial(_describe_query, pinned, max_pixels)
    queries = map_pictures(
        ask, benchmark.queries, lambda query: query.path, "queries", workers=workers, progress=progress
    )
    return Extraction(recipe, tuple(files), tuple(skipped), tuple(queries))


def map_pictures(
    function: Callable[[_Item], _Made],
    items: Sequence[_Item],
    path_of: Callable[[_Item], Path],
    stage: str,
    *,
    workers: int,
    progress: Progress,
) -> list[_Made]:
    """Apply a function to pictures in worker processes.

    Args:
        function: applied to each item; picklable.
        items: the pictures, and what else the function needs.
        path_of: returns the file of an item.
        stage: the stage for ``progress``.
        workers: number of processes.
        progress: called with the stage, the number done and the total.

    Raises:
        BenchmarkError: the process that read a picture died.
    """
    found = []
    outcomes = map_in_processes(function, items, workers=workers, prepare=prepare_worker)
    for done, (item, made) in enumerate(outcomes, start=1):
        if isinstance(made, WorkerDied):
            raise BenchmarkError(f"{display_path(path_of(item))}: the process that read it {made}")
        found.append(made)
        progress(stage, done, len(items))
    return found


def sample_descriptors(
    files: Sequence[Path | None], kinds: int, limit: int, *, seed: int = 0
) -> tuple[list[NDArray[np.float32]], int]:
    """Return at most ``limit`` descriptors per kind of features, float32 (N, D), and the number of their pictures.

    Each description contributes the same number of random descriptors.
    """
    known = [file for file in files if file is not None]
    rng = np.random.default_rng(seed)
    chosen = [known[row] for row in rng.permutation(len(known))[: max(1, min(len(known), limit // 50))]]
    share = -(-limit // len(chosen))
    parts: list[list[NDArray[np.float32]]] = [[] for _ in range(kinds)]
    for file in chosen:
        for part, features in zip(parts, read_description(file).features.by_kind(kinds), strict=True):
            part.append(features.descriptors[rng.permutation(len(features))[:share]])
    every = [np.concatenate(part) for part in parts]
    return [one[rng.permutation(len(one))[:limit]] for one in every], len(chosen)


@dataclass(frozen=True)
class Stored:
    """What the methods store about one picture.

    Attributes:
        descriptors: aggregated descriptors by method.
        regions: number of regions that were used.
        keypoints: used by verification.
        local: local codes of the keypoints, used by query expansion.
        side: longer side of the picture, in pixels.
    """

    descriptors: dict[str, list[Aggregated]]
    regions: int
    keypoints: Keypoints
    local: LocalCodes
    side: int


def aggregate_pictures(
    files: Sequence[Path | None],
    codebook: Path,
    methods: Sequence[str],
    regions: str | None,
    verify_features: int,
    *,
    workers: int,
    progress: Progress,
) -> list[Stored]:
    """Aggregate every described picture with several methods.

    Args:
        files: files of descriptions; None for a picture without features.
        codebook: file of the visual words.
        methods: names in :data:`d2r.evaluate.methods.METHODS`.
        regions: specification of the regions to use among those described: the same selector with fewer regions; None
            uses all.
        verify_features: maximum number of features of the whole picture kept for verification.
        workers: number of processes.
        progress: called with the stage, "aggregate", the number done and the total.
    """
    function = partial(_aggregate, codebook, tuple(methods), regions, verify_features)
    stored = []
    for done, (_, one) in enumerate(
        map_in_processes(function, files, workers=workers, prepare=prepare_worker), start=1
    ):
        if isinstance(one, WorkerDied):
            raise BenchmarkError(f"the process that aggregated a picture {one}; is there memory left?")
        stored.append(one)
        progress("aggregate", done, len(files))
    return stored


def region_rows(description: Description, regions: str) -> NDArray[np.intp]:
    """Return the rows of a description's boxes that a selector with fewer regions would have chosen.

    Args:
        description: made with the same kind of selector and at least as many regions.
        regions: specification: "whole", "rmac:levels=l", "selective-search:top=n", or the detector with a threshold at
            least as high and a ``top`` at most as high.

    Raises:
        BenchmarkError: the specification has another kind of selector.
    """
    selector = make_selector(regions)
    boxes = description.boxes
    if isinstance(selector, Whole):
        return np.zeros(1, np.intp)
    if isinstance(selector, RMAC):
        return np.arange(1 + len(rmac_boxes(description.width, description.height, selector.levels)))
    if isinstance(selector, SelectiveSearch):
        return np.arange(min(len(boxes), 1 + selector.top))
    if isinstance(selector, Detector):
        confident = np.flatnonzero(description.box_scores[1:] >= selector.threshold)[: selector.top]
        return np.concatenate([np.zeros(1, np.intp), 1 + confident])
    raise BenchmarkError(f"{regions}: its regions cannot be taken from those described")


def _folder_name(recipe: Recipe) -> str:
    """Return a readable name that is unique to the recipe and the format of descriptions."""
    text = repr((_VERSION, recipe.regions, recipe.features, recipe.max_side))
    readable = re.sub(r"[^a-z0-9.]+", "-", f"{recipe.regions} {recipe.features}".lower())
    return f"{readable[:60]}-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}"


def _describe(recipe: Recipe, max_pixels: int, folder: Path, path: Path) -> Path | str:
    """Return the file of a picture's description, or why there is none."""
    try:
        file = picture_file(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    state, description = describe_file(recipe, max_pixels, folder, file, keep=True)
    if description is None or state.digest is None:
        return state.problem or "it cannot be used"
    return folder / f"{state.digest.hex()}.safetensors"


def _describe_query(recipe: Recipe, max_pixels: int, query: QueryPicture) -> Description:
    box: Box | None = query.box
    image = read_image(query.path, max_pixels=max_pixels)
    return describe_query(image, box, make_extractor(recipe.features), max_side=recipe.max_side)


def _aggregate(
    codebook: Path, methods: Sequence[str], regions: str | None, verify_features: int, file: Path | None
) -> Stored:
    book = load_codebook(codebook)
    if file is None:
        nothing = assign(book, np.zeros((0, book.dim), np.float32))
        descriptors = {name: describe_picture(nothing, METHODS[name]) for name in methods}
        return Stored(descriptors, 1, Keypoints.empty(book.dim), LocalCodes.empty(book.bits), 1)
    description = read_description(file)
    if regions is not None:
        description = _with_regions(description, region_rows(description, regions))
    assigned = assign_words(book, description)
    descriptors = {name: describe_picture(assigned, METHODS[name]) for name in methods}
    keypoints, local = keypoints_of(description, assigned, book, verify_features)
    side = max(description.width, description.height)
    return Stored(descriptors, len(description.boxes), keypoints, local, side)


def _with_regions(description: Description, rows: NDArray[np.intp]) -> Description:
    """Return a description with only some of its regions."""
    used = np.isin(description.regions, rows)
    number = np.full(len(description.boxes), -1, np.int32)
    number[rows] = np.arange(len(rows))
    return replace(
        description,
        boxes=description.boxes[rows],
        box_scores=description.box_scores[rows],
        features=description.features.take(used),
        regions=number[description.regions[used]],
    )

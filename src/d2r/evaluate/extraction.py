"""Descriptions of a benchmark's pictures, made once and kept: ten methods cost one extraction."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from d2r.aggregate import Aggregated, assign
from d2r.boxes import Box
from d2r.build import Progress
from d2r.codebook import load_codebook
from d2r.describe import Description, describe_query
from d2r.evaluate.benchmark import Benchmark, BenchmarkError, QueryPicture
from d2r.evaluate.methods import METHODS, describe_picture
from d2r.features import make_extractor
from d2r.features import pinned_spec as pinned_features
from d2r.features.base import Features
from d2r.files import display_path
from d2r.images import read_image
from d2r.ingest import Recipe, describe_file, prepare_worker, read_description
from d2r.regions import RMAC, Detector, SelectiveSearch, Whole, make_selector, pinned_spec
from d2r.regions.rmac import rmac_boxes
from d2r.verify import threshold_for, verify
from d2r.walk import picture_job
from d2r.workers import WorkerDied, map_in_processes


@dataclass(frozen=True)
class Extraction:
    """Where the descriptions of a benchmark are.

    Attributes:
        recipe: how pictures were described.
        files: description of each database picture; None for one that could not be used.
        skipped: path and reason of each of those.
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
        recipe: how to describe; each recipe has its own folder in the cache.
        cache: descriptions are kept here by content, and shared between benchmarks.
        workers: processes.
        max_pixels: see :func:`d2r.images.read_image`.
        progress: told how far it is: "describe" and "queries".

    Raises:
        BenchmarkError: a query cannot be used.
    """
    # descriptions belong to a model, not to its name
    pinned = replace(recipe, regions=pinned_spec(recipe.regions), features=pinned_features(recipe.features))
    folder = cache / _folder_name(pinned)
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path | None] = []
    skipped = []
    describe = partial(_describe, pinned, max_pixels, folder)
    outcomes = map_in_processes(describe, benchmark.database, workers=workers, prepare=prepare_worker)
    for done, (path, outcome) in enumerate(outcomes, start=1):
        file = outcome if isinstance(outcome, Path) else None
        if file is None:
            skipped.append((display_path(path), str(outcome)))
        files.append(file)
        progress("describe", done, len(benchmark.database))
    if all(file is None for file in files):
        raise BenchmarkError(f"{benchmark.name}: no picture can be used: {skipped[0][0]}: {skipped[0][1]}")
    queries = []
    ask = partial(_describe_query, pinned, max_pixels)
    for done, (query, answer) in enumerate(
        map_in_processes(ask, benchmark.queries, workers=workers, prepare=prepare_worker), start=1
    ):
        if isinstance(answer, WorkerDied):
            raise BenchmarkError(f"{display_path(query.path)}: the process that read it died")
        queries.append(answer)
        progress("queries", done, len(benchmark.queries))
    return Extraction(recipe, tuple(files), tuple(skipped), tuple(queries))


def sample_descriptors(files: Sequence[Path | None], most: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Return up to ``most`` descriptors, an equal random share from each description, float32 (N, D)."""
    known = [file for file in files if file is not None]
    rng = np.random.default_rng(seed)
    chosen = [known[row] for row in rng.permutation(len(known))[: max(1, min(len(known), most // 50))]]
    share = -(-most // len(chosen))
    parts = []
    for file in chosen:
        descriptors = read_description(file).features.descriptors
        parts.append(descriptors[rng.permutation(len(descriptors))[:share]])
    every = np.concatenate(parts)
    return np.asarray(every[rng.permutation(len(every))[:most]], np.float32)


@dataclass(frozen=True)
class Stored:
    """What the methods store of one picture: the descriptors of each by name, and how many regions were used."""

    descriptors: dict[str, list[Aggregated]]
    regions: int


def aggregate_pictures(
    files: Sequence[Path | None],
    codebook: Path,
    methods: Sequence[str],
    regions: str | None,
    *,
    workers: int,
    progress: Progress,
) -> list[Stored]:
    """Aggregate every described picture with several methods.

    Args:
        files: descriptions; None stands for a picture without features.
        codebook: file of the visual words.
        methods: names in :data:`d2r.evaluate.methods.METHODS`.
        regions: specification of the regions to use of those that were described: the same selector with fewer; None
            uses all.
        workers: processes.
        progress: told how far it is: "aggregate".
    """
    function = partial(_aggregate, codebook, tuple(methods), regions)
    stored = []
    for done, (_, one) in enumerate(
        map_in_processes(function, files, workers=workers, prepare=prepare_worker), start=1
    ):
        if isinstance(one, WorkerDied):
            raise BenchmarkError("a process died while aggregating: memory ran out")
        stored.append(one)
        progress("aggregate", done, len(files))
    return stored


def count_inliers(
    extraction: Extraction, pairs: Sequence[tuple[int, int]], *, workers: int, progress: Progress
) -> dict[tuple[int, int], int]:
    """Verify pairs of (query, database picture) on the features of the whole pictures, and return their inliers."""
    by_query: dict[int, list[int]] = {}
    for query, picture in pairs:
        by_query.setdefault(query, []).append(picture)
    recipe = extraction.recipe
    items = [
        (query, extraction.queries[query].features, [(row, extraction.files[row]) for row in rows])
        for query, rows in by_query.items()
    ]
    inliers: dict[tuple[int, int], int] = {}
    function = partial(_verify, recipe)
    for done, ((query, *_), found) in enumerate(
        map_in_processes(function, items, workers=workers, prepare=prepare_worker), start=1
    ):
        if isinstance(found, WorkerDied):
            raise BenchmarkError("a process died while verifying: memory ran out")
        inliers |= {(query, row): count for row, count in found.items()}
        progress("verify", done, len(items))
    return inliers


def region_rows(description: Description, regions: str) -> NDArray[np.intp]:
    """Return the rows of a description's boxes that a selector with fewer regions would have chosen.

    Args:
        description: made with the same kind of selector and at least as many regions.
        regions: specification: "whole", "rmac:levels=l", "selective-search:top=n", or the detector with a threshold
            that is not lower and a ``top`` that is not higher.

    Raises:
        BenchmarkError: the specification is of another kind of selector.
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
        sure = np.flatnonzero(description.box_scores[1:] >= selector.threshold)[: selector.top]
        return np.concatenate([np.zeros(1, np.intp), 1 + sure])
    raise BenchmarkError(f"{regions}: which of its regions to use is not known")


def _folder_name(recipe: Recipe) -> str:
    """Return a readable name that differs between recipes."""
    text = repr(sorted(asdict(recipe).items()))
    readable = re.sub(r"[^a-z0-9.]+", "-", f"{recipe.regions} {recipe.features}".lower())
    return f"{readable[:60]}-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}"


def _describe(recipe: Recipe, max_pixels: int, folder: Path, path: Path) -> Path | str:
    """Return the file of a picture's description, or why there is none."""
    try:
        job = picture_job(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    state, description = describe_file(recipe, max_pixels, folder, job, keep=True)
    if description is None or state.digest is None:
        return state.problem or "it cannot be used"
    return folder / f"{state.digest.hex()}.safetensors"


def _describe_query(recipe: Recipe, max_pixels: int, query: QueryPicture) -> Description:
    box: Box | None = query.box
    image = read_image(query.path, max_pixels=max_pixels)
    return describe_query(image, box, make_extractor(recipe.features), max_side=recipe.max_side)


def _aggregate(codebook: Path, methods: Sequence[str], regions: str | None, file: Path | None) -> Stored:
    book = load_codebook(codebook)
    if file is None:
        nothing = assign(book, np.zeros((0, book.dim), np.float32))
        return Stored({name: describe_picture(nothing, METHODS[name]) for name in methods}, 1)
    description = read_description(file)
    rows = np.arange(len(description.boxes)) if regions is None else region_rows(description, regions)
    used = np.isin(description.regions, rows)
    number = np.full(len(description.boxes), -1, np.int32)
    number[rows] = np.arange(len(rows))
    assigned = assign(book, description.features.descriptors[used], number[description.regions[used]], len(rows))
    return Stored({name: describe_picture(assigned, METHODS[name]) for name in methods}, len(rows))


def _verify(recipe: Recipe, item: tuple[int, Features, list[tuple[int, Path | None]]]) -> dict[int, int]:
    _, query, pictures = item
    inliers = {}
    for row, file in pictures:
        if file is None:
            inliers[row] = 0
            continue
        features, side = _whole_features(file, recipe.verify_features)
        inliers[row] = verify(query, features, threshold=threshold_for(side, recipe.max_side)).inliers
    return inliers


def _whole_features(file: Path, most: int) -> tuple[Features, int]:
    """Return the first features of the whole picture, which comes first in a description, and its longer side."""
    with safe_open(file, "np") as tensors:
        count = min(most, int((tensors.get_tensor("regions") == 0).sum()))
        names = ("positions", "scales", "descriptors", "attention")
        arrays = [tensors.get_slice(name)[:count] for name in names]
        return Features(*arrays), int(tensors.get_tensor("size").max())

"""Run methods on a benchmark: one extraction, one codebook, a table of accuracy and size."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.codebook import Codebook, fitting_words, train_codebook
from d2r.asmk.kernels import KERNELS, aggregate, assign
from d2r.evaluate.benchmark import Benchmark
from d2r.evaluate.extraction import (
    Extraction,
    Stored,
    aggregate_pictures,
    count_inliers,
    extract,
    sample_descriptors,
)
from d2r.evaluate.methods import METHODS, invert, scores
from d2r.evaluate.metrics import RetrievalScores, mean_average_precision
from d2r.indexing.entry import Progress, Recipe, check_codebook, origin_of
from d2r.support.files import is_our_json, marked, writing

KS = (1, 5, 10)
_SAMPLES_PER_WORD = 40


@dataclass(frozen=True)
class Setup:
    """What is compared on which features.

    Attributes:
        recipe: how pictures are described.
        methods: names in :data:`d2r.evaluate.methods.METHODS`.
        words: size of the codebook, if there are features for so many (:func:`d2r.asmk.codebook.fitting_words`).
        verify: so many of each ranking are verified and put first; 0 leaves it out.
        seed: of the codebook.
    """

    recipe: Recipe
    methods: tuple[str, ...]
    words: int
    verify: int
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Row:
    """One line of a table.

    Attributes:
        method: its name.
        regions: specification of the regions that were used.
        words: size of the codebook.
        verified: whether the best were verified.
        scores: for each protocol.
        regions_per_picture: mean number of regions, the whole picture included.
        descriptors_per_picture: mean number of descriptors stored.
        bytes_per_picture: of descriptors.
        milliseconds: median time to score the whole database for a query, without describing and verifying.
    """

    method: str
    regions: str
    words: int
    verified: bool
    scores: dict[str, RetrievalScores]
    regions_per_picture: float
    descriptors_per_picture: float
    bytes_per_picture: float
    milliseconds: float


def evaluate(
    benchmark: Benchmark,
    setup: Setup,
    cache: Path,
    *,
    codebook: Codebook | None,
    workers: int,
    max_pixels: int,
    progress: Progress,
) -> tuple[list[Row], Extraction]:
    """Return a row for each method, and with verification one more for each; and where the descriptions are.

    Args:
        benchmark: the data set.
        setup: what to compare.
        cache: folder for descriptions and codebooks, reused by later runs.
        codebook: visual words; None learns them from the database itself.
        workers: processes.
        max_pixels: see :func:`d2r.images.read_image`.
        progress: told how far it is.

    Raises:
        BenchmarkError: a query cannot be used.
        d2r.asmk.codebook.CodebookError: the codebook was learned from other features.
    """
    if codebook is not None:
        check_codebook(codebook, setup.recipe)
    extraction = extract(benchmark, setup.recipe, cache, workers=workers, max_pixels=max_pixels, progress=progress)
    file = codebook_file(benchmark, extraction, setup, cache, codebook, progress)
    return compare(benchmark, extraction, setup, file, {}, workers=workers, progress=progress), extraction


def codebook_file(
    benchmark: Benchmark,
    extraction: Extraction,
    setup: Setup,
    cache: Path,
    codebook: Codebook | None,
    progress: Progress,
) -> Path:
    """Return the file of the given codebook, or of one learned from the database and kept in the cache.

    One that is learned has fewer words than ``setup`` asks for where the database has not 16 descriptors for each.
    """
    folder = cache / "codebooks"
    folder.mkdir(parents=True, exist_ok=True)
    if codebook is not None:
        arrays = [array for array in (codebook.centroids, codebook.projection, codebook.medians) if array is not None]
        file = folder / f"given-{_digest(*(array.tobytes() for array in arrays))}.safetensors"
        codebook.save(file)
        return file
    # Descriptions are named by the content of their pictures and lie in the folder of their recipe.
    described = sorted(f"{file.parent.name}/{file.name}".encode() for file in extraction.files if file is not None)
    file = folder / f"{benchmark.name}-{_digest(*described)}-{setup.words}-{setup.seed}.safetensors"
    if not file.exists():
        progress("words", 0, setup.words)
        sample, pictures = sample_descriptors(extraction.files, setup.words * _SAMPLES_PER_WORD, seed=setup.seed)
        words, origin = fitting_words(setup.words, len(sample)), origin_of(setup.recipe, pictures)
        train_codebook(sample, words, seed=setup.seed, origin=origin).save(file)
        progress("words", setup.words, setup.words)
    return file


def _digest(*parts: bytes) -> str:
    return hashlib.blake2b(b"\0".join(parts), digest_size=8).hexdigest()


def compare(
    benchmark: Benchmark,
    extraction: Extraction,
    setup: Setup,
    codebook: Path,
    inliers: dict[tuple[int, int], int],
    *,
    regions: str | None = None,
    workers: int,
    progress: Progress,
) -> list[Row]:
    """Return the rows of :func:`evaluate` for an extraction and a codebook.

    Args:
        benchmark: the data set.
        extraction: of its pictures.
        setup: what to compare.
        codebook: file of the visual words.
        inliers: of pairs (query, picture) that are known with this codebook; those that are verified here are added.
        regions: use only these of the regions that were described; None uses all.
        workers: processes.
        progress: told how far it is.
    """
    used = regions or setup.recipe.regions
    stored = aggregate_pictures(
        extraction.files, codebook, setup.methods, regions, setup.recipe.verify_features,
        workers=workers, progress=progress,
    )  # fmt: skip
    book = Codebook.load(codebook)
    rankings: dict[str, list[NDArray[np.int64]]] = {}
    facts: dict[str, tuple[float, float, float]] = {}
    for name in setup.methods:
        rankings[name], facts[name] = _rank(extraction, stored, name, book)
    rows = [
        _row(benchmark, name, used, book.words, False, rankings[name], stored, facts[name]) for name in setup.methods
    ]
    if setup.verify:
        wanted = {
            (query, int(picture))
            for ranked in rankings.values()
            for query, ranking in enumerate(ranked)
            for picture in judged(benchmark, query, ranking)[: setup.verify]
        }
        inliers |= count_inliers(extraction, stored, book, sorted(wanted - inliers.keys()), progress=progress)
        for name in setup.methods:
            verified = [
                verified_first(query, judged(benchmark, query, ranking), inliers, setup.verify)
                for query, ranking in enumerate(rankings[name])
            ]
            rows.append(_row(benchmark, name, used, book.words, True, verified, stored, facts[name]))
    return rows


def _rank(
    extraction: Extraction, stored: Sequence[Stored], name: str, book: Codebook
) -> tuple[list[NDArray[np.int64]], tuple[float, float, float]]:
    """Return the ranking of each query, pictures that share nothing with it left out; and sizes and time."""
    method = METHODS[name]
    kernel = KERNELS[method.kernel]
    database = invert([one.descriptors[name] for one in stored], kernel, book.words)
    rankings, times = [], []
    for query in extraction.queries:
        x = aggregate(assign(book, query.features.descriptors), kernel)
        started = time.perf_counter()
        similarity = scores(x, database, kernel, method.pool)
        times.append(time.perf_counter() - started)
        order = np.argsort(-similarity, kind="stable")
        rankings.append(order[similarity[order] != 0])
    count = len(stored)
    return rankings, (len(database.g) / count, database.descriptor_bytes / count, 1000 * float(np.median(times)))


def judged(benchmark: Benchmark, query: int, ranking: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a ranking without the query's junk, such as the query itself, on which no verification is spent.

    Junk is the same under every protocol here only when there is one; with several, what all of them ignore.
    """
    ignored = [set(truth[query].junk.tolist()) for truth in benchmark.relevance.values()]
    return ranking[~np.isin(ranking, sorted(set.intersection(*ignored)))]


def verified_first(
    query: int, ranking: NDArray[np.int64], inliers: dict[tuple[int, int], int], most: int
) -> NDArray[np.int64]:
    """Return a ranking whose first ``most`` are sorted by their inliers with the query, which are known."""
    head, tail = ranking[:most], ranking[most:]
    counts = np.array([inliers[query, int(picture)] for picture in head], np.int64)
    return np.concatenate([head[np.argsort(-counts, kind="stable")], tail])


def _row(
    benchmark: Benchmark,
    name: str,
    regions: str,
    words: int,
    verified: bool,
    rankings: Sequence[NDArray[np.int64]],
    stored: Sequence[Stored],
    facts: tuple[float, float, float],
) -> Row:
    judged = {protocol: mean_average_precision(rankings, truth, KS) for protocol, truth in benchmark.relevance.items()}
    used = float(np.mean([one.regions for one in stored])) if METHODS[name].regional else 1.0
    return Row(name, regions if METHODS[name].regional else "whole", words, verified, judged, used, *facts)


def as_json(
    benchmark: Benchmark, setup: Setup, rows: Sequence[Row], skipped: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Return a run for a file: the whole configuration, and every query's average precision."""
    return {
        "benchmark": {
            "name": benchmark.name,
            "kind": benchmark.kind,
            "pictures": len(benchmark.database),
            "queries": len(benchmark.queries),
            "near_duplicate_pairs_ignored": benchmark.junk_pairs,
        },
        "setup": asdict(setup),
        "versions": {name: version(name) for name in ("numpy", "opencv-contrib-python-headless", "faiss-cpu", "numba")}
        | {"python": platform.python_version()},
        "skipped": [list(one) for one in skipped],
        "rows": [
            {
                **{key: value for key, value in vars(row).items() if key != "scores"},
                "scores": {
                    protocol: {
                        "map": one.map,
                        "queries": one.counted,
                        **{f"mp@{k}": float(p) for k, p in zip(one.ks, one.mean_precision, strict=True)},
                        "average_precision": [None if np.isnan(ap) else float(ap) for ap in one.average_precision],
                    }
                    for protocol, one in row.scores.items()
                },
            }
            for row in rows
        ],
    }


def write_json(path: Path, run: dict[str, Any], *, force: bool = False) -> None:
    """Write a run to a file, whole or not at all.

    Raises:
        d2r.support.files.OutputError: there is a file that is no JSON of this program,
            see :func:`d2r.support.files.writing`.
    """
    with writing(path, is_our_json, force=force) as part:
        part.write_text(json.dumps(marked(run), indent=1), encoding="utf-8")

"""Run methods on a benchmark: one extraction, one codebook, a table of accuracy and size."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.codebook import Codebook
from d2r.asmk.kernels import KERNELS, aggregate, by_kind
from d2r.asmk.learning import SAMPLES_PER_WORD, train_kinds
from d2r.describe import assign_words
from d2r.evaluate.benchmark import Benchmark
from d2r.evaluate.extraction import Extraction, Stored, aggregate_pictures, extract, sample_descriptors
from d2r.evaluate.methods import METHODS, Inverted, invert
from d2r.evaluate.metrics import RetrievalScores, mean_average_precision
from d2r.evaluate.ranker import MemoryRanker, picture_rows
from d2r.features import kinds_of, precise_kinds
from d2r.indexing.entry import Progress, Recipe, check_codebook, origin_of
from d2r.options import SearchOptions
from d2r.search import Query, Verified, make_query, search
from d2r.support.files import is_our_json, marked, writing

KS = (1, 5, 10)

Stage: TypeAlias = Literal["ranked", "verified", "expanded"]
"""How far a search goes: ranked by similarity; with the best verified; with the query expanded."""


@dataclass(frozen=True)
class Setup:
    """What to compare.

    Attributes:
        recipe: how pictures are described.
        methods: names in :data:`d2r.evaluate.methods.METHODS`.
        num_words: size of the codebook; smaller if there are too few features
            (:func:`d2r.asmk.learning.fitting_words`).
        verify: number of pictures of each ranking to verify and re-rank; 0 for none.
        expand: see :class:`d2r.options.SearchOptions`; 0 does not expand, nor does ``verify`` of 0.
        seed: seed of the codebook.
    """

    recipe: Recipe
    methods: tuple[str, ...]
    num_words: int
    verify: int
    expand: int = 0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Row:
    """One line of a table.

    Attributes:
        method: name of the method.
        regions: specification of the regions that were used.
        num_words: size of the codebook.
        stage: how far the search went.
        scores: scores by protocol.
        regions_per_picture: mean number of regions, the whole picture included.
        descriptors_per_picture: mean number of descriptors stored.
        bytes_per_picture: mean size of the descriptors.
        milliseconds: median time to score the whole database for a query, without description and verification.
    """

    method: str
    regions: str
    num_words: int
    stage: Stage
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
    """Return up to three rows per method (ranked, verified, expanded), and the extraction.

    The rows of R-ASMK* have the results of an index with the same options. Queries are expanded only for methods with
    one binary descriptor per picture.

    Args:
        benchmark: the data set.
        setup: what to compare.
        cache: folder for descriptions and codebooks, reused by later runs.
        codebook: visual words; None learns them from the database itself.
        workers: number of processes.
        max_pixels: see :func:`d2r.images.read_image`.
        progress: called with the stage, the number done and the total.

    Raises:
        BenchmarkError: a query cannot be used.
        d2r.asmk.codebook.CodebookError: the codebook was learned from other features.
    """
    if codebook is not None:
        check_codebook(codebook, setup.recipe)
    extraction = extract(benchmark, setup.recipe, cache, workers=workers, max_pixels=max_pixels, progress=progress)
    file = codebook_file(benchmark, extraction, setup, cache, codebook, progress)
    verified: list[dict[int, Verified]] = [{} for _ in extraction.queries]
    return compare(benchmark, extraction, setup, file, verified, workers=workers, progress=progress), extraction


def codebook_file(
    benchmark: Benchmark,
    extraction: Extraction,
    setup: Setup,
    cache: Path,
    codebook: Codebook | None,
    progress: Progress,
) -> Path:
    """Return the file of the given codebook, or of one learned from the database and kept in the cache.

    A learned codebook has fewer words than ``setup`` gives if the database has fewer than 16 descriptors per word.
    """
    folder = cache / "codebooks"
    folder.mkdir(parents=True, exist_ok=True)
    if codebook is not None:
        arrays = [array for array in (codebook.centroids, codebook.projection, codebook.medians) if array is not None]
        file = folder / f"given-{_digest(*(array.tobytes() for array in arrays))}.safetensors"
        codebook.save(file)
        return file
    # Descriptions are named by the content of their pictures, in the folder of their recipe.
    described = sorted(f"{file.parent.name}/{file.name}".encode() for file in extraction.files if file is not None)
    file = folder / f"{benchmark.name}-{_digest(*described)}-{setup.num_words}-{setup.seed}.safetensors"
    if not file.exists():
        progress("words", 0, setup.num_words)
        kinds = len(kinds_of(setup.recipe.features))
        most = setup.num_words * SAMPLES_PER_WORD
        samples, pictures = sample_descriptors(extraction.files, kinds, most, seed=setup.seed)
        origin = origin_of(setup.recipe, pictures)
        train_kinds(samples, setup.num_words, seed=setup.seed, origin=origin).save(file)
        progress("words", setup.num_words, setup.num_words)
    return file


def _digest(*parts: bytes) -> str:
    return hashlib.blake2b(b"\0".join(parts), digest_size=8).hexdigest()


def compare(
    benchmark: Benchmark,
    extraction: Extraction,
    setup: Setup,
    codebook: Path,
    verified: list[dict[int, Verified]],
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
        verified: for each query, known verifications with this codebook by picture number; new ones are added.
        regions: specification of the described regions to use; None uses all.
        workers: number of processes.
        progress: called with the stage, the number done and the total.
    """
    used = regions or setup.recipe.regions
    stored = aggregate_pictures(
        extraction.files, codebook, setup.methods, regions, setup.recipe.verify_features,
        workers=workers, progress=progress,
    )  # fmt: skip
    book = Codebook.load(codebook)
    pictures = picture_rows([str(path) for path in benchmark.database], stored)
    databases = {name: _databases(stored, name, book) for name in setup.methods}
    stages = _stages(setup, len(pictures))
    rankings: dict[tuple[Stage, str], list[NDArray[np.int64]]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in setup.methods}
    for number, description in enumerate(extraction.queries):
        ignored = ignored_pictures(benchmark, number)
        keypoints = make_query(description, book, verify=setup.verify > 0).keypoints
        for name in setup.methods:
            method = METHODS[name]
            assigned = assign_words(book, description)
            query = Query(description, aggregate(assigned, KERNELS[method.kernel]), keypoints)
            ranker = MemoryRanker(
                name=name,
                databases=databases[name],
                starts=book.starts,
                precise=precise_kinds(setup.recipe.features),
                pictures=pictures,
                stored=stored,
                bits=book.dim,
                max_side=setup.recipe.max_side,
                verified=verified[number],
            )
            for stage, options in stages.items():
                if stage != "expanded" or method.expandable:
                    found = search(ranker, query, options, ignored=ignored)
                    ranking = np.array([one.picture.id for one in found.candidates], np.int64)
                    rankings.setdefault((stage, name), []).append(ranking)
            seconds[name].append(ranker.seconds[0])
        progress("search", number + 1, len(extraction.queries))
    rows = []
    for (stage, name), ranked in sorted(rankings.items(), key=lambda one: list(stages).index(one[0][0])):
        own = databases[name]
        regional = METHODS[name].regional
        rows.append(
            Row(
                method=name,
                regions=used if regional else "whole",
                num_words=book.num_words,
                stage=stage,
                scores={
                    protocol: mean_average_precision(ranked, truth, KS)
                    for protocol, truth in benchmark.relevance.items()
                },
                regions_per_picture=float(np.mean([one.regions for one in stored])) if regional else 1.0,
                descriptors_per_picture=len(own[0].g) / len(stored),
                bytes_per_picture=sum(database.descriptor_bytes for database in own) / len(stored),
                milliseconds=1000 * float(np.median(seconds[name])),
            )
        )
    return rows


def _stages(setup: Setup, pictures: int) -> dict[Stage, SearchOptions]:
    """Return the search options for each row of a method."""
    stages: dict[Stage, SearchOptions] = {"ranked": SearchOptions(pictures, 0, 0)}
    if setup.verify:
        stages["verified"] = SearchOptions(pictures, setup.verify, 0)
        if setup.expand:
            stages["expanded"] = SearchOptions(pictures, setup.verify, setup.expand)
    return stages


def _databases(stored: Sequence[Stored], name: str, book: Codebook) -> list[Inverted]:
    """Return what a method stores about all pictures, for each kind of features."""
    split = [[by_kind(one, book.starts) for one in picture.descriptors[name]] for picture in stored]
    kernel = KERNELS[METHODS[name].kernel]
    return [
        invert([[of[kind] for of in picture] for picture in split], kernel, book.num_words)
        for kind in range(book.kinds)
    ]


def ignored_pictures(benchmark: Benchmark, query: int) -> frozenset[int]:
    """Return the junk of a query, such as the query itself, to leave out of the search.

    With several protocols this is the junk common to all of them.
    """
    return frozenset.intersection(*(frozenset(truth[query].junk.tolist()) for truth in benchmark.relevance.values()))


def run_as_json(
    benchmark: Benchmark, setup: Setup, rows: Sequence[Row], skipped: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Return a run as JSON types: the whole configuration, and the average precision of every query."""
    return {
        "benchmark": {
            "name": benchmark.name,
            "kind": benchmark.kind,
            "pictures": len(benchmark.database),
            "queries": len(benchmark.queries),
            "near_duplicate_pairs_ignored": benchmark.junk_pairs,
        },
        "setup": _as_json(asdict(setup)),
        "versions": {name: version(name) for name in ("numpy", "opencv-contrib-python-headless", "faiss-cpu", "numba")}
        | {"python": platform.python_version()},
        "skipped": [list(one) for one in skipped],
        "rows": [
            {
                **_as_json({name: value for name, value in vars(row).items() if name != "scores"}),
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


def _as_json(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a setup or a row, with their names in a file."""
    return {"words" if name == "num_words" else name: value for name, value in fields.items()}


def write_json(path: Path, run: dict[str, Any], *, force: bool = False) -> None:
    """Write a run to a file atomically.

    Raises:
        d2r.support.files.OutputError: there is a file that is not JSON of this program, see
            :func:`d2r.support.files.writing`.
    """
    with writing(path, is_our_json, force=force) as part:
        part.write_text(json.dumps(marked(run), indent=1), encoding="utf-8")

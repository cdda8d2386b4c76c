"""Two local features alone and combined: each has its own words, and a picture's scores are added.

    python benchmarks/combined_features.py SET FEATURES FEATURES [--distractors FOLDER] [--overlapping A,B]

SET is what `d2r evaluate` takes. Each of the two describes the pictures with the shipped detector's regions, and has
1,024 words learned from them. Combined, the similarity of a picture is the sum of its two R-ASMK* similarities, each
divided by the mean over the queries of its highest, and its inliers are those of both; the bytes are those of both.
Changes are against the first features, with the 95 % interval by paired bootstrap.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.codebook import Codebook
from d2r.asmk.kernels import KERNELS, aggregate, assign
from d2r.defaults import MAX_PIXELS, MAX_SIDE, REGIONS, VERIFY, VERIFY_FEATURES
from d2r.evaluate.benchmark import Benchmark, load_benchmark
from d2r.evaluate.extraction import Extraction, Stored, aggregate_pictures, count_inliers, extract
from d2r.evaluate.methods import invert, scores
from d2r.evaluate.metrics import mean_average_precision
from d2r.evaluate.run import KS, Row, Setup, codebook_file, judged, verified_first
from d2r.indexing.entry import Recipe
from d2r.report.tables import accuracy_table, as_text
from d2r.support.processes import default_workers

METHOD = "r-asmk*"
WORDS = 1024


@dataclass(frozen=True)
class Scored:
    """What one kind of features says of a data set.

    Attributes:
        similarity: float32 (Q, N).
        bytes_per_picture: of descriptors.
        regions_per_picture: mean number.
        milliseconds: median time to score the database for a query.
    """

    extraction: Extraction
    stored: list[Stored]
    book: Codebook
    similarity: NDArray[np.float32]
    bytes_per_picture: float
    regions_per_picture: float
    milliseconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("features", nargs=2)
    parser.add_argument("--distractors", type=Path)
    parser.add_argument("--overlapping", default="")
    parser.add_argument("--cache", type=Path, default=Path("d2r-cache"))
    parser.add_argument("--workers", type=int, default=default_workers())
    options = parser.parse_args()
    together = [options.overlapping.split(",")] if options.overlapping else []
    benchmark = load_benchmark(options.set, distractors=options.distractors, overlapping=together)
    both = [score(benchmark, features, options.cache, options.workers) for features in options.features]

    rows = []
    added = sum(one.similarity / one.similarity.max(axis=1).mean() for one in both)
    for verify in (0, VERIFY):
        for name, one in zip(options.features, both, strict=True):
            rows.append(row(benchmark, name, one.similarity, [one], verify))
        rows.append(row(benchmark, "both", added, both, verify))
    print(as_text(accuracy_table(rows, f"{benchmark.name}: {len(benchmark.queries)} queries")))


def score(benchmark: Benchmark, features: str, cache: Path, workers: int) -> Scored:
    """Describe a data set, learn its words, and score every picture for every query."""
    recipe = Recipe(REGIONS, features, MAX_SIDE, VERIFY_FEATURES)
    extraction = extract(benchmark, recipe, cache, workers=workers, max_pixels=MAX_PIXELS, progress=_quiet)
    file = codebook_file(benchmark, extraction, Setup(recipe, (METHOD,), WORDS, VERIFY), cache, None, _quiet)
    stored = aggregate_pictures(
        extraction.files, file, (METHOD,), None, VERIFY_FEATURES, workers=workers, progress=_quiet
    )
    book, kernel = Codebook.load(file), KERNELS[METHOD]
    database = invert([one.descriptors[METHOD] for one in stored], kernel, book.num_words)
    found, times = [], []
    for query in extraction.queries:
        sought = aggregate(assign(book, query.features.descriptors), kernel)
        started = time.perf_counter()
        found.append(scores(sought, database, kernel, None))
        times.append(time.perf_counter() - started)
    return Scored(
        extraction,
        stored,
        book,
        np.stack(found).astype(np.float32),
        database.descriptor_bytes / len(stored),
        float(np.mean([one.regions for one in stored])),
        1000 * float(np.median(times)),
    )


def row(benchmark: Benchmark, name: str, similarity: NDArray[np.float32], parts: list[Scored], verify: int) -> Row:
    """Rank by a similarity, verify the best with the features of all parts, and judge that."""
    rankings = []
    for query, values in enumerate(similarity):
        order = np.argsort(-values, kind="stable")
        rankings.append(judged(benchmark, query, order[values[order] != 0]))
    if verify:
        pairs = [
            (query, int(picture)) for query, ranking in enumerate(rankings) for picture in sorted(ranking[:verify])
        ]
        found = [count_inliers(one.extraction, one.stored, one.book, pairs, progress=_quiet) for one in parts]
        inliers = {pair: sum(one[pair] for one in found) for pair in pairs}
        rankings = [verified_first(query, ranking, inliers, verify) for query, ranking in enumerate(rankings)]
    return Row(
        name,
        REGIONS,
        WORDS,
        bool(verify),
        {key: mean_average_precision(rankings, truth, KS) for key, truth in benchmark.relevance.items()},
        parts[0].regions_per_picture,
        1.0,
        sum(one.bytes_per_picture for one in parts),
        sum(one.milliseconds for one in parts),
    )


def _quiet(stage: str, done: int, total: int) -> None:
    pass


if __name__ == "__main__":
    main()

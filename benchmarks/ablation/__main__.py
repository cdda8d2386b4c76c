"""Measure additions to the paper, one row per variant, with a detector's regions.

    python -m benchmarks.ablation DATASET --out FOLDER [--features SPEC] [--words N] [--distractors FOLDER]
        [--overlapping A,B] [--cache FOLDER] [--workers N] [--force]

DATASET is as in `d2r evaluate`. It writes the table as text, CSV and LaTeX, and the run as JSON; milliseconds are of
search, verification and expansion together. It has rows of global descriptors if the network of the features outputs
its map.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.ablation.ablation import ablate
from benchmarks.ablation.global_descriptors import without_map

from d2r.defaults import FEATURES, MAX_PIXELS, MAX_SIDE, VERIFY, VERIFY_FEATURES
from d2r.evaluate.benchmark import load_benchmark
from d2r.evaluate.run import Setup, run_as_json, write_json
from d2r.indexing.entry import Recipe
from d2r.report.tables import accuracy_table, as_text, write_tables
from d2r.support.processes import default_workers

REGIONS = "detector:threshold=0.1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--features", default=FEATURES)
    parser.add_argument("--words", type=int, default=1024)
    parser.add_argument("--distractors", type=Path)
    parser.add_argument("--overlapping", default="")
    parser.add_argument("--cache", type=Path, default=Path("d2r-cache"))
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--force", action="store_true")
    options = parser.parse_args()
    together = [options.overlapping.split(",")] if options.overlapping else []
    benchmark = load_benchmark(options.dataset, distractors=options.distractors, overlapping=together)
    recipe = Recipe(REGIONS, options.features, MAX_SIDE, VERIFY_FEATURES)
    rows = ablate(
        benchmark, recipe, options.cache, num_words=options.words, codebook=None, workers=options.workers,
        max_pixels=MAX_PIXELS, progress=lambda stage, done, total: None,
    )  # fmt: skip
    table = accuracy_table(rows, f"Beyond the paper: {benchmark.name}, {len(benchmark.queries):,} queries")
    print(as_text(table))
    reason = without_map(options.features)
    if reason is not None:
        print(f"left out, the rows of global descriptors: {reason}")
    options.out.mkdir(parents=True, exist_ok=True)
    place = options.out / f"ablation-{benchmark.name}"
    write_tables(table, place, force=options.force)
    run = run_as_json(benchmark, Setup(recipe, ("r-asmk*",), rows[0].num_words, VERIFY), rows, ())
    write_json(place.with_suffix(".json"), run, force=options.force)


if __name__ == "__main__":
    main()

"""How well a search finds, on every set there is: the table of the README and of docs/results.md.

    python benchmarks/accuracy.py DATA --clutter FOLDER --out FILE.md [--features SPEC ...] [--set NAME ...]

DATA has the folders covers, places/test, landmarks (train and test), scenes and photos. FOLDER has the composed sets
hard, medium and easy (`d2r dataset compose`, see docs/results.md). Every picture of covers, places and scenes is a
query to the others of its set; the photographs of landmarks/test are queries to those of landmarks/train; the 1,000 of
photos join each of these databases. Visual words, 1,024 of each kind of features, are learned from each database.

A column has the mAP in per cent of a search with those features and the regions of an index: ranked by R-ASMK*, with
the best 100 verified, and with the query expanded, which is what a search does. In brackets is the 95 % interval of
the last, bootstrapped over instances: their queries are drawn together, for they are not independent.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2r.defaults import EXPAND, FEATURES, MAX_PIXELS, MAX_SIDE, REGIONS, VERIFY, VERIFY_FEATURES
from d2r.evaluate.benchmark import Benchmark, load_benchmark
from d2r.evaluate.run import Setup, evaluate
from d2r.indexing.entry import Recipe
from d2r.report.tables import Table, as_text
from d2r.support.processes import default_workers

WORDS = 1024
REAL = {
    "covers": ("covers", "film covers photographed by telephone", ()),
    "places": ("places/test", "six places and things from all sides", ()),
    "landmarks": ("landmarks", "twelve landmarks, by label", ()),
    "scenes": ("scenes", "four scenes", (("castle", "entry"),)),
}
CLUTTER = {
    "hard": "a thing that covers 2 to 8 % of a busy picture",
    "medium": "6 to 15 %",
    "easy": "12 to 25 %",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--clutter", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--features", nargs="+", default=[FEATURES])
    parser.add_argument("--set", nargs="+", choices=[*REAL, *CLUTTER], default=[*REAL, *CLUTTER])
    parser.add_argument("--cache", type=Path, default=Path("d2r-cache"))
    parser.add_argument("--workers", type=int, default=default_workers())
    options = parser.parse_args()
    rows = []
    for name in options.set:
        benchmark, what = load(name, options.data, options.clutter)
        cells = [cell(benchmark, spec, options.cache, options.workers) for spec in options.features]
        rows.append((what, f"{len(benchmark.queries):,}", f"{len(benchmark.database):,}", *cells))
        table = as_text(Table("", ("", "queries", "pictures", *options.features), tuple(rows)))
        options.out.write_text(table + "\n", encoding="utf-8")
        print(f"{name}: {', '.join(cells)}", flush=True)


def load(name: str, data: Path, clutter: Path) -> tuple[Benchmark, str]:
    if name in CLUTTER:
        return load_benchmark(clutter / name), CLUTTER[name]
    folder, what, overlapping = REAL[name]
    return load_benchmark(data / folder, distractors=data / "photos", overlapping=overlapping), what


def cell(benchmark: Benchmark, spec: str, cache: Path, workers: int) -> str:
    recipe = Recipe(REGIONS, spec, MAX_SIDE, VERIFY_FEATURES)
    setup = Setup(recipe, ("r-asmk*",), WORDS, VERIFY, EXPAND)
    quiet = {"workers": workers, "max_pixels": MAX_PIXELS, "progress": lambda stage, done, total: None}
    rows, _ = evaluate(benchmark, setup, cache, codebook=None, **quiet)
    (scores,) = ([row.scores[protocol].average_precision for row in rows] for protocol in rows[0].scores)
    low, high = interval(scores[-1], [query.path.parent.name for query in benchmark.queries])
    return f"{' / '.join(f'{100 * np.nanmean(one):.1f}' for one in scores)} [{100 * low:.1f}, {100 * high:.1f}]"


def interval(scores: NDArray[np.float64], instances: list[str], samples: int = 10_000) -> tuple[float, float]:
    """Return the 95 % interval of the mean over queries, float (Q,), when instances are drawn with replacement."""
    names = np.array(instances if len(set(instances)) > 1 else [str(row) for row in range(len(scores))])
    known = ~np.isnan(scores)
    groups = np.unique(names[known])
    sums = np.array([scores[known & (names == group)].sum() for group in groups])
    counts = np.array([(known & (names == group)).sum() for group in groups])
    drawn = np.random.default_rng(0).integers(0, len(groups), (samples, len(groups)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()

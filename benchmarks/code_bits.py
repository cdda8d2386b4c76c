"""Measure the accuracy of codes with fewer bits: one codebook, residuals as they are and projected to fewer dimensions.

    python benchmarks/code_bits.py SET [--words N | --codebook FILE] [--bits 128 64 32] [--cache FOLDER]

Without verification. The first row is ASMK* with all 128 bits and no projection; in the others "bits" names the
projection, and 128 is the random rotation alone. Uses the descriptions and the codebook that ``d2r evaluate SET
--features rootsift --regions rmac:levels=2 --words N`` keeps in the cache.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from d2r.asmk.codebook import Codebook
from d2r.asmk.learning import random_rotation
from d2r.defaults import MAX_PIXELS, MAX_SIDE, VERIFY_FEATURES
from d2r.evaluate.benchmark import load_benchmark
from d2r.evaluate.extraction import extract
from d2r.evaluate.run import Setup, codebook_file, compare
from d2r.indexing.entry import Recipe
from d2r.report.tables import accuracy_table, as_text
from d2r.support.processes import default_workers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--words", type=int, default=1024)
    parser.add_argument("--codebook", type=Path, help="codebook learned before, without a projection")
    parser.add_argument("--bits", type=int, nargs="+", default=[128, 64, 32])
    parser.add_argument("--cache", type=Path, default=Path("d2r-cache"))
    options = parser.parse_args()
    workers = default_workers()
    benchmark = load_benchmark(options.set)
    recipe = Recipe("rmac:levels=2", "rootsift", MAX_SIDE, VERIFY_FEATURES)
    setup = Setup(recipe, ("asmk*", "r-asmk*"), options.words, 0)
    described = extract(benchmark, recipe, options.cache, workers=workers, max_pixels=MAX_PIXELS, progress=_quiet)
    given = Codebook.load(options.codebook) if options.codebook else None
    plain = Codebook.load(codebook_file(benchmark, described, setup, options.cache, given, _quiet))
    rows = []
    for bits in (None, *options.bits):
        projection = None if bits is None else random_rotation(plain.dim, 0)[:bits]
        file = codebook_file(benchmark, described, setup, options.cache, replace(plain, projection=projection), _quiet)
        found = compare(benchmark, described, setup, file, {}, workers=workers, progress=_quiet)
        name = "" if bits is None else f", {bits} bits"
        rows += [replace(row, method=row.method + name) for row in found]
    print(as_text(accuracy_table(rows, f"Codes of fewer bits ({options.set.name}: {len(benchmark.queries)} queries)")))


def _quiet(stage: str, done: int, total: int) -> None:
    pass


if __name__ == "__main__":
    main()

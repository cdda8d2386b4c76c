"""The most that regions could gain: the true boxes of a composed set instead of a selector's.

    python benchmarks/oracle_regions.py SET [--words N] [--cache FOLDER]

The box of every planted object, instances and decoys alike, is a region beside the whole picture, as from a perfect
detector. The table compares ASMK*, R-ASMK* and regional search on those, with the codebook that ``d2r evaluate SET
--features rootsift --regions rmac:levels=3 --words N`` learned into the same cache, so that only the regions differ.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from d2r.boxes import Boxes, as_boxes, clip
from d2r.datasets.ground_truth import load_set
from d2r.defaults import MAX_PIXELS, MAX_SIDE, VERIFY_FEATURES
from d2r.describe import describe
from d2r.evaluate.benchmark import load_benchmark
from d2r.evaluate.extraction import Extraction, extract
from d2r.evaluate.run import Setup, codebook_file, compare
from d2r.features import make_extractor
from d2r.images import Picture, read_image
from d2r.indexing.entry import Recipe, prepare_worker, write_description
from d2r.regions import Regions
from d2r.report.tables import accuracy_table, as_text
from d2r.support.processes import default_workers, map_in_processes


@dataclass(frozen=True)
class Given:
    """A selector that returns given boxes."""

    boxes: Boxes

    def select(self, image: Picture) -> Regions:
        return Regions.unscored(clip(self.boxes, image.shape[1], image.shape[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--words", type=int, default=1024)
    parser.add_argument("--cache", type=Path, default=Path("d2r-cache"))
    options = parser.parse_args()
    workers = default_workers()

    benchmark = load_benchmark(options.set)
    methods = ("asmk*", "r-asmk*", "d2r-asmk*(max)")
    grid = Setup(Recipe("rmac:levels=3", "rootsift", MAX_SIDE, VERIFY_FEATURES), methods, options.words, 0)
    described = extract(benchmark, grid.recipe, options.cache, workers=workers, max_pixels=MAX_PIXELS, progress=_quiet)
    book = codebook_file(benchmark, described, grid, options.cache, None, _quiet)

    folder = options.cache / f"oracle-{options.set.name}"
    folder.mkdir(exist_ok=True)
    items = [
        (options.set / picture.path, as_boxes([planted.box for planted in picture.planted]))
        for picture in load_set(options.set).database
    ]
    files = [
        file for _, file in map_in_processes(partial(_describe, folder), items, workers=workers, prepare=prepare_worker)
    ]
    recipe = Recipe("true boxes", "rootsift", MAX_SIDE, VERIFY_FEATURES)
    oracle = Extraction(recipe, tuple(files), (), described.queries)
    rows = compare(
        benchmark, oracle, Setup(recipe, methods, options.words, 0), book, {}, workers=workers, progress=_quiet
    )
    print(
        as_text(accuracy_table(rows, f"True boxes as regions ({options.set.name}: {len(benchmark.queries)} queries)"))
    )


def _describe(folder: Path, item: tuple[Path, Boxes]) -> Path:
    path, boxes = item
    file = folder / f"{path.stem}.safetensors"
    if not file.exists():
        description = describe(read_image(path), Given(boxes), make_extractor("rootsift"), max_side=MAX_SIDE)
        write_description(description, file)
    return file


def _quiet(stage: str, done: int, total: int) -> None:
    pass


if __name__ == "__main__":
    main()

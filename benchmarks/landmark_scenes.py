"""Compare the regions of a landmark detector with a grid, in retrieval of landmarks planted in ordinary pictures.

    d2r dataset compose-detection LABELS=PICTURES --split validation --backgrounds PHOTOS --pictures 600 --out SCENES
    python benchmarks/landmark_scenes.py SCENES LABELS=PICTURES --regions rmac:levels=2 --regions detector:top=2 ...

The planted photographs are the queries, with the boxes of their labels; the scenes with the photograph planted in them
are the answers. Scenes with the same landmark from another photograph are ignored. Methods: ASMK* without regions, and
R-ASMK* for each --regions, all with the same visual words, learned on the scenes without regions. The change is
relative to the grid (the first --regions), by paired bootstrap over the queries.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from d2r.asmk.codebook import Codebook
from d2r.datasets.detection import read_validation
from d2r.defaults import MAX_PIXELS, MAX_SIDE, VERIFY_FEATURES
from d2r.evaluate.benchmark import Benchmark, QueryPicture
from d2r.evaluate.extraction import extract
from d2r.evaluate.metrics import paired_bootstrap
from d2r.evaluate.revisited import Relevance
from d2r.evaluate.run import Row, Setup, codebook_file, compare
from d2r.images import read_image
from d2r.indexing.entry import Recipe
from d2r.search import Verified
from d2r.support.processes import default_workers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("labels")
    parser.add_argument("--regions", action="append", required=True)
    parser.add_argument("--words", type=int, default=1024)
    parser.add_argument("--verify", type=int, default=100)
    parser.add_argument("--cache", type=Path, default=Path("d2r-cache"))
    options = parser.parse_args()
    benchmark = planted(options.scenes, options.labels)
    rows: list[Row] = []
    codebook: Codebook | None = None
    verified: list[dict[int, Verified]] = [{} for _ in benchmark.queries]
    for regions in ["whole", *options.regions]:
        recipe = Recipe(regions, "rootsift", MAX_SIDE, VERIFY_FEATURES)
        method = "asmk*" if regions == "whole" else "r-asmk*"
        setup = Setup(recipe, (method,), options.words, options.verify)
        run = {"workers": default_workers(), "progress": quiet}
        described = extract(benchmark, recipe, options.cache, max_pixels=MAX_PIXELS, **run)
        file = codebook_file(benchmark, described, setup, options.cache, codebook, quiet)
        codebook = Codebook.load(file)
        rows += [replace(row, regions=regions) for row in compare(benchmark, described, setup, file, verified, **run)]
    print(f"{len(benchmark.database):,} scenes, {len(benchmark.queries)} queries, {options.words:,} words\n")
    print("| regions | regions per picture | bytes per picture | mAP | change | verified | change |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    grid = {row.stage: row for row in rows if row.regions == options.regions[0]}
    for row in rows:
        if row.stage == "verified":
            continue
        pair = (row, next(one for one in rows if one.stage == "verified" and one.regions == row.regions))
        cells = [f"{one.scores['all'].map:.1%} | {difference(one, grid[one.stage])}" for one in pair]
        print(f"| {row.regions} | {row.regions_per_picture:.1f} | {row.bytes_per_picture:,.0f} | {' | '.join(cells)} |")


def planted(scenes: Path, labels: str) -> Benchmark:
    """Return the planted photographs as queries and the scenes as database."""
    document = json.loads((scenes / "boxes.json").read_text())
    boxes = {picture.path.resolve(): picture.boxes[0] for picture in read_validation(labels)}
    database = {image["id"]: scenes / image["file_name"] for image in document["images"]}
    rows = {image: row for row, image in enumerate(database)}
    of_photo: dict[Path, set[int]] = defaultdict(set)
    for one in document["annotations"]:
        of_photo[Path(one["source"]).resolve()].add(rows[one["image_id"]])
    of_landmark: dict[Path, set[int]] = defaultdict(set)
    for photo, found in of_photo.items():
        of_landmark[photo.parent] |= found
    queries, judged = [], []
    for photo in sorted(of_photo):
        height, width = read_image(photo).shape[:2]
        x1, y1, x2, y2 = boxes[photo]
        queries.append(QueryPicture(photo, (x1 * width, y1 * height, x2 * width, y2 * height)))
        others = of_landmark[photo.parent] - of_photo[photo]
        judged.append(Relevance(np.array(sorted(of_photo[photo])), np.array(sorted(others), np.int64)))
    return Benchmark(scenes.name, "composed", tuple(database.values()), tuple(queries), {"all": judged})


def difference(one: Row, other: Row) -> str:
    if one is other:
        return ""
    gap = paired_bootstrap(one.scores["all"].average_precision, other.scores["all"].average_precision)
    return f"{100 * gap.mean:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"


def quiet(stage: str, done: int, total: int) -> None:
    pass


if __name__ == "__main__":
    main()

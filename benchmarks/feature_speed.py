"""How many pictures per second local features are extracted from on this machine.

    python benchmarks/feature_speed.py SPEC SPEC... --photos FOLDER [--pictures N] [--threads T] [--regions SPEC]

SPEC is a value of `--features`: rootsift, delf:model=FILE.onnx. The others are compared with the first. Every row
describes the same N photographs, decoded beforehand and scaled down to --max-side, with their regions. The methods take
turns at every picture: a machine that is busy for a while slows all of them. Before that, each describes the first
photographs once as a warm-up. Times are medians per picture with the middle 90 % in brackets; ratios are medians of the
ratios per picture. Features are counted over the picture and its regions.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np

from d2r.describe import describe
from d2r.features import make_extractor
from d2r.images import read_image
from d2r.models.onnx import pixels_a_run, set_pixels_a_run, set_threads
from d2r.regions import make_selector
from d2r.report.tables import Table, as_text
from d2r.sources import find_pictures
from d2r.support.processes import default_workers

WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="+", metavar="SPEC")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1, help="of OpenCV and of networks")
    parser.add_argument("--regions", default="whole")
    parser.add_argument("--max-side", type=int, default=1024)
    parser.add_argument("--run-pixels", type=int, help="maximum pixels per batch of a network")
    options = parser.parse_args()
    paths = [file.path for file in find_pictures(options.photos)]
    if len(paths) <= WARM_UP:
        parser.error(f"--photos {options.photos}: {len(paths)} pictures there, more than {WARM_UP} are needed")
    chosen = np.random.default_rng(0).permutation(len(paths))[: options.pictures]
    photos = [read_image(paths[row]) for row in chosen]
    cv2.setNumThreads(options.threads)
    set_threads(options.threads)
    if options.run_pixels:
        set_pixels_a_run(options.run_pixels)
    selector = make_selector(options.regions)
    extractors = [make_extractor(spec) for spec in options.specs]

    seconds = np.zeros((len(extractors), len(photos)))
    features = np.zeros_like(seconds)
    for column, photo in enumerate(photos[:WARM_UP] + photos, start=-WARM_UP):
        for row, extractor in enumerate(extractors):
            started = time.process_time()
            description = describe(photo, selector, extractor, max_side=options.max_side)
            if column >= 0:
                seconds[row, column] = time.process_time() - started
                features[row, column] = len(description.features)

    rows = []
    for spec, extractor, times, counts in zip(options.specs, extractors, seconds, features, strict=True):
        low, middle, high = np.quantile(times, (0.05, 0.5, 0.95))
        rows.append(
            (
                spec,
                f"{extractor.dim}",
                f"{1000 * middle:,.0f} [{1000 * low:,.0f}, {1000 * high:,.0f}]",
                f"{1 / middle:,.2f}",
                f"{np.median(counts):,.0f}",
                f"{np.median(counts / times):,.0f}",
                f"{np.median(times / seconds[0]):.2f}",
            )
        )
    heads = ("features", "dimensions", "ms/picture", "pictures/s", "features/picture", "features/s", "times as long")
    megapixels = np.median([photo.size / 3e6 for photo in photos])
    print(
        f"{len(photos)} photographs of {megapixels:.2f} megapixels (median), longer side at most {options.max_side};"
        f" regions {options.regions}; {options.threads} threads of {default_workers()} processors;"
        f" {pixels_a_run(on_gpu=False):,} pixels a run of a network at most\n"
    )
    print(as_text(Table("", heads, tuple(rows))))


if __name__ == "__main__":
    main()

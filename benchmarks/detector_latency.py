"""Time detectors on this machine's processor, and compare them with selective search and RMAC.

    python benchmarks/detector_latency.py MODEL.onnx... --photos FOLDER [--pictures N]

MODEL is the path of an ONNX file or the name of a shipped model. Every row uses the same N photographs, decoded
beforehand. The methods take turns after every eight runs: a machine that is busy for a while slows all of them, and no
method evicts the memory of another from the caches. A time covers everything from a picture in memory to its boxes:
scaling, network, suppression. Detectors run with one and two threads, one picture at a time and in batches of eight,
whose time is given per picture; "-" if a network takes only one. Selective search and RMAC use one thread. The middle
90 % of the times are in brackets.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from d2r.images import Picture, read_image
from d2r.models.onnx import set_threads
from d2r.regions import Detector, make_selector
from d2r.report.tables import Table, as_text
from d2r.sources import find_pictures
from d2r.support.processes import default_workers

BATCH = 8
THREADS = (1, 2)
OTHERS = ("selective-search:top=5", "rmac:levels=2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=48)
    options = parser.parse_args()
    paths = [job.path for job in find_pictures(options.photos)]
    if len(paths) < BATCH:
        parser.error(f"--photos {options.photos}: {len(paths)} pictures there, {BATCH} or more are needed")
    chosen = np.random.default_rng(0).permutation(len(paths))[: max(BATCH, options.pictures // BATCH * BATCH)]
    photos = [read_image(paths[row]) for row in chosen]
    cv2.setNumThreads(1)

    detectors = [(Detector(model), threads) for model in options.models for threads in THREADS]
    singles: list[Callable[[Picture], object]] = [_with_threads(*one) for one in detectors]
    singles += [make_selector(spec).select for spec in OTHERS]
    single_times = _times(singles, [[photo] for photo in photos])
    batches = [photos[start : start + BATCH] for start in range(0, len(photos), BATCH)]
    able = [(detector, threads) for detector, threads in detectors if detector.network().batches]
    batch_times = dict(zip(able, _times([_with_threads(*one) for one in able], batches), strict=True))

    rows = []
    for (detector, threads), single in zip(detectors, single_times, strict=False):
        network = detector.network()
        together = batch_times.get((detector, threads))
        rows.append(
            (
                Path(detector.model).stem,
                network.arch,
                f"{network.bytes / 1e6:.1f}",
                f"{threads}",
                _shown(single),
                "-" if together is None else _shown(together),
            )
        )
    rows += [
        (spec, "", "", "1", _shown(times), "-")
        for spec, times in zip(OTHERS, single_times[-len(OTHERS) :], strict=True)
    ]
    heads = ("", "architecture", "MB", "threads", "ms/picture, alone", f"ms/picture, {BATCH} together")
    sizes = ", ".join(f"{value:,.0f}" for value in np.quantile([photo.size / 3 for photo in photos], (0.05, 0.5, 0.95)))
    print(f"{len(photos)} photographs of {sizes} pixels (5 %, median, 95 %); {default_workers()} processors\n")
    print(as_text(Table("", heads, tuple(rows))))


def _with_threads(detector: Detector, threads: int) -> Callable[..., object]:
    def look(*pictures: Picture) -> object:
        set_threads(threads)  # the cache has a network for each number of threads
        return detector.detect(pictures)

    return look


def _times(methods: list[Callable[..., object]], jobs: list[list[Picture]]) -> list[np.ndarray]:
    """Return the milliseconds per picture of each method on each job."""
    times = np.zeros((len(methods), len(jobs)))
    for start in range(0, len(jobs), BATCH):
        for row, method in enumerate(methods):
            method(*jobs[start])
            for column in range(start, min(start + BATCH, len(jobs))):
                started = time.perf_counter()
                method(*jobs[column])
                times[row, column] = 1000 * (time.perf_counter() - started) / len(jobs[column])
    return list(times)


def _shown(times: np.ndarray) -> str:
    low, middle, high = np.quantile(times, (0.05, 0.5, 0.95))
    return f"{middle:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()

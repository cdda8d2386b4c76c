"""Compare verification by words and codes with brute-force matching and 1,000-trial affine RANSAC.

    python benchmarks/verification.py clutter [--cache FOLDER] [--words 1024 | --codebook FILE]

On a composed clutter set (`d2r dataset compose`): both verify the best 100 of each query's ASMK* ranking of whole
pictures. Prints the median time for the candidates of a query (of the processor, which a busy machine changes little,
and of the clock with one thread per processor), what each confirms, the mAP, and the overlap of the found box with the
true box of the planted object.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np

from d2r.asmk.codebook import Codebook
from d2r.asmk.kernels import KERNELS, aggregate, assign
from d2r.boxes import iou
from d2r.datasets.ground_truth import load_set
from d2r.defaults import MAX_PIXELS, MAX_SIDE, VERIFY_FEATURES
from d2r.evaluate.benchmark import load_benchmark
from d2r.evaluate.extraction import Extraction, Stored, aggregate_pictures, extract
from d2r.evaluate.methods import invert, scores
from d2r.evaluate.metrics import mean_average_precision, paired_bootstrap
from d2r.evaluate.run import Setup, codebook_file
from d2r.features.base import Features
from d2r.indexing.codebook import codebook_from
from d2r.indexing.entry import Recipe, read_description, verified_rows
from d2r.support.processes import default_workers
from d2r.verify.keypoints import Keypoints, make_keypoints
from d2r.verify.localise import bounding_box, found_box
from d2r.verify.verify import MIN_INLIERS, NEAREST, threshold_for, verify

METHOD = "asmk*"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("d2r-cache"))
    parser.add_argument("--words", type=int, default=1024)
    parser.add_argument("--codebook", type=Path)
    parser.add_argument("--candidates", type=int, default=100)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    benchmark = load_benchmark(options.folder)
    setup = Setup(Recipe("whole", "rootsift", MAX_SIDE, VERIFY_FEATURES), (METHOD,), options.words, options.candidates)
    run = {"workers": default_workers(), "progress": quiet}
    extraction = extract(benchmark, setup.recipe, options.cache, max_pixels=MAX_PIXELS, **run)
    given = codebook_from(options.codebook) if options.codebook is not None else None
    file = codebook_file(benchmark, extraction, setup, options.cache, given, quiet)
    stored = aggregate_pictures(extraction.files, file, (METHOD,), None, VERIFY_FEATURES, **run)
    book = Codebook.load(file)
    rankings = ranked(extraction, stored, book)
    relevance = benchmark.relevance["all"]
    rankings = [order[~np.isin(order, truth.junk)] for order, truth in zip(rankings, relevance, strict=True)]

    plain = mean_average_precision(rankings, relevance, (10,))
    print(f"{benchmark.name}: {len(rankings)} queries, {len(stored):,} pictures, {book.num_words:,} words")
    print(f"not verified: mAP {plain.map:.1%}\n")
    print("| verification | CPU ms | ms, threads | right | wrong | inliers | mAP | change |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    reference = None
    for name, way in (("brute force, RANSAC", by_descriptors), ("words, codes", by_codes)):
        check = partial(way, extraction, stored, book)
        counts, alone, together = timed(check, rankings, options.candidates)
        verified = [
            np.concatenate([order[: len(own)][np.argsort(-own, kind="stable")], order[len(own) :]])
            for order, own in zip(rankings, counts, strict=True)
        ]
        found = mean_average_precision(verified, relevance, (10,))
        reference = reference or found
        change = paired_bootstrap(found.average_precision, reference.average_precision)
        right, wrong = [], []
        for order, own, truth in zip(rankings, counts, relevance, strict=True):
            positive = np.isin(order[: len(own)], truth.positives)
            right += own[positive].tolist()
            wrong += own[~positive].tolist()
        print(
            f"| {name} | {1000 * np.median(alone):.0f} | {1000 * np.median(together):.0f} |"
            f" {np.count_nonzero(right)} of {len(right)} | {np.count_nonzero(wrong)} of {len(wrong):,} |"
            f" {np.mean(right):.1f} | {found.map:.1%} |"
            f" {100 * change.mean:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}] |",
            flush=True,
        )
    sizes(stored)
    localisation(options.folder, extraction, stored, book, rankings, options.candidates)


def ranked(extraction: Extraction, stored: list[Stored], book: Codebook) -> list[np.ndarray]:
    kernel = KERNELS[METHOD]
    database = invert([one.descriptors[METHOD] for one in stored], kernel, book.num_words)
    rankings = []
    for query in extraction.queries:
        similarity = scores(aggregate(assign(book, query.features.descriptors), kernel), database, kernel, None)
        order = np.argsort(-similarity, kind="stable")
        rankings.append(order[similarity[order] != 0])
    return rankings


def timed(
    check: Callable[[int], Callable[[int], int]], rankings: list[np.ndarray], candidates: int
) -> tuple[list[np.ndarray], list[float], list[float]]:
    """Return the inliers of each query's candidates, and their seconds: of the processor, and of the clock."""
    counts, alone, together = [], [], []
    with ThreadPoolExecutor(default_workers()) as threads:
        for query, order in enumerate(rankings):
            rows = order[:candidates].tolist()
            if query == 0:
                check(query)(rows[0])  # compiled
            started = time.process_time()
            verified = check(query)
            counts.append(np.array([verified(row) for row in rows]))
            alone.append(time.process_time() - started)
            started = time.perf_counter()
            list(threads.map(check(query), rows))
            together.append(time.perf_counter() - started)
    return counts, alone, together


# ---- The two methods; each returns a function that verifies a picture for a query ----


def by_codes(extraction: Extraction, stored: list[Stored], book: Codebook, query: int) -> Callable[[int], int]:
    keypoints = make_keypoints(extraction.queries[query].features, book, nearest=NEAREST)

    def check(row: int) -> int:
        threshold = threshold_for(stored[row].side, MAX_SIDE)
        return verify(keypoints, stored[row].keypoints, bits=book.dim, threshold=threshold).inliers

    return check


def by_descriptors(extraction: Extraction, stored: list[Stored], book: Codebook, query: int) -> Callable[[int], int]:
    own = extraction.queries[query].features
    others = [whole_features(file) for file in extraction.files]  # reads the files once, which is not timed

    def check(row: int) -> int:
        return ransac(own, others[row], threshold_for(stored[row].side, MAX_SIDE))

    return check


@cache
def whole_features(file: Path | None) -> Features:
    if file is None:
        return Features.empty(128)
    description = read_description(file)
    return description.features.take(verified_rows(description, VERIFY_FEATURES))


def ransac(query: Features, other: Features, threshold: float) -> int:
    """Match every descriptor with every other, and fit an affine transform by 1,000 random trials."""
    if min(len(query), len(other)) < 2:
        return 0
    products = query.descriptors @ other.descriptors.T
    rows = np.arange(len(query))
    nearest = products.argmax(axis=1)
    mutual = products.argmax(axis=0)[nearest] == rows
    first = products[rows, nearest]
    products[rows, nearest] = -np.inf
    distinct = np.maximum(1.0 - first, 1e-5) < 0.8**2 * (1.0 - products.max(axis=1))
    kept = np.flatnonzero(mutual & distinct)
    if len(kept) < MIN_INLIERS:
        return 0
    parameters = cv2.UsacParams()
    parameters.threshold = threshold
    parameters.maxIterations = 1000
    parameters.confidence = 0.999
    parameters.sampler = cv2.SAMPLING_UNIFORM
    parameters.score = cv2.SCORE_METHOD_MSAC
    parameters.loMethod = cv2.LOCAL_OPTIM_INNER_LO
    parameters.loIterations = 10
    parameters.loSampleSize = 14
    parameters.isParallel = False
    parameters.randomGeneratorState = 0
    target = other.positions[nearest[kept]]
    transform, mask = cv2.estimateAffine2D(query.positions[kept], target, parameters)
    if transform is None:
        return 0
    stretches = np.linalg.svd(transform[:, :2], compute_uv=False)
    if np.linalg.det(transform[:, :2]) <= 0 or stretches[0] >= 8 * stretches[1]:
        return 0
    agreeing = mask.ravel().astype(bool)
    spread = np.ptp(target[agreeing], axis=0).max(initial=0.0)
    return int(agreeing.sum()) if agreeing.sum() >= MIN_INLIERS and spread >= 3 * threshold else 0


# ---- Sizes and boxes ----


def sizes(stored: list[Stored]) -> None:
    count = sum(len(one.keypoints) for one in stored)
    width = stored[0].keypoints.codes.shape[1]
    kept = 8 + 4 + 1 + 1 + 8 * width  # position, scale, angle, word, code
    each = count / len(stored)
    print(f"\na picture has {each:.0f} keypoints of {kept} bytes, {kept * each / 1000:.0f} KB;")
    print(f"with descriptors of 128 bytes they would take {(8 + 4 + 128) * each / 1000:.0f} KB")


@dataclass
class Overlaps:
    """IoU with the true box, of every confirmed correct result."""

    found: list[float]
    whole: list[float]
    keypoints: list[float]


def localisation(
    folder: Path,
    extraction: Extraction,
    stored: list[Stored],
    book: Codebook,
    rankings: list[np.ndarray],
    candidates: int,
) -> None:
    composed = load_set(folder)
    overlaps = Overlaps([], [], [])
    for query, (order, asked) in enumerate(zip(rankings, composed.queries, strict=True)):
        described = extraction.queries[query]
        own = make_keypoints(described.features, book, nearest=NEAREST)
        for row in order[:candidates]:
            picture = composed.database[row]
            true = [one.box for one in picture.planted if one.instance == asked.instance]
            if picture.path not in asked.positives or len(true) != 1:
                continue
            its: Keypoints = stored[row].keypoints
            verification = verify(own, its, bits=book.dim, threshold=threshold_for(stored[row].side, MAX_SIDE))
            if verification.transform is None:
                continue
            places = its.positions[verification.matches[:, 1]]
            size = (picture.width, picture.height)
            boxes = [
                found_box(described.boxes[0], whole, verification.transform, places, size) for whole in (False, True)
            ]
            boxes.append(bounding_box(places))
            for into, value in zip(vars(overlaps).values(), iou(boxes, true)[:, 0].tolist(), strict=True):
                into.append(value)
    print("\n| box | mean IoU with the true one | IoU 0.5 or more |\n|---|---:|---:|")
    for name, values in zip(
        ("found", "without the query box", "around the inliers"), vars(overlaps).values(), strict=True
    ):
        print(f"| {name} | {np.mean(values):.2f} | {np.mean(np.array(values) >= 0.5):.0%} |")


def quiet(stage: str, done: int, total: int) -> None:
    """Ignore progress."""


if __name__ == "__main__":
    main()

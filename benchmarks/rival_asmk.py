"""Compare with the ``asmk`` package: the same descriptors, words and options; scores, times and bytes.

    pip install asmk
    python benchmarks/rival_asmk.py [--data FOLDER] [--words 4096] [--pictures 300]
    python benchmarks/rival_asmk.py --synthetic --words 65536 --pictures 50000

Uses real photographs (whole pictures, RootSIFT, one codebook learned from them), or with --synthetic 500 descriptors
per picture, each near a word of its own. Words are assigned once for both. Build is the rest: residuals, aggregation
and the inverted file; ours is also written, checksummed and synced to the disk, theirs stays in memory. Search goes
from a query's aggregated descriptor to its ranked list. All on one thread; medians; the two alternate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from d2r.asmk.codebook import Codebook
from d2r.asmk.kernels import KERNELS, Aggregated, Assigned, aggregate
from d2r.asmk.learning import train_codebook
from d2r.describe import describe
from d2r.features import make_extractor
from d2r.images import read_image
from d2r.index import Entry, Index, PictureState
from d2r.regions import make_selector
from synthetic import BOX, NO_CODES, NO_KEYPOINTS, SCORE

BATCH = 1000
STAR = KERNELS["asmk*"]
Picture = tuple[NDArray[np.float32], NDArray[np.int32]]  # descriptors (N, D) and words (N,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("D2R_DATA", "../shared/data")))
    parser.add_argument("--synthetic", action="store_true")
    parser.add_argument("--words", type=int, default=4096)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--queries", type=int, default=100)
    options = parser.parse_args()
    try:
        from asmk.codebook import Codebook as TheirCodebook

        from asmk import inverted_file, kernel
    except ImportError:
        parser.error("the rival is not installed: pip install asmk")
    faiss.omp_set_num_threads(1)

    make = synthetic if options.synthetic else photographs
    codebook, batches = make(options)
    theirs_book = TheirCodebook(None, size=options.words)
    theirs_book.centroids = codebook.centroids
    theirs = kernel.ASMKKernel(theirs_book, binary=True)
    ivf = inverted_file.IVF.initialize_empty(codebook_size=options.words, use_idf=False)
    seconds: dict[str, list[float]] = defaultdict(list)
    queries: list[Picture] = []
    done = 0
    with tempfile.TemporaryDirectory(prefix="asmk-") as place, Index.create(Path(place, "x.index"), {}) as index:
        with index.writing() as writer:
            writer.set_codebook(codebook)
            for number, batch in enumerate(batches):
                if number == 0:
                    queries = batch[: options.queries]
                    index_of(batch[:2], codebook, 0)  # compiles
                every = np.concatenate([one for one, _ in batch])
                words = np.concatenate([one for _, one in batch])
                owners = np.repeat(np.arange(done, done + len(batch)), [len(one) for one, _ in batch])

                def build_theirs(every: Any = every, words: Any = words, owners: Any = owners) -> None:
                    codes, code_words, code_owners = theirs.aggregate(every, words[:, None], owners)
                    ivf.add(codes, code_words, code_owners.copy())

                def build_ours(batch: list[Picture] = batch, done: int = done) -> None:
                    writer.put(index_of(batch, codebook, done))

                seconds["asmk build"].append(timed(build_theirs) / len(batch))
                seconds["ours build"].append(timed(build_ours) / len(batch))
                done += len(batch)
            writer.compact()
        size = index.size()
        with Index(index.folder, threads=1) as single:
            worst = 0.0
            for descriptors, words in queries:
                ours = described(descriptors, words, codebook)
                single.search(ours, 10)  # so that both find the query's postings in the cache
                codes, code_words = theirs.aggregate_image(descriptors, words[:, None])
                found: dict[str, Any] = {}

                def search_theirs(codes: Any = codes, words: Any = code_words, found: Any = found) -> None:
                    found["asmk"] = ivf.search(
                        codes, words,
                        similarity_func=lambda *x: theirs.similarity(*x, alpha=3.0, similarity_threshold=0.0),
                        topk=done,
                    )  # fmt: skip

                def search_all(query: Aggregated = ours, found: Any = found) -> None:
                    found["ours"] = single.search(query, done if done <= BATCH else 1000)

                def search_best(query: Aggregated = ours) -> None:
                    single.search(query, 10)

                seconds["asmk search"].append(timed(search_theirs))
                seconds["ours search, best 1,000"].append(timed(search_all))
                seconds["ours search, best 10"].append(timed(search_best))
                ranks, scores = found["asmk"]
                expected = np.zeros(done)
                expected[ranks] = scores
                for hit in found["ours"]:
                    worst = max(worst, abs(hit.score - expected[int(hit.picture.path[1:])]))
    held = [(v.nbytes + i.nbytes) for v, i in zip(ivf.ivf_vecs, ivf.ivf_image_ids, strict=True) if v is not None]
    print(f"{done:,} pictures, {size.postings:,} postings, {options.words:,} words, {len(queries)} queries")
    print(f"largest difference of a score: {worst:.2e}")
    line("build, us per picture", seconds["asmk build"], seconds["ours build"], 1e6)
    line("search, best 1,000, ms", seconds["asmk search"], seconds["ours search, best 1,000"], 1e3)
    line("search, best 10, ms", seconds["asmk search"], seconds["ours search, best 10"], 1e3)
    line("bytes per posting", [sum(held) / size.postings], [size.search_bytes / size.postings], 1)


def photographs(options: argparse.Namespace) -> tuple[Codebook, Iterator[list[Picture]]]:
    paths = (sorted(options.data.glob("scenes/*/*.jpg")) + sorted(options.data.glob("photos/*")))[: options.pictures]
    selector, extractor = make_selector("whole"), make_extractor("rootsift")
    found = [describe(read_image(path), selector, extractor, max_side=1024).features.descriptors for path in paths]
    codebook = train_codebook(np.concatenate(found), options.words)
    pictures = [(one, codebook.assign(one)[:, 0]) for one in found]
    return codebook, (pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH))


def synthetic(options: argparse.Namespace) -> tuple[Codebook, Iterator[list[Picture]]]:
    rng = np.random.default_rng(0)
    centroids = rng.standard_normal((options.words, 128)).astype(np.float32)

    def batches() -> Iterator[list[Picture]]:
        for start in range(0, options.pictures, BATCH):
            batch = []
            for _ in range(min(BATCH, options.pictures - start)):
                words = rng.permutation(options.words)[:500].astype(np.int32)
                batch.append((centroids[words] + 0.1 * rng.standard_normal((500, 128), np.float32), words))
            yield batch

    return Codebook(centroids), batches()


def described(descriptors: NDArray[np.float32], words: NDArray[np.int32], codebook: Codebook) -> Aggregated:
    return aggregate(Assigned(words, *codebook.centre(descriptors, words), np.zeros(len(words), np.int32), 1), STAR)


def index_of(batch: list[Picture], codebook: Codebook, first: int) -> list[tuple[PictureState, Entry]]:
    return [
        (
            PictureState(f"/{first + number:09d}", 0, 0, None),
            Entry(described(*one, codebook), BOX, SCORE, NO_KEYPOINTS, NO_CODES),
        )
        for number, one in enumerate(batch)
    ]


def timed(function: Callable[[], None]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def line(what: str, theirs: list[float], ours: list[float], unit: float) -> None:
    a, b = statistics.median(theirs) * unit, statistics.median(ours) * unit
    spread = np.percentile(np.array(ours) * unit, [25, 75])
    print(f"{what:24} asmk {a:10.3f}   ours {b:9.3f} [{spread[0]:.3f}, {spread[1]:.3f}]   ratio {a / b:6.1f}")


if __name__ == "__main__":
    main()

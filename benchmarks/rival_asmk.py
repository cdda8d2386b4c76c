"""Side by side with the ``asmk`` package: the same descriptors, words and options; scores, times and bytes.

    pip install asmk
    python benchmarks/rival_asmk.py [--data FOLDER] [--words N] [--pictures N]

Describes photographs (whole pictures, RootSIFT), learns one codebook, assigns words once, and hands the same to both.
Build is aggregation and the inverted file; ours is also written and synced to the disk, theirs stays in memory. Search
is a query's aggregated descriptor to its ranked list. Each time is the median of several runs, in alternation.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np

from d2r.aggregate import KERNELS, Assigned, aggregate
from d2r.boxes import as_boxes
from d2r.codebook import train_codebook
from d2r.describe import describe
from d2r.features import make_extractor
from d2r.features.base import Features
from d2r.images import read_image
from d2r.index import Entry, Index, PictureState
from d2r.regions import make_selector

NO_FEATURES = Features.empty(128)
RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("D2R_DATA", "../shared/data")))
    parser.add_argument("--words", type=int, default=4096)
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--queries", type=int, default=100)
    options = parser.parse_args()
    try:
        from asmk import inverted_file, kernel
        from asmk.codebook import Codebook as TheirCodebook
    except ImportError:
        parser.error("the rival is not installed: pip install asmk")
    faiss.omp_set_num_threads(1)

    paths = (sorted(options.data.glob("scenes/*/*.jpg")) + sorted(options.data.glob("photos/*")))[: options.pictures]
    selector, extractor = make_selector("whole"), make_extractor("rootsift")
    found = [describe(read_image(path), selector, extractor, max_side=1024).features.descriptors for path in paths]
    every = np.concatenate(found)
    codebook = train_codebook(every, options.words)
    words = codebook.assign(every)
    owners = np.repeat(np.arange(len(found)), [len(one) for one in found])
    print(f"{len(paths):,} pictures, {len(every):,} descriptors, {options.words:,} words")

    star = KERNELS["asmk*"]
    theirs_book = TheirCodebook(None, size=options.words)
    theirs_book.centroids = codebook.centroids
    their_kernel = kernel.ASMKKernel(theirs_book, binary=True)
    build: dict[str, list[float]] = {"ours": [], "asmk": []}
    for run in range(RUNS):
        started = time.perf_counter()
        codes, code_words, code_owners = their_kernel.aggregate(every, words, owners)
        ivf = inverted_file.IVF.initialize_empty(codebook_size=options.words, use_idf=False)
        ivf.add(codes, code_words, code_owners.copy())
        build["asmk"].append(time.perf_counter() - started)

        folder = Path(tempfile.mkdtemp(prefix="asmk-")) / "index"
        index = Index.create(folder, {})
        with index.writing() as writer:
            writer.set_codebook(codebook)
            started = time.perf_counter()
            entries = []
            for number, own in enumerate(np.split(np.arange(len(every)), np.cumsum([len(one) for one in found])[:-1])):
                residuals = codebook.residuals(every[own], words[own, 0])
                assigned = Assigned(words[own, 0], residuals, np.zeros(len(own), np.int32), 1)
                entry = Entry(aggregate(assigned, star), as_boxes([0, 0, 1, 1]), np.ones(1, np.float32), NO_FEATURES)
                entries.append((PictureState(f"/{number:06d}", 0, 0, None), entry))
            writer.put(entries)
            build["ours"].append(time.perf_counter() - started)
        if run < RUNS - 1:
            index.close()

    search: dict[str, list[float]] = {"ours": [], "asmk": []}
    worst = 0.0
    queries = [entry.aggregated for _, entry in entries[: options.queries]]
    slices = [np.flatnonzero(owners == number) for number in range(options.queries)]
    index.search(queries[0], 10)  # compiles the kernel
    for query, own in zip(queries, slices, strict=True):
        their_codes, their_words = their_kernel.aggregate_image(every[own], words[own])
        ranks, scores = _timed(
            search["asmk"],
            lambda c=their_codes, w=their_words: ivf.search(
                c,
                w,
                similarity_func=lambda *x: their_kernel.similarity(*x, alpha=3.0, similarity_threshold=0.0),
                topk=len(paths),
            ),
        )
        hits = _timed(search["ours"], lambda q=query: index.search(q, len(paths)))
        ours = np.zeros(len(paths))
        for hit in hits:
            ours[int(hit.picture.path[1:])] = hit.score
        theirs = np.zeros(len(paths))
        theirs[ranks] = scores
        worst = max(worst, float(np.abs(ours - theirs).max()))
        _timed(search["ours top 10"] if "ours top 10" in search else search.setdefault("ours top 10", []),
               lambda q=query: index.search(q, 10))  # fmt: skip

    size = index.size()
    their_bytes = sum(
        v.nbytes + i.nbytes for v, i in zip(ivf.ivf_vecs, ivf.ivf_image_ids, strict=True) if v is not None
    )
    print(f"largest difference of a score: {worst:.2e}")
    _line(
        "build, ms a picture",
        [1000 * t / len(paths) for t in build["asmk"]],
        [1000 * t / len(paths) for t in build["ours"]],
    )
    _line("search, whole ranking, ms", [1000 * t for t in search["asmk"]], [1000 * t for t in search["ours"]])
    _line("search, best 10, ms", [1000 * t for t in search["asmk"]], [1000 * t for t in search["ours top 10"]])
    _line("bytes a posting", [their_bytes / size.postings], [size.search_bytes / size.postings])


def _timed(times: list[float], function):  # type: ignore[no-untyped-def]
    started = time.perf_counter()
    result = function()
    times.append(time.perf_counter() - started)
    return result


def _line(what: str, theirs: list[float], ours: list[float]) -> None:
    a, b = statistics.median(theirs), statistics.median(ours)
    print(f"{what:28} asmk {a:9.3f}   ours {b:9.3f}   ratio {a / b:6.1f}")


if __name__ == "__main__":
    main()

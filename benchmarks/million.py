"""Build, open and search an index of up to a million pictures, and measure how everything grows.

    d2r index PHOTOS --out real.index --words 65536
    python benchmarks/million.py --like real.index --out FOLDER [--pictures 1001001]

The pictures are synthetic: the number and popularity of their words, and how often codes of one word agree, are those
of the real index. They go through the index's own writer, in batches, with its merges, checksums and syncs. At each
size the index is opened and searched for the best 100 by one thread and by two, with new queries and again with the
same. Twenty queries have three pictures each that share a quarter of their words, with a fifth of the bits flipped;
these must be the best three at every size. Writes results.json beside the index.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from d2r.asmk.codebook import Codebook
from d2r.asmk.kernels import Aggregated
from d2r.index import Index
from d2r.support.files import own_folder, remove_own_folder
from synthetic import folder_bytes, measure, pictures, put

SIZES = (1_000, 10_000, 100_000, 1_001_001)
BATCH = 8192
QUERIES = 100
PLANTED = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", type=Path, required=True, help="an index of real photographs")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the index; overwritten if it is from an earlier run"
    )
    parser.add_argument("--pictures", type=int, default=SIZES[-1])
    options = parser.parse_args()
    with Index(options.like) as real_index:
        real = measure(real_index)
    print(
        f"like {len(real.words):,} pictures: {len(real.popularity):,} words, {real.words.mean():,.0f} per picture,"
        f" the most popular in {real.popularity[0] * real.words.mean():.1%} of them, codes agree in"
        f" {real.agreement:.1%} of bits",
        flush=True,
    )
    queries = list(pictures(real, QUERIES, seed=1))
    remove_own_folder(options.out)
    own_folder(options.out)
    folder = options.out / "million.index"
    rows = []
    with Index.create(folder, {}) as index:
        with index.writing() as writer:
            centroids = np.random.default_rng(0).standard_normal((len(real.popularity), 128)).astype(np.float32)
            writer.set_codebook(Codebook(centroids))
        source = planted_first(queries[:PLANTED], pictures(real, options.pictures, seed=2))
        done, seconds = 0, 0.0
        for size in [size for size in SIZES if size < options.pictures] + [options.pictures]:
            with index.writing() as writer:
                while done < size:
                    batch = [next(source) for _ in range(min(BATCH, size - done))]
                    started = time.perf_counter()
                    put(writer, done, batch)
                    seconds += time.perf_counter() - started
                    done += len(batch)
                    if done % (BATCH * 8) == 0:
                        print(f"  {done:,} pictures in {seconds:,.0f} s", flush=True)
            rows.append(measured(folder, queries, seconds))
            print(json.dumps(rows[-1]), flush=True)
            (options.out / "results.json").write_text(json.dumps(rows, indent=1))
    started = time.perf_counter()
    with Index(folder) as index, index.writing() as writer:
        writer.compact()
    print(f"compacting took {time.perf_counter() - started:,.0f} s")
    rows.append(measured(folder, queries, seconds))
    print(json.dumps(rows[-1]))
    (options.out / "results.json").write_text(json.dumps(rows, indent=1))


def planted_first(queries: list[Aggregated], source: Iterator[Aggregated]) -> Iterator[Aggregated]:
    """Yield pictures; the first are three views of each query."""
    rng = np.random.default_rng(3)
    for query in queries:
        for _ in range(3):
            other = next(source)
            kept = np.sort(rng.permutation(len(query))[: len(query) // 4])
            flips = np.packbits(rng.random((len(kept), 128)) < 0.2, axis=1).view(np.uint64)
            new = ~np.isin(other.words, query.words[kept])
            words = np.concatenate([query.words[kept], other.words[new]])
            codes = np.concatenate([query.vectors[kept] ^ flips, other.vectors[new]])
            order = np.argsort(words)
            yield Aggregated(words[order], codes[order], 128)
    yield from source


def measured(folder: Path, queries: list[Aggregated], build_seconds: float) -> dict[str, object]:
    """Open and search an index, and return the measurements."""
    single = Aggregated(queries[0].words[:1], queries[0].vectors[:1], 128)
    started = time.perf_counter()
    with Index(folder) as index:
        index.search(single, 1)
        opened = time.perf_counter() - started
    row: dict[str, object] = {}
    for threads in (1, 2):
        with Index(folder, threads=threads) as index:
            index.search(single, 1)
            for turn in ("new", "again"):
                times = []
                for number, query in enumerate(queries):
                    started = time.perf_counter()
                    hits = index.search(query, 100)
                    times.append(1000 * (time.perf_counter() - started))
                    if number < PLANTED:
                        best = {hit.picture.path for hit in hits[:3]}
                        assert best == {f"/synthetic/{3 * number + view:09d}.jpg" for view in range(3)}, (number, best)
                memory = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
                row[f"search_ms_{threads}_{turn}"] = [
                    round(statistics.median(times), 3), round(float(np.percentile(times, 99)), 3)
                ]  # fmt: skip
                if threads == 1:
                    scored = sum(visited(index, query) for query in queries)
                    row[f"ns_posting_{turn}"] = round(1e6 * sum(times) / scored, 2)
    size = index_size(folder)
    return {
        "pictures": size.pictures,
        "segments": size.segments,
        "postings": size.postings,
        "postings_scored": scored // len(queries),
        "build_seconds": round(build_seconds, 1),
        "build_us_a_picture": round(1e6 * build_seconds / size.pictures, 1),
        "open_ms": round(1000 * opened, 1),
        **row,
        "bytes_a_posting": round(size.search_bytes / size.postings, 2),
        "bytes_a_picture": round(size.search_bytes / size.pictures),
        "disk_bytes": folder_bytes(folder),
        "catalogue_bytes_a_picture": round((folder / "catalogue.sqlite").stat().st_size / size.pictures),
        "private_mb": int(memory["RssAnon"].split()[0]) // 1024,
        "mapped_mb": int(memory["RssFile"].split()[0]) // 1024,
        "machine_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
    }


def visited(index: Index, query: Aggregated) -> int:
    """Return how many postings the words of a query have."""
    total = 0
    for segment in index._fresh().segments.values():
        rows = np.searchsorted(segment.words, query.words).clip(max=len(segment.words) - 1)
        rows = rows[segment.words[rows] == query.words]
        total += int((segment.word_starts[rows + 1] - segment.word_starts[rows]).sum())
    return total


def index_size(folder: Path):  # type: ignore[no-untyped-def]
    with Index(folder) as index:
        return index.size()


if __name__ == "__main__":
    main()

"""Time the scoring loop alone by the length of posting lists, against the limit of memory bandwidth.

    python benchmarks/scoring.py

Random codes and random words, far larger than the processor's caches, one thread; the limit is a sum over one array.
"""

from __future__ import annotations

import time

import numpy as np
from numba import njit

from d2r.asmk.kernels import KERNELS, selectivity_by_distance
from d2r.index.scoring import score_postings

POSTINGS = 80_000_000
SLOTS = 65_536
WORDS = 500
RUNS = 30


@njit(nogil=True)  # type: ignore[untyped-decorator]
def total(array):  # type: ignore[no-untyped-def]
    result = np.uint64(0)
    for value in array:
        result += value
    return result


def main() -> None:
    rng = np.random.default_rng(0)
    score, table = score_postings(2), selectivity_by_distance(2, 128, KERNELS["r-asmk*"])
    every = rng.integers(0, 2**64 - 1, (POSTINGS, 2), dtype=np.uint64)
    speeds = []
    for _ in range(6):
        started = time.perf_counter()
        total(every.reshape(-1))
        speeds.append(every.nbytes / (time.perf_counter() - started) / 1e9)
    speeds = speeds[1:]  # the first run compiled
    print(f"memory: {np.median(speeds):.1f} GB/s, so {18 / np.median(speeds):.2f} ns per posting of 18 bytes at best")
    scores = np.zeros(SLOTS, np.float32)
    for length in (60, 250, 500, 2_000, 8_000):
        count = POSTINGS // length
        starts = np.arange(0, (count + 1) * length, length, dtype=np.int64)
        some = np.sort(rng.integers(0, SLOTS, (1000, length)), axis=1).astype(np.uint16).reshape(-1)
        slots = np.resize(some, count * length)
        words = np.arange(count, dtype=np.int32)
        chosen = [np.sort(rng.permutation(count)[:WORDS]).astype(np.int32) for _ in range(RUNS + 1)]
        codes = rng.integers(0, 2**64 - 1, (WORDS, 2), dtype=np.uint64)
        times = []
        for query in chosen:
            started = time.perf_counter()
            score(query, codes[: len(query)], words, starts, slots, every, table, scores)
            times.append(time.perf_counter() - started)
        each = 1e9 * np.array(times[1:]) / (len(chosen[0]) * length)
        low, middle, high = np.percentile(each, [25, 50, 75])
        print(f"lists of {length:5,} postings: {middle:.2f} ns per posting [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()

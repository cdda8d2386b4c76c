"""How much an exact early stop could save: postings that no bound excludes must be read.

    python benchmarks/early_stop.py INDEX [--like real.index]

A search for the best k can skip a picture as soon as an upper bound of its score is below the k-th best score. This
counts the postings of pictures that a bound excludes, given the k-th best score beforehand, which no search has: the
result is more than any search could save. The bounds:

- words: every word that query and picture share counts s(1) = 1. Needs only the slots, 2 of the 18 bytes of a posting.
- half code: a word counts s of the distance of the first 64 bits, which is a lower bound of the whole distance. Needs
  the slots and half of the codes, 10 of the 18 bytes.

Queries are pictures of the index, each without itself, or with --like synthetic ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from d2r.asmk.kernels import KERNELS, selectivity_by_distance
from d2r.index import Index
from synthetic import measure, pictures

QUERIES = 50
TABLE = selectivity_by_distance(2, 128, KERNELS["r-asmk*"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--like", type=Path)
    options = parser.parse_args()
    with Index(options.index) as index:
        if options.like is None:
            rows = [one for _, one in index.aggregated()]
            queries = [rows[row] for row in np.random.default_rng(0).permutation(len(rows))[:QUERIES]]
        else:
            with Index(options.like) as real:
                queries = list(pictures(measure(real), QUERIES, seed=1))
        saved: dict[tuple[str, int], list[float]] = {}
        for query in queries:
            scores, by_words, by_half, counts = [], [], [], []
            for segment in index._fresh().segments.values():
                _, own, theirs = np.intersect1d(query.words, segment.words, return_indices=True)
                lists = [slice(segment.word_starts[row], segment.word_starts[row + 1]) for row in theirs]
                slots = np.concatenate([segment.posting_slots[one] for one in lists])
                lengths = [one.stop - one.start for one in lists]
                codes = np.concatenate([segment.posting_codes[one] for one in lists])
                bits = np.bitwise_count(codes ^ np.repeat(query.vectors[own], lengths, axis=0))
                size = len(segment)
                factor = segment.g * len(query) ** -0.5
                scores.append(np.bincount(slots, TABLE[bits.sum(axis=1)], size) * factor)
                by_half.append(np.bincount(slots, TABLE[bits[:, 0]], size) * factor)
                counts.append(np.bincount(slots, minlength=size))
                by_words.append(counts[-1] * factor)
            score, words, half, count = (np.concatenate(one) for one in (scores, by_words, by_half, counts))
            if options.like is None:
                score[np.argmax(score)] = 0.0  # itself
            for most in (1, 10, 100):
                least = np.partition(score, -most)[-most]
                for name, bound in (("words", words), ("half code", half)):
                    saved.setdefault((name, most), []).append(count[bound < least].sum() / count.sum())
        size = index.size()
    print(f"{size.pictures:,} pictures, {size.num_words:,} words, {len(queries)} queries; share of postings excluded")
    for (name, most), shares in saved.items():
        low, middle, high = np.percentile(shares, [5, 50, 95])
        print(f"best {most:3}, bound by {name:9}: {middle:6.1%}  [{low:.1%}, {high:.1%}]")


if __name__ == "__main__":
    main()

"""The methods that are compared: a kernel, and how regions are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.kernels import (
    KERNELS,
    Aggregated,
    Assigned,
    Kernel,
    aggregate,
    aggregate_regions,
    selectivity,
    selectivity_by_distance,
)
from d2r.index.scoring import score_postings
from d2r.support.checks import check_array, check_numbers, check_starts


@dataclass(frozen=True)
class Method:
    """A way to compare a query with a database picture that has several regions.

    Attributes:
        kernel: name of the match kernel.
        pool: regional search: every region is stored and compared separately, and the similarities are pooled; None
            stores one descriptor per picture.
    """

    kernel: str
    pool: Literal["max", "avg"] | None = None

    @property
    def expandable(self) -> bool:
        """Whether queries can be expanded: each picture has one binary descriptor."""
        return self.pool is None and KERNELS[self.kernel].embedding == "sign"

    @property
    def regional(self) -> bool:
        """Whether regions besides the whole picture are used."""
        return self.pool is not None or KERNELS[self.kernel].regional


METHODS: dict[str, Method] = {name: Method(name) for name in KERNELS} | {
    f"d2r-{name}({pool})": Method(name, pool) for name in ("vlad", "asmk", "asmk*") for pool in ("max", "avg")
}
"""Every method by name: the kernels of the paper, and regional search ("d2r-...") with each pooling."""


@dataclass(frozen=True)
class Inverted:
    """The aggregated descriptors of a database, by visual word, with E entries and P postings.

    Raises ``ValueError`` if the arrays do not fit this description.

    Attributes:
        starts: int64 (C + 1,), the rows of word c are ``starts[c]`` to ``starts[c + 1]``.
        entries: uint32 (P,), the entry (a picture or a region) of each row.
        vectors: float32 (P, D) or packed signs uint64 (P, B).
        g: float32 (E,), the normalisation of each entry.
        pictures: int64 (E,), the picture of each entry, ascending.
        dim: dimension of the vectors.
    """

    starts: NDArray[np.int64]
    entries: NDArray[np.uint32]
    vectors: NDArray[np.float32] | NDArray[np.uint64]
    g: NDArray[np.float32]
    pictures: NDArray[np.int64]
    dim: int

    def __post_init__(self) -> None:
        check_starts("starts", self.starts, len(self.starts) - 1, len(self.entries))
        check_array("entries", self.entries, np.uint32, (len(self.vectors),))
        if len(self.entries) and self.entries.max() >= len(self.g):
            raise ValueError(f"entries must be from 0 to {len(self.g) - 1:,}, not up to {self.entries.max():,}")

    @property
    def descriptor_bytes(self) -> int:
        """Bytes of the descriptors: four per word number, and those of the vectors."""
        return 4 * len(self.entries) + self.vectors.nbytes


def describe_picture(assigned: Assigned, method: Method) -> list[Aggregated]:
    """Return what a method stores about a picture: one descriptor, or one per region for regional search."""
    kernel = KERNELS[method.kernel]
    return [aggregate(assigned, kernel)] if method.pool is None else aggregate_regions(assigned, kernel)


def invert(pictures: Sequence[Sequence[Aggregated]], kernel: Kernel, num_words: int) -> Inverted:
    """Sort the descriptors of pictures (one or several each) by visual word.

    Raises:
        ValueError: a word is not below ``num_words``.
    """
    flat = [one for picture in pictures for one in picture]
    counts = [len(one) for one in flat]
    every = np.concatenate([one.words for one in flat])
    check_numbers("words", every, len(every), num_words)
    order = np.argsort(every, kind="stable")
    vectors = np.concatenate([one.vectors for one in flat])[order]
    entries = np.repeat(np.arange(len(flat), dtype=np.uint32), counts)[order]
    return Inverted(
        starts=np.searchsorted(every[order], np.arange(num_words + 1)).astype(np.int64),
        entries=entries,
        vectors=vectors,
        g=_normalisations(vectors, entries, len(flat), kernel),
        pictures=np.repeat(np.arange(len(pictures)), [len(picture) for picture in pictures]),
        dim=flat[0].dim,
    )


def scores(query: Aggregated, database: Inverted, kernel: Kernel, pool: str | None) -> NDArray[np.float32]:
    """Return the similarity of a query to every picture of the database, float32 (N,).

    It is K(X, Y), or with regional search simMAX or simAVG, computed over the words of the query only.
    """
    sums = np.zeros(len(database.g), np.float32)
    if query.vectors.dtype == np.uint64:
        sums = sums_by_distance(query, database, selectivity_by_distance(query.vectors.shape[1], query.dim, kernel))
        own = float(len(query))
    else:
        for word, vector in zip(query.words, query.vectors, strict=True):
            rows = slice(database.starts[word], database.starts[word + 1])
            # A word occurs once per entry, so no entry is added twice here.
            sums[database.entries[rows]] += selectivity(database.vectors[rows] @ vector, kernel)
        own = float(selectivity(np.einsum("we,we->w", query.vectors, query.vectors), kernel).sum())
    values = sums * database.g * np.float32(own**-0.5 if own > 0 else 0.0)
    starts = np.flatnonzero(np.diff(database.pictures, prepend=-1))
    if pool == "max":
        return np.asarray(np.maximum.reduceat(values, starts), np.float32)
    totals = np.add.reduceat(values, starts)
    return np.asarray(totals / np.bincount(database.pictures), np.float32)


def sums_by_distance(query: Aggregated, database: Inverted, table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sum over words of ``table[h]``, h the Hamming distance, for every entry of the database, float32 (E,).

    Args:
        query: packed signs.
        database: packed signs.
        table: float32 (64 B + 1,), such as :func:`d2r.asmk.kernels.selectivity_by_distance`.

    Raises:
        ValueError: one of them is not packed signs, or they do not fit together.
    """
    query.check_signs()
    blocks = query.vectors.shape[1]
    check_array("vectors of the database", database.vectors, np.uint64, (len(database.entries), blocks))
    check_array("table", table, np.float32, (64 * blocks + 1,))
    sums = np.zeros(len(database.g), np.float32)
    every = np.arange(len(database.starts) - 1, dtype=np.int32)
    score_postings(blocks)(
        query.words, query.vectors, every, database.starts, database.entries, database.vectors, table, sums
    )
    return sums


def _normalisations(
    vectors: NDArray[np.float32] | NDArray[np.uint64], entries: NDArray[np.uint32], count: int, kernel: Kernel
) -> NDArray[np.float32]:
    squares: NDArray[np.floating] = np.ones(len(entries))
    if vectors.dtype != np.uint64:
        squares = selectivity(np.einsum("pe,pe->p", vectors, vectors), kernel)
    own = np.bincount(entries, weights=squares, minlength=count)
    return np.where(own > 0, 1.0 / np.sqrt(np.maximum(own, 1e-30)), 0.0).astype(np.float32)

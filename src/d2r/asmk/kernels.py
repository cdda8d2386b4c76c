"""The match kernels of the paper: from local descriptors to one aggregated descriptor per picture, and similarity.

Notation, as in Teichmann et al., CVPR 2019, and Tolias et al., IJCV 2015. X_c are the descriptors of picture X that
belong to word c, q(x) the word of x, and V(X_c) = sum of x - q(x) over X_c. Every kernel has the form

    K(X, Y) = g(X) g(Y) sum_c w_c s(Phi(X_c) . Phi(Y_c)),     g(X) = (sum_c w_c s(Phi(X_c) . Phi(X_c)))^(-1/2)

with an embedding Phi, a selectivity s and word weights w_c (1, or the inverse document frequency). :data:`KERNELS`
names the choices. Either side may have regions: with several on both sides it is the symmetric R-AMK (Eq. 10).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.codebook import Codebook
from d2r.asmk.codes import LocalCodes, inner_products, pack_signs, unpack_signs
from d2r.asmk.pooling import pool_residuals
from d2r.support.checks import check_array, check_numbers

Embedding = Literal["count", "sum", "mean-unit", "unit", "sign"]
Weights = NDArray[np.float32]


_WORD_LIMIT = 1 << 31  # words are int32


@dataclass(frozen=True)
class Assigned:
    """The descriptors of one picture with their words: N (descriptor, word) pairs over R regions.

    Raises ``ValueError`` if the arrays do not fit this description.

    Attributes:
        words: int32 (N,).
        projected: float32 (N, D), descriptors in the space where residuals are taken.
        origins: float32 (C, D), what is subtracted for each word: the residual of row i is
            ``projected[i] - origins[words[i]]``. None if ``projected`` has the residuals already.
        regions: int32 (N,), the region (0 to R - 1) of each descriptor; region 0 is the whole picture.
        region_count: R, including regions without descriptors.
        starts: first word of each kind of features, see :class:`d2r.asmk.codebook.Codebook`.
    """

    words: NDArray[np.int32]
    projected: NDArray[np.float32]
    origins: NDArray[np.float32] | None
    regions: NDArray[np.int32]
    region_count: int
    starts: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if self.region_count < 1:
            raise ValueError(f"region_count must be 1 or more, not {self.region_count}")
        num_words = _WORD_LIMIT if self.origins is None else len(self.origins)
        check_numbers("words", self.words, len(self.words), num_words)
        check_numbers("regions", self.regions, len(self.words), self.region_count)
        if self.projected.dtype.kind != "f" or self.projected.ndim != 2 or len(self.projected) != len(self.words):
            what = f"{self.projected.dtype} {self.projected.shape}"
            raise ValueError(f"projected descriptors must be numbers of ({len(self.words)}, dimensions), not {what}")
        if self.origins is not None:
            check_array("origins", self.origins, self.origins.dtype, (num_words, self.projected.shape[1]))

    @property
    def residuals(self) -> NDArray[np.float32]:
        """The residual of each row, float32 (N, D)."""
        return self.projected if self.origins is None else self.projected - self.origins[self.words]

    def take(self, rows: NDArray[Any]) -> Assigned:
        """Return some of the descriptors, by rows or a mask, bool (N,), with the same regions."""
        return replace(self, words=self.words[rows], projected=self.projected[rows], regions=self.regions[rows])

    def by_kind(self) -> Iterator[Assigned]:
        """Yield the descriptors of each kind of features."""
        for start, end in zip(self.starts, (*self.starts[1:], _WORD_LIMIT), strict=True):
            yield replace(self.take((self.words >= start) & (self.words < end)), starts=(0,))


@dataclass(frozen=True)
class Aggregated:
    """One aggregated descriptor: W different visual words, each with its vector Phi(X_c), without the factor g.

    Attributes:
        words: int32 (W,), ascending. A word whose vector is zero is absent; a picture without features has W = 0.
        vectors: float32 (W, E), or for sign embeddings packed signs, uint64 (W, ceil(D / 64)), see :func:`pack_signs`.
        dim: length of each vector (E, or the number of bits D).
    """

    words: NDArray[np.int32]
    vectors: NDArray[np.float32] | NDArray[np.uint64]
    dim: int

    def __len__(self) -> int:
        return len(self.words)

    def check_signs(self) -> None:
        """Raise ``ValueError`` unless the vectors are packed signs, and the words are valid."""
        check_words(self.words)
        check_array("vectors of packed signs", self.vectors, np.uint64, (len(self.words), -(-self.dim // 64)))


def by_kind(aggregated: Aggregated, starts: Sequence[int]) -> list[Aggregated]:
    """Return the part of a descriptor for each kind of features, given the first word of each kind."""
    edges = np.searchsorted(aggregated.words, [*starts[1:]])
    bounds = [0, *edges.tolist(), len(aggregated)]
    return [
        Aggregated(aggregated.words[first:last], aggregated.vectors[first:last], aggregated.dim)
        for first, last in pairwise(bounds)
    ]


@dataclass(frozen=True)
class Kernel:
    """A match kernel: the embedding Phi, the selectivity s, and whether regions besides the whole picture count.

    Attributes:
        embedding: "count": |X_c|. "sum": the mean over regions of g(X^r) V(X^r_c), where g(X^r) normalises the whole
            VLAD of the region (R-VLAD); with one region, V(X_c). "unit": "sum", normalised per word. "sign": the signs
            of "sum". "mean-unit": the mean over regions of g(X^r) V^(X^r_c), with the g of ASMK.
        regional: use all regions; otherwise only region 0.
        alpha: exponent of the selectivity s(u) = sign(u) |u|^alpha.
        tau: threshold; s(u) is 0 unless u is above it.
    """

    embedding: Embedding
    regional: bool = False
    alpha: float = 3.0
    tau: float = 0.0


KERNELS: dict[str, Kernel] = {
    "bow": Kernel("count", alpha=1.0, tau=-np.inf),
    "vlad": Kernel("sum", alpha=1.0, tau=-np.inf),
    "asmk": Kernel("unit"),
    "asmk*": Kernel("sign"),
    "r-vlad": Kernel("sum", regional=True, alpha=1.0, tau=-np.inf),
    "naive-r-asmk": Kernel("mean-unit", regional=True),
    "r-asmk": Kernel("unit", regional=True),
    "r-asmk*": Kernel("sign", regional=True),
}
"""The kernels of the paper, by the names it gives them."""


def assign(
    codebook: Codebook,
    descriptors: NDArray[np.float32],
    regions: NDArray[np.int32] | None = None,
    region_count: int | None = None,
    nearest: int = 1,
    kinds: NDArray[np.uint8] | None = None,
) -> Assigned:
    """Assign local descriptors to visual words.

    Args:
        codebook: C words with D dimensions.
        descriptors: float32 (N, D).
        regions: int32 (N,), the region of each; None puts all in region 0.
        region_count: R, required with ``regions``; regions without descriptors count too.
        nearest: number of words per descriptor (multiple assignment, for queries), and so of pairs.
        kinds: uint8 (N,), the kind of features of each; None is the first.

    Raises:
        d2r.asmk.codebook.CodebookError: the descriptors have another dimension than the codebook, or are not finite.
        ValueError: a region is not in 0 to R - 1, or there is not one region per descriptor.
    """
    words = codebook.assign(descriptors, nearest, kinds)
    if regions is None:
        regions, region_count = np.zeros(len(descriptors), np.int32), 1 if region_count is None else region_count
    elif region_count is None:
        raise ValueError("region_count: with regions, say how many there are; one without descriptors counts too")
    regions = np.asarray(regions)
    if regions.dtype.kind in "iu" and regions.dtype != np.int32:
        regions = np.clip(regions, -1, _WORD_LIMIT - 1).astype(np.int32)  # values out of range stay out of range
    check_numbers("regions", regions, len(descriptors), region_count)
    if nearest > 1:
        descriptors, regions = np.repeat(descriptors, nearest, axis=0), np.repeat(regions, nearest)
    flat = words.reshape(-1)
    return Assigned(flat, *codebook.centre(descriptors, flat), regions, region_count, codebook.starts)


def aggregate(assigned: Assigned, kernel: Kernel) -> Aggregated:
    """Return Phi(X_c) of every word c that the picture has, for a kernel of :data:`KERNELS`.

    Each kind of features is aggregated separately, so its result does not depend on the others.
    """
    if len(assigned.starts) > 1:
        parts = [aggregate(part, kernel) for part in assigned.by_kind()]
        words, vectors = (
            np.concatenate([part.words for part in parts]),
            np.concatenate([part.vectors for part in parts]),
        )
        return Aggregated(words, vectors, parts[0].dim)
    if not kernel.regional:
        assigned = _region(assigned, 0)
    if kernel.embedding == "count":
        words, counts = np.unique(assigned.words, return_counts=True)
        return Aggregated(words.astype(np.int32), counts[:, None].astype(np.float32), 1)
    count, dim = assigned.projected.shape
    signs = kernel.embedding == "sign"
    out_words = np.empty(count, np.int32)
    codes = np.zeros((count if signs else 0, -(-dim // 64)), np.uint64)
    vectors = np.empty((0 if signs else count, dim), np.float32)
    # Each number packs word, region and row: sorting these is several times faster than a stable argsort.
    key = (assigned.words.astype(np.int64) * assigned.region_count + assigned.regions) * count + np.arange(count)
    key.sort()
    order = key % max(count, 1)
    found = pool_residuals(
        order, assigned.words, assigned.regions, assigned.region_count, assigned.projected, assigned.origins,
        kernel.embedding == "mean-unit", kernel.embedding == "unit", out_words, codes, vectors,
    )  # fmt: skip
    return Aggregated(out_words[:found], codes[:found] if signs else vectors[:found], dim)


def first_regions(assigned: Assigned, count: int) -> Assigned:
    """Return the descriptors of the first ``count`` regions, as if the picture had no other regions."""
    return replace(assigned.take(assigned.regions < count), region_count=count)


def local_codes(assigned: Assigned, rows: NDArray[Any]) -> LocalCodes:
    """Return the binarised residuals of some descriptors of a picture, by rows, in that order, or a mask, bool (N,)."""
    some = assigned.take(rows)
    return LocalCodes(some.words, pack_signs(some.residuals), some.projected.shape[1])


def pool_codes(local: LocalCodes) -> Aggregated:
    """Return ``b(sum_i b(r_i))`` of each word, the sum over its features, packed; b(0) = -1.

    It equals ``b(sum_i r_i)`` of ASMK* for a word with one feature, and approximates it for a word with several.
    """
    words, rows = np.unique(local.words, return_inverse=True)
    sums = np.zeros((len(words), local.bits), np.float32)
    np.add.at(sums, rows, unpack_signs(local.codes, local.bits))
    return Aggregated(words.astype(np.int32), pack_signs(sums), local.bits)


def aggregate_regions(assigned: Assigned, kernel: Kernel) -> list[Aggregated]:
    """Return one aggregated descriptor per region, for regional search (simMAX and simAVG)."""
    return [aggregate(_region(assigned, region), kernel) for region in range(assigned.region_count)]


def selectivity(u: NDArray[np.floating], kernel: Kernel) -> NDArray[np.float32]:
    """Return s(u) = sign(u) |u|^alpha where u > tau, else 0; float32, with the shape of ``u``."""
    value = np.sign(u) * np.abs(u) ** kernel.alpha
    return np.asarray(np.where(u > kernel.tau, value, 0.0), np.float32)


def selectivity_by_distance(blocks: int, dim: int, kernel: Kernel) -> NDArray[np.float32]:
    """Return s(1 - 2 h / D) at each Hamming distance h of codes of D bits in B uint64 blocks, float32 (64 B + 1,)."""
    distances = np.arange(blocks * 64 + 1, dtype=np.float32)
    return selectivity(1.0 - 2.0 * distances / dim, kernel)


def check_words(words: NDArray[Any]) -> None:
    """Raise ``ValueError`` unless visual words are int32 (W,), 0 or more, strictly ascending."""
    check_array("words", words, np.int32, (len(words),))
    if len(words) and (words[0] < 0 or not (words[1:] > words[:-1]).all()):
        raise ValueError("words must ascend from 0 or more, none of them twice")


def match(x: Aggregated, y: Aggregated, kernel: Kernel, weights: Weights | None = None) -> float:
    """Return sum_c w_c s(Phi(X_c) . Phi(Y_c)), without g of either side; 0 if no word is shared.

    ``weights`` is float32 (C,), such as :func:`inverse_document_frequency`; None is 1 for every word.
    """
    shared, rows, columns = np.intersect1d(x.words, y.words, assume_unique=True, return_indices=True)
    values = selectivity(inner_products(x.vectors[rows], y.vectors[columns], x.dim), kernel)
    return float(values.sum() if weights is None else (values * weights[shared]).sum())


def normalisation(x: Aggregated, kernel: Kernel, weights: Weights | None = None) -> float:
    """Return g(X); 0 for an empty descriptor, so that its similarity to anything is 0."""
    own = match(x, x, kernel, weights)
    return own**-0.5 if own > 0 else 0.0


def similarity(x: Aggregated, y: Aggregated, kernel: Kernel, weights: Weights | None = None) -> float:
    """Return K(X, Y); 1 if X = Y."""
    own = normalisation(x, kernel, weights) * normalisation(y, kernel, weights)
    return own * match(x, y, kernel, weights)


def regional_similarity(
    x: Aggregated,
    regions: Sequence[Aggregated],
    kernel: Kernel,
    pool: Literal["max", "avg"],
    weights: Weights | None = None,
) -> float:
    """Return simMAX or simAVG: the largest or the mean K(X, Y^r) over the separately stored regions of Y."""
    values = [similarity(x, region, kernel, weights) for region in regions]
    return max(values) if pool == "max" else sum(values) / len(values)


def inverse_document_frequency(pictures: Sequence[Aggregated], num_words: int) -> Weights:
    """Return w_c = log(M / M_c), where M_c of M pictures have word c, float32 (C,); 0 if no picture has a word."""
    counts = np.zeros(num_words, np.int64)
    for picture in pictures:
        counts[picture.words] += 1
    ratio = np.divide(len(pictures), counts, out=np.ones(num_words), where=counts > 0)
    return np.log(ratio).astype(np.float32)


def _region(assigned: Assigned, region: int) -> Assigned:
    if assigned.region_count == 1:
        return assigned
    rows = assigned.regions == region
    return replace(assigned.take(rows), regions=np.zeros(int(rows.sum()), np.int32), region_count=1)

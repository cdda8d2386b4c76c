"""Variants of the paper's R-ASMK* that lost: rows of the ablation, not part of the engine.

They weight regions differently, or project residuals before the signs; they use another selectivity for the inner
product of two words' vectors; or they expand the query in other ways than :func:`d2r.expand.join`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.codes import inner_products, pack_signs, unpack_signs
from d2r.asmk.kernels import Aggregated, Assigned, local_codes, pool_codes
from d2r.asmk.learning import random_rotation
from d2r.evaluate.methods import Inverted
from d2r.expand import sign_sums

Pooled = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Words, int32 (W,), ascending, and the pooled residual of each, float32 (W, E)."""

Weigh = Callable[[NDArray[np.float32], int], NDArray[np.float32]]
"""The selectivity s of inner products (P,) with a query's vector of a word."""

_ZERO = 1e-12
_SAMPLES = 2000  # pairs per word to learn its threshold from


@dataclass(frozen=True)
class Pooling:
    """How the residuals of a picture's regions become one vector per word.

    Attributes:
        by_score: whether regions are weighted by their detector score instead of equally; the whole picture has 1.
        burst: the sum of a word's residuals in a region is divided by its length to this power: 0 leaves it, as in the
            paper; with 1 a word counts the same whatever its number of features there.
        bits: number of signs after a random rotation; if it exceeds the dimensions, several rotations are stacked.
            None takes the signs of the residuals without rotation.
    """

    by_score: bool = False
    burst: float = 0.0
    bits: int | None = None


def pool(assigned: Assigned, scores: NDArray[np.float32], pooling: Pooling) -> Pooled:
    """Return ``V_R = sum_r w_r g(Y^r) V(Y^r_c)`` of each word, projected.

    Args:
        assigned: the descriptors of R regions.
        scores: float32 (R,), detector scores.
        pooling: weights and projection.
    """
    residuals = assigned.residuals
    dim = residuals.shape[1]
    key = assigned.words.astype(np.int64) * assigned.region_count + assigned.regions
    order = np.argsort(key, kind="stable")
    keys, starts = np.unique(key[order], return_index=True)
    sums = np.add.reduceat(residuals[order].astype(np.float64), starts) if len(keys) else np.zeros((0, dim))
    words, regions = keys // assigned.region_count, keys % assigned.region_count
    lengths = np.sqrt(np.square(sums).sum(axis=1))
    sums /= np.maximum(lengths, _ZERO)[:, None] ** pooling.burst
    squares = np.bincount(regions, np.square(sums).sum(axis=1), assigned.region_count)
    shares = np.asarray(scores, np.float64) if pooling.by_score else np.ones(assigned.region_count)
    shares = shares / shares.sum() / np.sqrt(np.maximum(squares, _ZERO**2))
    own, firsts = np.unique(words, return_index=True)
    sums *= shares[regions][:, None]
    total = np.add.reduceat(sums, firsts) if len(own) else sums
    kept = np.square(total).sum(axis=1) > _ZERO**2
    return own[kept].astype(np.int32), (total[kept] @ _projection(dim, pooling.bits).T).astype(np.float32)


def signs(pooled: Pooled) -> Aggregated:
    """Return the packed signs of pooled residuals."""
    words, vectors = pooled
    return Aggregated(words, pack_signs(vectors), vectors.shape[1])


def power(alpha: float, tau: float = 0.0) -> Weigh:
    """Return ``s(u) = u^alpha`` above tau, else 0."""
    return lambda u, word: np.where(u > tau, np.maximum(u, 0.0) ** alpha, 0.0).astype(np.float32)


def logistic(slope: float, middle: float) -> Weigh:
    """Return ``s(u) = 1 / (1 + exp(-slope (u - middle)))``."""
    return lambda u, word: (1.0 / (1.0 + np.exp(-slope * (u - middle)))).astype(np.float32)


def learned_thresholds(database: Inverted, deviations: float, seed: int = 0) -> Weigh:
    """Return the cube above a threshold per word, learned from pairs that do not match.

    Two pictures of a database hardly ever show the same object, so the inner products of a word's codes in random pairs
    of pictures are of residuals that do not match. The threshold is their mean plus a number of standard deviations.
    """
    rng = np.random.default_rng(seed)
    taus = np.zeros(len(database.starts) - 1, np.float32)
    for word, (first, last) in enumerate(zip(database.starts[:-1], database.starts[1:], strict=True)):
        if last - first > 2:
            pairs = rng.integers(first, last, (2, _SAMPLES))
            one, other = pairs[:, pairs[0] != pairs[1]]
            u = inner_products(database.vectors[one], database.vectors[other], database.dim)
            taus[word] = u.mean() + deviations * u.std()
    cube = power(3.0)
    return lambda u, word: np.where(u > taus[word], cube(u, word), 0.0).astype(np.float32)


def weighed_scores(query: Aggregated, database: Inverted, weigh: Weigh, between: float = 0.0) -> NDArray[np.float32]:
    """Return ``g(Y) sum_c s(u_c)`` of a query of signs and each picture Y, float32 (N,).

    Args:
        query: packed signs.
        database: packed signs.
        weigh: s.
        between: the values of one word of the query are divided by their sum over the database to this power (Jegou
            et al., CVPR 2009, burstiness between pictures): 0 leaves them.
    """
    sums = np.zeros(len(database.g), np.float32)
    for word, code in zip(query.words.tolist(), query.vectors, strict=True):
        rows = slice(database.starts[word], database.starts[word + 1])
        values = weigh(inner_products(database.vectors[rows], code[None], database.dim), word)
        total = values.sum()
        sums[database.entries[rows]] += values / total**between if total > 0 else values
    return sums * database.g


def float_scores(query: Pooled, database: Inverted, unpacked: NDArray[np.float32], weigh: Weigh) -> NDArray[np.float32]:
    """Return ``g(Y) sum_c s(x_c . b(Y_c) / (|x_c| sqrt(D)))``, float32 (N,): only the database is binary.

    Args:
        query: real values.
        database: packed signs.
        unpacked: float32 (P, D), the database's signs as +1 and -1.
        weigh: s.
    """
    sums = np.zeros(len(database.g), np.float32)
    words, vectors = query
    lengths = np.maximum(np.sqrt(np.square(vectors).sum(axis=1)), _ZERO) * np.sqrt(database.dim)
    for word, vector in zip(words.tolist(), vectors / lengths[:, None], strict=True):
        rows = slice(database.starts[word], database.starts[word + 1])
        sums[database.entries[rows]] += weigh(unpacked[rows] @ vector, word)
    return sums * database.g


def as_regions(query: Assigned, found: Sequence[Assigned]) -> Assigned:
    """Return a query with the features of each verified picture as one more region."""
    parts = [query, *found]
    return Assigned(
        np.concatenate([part.words for part in parts]),
        np.concatenate([part.projected for part in parts]),
        query.origins,
        np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.words) for part in parts]),
        len(parts),
    )


def hamming_expansion(query: Assigned, found: Sequence[Assigned], min_parts: int = 2) -> Aggregated:
    """Return the signs of the sum of the binarised residuals of a query and its verified results (Tolias and Jegou).

    Words of the query stay; others join if at least ``min_parts`` of the pictures have them.
    """
    every = as_regions(query, found)
    words, rows = np.unique(every.words, return_inverse=True)
    pairs = np.unique(np.stack([rows, every.regions]), axis=1)
    kept = (np.bincount(pairs[0], minlength=len(words)) >= min_parts) | np.isin(words, query.words)
    return pool_codes(local_codes(every, kept[rows]))


def alpha_expansion(
    query: Aggregated, results: Sequence[Aggregated], similarity: Sequence[float], alpha: float
) -> Pooled:
    """Return the sum of the signs of a query and its results, weighted by ``similarity^alpha`` (alpha-QE)."""
    return sign_sums([query, *results], [1.0, *(value**alpha for value in similarity)])


def augment(
    pictures: Sequence[Aggregated], similarity: NDArray[np.float32], neighbours: int, alpha: float
) -> list[Aggregated]:
    """Return each picture's signs joined with those of its nearest neighbours, weighted by ``similarity^alpha``.

    Args:
        pictures: N descriptors, packed signs.
        similarity: float32 (N, N), 0 on the diagonal.
        neighbours: number of nearest pictures to join.
        alpha: exponent of the weight.
    """
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :neighbours]
    joined = []
    for own, row, picture in zip(similarity, nearest, pictures, strict=True):
        chosen = row[own[row] > 0]
        parts = [pictures[number] for number in chosen]
        joined.append(signs(alpha_expansion(picture, parts, own[chosen].tolist(), alpha)))
    return joined


def unpacked_signs(database: Inverted) -> NDArray[np.float32]:
    """Return the signs of a database for :func:`float_scores`, float32 (P, D)."""
    return unpack_signs(database.vectors.view(np.uint64), database.dim)


def _projection(dim: int, bits: int | None) -> NDArray[np.float32]:
    if bits is None:
        return np.eye(dim, dtype=np.float32)
    turns = [random_rotation(dim, seed) for seed in range(-(-bits // dim))]
    return np.concatenate(turns)[:bits]

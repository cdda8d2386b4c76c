"""Learn visual words: k-means on the descriptors of each kind of features (faiss does the heavy work)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import faiss
import numpy as np

from d2r.asmk.codebook import Array, Codebook, CodebookError, Origin, nearest_index
from d2r.defaults import FEATURES_PER_WORD

MAX_SAMPLES_PER_WORD = 64
"""Descriptors a word that training uses at most; more change k-means little and cost in proportion."""

SAMPLES_PER_WORD = 40
"""Descriptors a word that k-means is given, where there are so many."""


def train_codebook(
    descriptors: Array,
    num_words: int,
    *,
    iterations: int = 10,
    seed: int = 0,
    bits: int | None = None,
    medians: bool = False,
    origin: Origin | None = None,
) -> Codebook:
    """Learn a codebook by k-means.

    Args:
        descriptors: float32 (N, D), N at least ``num_words``; of more than 64 a word a random part is used.
        num_words: number of words C.
        iterations: of Lloyd's algorithm.
        seed: of the random start; the same input and seed give the same codebook on the same machine.
        bits: project to so many dimensions by a random rotation, as the original ASMK* does; D at most. None takes
            residuals as they are.
        medians: take residuals to the median of each word's descriptors, as the original ASMK* does, in place of
            the mean.
        origin: where the descriptors are from, to be kept with the words.

    Raises:
        CodebookError: there are fewer descriptors than words, or more bits than dimensions; or the descriptors are no
            finite numbers (N, D).
    """
    if descriptors.ndim != 2 or descriptors.dtype.kind != "f":
        what = f"{descriptors.dtype} {descriptors.shape}"
        raise CodebookError(f"descriptors must be floating-point numbers of (descriptors, dimensions), not {what}")
    check_bits(bits, descriptors.shape[1])
    if num_words < 1:
        raise CodebookError("a codebook needs at least one word")
    if len(descriptors) < num_words:
        raise CodebookError(
            f"{len(descriptors):,} descriptors are too few to learn {num_words:,} words; ask for fewer words"
        )
    dim = descriptors.shape[1]
    clustering = faiss.Clustering(dim, num_words)
    clustering.niter = iterations
    clustering.seed = seed + 1
    clustering.min_points_per_centroid = 1
    clustering.max_points_per_centroid = MAX_SAMPLES_PER_WORD
    clustering.update_index = True  # the partition follows the words
    try:
        clustering.train(np.ascontiguousarray(descriptors, np.float32), nearest_index(num_words, dim))
    except RuntimeError as error:
        if "NaN" in str(error):  # faiss looks at every one of them
            raise CodebookError("descriptors must be finite") from error
        raise
    centroids = faiss.vector_to_array(clustering.centroids).reshape(num_words, dim)
    projection = None if bits is None else random_rotation(dim, seed)[:bits]
    plain = Codebook(centroids, projection, origin=origin)
    return replace(plain, medians=_medians(plain, descriptors)) if medians else plain


def train_kinds(
    samples: Sequence[Array], num_words: int, *, bits: int | None = None, seed: int = 0, origin: Origin | None = None
) -> Codebook:
    """Learn the visual words of each kind of features, see :func:`train_codebook`.

    Args:
        samples: of each kind float32 (N, D).
        num_words: of each kind; fewer where its descriptors are too few, see :func:`fitting_words`.
        bits: see :func:`train_codebook`.
        seed: the same.
        origin: the same.
    """
    parts = []
    for sample in samples:
        own = fitting_words(num_words, len(sample))
        some = sample[np.random.default_rng(seed).permutation(len(sample))[: own * SAMPLES_PER_WORD]]
        parts.append(train_codebook(some, own, bits=bits, seed=seed))
    return join_codebooks(parts, origin)


def join_codebooks(parts: Sequence[Codebook], origin: Origin | None = None) -> Codebook:
    """Return the visual words of several kinds of features as one codebook; of one kind it is the same.

    Args:
        parts: of each kind, with as many dimensions, without projection or all with the same one.
        origin: of all of them.
    """
    starts = np.cumsum([0, *(part.num_words for part in parts[:-1])]).tolist()
    medians = [part.medians for part in parts if part.medians is not None]
    return Codebook(
        np.concatenate([part.centroids for part in parts]),
        parts[0].projection,
        np.concatenate(medians) if medians else None,
        origin,
        tuple(starts),
    )


def fitting_words(num_words: int, descriptors: int) -> int:
    """Return how many words to learn from so many descriptors: halved until there are 16 descriptors a word."""
    while num_words > 1 and num_words * FEATURES_PER_WORD > descriptors:
        num_words //= 2
    return num_words


def single_word(descriptors: Array, seed: int = 0) -> Codebook:
    """Return a codebook of one word, the mean of descriptors, float32 (N, D), with a random rotation.

    It is for comparing two pictures alone, by codes, where there is no collection to learn words from.
    """
    mean = descriptors.mean(axis=0, keepdims=True) if len(descriptors) else np.zeros((1, descriptors.shape[1]))
    return Codebook(mean.astype(np.float32), random_rotation(descriptors.shape[1], seed))


def check_bits(bits: int | None, dim: int) -> None:
    """Raise :class:`CodebookError` unless codes of features of ``dim`` dimensions can have so many bits."""
    if bits is not None and not 1 <= bits <= dim:
        raise CodebookError(f"codes can have from 1 to {dim} bits, not {bits}; at most one a dimension of the features")


def random_rotation(dim: int, seed: int) -> Array:
    """Return a random orthogonal matrix: the Q of a Gaussian matrix, as in Hamming embedding."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))
    return np.ascontiguousarray(q, np.float32)


def _medians(codebook: Codebook, descriptors: Array) -> Array:
    """Return the median of the projected descriptors of each word; an empty word keeps its projected centroid."""
    words = codebook.assign(descriptors)[:, 0]
    medians = codebook.project(codebook.centroids).copy()
    order = np.argsort(words, kind="stable")
    starts = np.searchsorted(words[order], np.arange(codebook.num_words + 1))
    projected = codebook.project(descriptors)
    for word in range(codebook.num_words):
        rows = order[starts[word] : starts[word + 1]]
        if len(rows):
            medians[word] = np.median(projected[rows], axis=0)
    return medians

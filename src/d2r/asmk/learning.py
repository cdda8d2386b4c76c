"""Learn visual words: k-means on the descriptors of each kind of features (faiss does the heavy work)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import faiss
import numpy as np

from d2r.asmk.codebook import Array, Codebook, CodebookError, Origin, nearest_index
from d2r.defaults import FEATURES_PER_WORD

MAX_SAMPLES_PER_WORD = 64
"""Maximum number of descriptors per word in training; more change k-means little, at proportional cost."""

SAMPLES_PER_WORD = 40
"""Number of descriptors per word to sample for k-means, if there are enough."""


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
        descriptors: float32 (N, D), N at least ``num_words``; if there are more than 64 per word, a random part is
            used.
        num_words: number of words C.
        iterations: number of iterations of Lloyd's algorithm.
        seed: seed of the random start; the same input and seed give the same codebook on the same machine.
        bits: project to this many dimensions, at most D, by a random rotation, as in the original ASMK*. None does not
            project.
        medians: subtract the median of each word's descriptors, as in the original ASMK*, instead of the mean.
        origin: origin of the descriptors, stored with the words.

    Raises:
        CodebookError: there are fewer descriptors than words, or more bits than dimensions; or the descriptors are not
            an array (N, D) of finite numbers.
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
    clustering.update_index = True  # retrain the coarse partition with the words
    try:
        clustering.train(np.ascontiguousarray(descriptors, np.float32), nearest_index(num_words, dim))
    except RuntimeError as error:
        if "NaN" in str(error):  # faiss checks every descriptor
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
        samples: float32 (N, D) per kind.
        num_words: number of words per kind; fewer if it has too few descriptors, see :func:`fitting_words`.
        bits: see :func:`train_codebook`.
        seed: see :func:`train_codebook`.
        origin: see :func:`train_codebook`.
    """
    parts = []
    for sample in samples:
        own = fitting_words(num_words, len(sample))
        some = sample[np.random.default_rng(seed).permutation(len(sample))[: own * SAMPLES_PER_WORD]]
        parts.append(train_codebook(some, own, bits=bits, seed=seed))
    return join_codebooks(parts, origin)


def join_codebooks(parts: Sequence[Codebook], origin: Origin | None = None) -> Codebook:
    """Return the visual words of several kinds of features as one codebook; with one kind it is unchanged.

    Args:
        parts: one codebook per kind, all with the same dimensions, and without a projection or with the same one.
        origin: origin of the joined codebook.
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
    """Return how many words to learn: ``num_words``, halved until there are 16 descriptors per word."""
    while num_words > 1 and num_words * FEATURES_PER_WORD > descriptors:
        num_words //= 2
    return num_words


def single_word(descriptors: Array, seed: int = 0) -> Codebook:
    """Return a codebook of one word, the mean of descriptors, float32 (N, D), with a random rotation.

    It serves to compare two pictures by codes, without a collection to learn words from.
    """
    mean = descriptors.mean(axis=0, keepdims=True) if len(descriptors) else np.zeros((1, descriptors.shape[1]))
    return Codebook(mean.astype(np.float32), random_rotation(descriptors.shape[1], seed))


def check_bits(bits: int | None, dim: int) -> None:
    """Raise :class:`CodebookError` unless codes of features with ``dim`` dimensions can have ``bits`` bits."""
    if bits is not None and not 1 <= bits <= dim:
        raise CodebookError(
            f"codes can have from 1 to {dim} bits, not {bits}; at most one per dimension of the features"
        )


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

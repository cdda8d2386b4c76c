"""The inner loop of search against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from d2r.aggregate import KERNELS, Aggregated, Kernel, match, normalisation, pack_signs, selectivity, similarity
from d2r.index.kernels import score_postings

STAR = KERNELS["r-asmk*"]


def random_picture(rng: np.random.Generator, words: int, dim: int) -> Aggregated:
    """A few words with random signs, near a common pattern so that many codes agree in most bits."""
    chosen = np.sort(rng.permutation(words)[: rng.integers(0, words + 1)]).astype(np.int32)
    pattern = np.where(np.arange(dim) % 3, 1.0, -1.0)
    flips = rng.random((len(chosen), dim)) < rng.choice([0.0, 0.1, 0.3, 0.5, 1.0], (len(chosen), 1))
    return Aggregated(chosen, pack_signs(np.where(flips, -pattern, pattern)), dim)


def postings(pictures: list[Aggregated], words: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The postings by word, gathered one by one."""
    starts, slots, codes = [0], [], []
    for word in range(words):
        for slot, one in enumerate(pictures):
            for own, code in zip(one.words, one.vectors, strict=True):
                if own == word:
                    slots.append(slot)
                    codes.append(code)
        starts.append(len(slots))
    return np.array(starts, np.int64), np.array(slots, np.uint32), np.array(codes, np.uint64)


def score(query: Aggregated, pictures: list[Aggregated], words: int, kernel: Kernel, weights: np.ndarray) -> np.ndarray:
    distances = np.arange(64 * query.vectors.shape[1] + 1, dtype=np.float32)
    table = selectivity(1.0 - 2.0 * distances / query.dim, kernel)
    scores = np.zeros(len(pictures), np.float32)
    score_postings(query.words, query.vectors, weights[query.words], *postings(pictures, words), table, scores)
    return scores


@pytest.mark.parametrize("dim", [64, 100, 128, 256])
def test_scores_equal_brute_force(dim: int) -> None:
    rng = np.random.default_rng(dim)
    pictures = [random_picture(rng, 20, dim) for _ in range(30)]
    pictures[7] = Aggregated(pictures[7].words[:0], pictures[7].vectors[:0], dim)  # one without features
    ones = np.ones(20, np.float32)
    seen = []
    for query in [random_picture(rng, 20, dim) for _ in range(8)]:
        found = score(query, pictures, 20, STAR, ones)
        g = np.array([normalisation(one, STAR) for one in pictures])
        expected = [similarity(query, one, STAR) for one in pictures]
        np.testing.assert_allclose(found * g * normalisation(query, STAR), expected, rtol=2e-6, atol=1e-6)
        seen += expected
    assert np.count_nonzero(seen) > len(seen) / 2  # the data does exercise the loop


@pytest.mark.parametrize("dim", [64, 100, 128, 256])
@pytest.mark.parametrize("kernel", [STAR, Kernel("sign", alpha=1.0, tau=-np.inf), Kernel("sign", alpha=2.0, tau=0.3)])
def test_weights_and_selectivity_enter_as_in_brute_force(dim: int, kernel: Kernel) -> None:
    rng = np.random.default_rng(dim + 1)
    pictures = [random_picture(rng, 12, dim) for _ in range(20)]
    weights = rng.random(12).astype(np.float32) * 3
    query = random_picture(rng, 12, dim)
    while len(query) < 6:
        query = random_picture(rng, 12, dim)
    expected = [match(query, one, kernel, weights) for one in pictures]
    np.testing.assert_allclose(score(query, pictures, 12, kernel, weights), expected, rtol=2e-6, atol=2e-5)


def test_scores_are_added_to_what_is_there() -> None:
    code = np.full((1, 2), 2**64 - 1, np.uint64)
    scores = np.array([10, 20, 30], np.float32)
    table = selectivity(1.0 - 2.0 * np.arange(129, dtype=np.float32) / 128, STAR)
    starts, slots = np.array([0, 0, 2, 2], np.int64), np.array([0, 2], np.uint32)
    stored = np.concatenate([code, ~code])
    score_postings(np.array([1], np.int32), code, np.array([0.5], np.float32), starts, slots, stored, table, scores)
    assert scores.tolist() == [10.5, 20, 30]


def test_words_without_postings_and_empty_queries_score_nothing() -> None:
    scores = np.zeros(2, np.float32)
    table = np.ones(129, np.float32)
    starts, slots = np.array([0, 0, 1], np.int64), np.array([1], np.uint32)
    code = np.zeros((1, 2), np.uint64)
    score_postings(np.array([0], np.int32), code, np.ones(1, np.float32), starts, slots, code, table, scores)
    score_postings(np.zeros(0, np.int32), code[:0], np.ones(0, np.float32), starts, slots, code, table, scores)
    assert scores.tolist() == [0, 0]
    score_postings(np.array([1], np.int32), code, np.ones(1, np.float32), starts, slots, code, table, scores)
    assert scores.tolist() == [0, 1]

"""The inner loops of search, against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from d2r.asmk.codes import pack_signs
from d2r.asmk.kernels import KERNELS, Aggregated, Kernel, match, normalisation, selectivity_by_distance, similarity
from d2r.index.scoring import keep_best, score_postings

STAR = KERNELS["r-asmk*"]


def random_picture(rng: np.random.Generator, num_words: int, dim: int) -> Aggregated:
    """A few words with random signs, near a common pattern so that many codes agree in most bits."""
    chosen = np.sort(rng.permutation(num_words)[: rng.integers(0, num_words + 1)]).astype(np.int32)
    pattern = np.where(np.arange(dim) % 3, 1.0, -1.0)
    flips = rng.random((len(chosen), dim)) < rng.choice([0.0, 0.1, 0.3, 0.5, 1.0], (len(chosen), 1))
    return Aggregated(chosen, pack_signs(np.where(flips, -pattern, pattern)), dim)


def postings(pictures: list[Aggregated]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The postings by word, gathered one by one."""
    words, starts, slots, codes = [], [0], [], []
    for word in sorted({int(word) for one in pictures for word in one.words}):
        words.append(word)
        for slot, one in enumerate(pictures):
            for own, code in zip(one.words, one.vectors, strict=True):
                if own == word:
                    slots.append(slot)
                    codes.append(code)
        starts.append(len(slots))
    return np.array(words, np.int32), np.array(starts, np.int64), np.array(slots, np.uint16), np.array(codes, np.uint64)


def score(query: Aggregated, pictures: list[Aggregated], kernel: Kernel) -> np.ndarray:
    blocks = query.vectors.shape[1]
    table = selectivity_by_distance(blocks, query.dim, kernel)
    scores = np.zeros(len(pictures), np.float32)
    score_postings(blocks)(query.words, query.vectors, *postings(pictures), table, scores)
    return scores


@pytest.mark.parametrize("dim", [64, 100, 128, 256])
@pytest.mark.parametrize(("count", "num_words"), [(30, 20), (400, 5)])  # lists shorter and longer than a block
def test_scores_equal_brute_force(dim: int, count: int, num_words: int) -> None:
    rng = np.random.default_rng(dim)
    pictures = [random_picture(rng, num_words, dim) for _ in range(count)]
    pictures[7] = Aggregated(pictures[7].words[:0], pictures[7].vectors[:0], dim)  # one without features
    seen = []
    for query in [random_picture(rng, num_words, dim) for _ in range(8)]:
        found = score(query, pictures, STAR)
        g = np.array([normalisation(one, STAR) for one in pictures])
        expected = [similarity(query, one, STAR) for one in pictures]
        np.testing.assert_allclose(found * g * normalisation(query, STAR), expected, rtol=2e-6, atol=1e-6)
        seen += expected
    assert np.count_nonzero(seen) > len(seen) / 4  # the data exercises the loop


@pytest.mark.parametrize("dim", [64, 100, 128, 256])
@pytest.mark.parametrize("kernel", [STAR, Kernel("sign", alpha=1.0, tau=-np.inf), Kernel("sign", alpha=2.0, tau=0.3)])
def test_selectivity_enters_as_in_brute_force(dim: int, kernel: Kernel) -> None:
    rng = np.random.default_rng(dim + 1)
    pictures = [random_picture(rng, 12, dim) for _ in range(20)]
    query = random_picture(rng, 12, dim)
    while len(query) < 6:
        query = random_picture(rng, 12, dim)
    expected = [match(query, one, kernel) for one in pictures]
    np.testing.assert_allclose(score(query, pictures, kernel), expected, rtol=2e-6, atol=2e-5)


def test_scores_are_added_to_what_is_there() -> None:
    code = np.full((1, 2), 2**64 - 1, np.uint64)
    scores = np.array([10, 20, 30], np.float32)
    table = selectivity_by_distance(2, 128, STAR)
    starts, slots = np.array([0, 2], np.int64), np.array([0, 2], np.uint16)
    words = np.array([1], np.int32)
    score_postings(2)(words, code, words, starts, slots, np.concatenate([code, ~code]), table, scores)
    assert scores.tolist() == [11, 20, 30]


def test_words_that_only_one_side_has_score_nothing() -> None:
    scores = np.zeros(2, np.float32)
    table = np.ones(129, np.float32)
    own, starts, slots = np.array([3, 5], np.int32), np.array([0, 1, 2], np.int64), np.array([1, 0], np.uint16)
    codes = np.zeros((2, 2), np.uint64)
    for words in ([], [0], [4], [6], [0, 4, 9]):
        query = np.array(words, np.int32)
        score_postings(2)(query, np.zeros((len(query), 2), np.uint64), own, starts, slots, codes, table, scores)
        assert scores.tolist() == [0, 0]
    query = np.array([2, 3, 7], np.int32)
    score_postings(2)(query, np.zeros((3, 2), np.uint64), own, starts, slots, codes, table, scores)
    assert scores.tolist() == [0, 1]


@pytest.mark.parametrize("most", [1, 7, 200, 1000])
def test_the_best_are_kept_whatever_the_order_they_come_in(most: int) -> None:
    rng = np.random.default_rng(most)
    parts = [rng.integers(0, 30, count).astype(np.float32) / 8 for count in (500, 1, 64, 63, 200)]  # many ties
    factors = [rng.integers(0, 3, len(part)).astype(np.float32) for part in parts]
    every = [(-float(value * factor), number << 16 | row)
             for number, part in enumerate(parts)
             for row, (value, factor) in enumerate(zip(part, factors[number], strict=True))]  # fmt: skip
    expected = sorted(one for one in every if one[0] < 0)[:most]
    for order in (range(5), reversed(range(5))):
        best, places = np.zeros(most, np.float32), np.zeros(most, np.int64)
        for number in order:
            scores = parts[number].copy()
            keep_best(scores, factors[number], number << 16, best, places)
            assert not scores.any()
        found = sorted((-float(value), int(place)) for value, place in zip(best, places, strict=True) if value > 0)
        assert found == expected

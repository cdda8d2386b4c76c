from dataclasses import replace

import numpy as np
import pytest

from d2r.asmk.codes import pack_signs, unpack_signs
from d2r.asmk.kernels import KERNELS, Aggregated, Assigned, aggregate, similarity
from d2r.expand import diffuse, diffused_scores, inside, join, reciprocal_graph, sign_sums, similarities

KERNEL = KERNELS["r-asmk*"]


def descriptor(rng, num_words=12, count=20, dim=70):
    projected = rng.normal(size=(count, dim)).astype(np.float32)
    return aggregate(
        Assigned(rng.integers(0, num_words, count).astype(np.int32), projected, None, np.zeros(count, np.int32), 1),
        KERNEL,
    )


def signs(words, rows):
    return Aggregated(np.array(words, np.int32), pack_signs(np.array(rows, np.float32)), len(rows[0]))


def test_a_query_that_nothing_joins_stays_as_it_is():
    query = descriptor(np.random.default_rng(0))
    joined = join(query, [])
    np.testing.assert_array_equal(joined.words, query.words)
    np.testing.assert_array_equal(joined.vectors, query.vectors)


def test_points_in_the_query_box_are_found_by_the_inverse_map():
    positions = np.array([[10, 10], [30, 50], [210, 110]], np.float32)
    transform = np.array([[2.0, 0, 10], [0, 2.0, 10]])  # the query's (10, 20) is at (30, 50)
    assert inside(positions, transform, (5, 5, 50, 50)).tolist() == [False, True, False]


def test_joined_signs_are_those_of_the_majority():
    parts = [signs([3], [[1, 1, -1]]), signs([3], [[1, -1, -1]]), signs([3], [[-1, 1, -1]])]
    np.testing.assert_array_equal(unpack_signs(join(parts[0], parts[1:]).vectors, 3), [[1, 1, -1]])


def test_a_word_joins_when_two_have_it():
    query, one, two = signs([1], [[1.0] * 4]), signs([2, 5], [[1.0] * 4] * 2), signs([5, 7], [[1.0] * 4] * 2)
    np.testing.assert_array_equal(join(query, [one, two]).words, [5])
    np.testing.assert_array_equal(join(query, [one, two], min_parts=1).words, [1, 2, 5, 7])


def test_sums_of_signs_equal_a_sum_word_by_word():
    rng = np.random.default_rng(1)
    parts, weights = [descriptor(rng) for _ in range(4)], [1.0, 0.5, 2.0, 0.25]
    words, sums = sign_sums(parts, weights)
    expected = {}
    for part, weight in zip(parts, weights, strict=True):
        for word, row in zip(part.words.tolist(), unpack_signs(part.vectors, part.dim), strict=True):
            expected[word] = expected.get(word, 0) + weight * row
    assert words.tolist() == sorted(expected)
    np.testing.assert_allclose(sums, [expected[word] for word in sorted(expected)], atol=1e-6)


def test_a_part_without_words_joins_nothing():
    rng = np.random.default_rng(2)
    query, other = descriptor(rng), descriptor(rng)
    nothing = Aggregated(np.zeros(0, np.int32), np.zeros((0, 2), np.uint64), 70)
    np.testing.assert_array_equal(join(query, [other, nothing]).vectors, join(query, [other]).vectors)


def test_similarities_are_those_of_each_pair():
    rng = np.random.default_rng(3)
    pictures = [descriptor(rng, count=count) for count in (30, 5, 0, 18)]
    expected = [[similarity(a, b, KERNEL) if a is not b else 0.0 for b in pictures] for a in pictures]
    np.testing.assert_allclose(similarities(pictures), expected, atol=1e-6)


def test_only_pictures_that_are_among_each_others_nearest_are_linked():
    similarity_of = np.array([[0, 9, 5, 1], [9, 0, 6, 2], [5, 6, 0, 3], [1, 2, 3, 0]], np.float32)
    graph = reciprocal_graph(similarity_of, neighbours=1)
    assert np.argwhere(graph > 0).tolist() == [[0, 1], [1, 0]]
    wider = reciprocal_graph(similarity_of, neighbours=2)
    assert (wider[:3, :3] > 0).sum() == 6
    assert not wider[3].any()


def test_the_graph_is_symmetric_and_no_eigenvalue_is_above_one():
    rng = np.random.default_rng(4)
    values = rng.random((30, 30)).astype(np.float32)
    values = np.minimum(values, values.T)
    np.fill_diagonal(values, 0)
    graph = reciprocal_graph(values, 6)
    np.testing.assert_array_equal(graph, graph.T)
    assert np.linalg.eigvalsh(graph).max() == pytest.approx(1.0, abs=1e-5)


def test_conjugate_gradients_find_what_a_dense_solver_finds():
    rng = np.random.default_rng(5)
    values = rng.random((40, 40)).astype(np.float32)
    values = values + values.T
    np.fill_diagonal(values, 0)
    graph, start = reciprocal_graph(values, 8), rng.random(40).astype(np.float32)
    dense = np.linalg.solve(np.eye(40) - 0.9 * graph.astype(np.float64), start)
    np.testing.assert_allclose(diffuse(graph, start, 0.9), dense, rtol=1e-4)


def test_nothing_diffuses_from_nothing():
    np.testing.assert_array_equal(diffuse(np.zeros((3, 3), np.float32), np.zeros(3, np.float32)), 0)


def test_what_is_like_a_confirmed_result_comes_before_what_is_not():
    """The third is unlike the query and like the first, which is confirmed; the second is a little like the query."""
    links = np.array([[0, 0, 0.5], [0, 0, 0], [0.5, 0, 0]], np.float32)
    scores = np.array([0.4, 0.06, 0.05])
    sure = np.array([True, False, False])
    assert np.argsort(-diffused_scores(scores, sure, links)).tolist() == [0, 2, 1]


def test_descriptors_that_are_no_signs_of_as_many_bits_are_refused():
    good = signs([1, 4], [[1, -1, 1], [1, 1, 1]])
    for wrong in (
        replace(good, words=good.words[::-1].copy()),
        replace(good, words=good.words[:1]),
        replace(good, vectors=good.vectors.astype(np.float32)),
        signs([1], [[1, -1]]),
    ):
        with pytest.raises(ValueError, match=r"must|cannot be compared"):
            similarities([good, wrong])

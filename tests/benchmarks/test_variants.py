import numpy as np
import pytest
from benchmarks.ablation.variants import (
    Pooling,
    alpha_expansion,
    as_regions,
    augment,
    float_scores,
    hamming_expansion,
    learned_thresholds,
    logistic,
    pool,
    power,
    signs,
    unpacked_signs,
    weighed_scores,
)

from d2r.asmk.codes import unpack_signs
from d2r.asmk.kernels import KERNELS, Assigned, aggregate
from d2r.evaluate.methods import invert, scores
from d2r.expand import join, similarities

WORDS, DIM = 10, 64
KERNEL = KERNELS["r-asmk*"]


def picture(rng, count=40, regions=3):
    return Assigned(
        rng.integers(0, WORDS, count).astype(np.int32),
        rng.normal(size=(count, DIM)).astype(np.float32),
        None,
        np.sort(rng.integers(0, regions, count)).astype(np.int32),
        regions,
    )


def plain(assigned, pooling=None):
    return pool(assigned, np.linspace(1, 0.2, assigned.region_count).astype(np.float32), pooling or Pooling())


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def database(rng):
    return invert([[aggregate(picture(rng), KERNEL)] for _ in range(8)], KERNEL, WORDS)


def test_plain_pooling_is_that_of_the_engine(rng):
    for regions in (1, 4):
        assigned = picture(rng, regions=regions)
        expected = aggregate(assigned, KERNEL)
        found = signs(plain(assigned))
        np.testing.assert_array_equal(found.words, expected.words)
        np.testing.assert_array_equal(found.vectors, expected.vectors)


def test_of_a_picture_without_features_nothing_is_pooled(rng):
    words, vectors = plain(picture(rng, count=0))
    assert (len(words), vectors.shape) == (0, (0, DIM))


def test_regions_of_score_zero_do_not_count(rng):
    assigned = picture(rng, regions=2)
    weighed = pool(assigned, np.array([1, 0], np.float32), Pooling(by_score=True))
    first = assigned.regions == 0
    alone = Assigned(assigned.words[first], assigned.projected[first], None, assigned.regions[first], 1)
    np.testing.assert_array_equal(signs(weighed).vectors, signs(plain(alone)).vectors)


def test_with_the_power_one_a_word_counts_the_same_however_often_it_is_there(rng):
    once = picture(rng, count=30, regions=1)
    often = np.concatenate([np.arange(30), *[np.flatnonzero(once.words == once.words[0])] * 4])
    burst = Assigned(once.words[often], once.projected[often], None, np.zeros(len(often), np.int32), 1)
    np.testing.assert_allclose(plain(once, Pooling(burst=1.0))[1], plain(burst, Pooling(burst=1.0))[1], atol=1e-6)
    assert not np.allclose(plain(once)[1], plain(burst)[1], atol=1e-2)


@pytest.mark.parametrize("bits", [32, 64, 128])
def test_signs_have_the_bits_that_were_asked_for(rng, bits):
    found = signs(plain(picture(rng), Pooling(bits=bits)))
    assert (found.dim, found.vectors.shape[1]) == (bits, -(-bits // 64))


def test_the_cube_scores_as_the_kernel_does(rng, database):
    query = aggregate(picture(rng), KERNEL)
    factor = len(query) ** -0.5
    expected = scores(query, database, KERNEL, None)
    np.testing.assert_allclose(weighed_scores(query, database, power(3.0)) * factor, expected, atol=1e-6)


def test_the_asymmetric_kernel_equals_brute_force(rng, database):
    words, vectors = plain(picture(rng))
    unpacked = unpacked_signs(database)
    found = float_scores((words, vectors), database, unpacked, power(3.0))
    expected = np.zeros(len(database.g))
    for word, vector in zip(words, vectors, strict=True):
        for row in range(database.starts[word], database.starts[word + 1]):
            u = vector @ unpacked[row] / np.linalg.norm(vector) / np.sqrt(DIM)
            expected[database.entries[row]] += max(u, 0) ** 3
    np.testing.assert_allclose(found, expected * database.g, atol=1e-6)


def test_a_float_query_of_signs_scores_as_the_signs_do(rng, database):
    query = aggregate(picture(rng), KERNEL)
    floats = query.words, unpack_signs(query.vectors, DIM)
    found = float_scores(floats, database, unpacked_signs(database), power(3.0))
    np.testing.assert_allclose(found, weighed_scores(query, database, power(3.0)), atol=1e-6)


def test_selectivities():
    u = np.array([-0.5, 0.1, 0.5, 1.0], np.float32)
    np.testing.assert_allclose(power(2.0)(u, 0), [0, 0.01, 0.25, 1])
    np.testing.assert_allclose(power(1.0, 0.2)(u, 0), [0, 0, 0.5, 1])
    np.testing.assert_allclose(logistic(10.0, 0.5)(u, 0)[2], 0.5)


def test_learned_thresholds_are_the_mean_and_deviations_of_pairs_that_do_not_match(database):
    u = np.linspace(-1, 1, 2001).astype(np.float32)
    kept = learned_thresholds(database, 2.0)(u, 3) > 0
    codes = unpack_signs(database.vectors[database.starts[3] : database.starts[4]], DIM)
    pairs = (codes @ codes.T / DIM)[~np.eye(len(codes), dtype=bool)]
    assert u[kept].min() == pytest.approx(pairs.mean() + 2 * pairs.std(), abs=0.02)


def test_a_word_that_matches_everywhere_counts_less(rng, database):
    query = aggregate(picture(rng), KERNEL)
    one = weighed_scores(query, database, lambda u, word: np.ones_like(u), between=1.0) / database.g
    assert one.sum() == pytest.approx(len(query))


def test_alpha_expansion_with_alpha_zero_is_the_average(rng):
    parts = [aggregate(picture(rng), KERNEL) for _ in range(4)]
    found = signs(alpha_expansion(parts[0], parts[1:], [0.5, 0.2, 0.1], 0.0))
    expected = join(parts[0], parts[1:], min_parts=1)
    np.testing.assert_array_equal(found.words, expected.words)
    np.testing.assert_array_equal(found.vectors, expected.vectors)


def test_verified_features_are_one_more_region_each(rng):
    query, one, two = picture(rng, regions=1), picture(rng, 5, 1), picture(rng, 7, 1)
    every = as_regions(query, [one, two])
    assert every.region_count == 3
    assert np.bincount(every.regions).tolist() == [40, 5, 7]
    np.testing.assert_array_equal(every.projected[-7:], two.projected)


def test_hamming_expansion_keeps_the_query_and_adds_words_that_two_have():
    def at(word, value):
        return Assigned(np.array([word], np.int32), np.full((1, 4), value, np.float32), None, np.zeros(1, np.int32), 1)

    found = hamming_expansion(at(1, 1.0), [at(2, 1.0), at(2, -3.0), at(2, -0.1), at(5, 1.0)])
    assert found.words.tolist() == [1, 2]
    np.testing.assert_array_equal(unpack_signs(found.vectors, 4), [[1] * 4, [-1] * 4])


def test_augmentation_with_no_neighbour_changes_nothing_and_else_joins_the_nearest(rng):
    pictures = [aggregate(picture(rng), KERNEL) for _ in range(5)]
    links = similarities(pictures)
    for one, other in zip(augment(pictures, links, 0, 0.5), pictures, strict=True):
        np.testing.assert_array_equal(one.vectors, other.vectors)
    nearest = int(links[0].argmax())
    expected = join(pictures[0], [pictures[nearest]], min_parts=1)
    np.testing.assert_array_equal(augment(pictures, links, 1, 0.0)[0].vectors, expected.vectors)

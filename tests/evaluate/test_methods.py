from dataclasses import replace

import numpy as np
import pytest

from d2r.asmk.kernels import KERNELS, Assigned, aggregate, regional_similarity, similarity
from d2r.evaluate.methods import METHODS, describe_picture, invert, scores

WORDS = 12


def picture(rng, count, regions, dim=32):
    return Assigned(
        rng.integers(0, WORDS, count).astype(np.int32),
        rng.normal(size=(count, dim)).astype(np.float32),
        None,
        np.sort(rng.integers(0, regions, count)).astype(np.int32),
        regions,
    )


@pytest.mark.parametrize("name", sorted(METHODS))
def test_scores_of_a_database_equal_the_similarity_of_each_pair(name):
    rng = np.random.default_rng(0)
    method = METHODS[name]
    kernel = KERNELS[method.kernel]
    pictures = [picture(rng, count, regions) for count, regions in [(40, 3), (5, 4), (0, 2), (25, 1), (60, 5)]]
    database = invert([describe_picture(one, method) for one in pictures], kernel, WORDS)
    for _ in range(3):
        query = aggregate(picture(rng, 15, 1), kernel)
        expected = [
            regional_similarity(query, describe_picture(one, method), kernel, method.pool)
            if method.pool
            else similarity(query, aggregate(one, kernel), kernel)
            for one in pictures
        ]
        np.testing.assert_allclose(scores(query, database, kernel, method.pool), expected, atol=2e-6)


def test_an_empty_query_scores_zero_everywhere():
    rng = np.random.default_rng(1)
    for name, method in METHODS.items():
        kernel = KERNELS[method.kernel]
        database = invert([describe_picture(picture(rng, 20, 2), method)] * 3, kernel, WORDS)
        assert not scores(aggregate(picture(rng, 0, 1), kernel), database, kernel, method.pool).any(), name


def test_regional_search_stores_a_descriptor_a_region_and_aggregation_one_a_picture():
    rng = np.random.default_rng(2)
    one = picture(rng, 50, 4)
    assert len(describe_picture(one, METHODS["d2r-asmk*(max)"])) == 4
    assert len(describe_picture(one, METHODS["r-asmk*"])) == 1


def test_bytes_count_a_word_number_and_a_vector_for_each_word():
    rng = np.random.default_rng(3)
    for name, size in (("asmk*", 4 + 8), ("asmk", 4 + 4 * 32), ("bow", 4 + 4)):
        method = METHODS[name]
        database = invert([describe_picture(picture(rng, 50, 1), method)], KERNELS[method.kernel], WORDS)
        assert database.descriptor_bytes == size * len(database.entries)


def test_a_word_that_the_codebook_has_not_or_an_entry_that_there_is_not_is_refused():
    rng = np.random.default_rng(4)
    kernel = KERNELS["r-asmk*"]
    stored = [describe_picture(picture(rng, 50, 2), METHODS["r-asmk*"])]
    with pytest.raises(ValueError, match="words must be from 0 to 4"):
        invert(stored, kernel, 5)
    database = invert(stored, kernel, WORDS)
    for wrong in (
        {"entries": database.entries + np.uint32(1)},
        {"entries": database.entries[1:]},
        {"starts": database.starts[::-1].copy()},
        {"starts": database.starts + 1},
    ):
        with pytest.raises(ValueError, match="must"):
            replace(database, **wrong)


def test_a_query_that_is_not_like_the_database_is_refused():
    rng = np.random.default_rng(5)
    kernel = KERNELS["r-asmk*"]
    database = invert([describe_picture(picture(rng, 50, 2, dim=32), METHODS["r-asmk*"])], kernel, WORDS)
    query = aggregate(picture(rng, 15, 1, dim=32), kernel)
    wider = aggregate(picture(rng, 15, 1, dim=128), kernel)
    for wrong in (wider, replace(query, words=query.words[::-1].copy()), replace(query, words=query.words[1:])):
        with pytest.raises(ValueError, match="must"):
            scores(wrong, database, kernel, None)

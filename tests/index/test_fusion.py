import numpy as np
import pytest

from d2r.index.fusion import depth, fuse, kind_weights
from d2r.index.ranking import best_of


def ranking(scores):
    return best_of(np.array(scores, np.float32), 100)


def test_of_one_kind_the_ranking_stays_as_it_is():
    found = fuse([ranking([0.1, 0.3, 0.2])], 2)
    assert found["place"].tolist() == [1, 2]
    assert depth(7, 1) == 7


def test_a_kind_whose_pictures_look_alike_counts_less():
    sure, unsure = [0.9, 0.8, *[0.1] * 8], [*[0.5] * 8, 0.6, 0.6]
    weights = kind_weights([ranking(sure), ranking(unsure)])
    assert weights.tolist() == pytest.approx([8 / 9.2, 1.2 / 9.2])
    assert fuse([ranking(sure), ranking(unsure)], 2)["place"].tolist() == [0, 1]
    assert fuse([ranking(sure), ranking(unsure)], 1)["score"][0] == pytest.approx(0.9 * 8 / 9.2 + 0.5 * 1.2 / 9.2)


def test_the_query_itself_among_the_pictures_changes_no_weight_much():
    others = [0.3, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    alone, among = (kind_weights([ranking(one), ranking([0.2] * 10)]) for one in (others, [1.0, *others]))
    assert abs(alone - among).max() < 0.15


def test_a_kind_that_finds_nothing_leaves_the_score_to_the_other():
    found = fuse([ranking([0.0, 0.0, 0.0]), ranking([0.1, 0.3, 0.2])], 3)
    assert found["place"].tolist() == [1, 2, 0]
    assert found["score"].tolist() == pytest.approx([0.3, 0.2, 0.1])
    assert len(fuse([ranking([0.0]), ranking([0.0])], 3)) == 0


def test_of_equal_scores_the_lower_place_comes_first():
    assert fuse([ranking([0.2, 0.2, 0.2])] * 2, 3)["place"].tolist() == [0, 1, 2]

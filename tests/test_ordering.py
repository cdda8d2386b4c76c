import numpy as np
import pytest

from d2r.ordering import order


@pytest.mark.parametrize(
    ("precise", "inliers", "expected"),
    [
        ((True,), [[0], [11], [12], [30]], [3, 2, 1, 0]),  # then 0.3 * 6.5 before 0.4
        ((False,), [[0], [9], [10], [90]], [3, 1, 0, 2]),  # 0.08 * 5.5, 0.3 * 1.45, 0.4, 0.09 * 1.5
        ((True, False), [[0, 0], [0, 40], [12, 0], [8, 12]], [2, 1, 3, 0]),  # 0.3 * 3, 0.08 * 5.6, 0.4
        ((False, True), [[0, 9], [40, 0], [0, 12], [0, 0]], [2, 0, 1, 3]),  # 0.4 * 5.5 before 0.3 * 3
    ],
)
def test_the_confirmed_come_first_and_other_inliers_raise_the_similarity(precise, inliers, expected):
    scores = np.array([0.4, 0.3, 0.09, 0.08])
    assert order(scores, np.array(inliers), precise).tolist() == expected


def test_what_ties_stays_in_order_of_score():
    assert order(np.array([0.1, 0.3, 0.2]), np.zeros((3, 1), int), (True,)).tolist() == [1, 2, 0]
    assert order(np.array([0.1, 0.3, 0.3]), np.full((3, 2), 12), (True, False)).tolist() == [1, 2, 0]


def test_no_results_have_an_order():
    assert order(np.zeros(0), np.zeros((0, 2), int), (True, False)).tolist() == []

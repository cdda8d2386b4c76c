import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2r.evaluate.landmarks import (
    NO_LANDMARK,
    global_average_precision,
    micro_average_precision,
    retrieval_map,
)


def test_retrieval_worked_by_hand():
    # hits at places 1 and 3 of three positives: (1/1 + 2/3) / 3
    scores = retrieval_map([np.array([5, 0, 6])], [[5, 6, 7]])
    assert scores.map == pytest.approx((1 + 2 / 3) / 3)
    assert scores.counted == 1


def test_retrieval_denominator_is_at_most_the_depth():
    many = np.arange(150)
    assert retrieval_map([many], [many]).map == 1.0
    # the second of two answers, with five positives: (1/2) / min(5, 2)
    assert retrieval_map([np.array([9, 1, 2])], [[1, 2, 3, 4, 5]], depth=2).map == pytest.approx(1 / 4)


def test_retrieval_ignores_what_is_behind_the_depth():
    wrong_then_right = np.append(np.arange(100, 200), 7)
    assert retrieval_map([wrong_then_right], [[7]]).map == 0.0


def test_repeated_answers_earn_nothing_and_take_their_place():
    # 1/1, then a repetition, then the third answer: 2/3
    assert retrieval_map([np.array([3, 3, 4])], [[3, 4]]).map == pytest.approx((1 + 2 / 3) / 2)


def test_retrieval_without_positives_or_answers():
    empty = np.empty(0, np.int64)
    scores = retrieval_map([np.array([1]), np.array([1]), empty], [[1], [], [2]])
    np.testing.assert_array_equal(scores.average_precision, [1.0, np.nan, 0.0])
    assert (scores.counted, scores.map) == (2, 0.5)
    with pytest.raises(ValueError, match="no query has a positive"):
        retrieval_map([empty], [[]])
    with pytest.raises(ValueError, match="1 rankings for 2 queries"):
        retrieval_map([empty], [[], []])


def test_retrieval_takes_an_array_of_rankings():
    rankings = np.array([[0, 5], [1, 6]])
    np.testing.assert_array_equal(retrieval_map(rankings, [[0], [6]]).average_precision, [1.0, 0.5])


def test_gap_worked_by_hand():
    # in order of confidence: right (1/1), wrong, right (2/3), and a landmark without a prediction
    predicted = [4, 8, 6, NO_LANDMARK]
    scores = [0.5, 0.9, 0.7, 0.99]
    labels = [[4], [8], [5], [2]]
    assert global_average_precision(predicted, scores, labels) == pytest.approx((1 + 2 / 3) / 4)


def test_gap_counts_claims_for_pictures_without_landmark_as_wrong():
    # the picture without landmark comes first: 1/2 over one picture that shows one
    assert global_average_precision([3, 1], [0.9, 0.5], [[], [1]]) == 0.5
    assert global_average_precision([NO_LANDMARK, 1], [0.9, 0.5], [[], [1]]) == 1.0


def test_gap_admits_several_true_labels():
    assert global_average_precision([2], [0.1], [[1, 2]]) == 1.0


def test_equal_confidences_rank_in_the_given_order():
    assert global_average_precision([1, 9], [0.5, 0.5], [[1], [2]]) == 0.5
    assert global_average_precision([9, 1], [0.5, 0.5], [[2], [1]]) == 0.25


def test_malformed_predictions_are_refused():
    with pytest.raises(ValueError, match="nothing could be predicted"):
        global_average_precision([1], [0.5], [[]])
    with pytest.raises(ValueError, match="for 2 pictures"):
        global_average_precision([1], [0.5], [[1], [1]])
    with pytest.raises(ValueError, match="NaN"):
        micro_average_precision([np.nan], [True], 1)
    with pytest.raises(ValueError, match="shape"):
        micro_average_precision([0.5], [True, False], 1)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=30), st.integers(1, 40))
def test_micro_average_precision_equals_a_plain_loop(predictions, positives):
    ordered = sorted(predictions, key=lambda one: -one[0])
    right, total = 0, 0.0
    for place, (_, correct) in enumerate(ordered, start=1):
        if correct:
            right += 1
            total += right / place
    found = micro_average_precision([p[0] for p in predictions], [p[1] for p in predictions], positives)
    assert found == pytest.approx(total / positives)

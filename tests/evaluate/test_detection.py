import numpy as np
import pytest

from d2r.evaluate.detection import evaluate_boxes

A, B = [0, 0, 100, 100], [200, 200, 300, 300]


def test_perfect_boxes():
    scores = evaluate_boxes([[A], [B]], [[0.9], [0.8]], [[A], [B]])
    assert (scores.ap50, scores.ap) == pytest.approx((1.0, 1.0))
    np.testing.assert_allclose(scores.recall50, 1.0)
    np.testing.assert_allclose(scores.recall, 1.0)
    assert (scores.ks, scores.pictures, scores.boxes) == ((1, 2, 5), 2, 2)


def test_overlap_decides_how_many_thresholds_are_passed():
    # 76 of 100 columns: IoU 0.76 passes 0.5 to 0.75, six of ten thresholds
    scores = evaluate_boxes([[[0, 0, 76, 100]]], [[0.9]], [[A]])
    assert scores.ap50 == pytest.approx(1.0)
    assert scores.ap == pytest.approx(0.6)
    np.testing.assert_allclose(scores.recall, 0.6)


def test_false_boxes_lower_average_precision():
    # the wrong box has the higher score: precision is 1/2 at every recall
    assert evaluate_boxes([[B, A]], [[0.9, 0.8]], [[A]]).ap50 == pytest.approx(0.5)
    # it has the lower score, so it comes after all of recall
    assert evaluate_boxes([[B, A]], [[0.8, 0.9]], [[A]]).ap50 == pytest.approx(1.0)


def test_boxes_in_a_picture_without_true_ones_are_wrong():
    assert evaluate_boxes([[A], [A]], [[0.9], [0.8]], [[], [A]]).ap50 == pytest.approx(0.5)


def test_missed_boxes_cost_recall():
    # half of recall at precision 1: of COCO's 101 recall points, 0 to 0.5 are 51
    scores = evaluate_boxes([[A]], [[0.9]], [[A, B]])
    assert scores.ap50 == pytest.approx(51 / 101)
    np.testing.assert_allclose(scores.recall50, 0.5)


def test_recall_looks_at_the_best_boxes_of_each_picture():
    far = [[400 + 20 * i, 0, 410 + 20 * i, 10] for i in range(4)]
    # true boxes rank first, second and sixth in their pictures
    scores = evaluate_boxes(
        [[A], [far[0], A], [*far, B, A]],
        [[0.1], [0.9, 0.8], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]],
        [[A], [A], [A]],
        ks=(5, 1, 2),
    )
    np.testing.assert_allclose(scores.recall50, [2 / 3, 1 / 3, 2 / 3])


def test_two_boxes_on_one_true_box_count_once():
    scores = evaluate_boxes([[A, A]], [[0.9, 0.8]], [[A, B]])
    np.testing.assert_allclose(scores.recall50, 0.5)


def test_no_predicted_box_at_all():
    empty = np.empty((0, 4), np.float32)
    scores = evaluate_boxes([empty, []], [[], []], [[A], [B]])
    assert (scores.ap50, scores.ap) == (0.0, 0.0)
    np.testing.assert_array_equal(scores.recall50, 0.0)


def test_nothing_is_printed(capfd):
    evaluate_boxes([[A]], [[0.9]], [[A]])
    assert capfd.readouterr() == ("", "")


def test_malformed_input_is_refused():
    with pytest.raises(ValueError, match="1 pictures"):
        evaluate_boxes([[A], [A]], [[0.9], [0.9]], [[A]])
    with pytest.raises(ValueError, match="picture 0: 1 boxes"):
        evaluate_boxes([[A]], [[0.9, 0.8]], [[A]])
    with pytest.raises(ValueError, match=r"picture 1: .* finite"):
        evaluate_boxes([[A], [[0, 0, np.nan, 1]]], [[0.9], [0.9]], [[A], [A]])
    with pytest.raises(ValueError, match="finite"):
        evaluate_boxes([[A]], [[np.inf]], [[A]])
    with pytest.raises(ValueError, match="picture 0: a true box is empty"):
        evaluate_boxes([[A]], [[0.9]], [[[5, 5, 5, 9]]])
    with pytest.raises(ValueError, match="no picture has a true box"):
        evaluate_boxes([[A]], [[0.9]], [[]])
    with pytest.raises(ValueError, match="1 to 100"):
        evaluate_boxes([[A]], [[0.9]], [[A]], ks=(0, 1))

from __future__ import annotations

import numpy as np
import pytest

from d2r.train.delf.metric import hold_out_landmarks, landmark_average_precision, mine


def vectors(angles: list[float]) -> np.ndarray:
    return np.stack([np.cos(np.deg2rad(angles)), np.sin(np.deg2rad(angles))], axis=1).astype(np.float32)


def test_negatives_are_the_most_similar_pictures_one_of_a_landmark() -> None:
    found = vectors([0, 10, 80, 5, 6, 30, 60, 90])
    landmarks = np.array([0, 0, 0, 1, 1, 2, 3, 4])
    rows = mine(found, landmarks, np.array([0, 3]), 3, np.random.default_rng(0))
    assert rows[0].tolist() == [0, 1, 3, 5, 6]  # 10 degrees is in the similar half, 80 is not
    assert rows[1, :2].tolist() == [3, 4]
    assert rows[1, 2:].tolist() == [0, 5, 6]  # 0 and 1 are equally near to 5 degrees: the first


def test_fewer_landmarks_than_negatives_give_more_of_each() -> None:
    rows = mine(vectors([0, 1, 20, 40]), np.array([0, 0, 1, 1]), np.array([0]), 5, np.random.default_rng(0))
    assert rows.tolist() == [[0, 1, 2, 3, 2, 3, 2]]


def test_mean_average_precision_is_that_of_rankings_by_similarity() -> None:
    # to 0: 10 (right), 20 (wrong), 40 (right): (1 + 2/3) / 2, and so on; the wrong one has no other of its landmark
    found = landmark_average_precision(vectors([0, 10, 20, 40]), np.array([0, 0, 1, 0]))
    assert found == pytest.approx(np.mean([(1 + 2 / 3) / 2, (1 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2]))


def test_whole_landmarks_are_held_out_and_a_share_of_what_is_unknown() -> None:
    names = [name for name in "abcdefgh" for _ in range(3)] + [None] * 9 + ["alone"]
    kept, held = hold_out_landmarks(names, 0.3, 1)
    assert sorted([*kept, *held]) == list(range(len(names)))
    landmarks = {names[row] for row in held} - {None, "alone"}
    assert len(landmarks) == 2
    assert not landmarks & {names[row] for row in kept}
    assert sum(names[row] in (None, "alone") for row in held) == 3
    assert hold_out_landmarks(names, 0.3, 1) == (kept, held)
    assert hold_out_landmarks(names, 0.3, 2) != (kept, held)


def test_fewer_than_four_landmarks_are_refused() -> None:
    with pytest.raises(ValueError, match="3 landmarks with two pictures or more, but at least four"):
        hold_out_landmarks([*"aabbcc", "d", None], 0.2, 0)

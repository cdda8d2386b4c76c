import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2r.boxes import BoxError, area, as_boxes, check_box, clip, intersection, iou, parse_box, pixel_slices

BOX = st.tuples(*[st.floats(0, 100, width=32)] * 4).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


def test_worked_overlaps():
    a, b = [[0, 0, 10, 10]], [[5, 5, 15, 15], [0, 0, 10, 10], [20, 20, 30, 30], [2, 2, 2, 9]]
    assert area(b).tolist() == [100, 100, 100, 0]
    assert intersection(a, b).tolist() == [[25, 100, 0, 0]]
    assert iou(a, b)[0].tolist() == pytest.approx([25 / 175, 1, 0, 0])


@settings(deadline=None, max_examples=60)
@given(first=st.lists(BOX, max_size=4), second=st.lists(BOX, max_size=4))
def test_overlaps_equal_a_plain_loop(first, second):
    found = iou(first, second)
    assert found.shape == (len(first), len(second))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
            assert found[i, j] == pytest.approx(shared / union if union > 0 else 0, abs=1e-3)
    assert ((found >= 0) & (found <= 1 + 1e-6)).all()
    np.testing.assert_array_equal(found, iou(second, first).T)


@settings(deadline=None, max_examples=60)
@given(box=st.tuples(*[st.floats(-50, 150, width=32)] * 4), width=st.integers(1, 100), height=st.integers(1, 100))
def test_a_box_is_either_refused_or_cut_to_at_least_a_pixel_inside_the_picture(box, width, height):
    try:
        x1, y1, x2, y2 = check_box(box, width, height)
    except BoxError:
        cut = clip([box], width, height)[0]
        assert cut[2] - cut[0] < 1 or cut[3] - cut[1] < 1
        return
    assert (x1, y1, x2, y2) == tuple(clip([box], width, height)[0].tolist())
    assert 0 <= x1 <= x2 - 1 <= width - 1
    assert 0 <= y1 <= y2 - 1 <= height - 1
    rows, columns = pixel_slices((x1, y1, x2, y2))
    assert np.zeros((height, width))[rows, columns].size > 0
    assert rows.stop <= height
    assert columns.stop <= width


def test_boxes_are_cut_to_the_picture():
    assert clip([[-5, 2, 30, 9]], 20, 8).tolist() == [[0, 2, 20, 8]]
    assert clip([[30, 2, 40, 9]], 20, 8).tolist() == [[20, 2, 20, 8]]
    assert as_boxes([]).shape == (0, 4)
    assert as_boxes([1, 2, 3, 4]).shape == (1, 4)
    assert as_boxes([[1, 2, 3, 4]]).dtype == np.float32


def test_swapped_and_disjoint_boxes_share_nothing():
    assert area([[10, 10, 5, 20], [10, 20, 20, 10]]).tolist() == [0, 0]
    assert intersection([[0, 0, 10, 10]], [[10, 0, 20, 10], [8, 8, 2, 2]]).tolist() == [[0, 0]]
    assert iou([[3, 3, 3, 3]], [[3, 3, 3, 3]]).tolist() == [[0]]


def test_a_box_is_read_from_text():
    assert parse_box("1,2.5, 3,4e1") == (1, 2.5, 3, 40)
    assert parse_box("-3,-4,5,6") == (-3, -4, 5, 6)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1,2,3,nan", "1,2,inf,4", "1;2;3;4"])
def test_text_that_is_no_box_is_refused_with_an_example(text):
    with pytest.raises(BoxError, match="expected four numbers x1,y1,x2,y2"):
        parse_box(text)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((30, 10, 20, 40), "corners are swapped"),
        ((10, 40, 20, 30), "corners are swapped"),
        ((10, 10, 10, 30), "it is empty"),
        ((100, 10, 120, 30), "outside the picture, which is 100 x 80 pixels"),
        ((-20, -20, -1, -1), "outside the picture"),
        ((100, 80, 101, 81), "outside the picture"),
        ((0, 0, float("inf"), 5), "must be finite"),
        ((0, float("nan"), 5, 5), "must be finite"),
        ((1, 2, 3), "expected four numbers"),
        ((1, 2, 3, 4, 5), "expected four numbers"),
        ((1, 2, None, 4), "expected four numbers"),
        ("1,2,3,4", "expected four numbers"),
        (7, "expected four numbers"),
        ((10, 10, 10.5, 20), "less than one pixel of the picture, which is 100 x 80, lies in it"),
        ((99.5, 0, 200, 50), "less than one pixel"),
    ],
)
def test_a_box_that_cannot_be_used_says_why(box, message):
    with pytest.raises(BoxError, match=message):
        check_box(box, 100, 80)


def test_a_box_partly_outside_is_cut():
    assert check_box((-10, 20, 50, 500), 100, 80) == (0, 20, 50, 80)
    assert check_box(np.array([0, 0, 1, 1], np.float32), 1, 1) == (0, 0, 1, 1)
    assert check_box((10, 10, 11, 11), 100, 80) == (10, 10, 11, 11)


def test_slices_hold_every_pixel_that_a_box_touches():
    assert pixel_slices((1.2, 3.0, 4.5, 7.0)) == (slice(3, 7), slice(1, 5))
    assert pixel_slices((0.9, 0.0, 1.0, 0.1)) == (slice(0, 1), slice(0, 1))

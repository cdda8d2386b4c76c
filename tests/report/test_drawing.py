import numpy as np
import pytest

from d2r.features import Features
from d2r.report.drawing import FEATURE_SIDE, MATCH_SIDE, count_by_scale, draw_features, draw_match

GREY = 128


def features(positions, scales, attention):
    count = len(positions)
    return Features(
        np.array(positions, np.float32).reshape(count, 2),
        np.array(scales, np.float32),
        np.eye(count, 8, dtype=np.float32),
        np.array(attention, np.float32),
    )


def plain(height, width):
    return np.full((height, width, 3), GREY, np.uint8)


def coloured(drawn):
    """Rows and columns of the coloured pixels outside the legend."""
    return np.argwhere(np.ptp(drawn.astype(int), axis=2) > 40)


def test_few_scales_are_counted_each_and_many_by_octave():
    few = count_by_scale(np.array([8, 2, 8, 2.5, 8], np.float32))
    assert [(count.low, count.high, count.count) for count in few] == [(2, 2, 1), (2.5, 2.5, 1), (8, 8, 3)]
    assert str(few[1]) == "2.5"
    many = count_by_scale(np.linspace(1.1, 9, 50).astype(np.float32))
    assert [(count.low, count.high) for count in many] == [(1, 2), (2, 4), (4, 8), (8, 16)]
    assert sum(count.count for count in many) == 50
    assert str(many[3]) == "8 to 16"
    assert count_by_scale(np.zeros(0, np.float32)) == []


@pytest.mark.parametrize(("height", "width"), [(300, 400), (1500, 2000)])
def test_a_circle_lies_around_its_feature_as_large_as_what_is_described(height, width):
    scale = FEATURE_SIDE / 2000 if width > FEATURE_SIDE else 1.0
    drawn = draw_features(plain(height, width), features([(110, 60)], [16], [1.0]), title="one")
    shown = coloured(drawn[:, : round(width * scale)])
    low, high = shown.min(axis=0), shown.max(axis=0) + 1
    np.testing.assert_allclose((low + high)[::-1] / 2, [110 * scale, 60 * scale], atol=1.1)
    np.testing.assert_allclose(high - low, 16 * scale, atol=3.1)


def test_circles_that_would_hide_the_picture_are_drawn_smaller():
    large = draw_features(plain(300, 400), features([(200, 150)], [160], [1.0]), title="one")[:, :400]
    shown = coloured(large)
    assert 14 <= np.ptp(shown, axis=0).max() <= 22  # an eighth of 160, which is 5 % of 400


def test_the_strongest_is_drawn_last_and_red_and_the_weakest_blue():
    positions = [(50, 50), (50, 50), (100, 50)]
    drawn = draw_features(plain(100, 150), features(positions, [6, 6, 6], [5.0, 1.0, 2.0]), title="three")
    around = drawn[44:57, 44:57].reshape(-1, 3).astype(int)
    strong = around[np.ptp(around, axis=1) > 60]
    assert len(strong)
    assert (strong[:, 0] > strong[:, 2]).all()
    alone = draw_features(plain(100, 150), features(positions[1:], [6, 6], [1.0, 2.0]), title="two")
    around = alone[44:57, 44:57].reshape(-1, 3).astype(int)
    weak = around[np.ptp(around, axis=1) > 20]
    assert (weak[:, 2] > weak[:, 0]).all()


def test_nothing_found_is_drawn_too_and_a_small_picture_has_a_whole_legend():
    drawn = draw_features(plain(20, 30), Features.empty(8), title="none", box=(5, 5, 25, 15))
    assert drawn.shape[0] > 150
    assert len(coloured(drawn[:20, :30]))


def test_matched_points_are_joined_in_colours_and_others_in_grey_between_the_pictures():
    query, other = plain(360, MATCH_SIDE), plain(2 * MATCH_SIDE, MATCH_SIDE)
    positions = np.array([(100, 50), (300, 200)], np.float32)
    doubled = 2 * positions
    drawn = draw_match(query, other, positions, doubled, box=(10, 20, 500, 300))
    assert drawn.shape == (MATCH_SIDE, MATCH_SIDE + 16 + MATCH_SIDE // 2, 3)
    top = (MATCH_SIDE - 360) // 2
    for (x, y), (u, v) in zip(positions.astype(int), (doubled / 2).astype(int), strict=True):
        for row, column in ((top + y, x), (v, MATCH_SIDE + 16 + u)):
            assert np.ptp(drawn[row, column].astype(int)) > 60
    assert drawn[top + 20, 200].tolist() == [255, 176, 46]
    grey = draw_match(query, other, positions[:0], positions[:0], unconfirmed=(positions, doubled))
    assert len(coloured(grey)) == 0
    assert grey[top + 50, 100].tolist() == [150, 150, 150]


def test_no_more_lines_are_drawn_than_can_be_seen():
    positions = np.column_stack([np.full(600, 10), np.arange(600) + 60]).astype(np.float32)
    drawn = draw_match(plain(720, 720), plain(720, 720), positions, positions)
    middle = drawn[:, 728].astype(int)
    assert 100 < (np.ptp(middle, axis=1) > 40).sum() <= 460  # 150 lines, smoothed over neighbouring rows

"""Spatial verification with known transforms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from d2r.asmk.codebook import Codebook
from d2r.asmk.learning import train_codebook
from d2r.compose.bundled import bundled_photos
from d2r.features.rootsift import RootSIFT
from d2r.images import read_image, shrink
from d2r.verify.keypoints import Keypoints, make_keypoints
from d2r.verify.verify import MIN_INLIERS, NEAREST, NOT_FOUND, Verification, match_keypoints, verify

TURN = math.radians(25)
MAP = np.array([[0.8 * math.cos(TURN), -0.7 * math.sin(TURN), 120], [0.8 * math.sin(TURN), 0.9 * math.cos(TURN), -35]])
MIRROR = np.array([[-0.9, 0.05, 700], [0.1, 0.8, 30]])
CORNERS = np.array([[0, 0], [800, 0], [0, 600], [800, 600]], float)


BITS = 128
WORDS = 16


def random_codes(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 2**64, (count, BITS // 64), dtype=np.uint64)


def flipped(rng: np.random.Generator, codes: np.ndarray, share: float) -> np.ndarray:
    """Codes with each bit flipped with some probability."""
    bits = np.unpackbits(codes.view(np.uint8), axis=1) ^ (rng.random((len(codes), BITS)) < share)
    return np.packbits(bits.astype(np.uint8), axis=1).view(np.uint64)


def keypoints(
    positions: np.ndarray, words: np.ndarray, codes: np.ndarray, scales: np.ndarray, angles: np.ndarray
) -> Keypoints:
    """Keypoints sorted by word; their rows are their places before."""
    order = np.argsort(words, kind="stable")
    values = (positions, scales, angles)
    arrays = [np.asarray(value, np.float32)[order] for value in values]
    return Keypoints(*arrays, words[order].astype(np.uint8), codes[order], order.astype(np.int32))


def apply(transform: np.ndarray, positions: np.ndarray) -> np.ndarray:
    return positions @ transform[:, :2].T + transform[:, 2]


def shapes(transform: np.ndarray, scales: np.ndarray, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scales and orientations of transformed local features."""
    linear = transform[:, :2]
    turned = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ linear.T
    sizes = scales * np.sqrt(max(abs(np.linalg.det(linear)), 0.01))  # features have a size above 0
    return sizes, np.arctan2(turned[:, 1], turned[:, 0])


def scene(
    transform: np.ndarray, right: int, wrong: int, noise: float = 0.5, seed: int = 0
) -> tuple[Keypoints, Keypoints]:
    """A query and a picture of it: ``right`` transformed points and ``wrong`` random ones, in random order.

    Scales are off by a tenth, and orientations by six degrees, like those of real features.
    """
    rng = np.random.default_rng(seed)
    count = right + wrong
    positions = rng.random((count, 2)) * [800, 600]
    words, codes = rng.integers(0, WORDS, count), random_codes(rng, count)
    scales, angles = rng.uniform(3, 30, count), rng.uniform(-np.pi, np.pi, count)
    target = apply(transform, positions) + rng.normal(0, noise, (count, 2))
    target[right:] = rng.random((wrong, 2)) * [800, 600]
    its_scales, its_angles = shapes(transform, scales, angles)
    its_scales = its_scales * np.exp(rng.normal(0, 0.1, count))
    its_angles = its_angles + rng.normal(0, 0.1, count)
    its_scales[right:], its_angles[right:] = rng.uniform(3, 30, wrong), rng.uniform(-np.pi, np.pi, wrong)
    order = rng.permutation(count)
    its_codes = flipped(rng, codes, 0.1)
    query = keypoints(positions, words, codes, scales, angles)
    return query, keypoints(target[order], words[order], its_codes[order], its_scales[order], its_angles[order])


def check(query: Keypoints, other: Keypoints, **options: float) -> Verification:
    return verify(query, other, bits=BITS, **options)


def taken(one: Keypoints, rows: np.ndarray) -> Keypoints:
    arrays = (one.positions, one.scales, one.angles, one.words, one.codes, one.rows)
    return Keypoints(*(array[rows] for array in arrays))


def placed(query: Keypoints) -> np.ndarray:
    """The positions of the query's features, by row."""
    positions = np.full((query.rows.max() + 1, 2), np.nan)
    positions[query.rows] = query.positions
    return positions


def error(found: Verification, transform: np.ndarray) -> float:
    assert found.transform is not None
    return float(np.linalg.norm(apply(found.transform, CORNERS) - apply(transform, CORNERS), axis=1).max())


def same(a: Verification, b: Verification) -> bool:
    return np.array_equal(a.matches, b.matches) and np.array_equal(a.transform, b.transform)


# ---- The transform ----


@pytest.mark.parametrize(("right", "wrong"), [(40, 0), (60, 60), (50, 150)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_known_map_is_recovered_among_wrong_matches(right: int, wrong: int, seed: int) -> None:
    query, other = scene(MAP, right, wrong, seed=seed)
    found = check(query, other)
    assert found.transform is not None
    assert found.transform.dtype == np.float64
    assert found.transform.shape == (2, 3)
    inside = placed(query)[:right]
    errors = np.linalg.norm(apply(found.transform, inside) - apply(MAP, inside), axis=1)
    assert errors.max() < 1
    assert found.inliers >= right
    assert found.inliers <= right + 0.1 * wrong
    assert found.matches.dtype == np.int32


def test_inliers_agree_with_the_map_and_each_point_is_used_once() -> None:
    query, other = scene(MAP, 60, 100)
    found = check(query, other)
    mapped = apply(found.transform, placed(query)[found.matches[:, 0]])
    assert np.linalg.norm(mapped - other.positions[found.matches[:, 1]], axis=1).max() <= 10.01
    for column in found.matches.T:
        assert len(np.unique(column)) == found.inliers
    pairs = {(int(query.rows[own]), its) for own, its in match_keypoints(query, other, BITS).tolist()}
    assert {tuple(pair) for pair in found.matches.tolist()} <= pairs


def test_a_smaller_threshold_leaves_out_points_that_are_further_off() -> None:
    query, other = scene(MAP, 80, 0, noise=4)
    wide, narrow = check(query, other), check(query, other, threshold=3)
    assert wide.inliers > 70
    assert MIN_INLIERS <= narrow.inliers < 40
    mapped = apply(narrow.transform, placed(query)[narrow.matches[:, 0]])
    assert np.linalg.norm(mapped - other.positions[narrow.matches[:, 1]], axis=1).max() <= 3.01


def test_the_same_input_gives_the_same_outcome() -> None:
    query, other = scene(MAP, 30, 120, noise=2)
    first = check(query, other)
    assert first.inliers >= 30
    check(other, query)
    assert all(same(check(query, other), first) for _ in range(5))


def test_the_arrays_of_the_caller_are_left_as_they_are() -> None:
    query, other = scene(MAP, 30, 30)
    kept = [np.copy(array) for one in (query, other) for array in vars(one).values()]
    check(query, other)
    now = [array for one in (query, other) for array in vars(one).values()]
    assert all(np.array_equal(a, b) for a, b in zip(kept, now, strict=True))


# ---- No views of the same object ----


@pytest.mark.parametrize("seed", range(5))
def test_a_mirror_map_has_no_inliers(seed: int) -> None:
    query, other = scene(MIRROR, 60, 20, seed=seed)
    assert len(match_keypoints(query, other, BITS)) > 60  # there are enough matches
    assert same(check(query, other), NOT_FOUND)


@pytest.mark.parametrize("squeeze", [0.0, 0.01, 0.1])
def test_a_map_that_flattens_the_picture_has_no_inliers(squeeze: float) -> None:
    flat = np.array([[1.0, 0, 0], [0, squeeze, 200]])
    query, other = scene(flat, 80, 0, noise=0.1)
    assert same(check(query, other), NOT_FOUND)


@pytest.mark.parametrize("count", [20, 60, 150])
@pytest.mark.parametrize("seed", range(4))
def test_random_matches_have_no_inliers(count: int, seed: int) -> None:
    query, other = scene(MAP, 0, count, seed=seed)
    assert len(match_keypoints(query, other, BITS)) > 0.9 * count
    assert same(check(query, other), NOT_FOUND)


@pytest.mark.parametrize(("first", "second"), [("point", "plane"), ("plane", "point"), ("line", "plane"),
                                               ("plane", "line"), ("point", "point"), ("line", "line")])  # fmt: skip
def test_points_that_coincide_or_lie_on_a_line_fix_no_map(first: str, second: str) -> None:
    rng = np.random.default_rng(0)
    places = {
        "point": np.full((40, 2), 50.0),
        "line": np.stack([np.arange(40.0), 2 * np.arange(40.0)], axis=1) * 9,
        "plane": rng.random((40, 2)) * 500,
    }
    words, codes = rng.integers(0, WORDS, 40), random_codes(rng, 40)
    sizes, zeros = np.full(40, 5.0), np.zeros(40)
    one, other = (keypoints(places[name], words, codes, sizes, zeros) for name in (first, second))
    assert same(check(one, other), NOT_FOUND)


@pytest.mark.parametrize("count", range(MIN_INLIERS))
def test_few_features_find_nothing(count: int) -> None:
    query, other = scene(MAP, 60, 0)
    few = np.arange(count)
    assert same(check(taken(query, few), other), NOT_FOUND)
    assert same(check(query, taken(other, few)), NOT_FOUND)


def test_as_many_inliers_as_asked_for_are_enough() -> None:
    query, other = scene(MAP, 60, 0, noise=0.1)
    found = check(taken(query, np.arange(MIN_INLIERS)), other)
    assert found.inliers == MIN_INLIERS
    assert error(found, MAP) < 3


def test_no_features_on_either_side_find_nothing() -> None:
    query, _ = scene(MAP, 20, 0)
    nothing = Keypoints.empty(BITS)
    for a, b in ((query, nothing), (nothing, query), (nothing, nothing)):
        assert same(check(a, b), NOT_FOUND)
    assert NOT_FOUND.inliers == 0
    assert NOT_FOUND.transform is None


# ---- Matches ----


def brute_force(query: Keypoints, other: Keypoints, max_distance: int) -> list[list[int]]:
    """Brute-force mutual nearest neighbours among points of the same word; of equal distances the first counts."""
    bits = [np.unpackbits(one.codes.view(np.uint8), axis=1).astype(int) for one in (query, other)]
    distances = np.abs(bits[0][:, None] - bits[1][None]).sum(axis=2)
    distances[query.words[:, None] != other.words[None]] = BITS + 1
    pairs = []
    for row in np.unique(query.rows):
        own = np.flatnonzero(query.rows == row)
        best = own[distances[own].min(axis=1).argmin()]
        its = distances[best].argmin()
        if distances[best, its] <= max_distance and query.rows[distances[:, its].argmin()] == row:
            pairs.append([best, its])
    return pairs


@pytest.mark.parametrize("nearest", [1, 3])
def test_matches_equal_a_plain_search_for_mutual_nearest_codes_of_one_word(nearest: int) -> None:
    rng = np.random.default_rng(3)
    count = 60
    words = rng.permuted(np.tile(np.arange(WORDS), (count, 1)), axis=1)[:, :nearest]
    codes = random_codes(rng, count)
    zeros = np.zeros(count * nearest)
    rows = np.repeat(np.arange(count), nearest)
    several = flipped(rng, codes[rows], 0.05)
    query = keypoints(np.zeros((len(rows), 2)), words.reshape(-1), several, zeros, zeros)
    query = Keypoints(*(getattr(query, name) for name in ("positions", "scales", "angles", "words", "codes")),
                   rows[query.rows].astype(np.int32))  # fmt: skip
    order = rng.permutation(count)
    other = keypoints(
        np.zeros((count, 2)), words[order, 0], flipped(rng, codes, 0.2)[order], zeros[:count], zeros[:count]
    )
    found = match_keypoints(query, other, BITS)
    assert found.dtype == np.int32
    assert found.tolist() == brute_force(query, other, int(0.36 * BITS))
    assert 30 < len(found) <= count


def test_points_of_different_words_never_match() -> None:
    rng = np.random.default_rng(0)
    codes, zeros = random_codes(rng, 50), np.zeros(50)
    places = np.zeros((50, 2))
    one = keypoints(places, np.arange(50), codes, zeros, zeros)
    assert len(match_keypoints(one, one, BITS)) == 50
    assert len(match_keypoints(one, keypoints(places, np.arange(50) + 50, codes, zeros, zeros), BITS)) == 0


# ---- A real photograph ----


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return shrink(read_image(bundled_photos().instances[0].photos[0]), 480)


@pytest.fixture(scope="module")
def codebook() -> Codebook:
    others = [shrink(read_image(path), 320) for path in bundled_photos().backgrounds[4:10]]
    return train_codebook(np.concatenate([one.descriptors for one in RootSIFT(top=500).extract(others)]), 64)


@pytest.mark.parametrize("angle", [-35, 20, 170])
@pytest.mark.parametrize("scale", [0.7, 1.3])
def test_a_warped_photograph_is_verified_with_its_map(
    photo: np.ndarray, codebook: Codebook, angle: float, scale: float
) -> None:
    height, width = photo.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    turn[0] *= 0.9  # not a similarity transform
    warped = cv2.warpAffine(photo, turn, (width, height))
    first, second = RootSIFT(top=500).extract([photo, warped])
    query, other = make_keypoints(first, codebook, nearest=NEAREST), make_keypoints(second, codebook)
    found = check(query, other)
    assert found.inliers > 40
    mapped = apply(found.transform, first.positions[found.matches[:, 0]].astype(float))
    assert np.linalg.norm(mapped - other.positions[found.matches[:, 1]], axis=1).max() < 10.01
    expected = turn.copy()  # warpAffine counts from the centre of a pixel, positions from its corner
    expected[:, 2] += 0.5 - turn[:, :2] @ [0.5, 0.5]
    assert found.transform is not None
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], float)
    assert np.linalg.norm(apply(found.transform, corners) - apply(expected, corners), axis=1).max() < 3
    middle = np.array([[width / 2, height / 2]])
    assert np.linalg.norm(apply(found.transform, middle) - apply(expected, middle)) < 1


def test_photographs_of_different_things_share_nothing(photo: np.ndarray, codebook: Codebook) -> None:
    others = [shrink(read_image(path), 480) for path in bundled_photos().backgrounds[:4]]
    query, *described = RootSIFT(top=500).extract([photo, *others])
    for other in described:
        assert len(other) > 50
        found = check(make_keypoints(query, codebook, nearest=NEAREST), make_keypoints(other, codebook))
        assert found.inliers == 0


# ---- Input that compiled loops do not check ----


@pytest.mark.parametrize(
    ("name", "wrong", "reason"),
    [
        ("words", lambda words: words[::-1].copy(), "words of keypoints must ascend"),
        ("words", lambda words: words.astype(np.int32), "words of keypoints must be uint8"),
        ("words", lambda words: words[1:], "positions of keypoints must be"),
        ("codes", lambda codes: codes[:, :1].copy(), "codes of keypoints must be uint64"),
        ("codes", lambda codes: codes[1:], "codes of keypoints must be uint64"),
        ("codes", lambda codes: codes.view(np.int64), "codes of keypoints must be uint64"),
        ("rows", lambda rows: rows - 1, "rows of keypoints must be from 0"),
        ("rows", lambda rows: rows + 2**30, "rows of keypoints must be from 0"),
        ("rows", lambda rows: rows[1:], "rows of keypoints must be int32"),
        ("positions", lambda positions: positions[:, :1].copy(), "positions of keypoints must be"),
        ("scales", lambda scales: scales[1:], "scales of keypoints must be"),
        ("angles", lambda angles: angles.astype(np.float64), "angles of keypoints must be"),
    ],
)
def test_points_that_do_not_fit_are_refused_on_either_side(
    name: str, wrong: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    query, other = scene(MAP, 30, 10)
    bad = replace(query, **{name: wrong(getattr(query, name))})
    for sides in ((bad, other), (other, bad)):
        with pytest.raises(ValueError, match=reason):
            verify(*sides, bits=BITS)
        with pytest.raises(ValueError, match=reason):
            match_keypoints(*sides, BITS)


def test_points_of_codes_of_other_bits_are_refused() -> None:
    query, other = scene(MAP, 30, 10)
    with pytest.raises(ValueError, match="codes of keypoints must be uint64"):
        verify(query, other, bits=64)


def test_numbers_that_are_none_agree_on_nothing_and_harm_nothing() -> None:
    query, other = scene(MAP, 40, 0)
    for name in ("positions", "scales", "angles"):
        with np.errstate(all="ignore"):
            nothing = replace(query, **{name: np.full_like(getattr(query, name), np.nan)})
            assert check(nothing, other).inliers == check(other, nothing).inliers == 0, name

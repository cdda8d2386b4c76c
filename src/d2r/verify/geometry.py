"""The compiled loops of verification: match keypoints, and fit the affine transform with most inliers.

They do not check their arguments; :mod:`d2r.verify.verify` does.

Each hypothesis comes from one correspondence. A local feature has a position, a scale and an orientation, so one match
already gives a similarity transform (Philbin et al., CVPR 2007); all matches are tried, without random sampling. The
best few are refined to affine transforms by least squares.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2r.support.compiling import compiled, inner, read
from d2r.support.intrinsics import popcount

_COARSE = 3.0  # inlier distance in thresholds for one correspondence, whose scale and orientation are inexact
_SHRINK = 0.6  # factor on that per refinement, down to one threshold
_ROUNDS = 6
_SIZES = 0.5  # largest squared difference of log scale changes of an inlier: about a factor of two
_TURNS = 0.8  # least cosine between the rotations of an inlier: 37 degrees
_TRIES = 5  # hypotheses that are refined
_STRETCH = 8.0  # largest anisotropic stretch of a plausible change of viewpoint


@compiled(
    read(np.uint8, 1), read(np.uint64, 2), read(np.int32, 1),
    read(np.uint8, 1), read(np.uint64, 2), int,
)  # fmt: skip
def match_codes(
    query_words: NDArray[np.uint8],
    query_codes: NDArray[np.uint64],
    query_rows: NDArray[np.int32],
    words: NDArray[np.uint8],
    codes: NDArray[np.uint64],
    max_distance: int,
) -> Any:
    """Return the pairs of keypoints that share a word and are each other's nearest by Hamming distance.

    Args:
        query_words: uint8 (N,), ascending.
        query_codes: uint64 (N, B).
        query_rows: int32 (N,), the feature of each keypoint; a feature may have several keypoints, but matches once.
        words: uint8 (M,), ascending.
        codes: uint64 (M, B).
        max_distance: largest distance of a match, in bits.

    Returns:
        int32 (K, 2): keypoints of the query and of the other, each feature and each keypoint at most once.
    """
    features = 0
    for row in query_rows:
        features = max(features, row + 1)
    nearest = np.full(features, max_distance + 1, np.int32)  # of each feature of the query
    own, found = np.full(features, -1, np.int32), np.full(features, -1, np.int32)
    distances = np.full(len(words), max_distance + 1, np.int32)  # of each keypoint of the other
    owners = np.full(len(words), -1, np.int32)
    first = 0
    for one in range(len(query_words)):
        while first < len(words) and words[first] < query_words[one]:
            first += 1
        other = first
        row = query_rows[one]
        while other < len(words) and words[other] == query_words[one]:
            distance = np.int32(0)
            for block in range(codes.shape[1]):
                distance += np.int32(popcount(query_codes[one, block] ^ codes[other, block]))
            if distance < nearest[row]:
                nearest[row], own[row], found[row] = distance, one, other
            if distance < distances[other]:
                distances[other], owners[other] = distance, row
            other += 1
    matches = np.empty((features, 2), np.int32)
    count = 0
    for row in range(features):
        if found[row] >= 0 and owners[found[row]] == row:
            matches[count, 0], matches[count, 1] = own[row], found[row]
            count += 1
    return matches[:count]


@compiled(
    read(np.float32, 2), read(np.float32, 2), read(np.float32, 1), read(np.float32, 1), float, int,
)  # fmt: skip
def fit_transform(
    source: NDArray[np.float32],
    target: NDArray[np.float32],
    sizes: NDArray[np.float32],
    turns: NDArray[np.float32],
    threshold: float,
    min_inliers: int,
) -> Any:
    """Return the affine transform from source to target with most inliers, and which matches these are.

    Args:
        source: float32 (2, K), x and y.
        target: float32 (2, K).
        sizes: float32 (K,), logarithm of the scale change of each match.
        turns: float32 (K,), rotation of each match, in radians.
        threshold: largest distance of an inlier from its transformed source point.
        min_inliers: transforms with fewer are not searched for.

    Returns:
        float64 (2, 3) and bool (K,), all False if no transform has ``min_inliers`` inliers.
    """
    count = source.shape[1]
    cosines, sines = np.cos(turns), np.sin(turns)
    support = np.empty(count, np.int32)
    _support(source, target, sizes, cosines, sines, np.float32((_COARSE * threshold) ** 2), support)
    best, best_score = np.zeros((2, 3)), 0.0
    best_inliers = np.zeros(count, np.bool_)
    transform, inliers = np.empty((2, 3)), np.empty(count, np.bool_)
    for _ in range(_TRIES):
        seed: Any = np.int64(-1)  # with a literal -1, _similarity would be compiled twice
        most = 0
        for one in range(count):
            if support[one] > most:
                seed, most = one, support[one]
        if seed < 0 or most * 2 < min_inliers:  # refinement gains inliers, but not that many
            break
        support[seed] = 0
        _similarity(source, target, sizes, cosines, sines, seed, transform)
        wide, fitted = _COARSE, True
        for _ in range(_ROUNDS):
            _count_inliers(source, target, sizes, cosines, sines, transform, wide * threshold, inliers)
            fitted = _least_squares(source, target, inliers, transform) and _plausible(transform)
            if not fitted:
                break
            wide = max(1.0, wide * _SHRINK)
        if not fitted:
            continue
        score = _count_inliers(source, target, sizes, cosines, sines, transform, threshold, inliers)
        found = 0
        for one in range(count):
            if inliers[one]:  # its hypothesis would lead to the same transform
                support[one] = 0
                found += 1
        if score > best_score and found >= min_inliers:
            best_score = score
            best, transform = transform, best  # not copied: Numba would compile the message of a copy's shape error
            best_inliers, inliers = inliers, best_inliers
    return best, best_inliers


@inner(fastmath={"reassoc", "contract"})
def _support(
    source: NDArray[np.float32],
    target: NDArray[np.float32],
    sizes: NDArray[np.float32],
    cosines: NDArray[np.float32],
    sines: NDArray[np.float32],
    limit: np.float32,
    support: NDArray[np.int32],
) -> None:
    """Count the inliers of the similarity transform of each match, within the square root of ``limit``."""
    count = source.shape[1]
    for seed in range(count):
        ratio = np.float32(math.exp(sizes[seed]))
        a, b = ratio * cosines[seed], ratio * sines[seed]
        x = target[0, seed] - (a * source[0, seed] - b * source[1, seed])
        y = target[1, seed] - (b * source[0, seed] + a * source[1, seed])
        size, cosine, sine = sizes[seed], cosines[seed], sines[seed]
        inlier_count = np.int32(0)
        for one in range(count):  # no branch, so that it is vectorised
            dx = a * source[0, one] - b * source[1, one] + x - target[0, one]
            dy = b * source[0, one] + a * source[1, one] + y - target[1, one]
            change = sizes[one] - size
            turn = cosines[one] * cosine + sines[one] * sine
            inlier_count += np.int32((dx * dx + dy * dy < limit) & (change * change < _SIZES) & (turn > _TURNS))
        support[seed] = inlier_count


@inner()
def _similarity(
    source: NDArray[np.float32],
    target: NDArray[np.float32],
    sizes: NDArray[np.float32],
    cosines: NDArray[np.float32],
    sines: NDArray[np.float32],
    seed: int,
    transform: NDArray[np.float64],
) -> None:
    ratio = math.exp(sizes[seed])
    a, b = ratio * cosines[seed], ratio * sines[seed]
    transform[0, 0], transform[0, 1] = a, -b
    transform[1, 0], transform[1, 1] = b, a
    transform[0, 2] = target[0, seed] - (a * source[0, seed] - b * source[1, seed])
    transform[1, 2] = target[1, seed] - (b * source[0, seed] + a * source[1, seed])


@inner()
def _count_inliers(
    source: NDArray[np.float32],
    target: NDArray[np.float32],
    sizes: NDArray[np.float32],
    cosines: NDArray[np.float32],
    sines: NDArray[np.float32],
    transform: NDArray[np.float64],
    threshold: float,
    inliers: NDArray[np.bool_],
) -> Any:
    """Mark the inliers of a transform in position, scale and rotation; return their number, weighted by closeness.

    Position alone is not enough: of a few hundred wrong matches, a dozen fit some stretched transform.
    """
    a, b, c, d = transform[0, 0], transform[0, 1], transform[1, 0], transform[1, 1]
    size = 0.5 * math.log(a * d - b * c)
    length = math.hypot(a + d, c - b)  # the rotation of the nearest similarity transform
    cosine, sine = (a + d) / length, (c - b) / length
    limit = threshold * threshold
    score = 0.0
    for one in range(source.shape[1]):
        dx = a * source[0, one] + b * source[1, one] + transform[0, 2] - target[0, one]
        dy = c * source[0, one] + d * source[1, one] + transform[1, 2] - target[1, one]
        change, turn = sizes[one] - size, cosines[one] * cosine + sines[one] * sine
        square = dx * dx + dy * dy
        inliers[one] = square < limit and change * change < _SIZES and turn > _TURNS
        if inliers[one]:
            score += 1.0 - square / limit
    return score


@inner()
def _least_squares(
    source: NDArray[np.float32], target: NDArray[np.float32], chosen: NDArray[np.bool_], transform: NDArray[np.float64]
) -> Any:
    """Fit an affine transform to the chosen matches; return False if they are fewer than three or collinear."""
    count, mean_x, mean_y, mean_u, mean_v = 0, 0.0, 0.0, 0.0, 0.0
    for one in range(source.shape[1]):
        if chosen[one]:
            count += 1
            mean_x += source[0, one]
            mean_y += source[1, one]
            mean_u += target[0, one]
            mean_v += target[1, one]
    if count < 3:
        return False
    mean_x, mean_y, mean_u, mean_v = mean_x / count, mean_y / count, mean_u / count, mean_v / count
    xx, xy, yy, ux, uy, vx, vy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for one in range(source.shape[1]):
        if chosen[one]:
            x, y = source[0, one] - mean_x, source[1, one] - mean_y
            u, v = target[0, one] - mean_u, target[1, one] - mean_v
            xx += x * x
            xy += x * y
            yy += y * y
            ux += u * x
            uy += u * y
            vx += v * x
            vy += v * y
    determinant = xx * yy - xy * xy
    if determinant <= 1e-6 * (xx + yy) ** 2:
        return False
    transform[0, 0], transform[0, 1] = (ux * yy - uy * xy) / determinant, (uy * xx - ux * xy) / determinant
    transform[1, 0], transform[1, 1] = (vx * yy - vy * xy) / determinant, (vy * xx - vx * xy) / determinant
    transform[0, 2] = mean_u - transform[0, 0] * mean_x - transform[0, 1] * mean_y
    transform[1, 2] = mean_v - transform[1, 0] * mean_x - transform[1, 1] * mean_y
    return True


@inner()
def _plausible(transform: NDArray[np.float64]) -> Any:
    """Say whether a transform could be a change of viewpoint: it neither mirrors nor flattens."""
    determinant = transform[0, 0] * transform[1, 1] - transform[0, 1] * transform[1, 0]
    squares = (
        transform[0, 0] * transform[0, 0] + transform[0, 1] * transform[0, 1]
        + transform[1, 0] * transform[1, 0] + transform[1, 1] * transform[1, 1]
    )  # fmt: skip
    # With stretches s and t, the determinant is s t, and the sum of squares s^2 + t^2.
    return determinant > 0.0 and squares < (_STRETCH + 1.0 / _STRETCH) * determinant

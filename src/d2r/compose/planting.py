"""Plant one object in a picture: warp it, relight it, occlude part of it, and blend it in at a known box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from d2r.boxes import Box, PixelBox, area, intersection, pixel_slices
from d2r.compose.texture import texture_energy
from d2r.datasets.difficulty import ClutterConfig
from d2r.images import Picture, shrink

Floats: TypeAlias = NDArray[np.float32]
Matrix: TypeAlias = NDArray[np.float64]

_PLACES = 6  # positions to try for an object; the most textured free one wins, as clutter hides the seam
_FEATHER = 0.02  # blur (sigma) of an object's rim, relative to the square root of its box's area
_CORE_TONE = 0.5  # how far the middle of an object follows the tone of its surroundings; its rim follows fully


def outline(rng: np.random.Generator) -> Matrix:
    """Return an irregular closed curve, a bent rectangle that touches all four sides of the square [-1, 1]^2.

    Returns:
        float64 (72, 2), x and y of its corners.
    """
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = (np.cos(angle) ** 4 + np.sin(angle) ** 4) ** -0.25
    for wave in range(2, 8):
        radius *= 1 + 0.1 / wave * rng.uniform(-1, 1) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.asarray(points / np.abs(points).max(axis=0))


def viewpoint(config: ClutterConfig, rng: np.random.Generator) -> Matrix:
    """Return the homography of a random camera that sees a plane filling the disc of radius 1.

    The plane is stretched, tilted about a random axis in the picture, seen from 2.5 to 4 radii away, and rolled, within
    the limits of ``config``.

    Returns:
        float64 (3, 3), last element 1.
    """
    stretch = config.stretch ** (rng.uniform(-1, 1) / 2)
    axis, tilt = rng.uniform(0, np.pi), math.radians(rng.uniform(0, config.tilt))
    roll = math.radians(rng.uniform(-config.roll, config.roll))
    distance = rng.uniform(2.5, 4)
    turn = np.asarray(cv2.Rodrigues(tilt * np.array([math.cos(axis), math.sin(axis), 0.0]))[0])
    project = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1 / distance]])
    see = project @ np.column_stack([turn[:, 0], turn[:, 1], [0, 0, distance]])
    rolled = np.array([[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]])
    return np.asarray(rolled @ see @ np.diag([stretch, 1 / stretch, 1]))


def tone_curve(strength: float, rng: np.random.Generator) -> Floats:
    """Return a random change of light (gain, gamma and colour temperature) as a table for ``cv2.LUT``.

    Args:
        strength: 0 (none) to 1 (half to 1.4 times as bright, a gamma of 0.66 to 1.5, clearly warm or cold).
        rng: source of randomness.

    Returns:
        float32 (256, 1, 3), 0 to 255: the new value of each grey level of each channel.
    """
    gain = 2 ** (strength * rng.uniform(-1, 0.5))
    gamma = 2 ** (strength * rng.uniform(-0.6, 0.6))
    warmth = strength * rng.uniform(-0.25, 0.25)
    levels = (np.arange(256) / 255) ** gamma * 255 * gain
    curve = levels[:, None, None] * np.exp2([warmth, 0, -warmth])
    return np.minimum(curve, 255).astype(np.float32)


def shade(extent: tuple[int, int], strength: float, rng: np.random.Generator) -> Floats:
    """Return a gradient of light in a random direction: float32 (height, width), factors around 1.

    Args:
        extent: width and height, pixels.
        strength: 0 (even light) to 1 (one side up to 2.5 times as bright as the other).
        rng: source of randomness.
    """
    direction, steepness = rng.uniform(0, 2 * np.pi), strength * rng.uniform(0, 0.66)
    across = np.exp2(np.linspace(-1, 1, extent[0]) * steepness * math.cos(direction))
    down = np.exp2(np.linspace(-1, 1, extent[1]) * steepness * math.sin(direction))
    return np.outer(down, across).astype(np.float32)


@dataclass(frozen=True)
class Planting:
    """The outcome of :func:`plant`.

    Attributes:
        picture: uint8 (H, W, 3), the picture with the object in it.
        alpha: float32 (H, W), 0 to 1, how much of each pixel is the object or its occluder; the rest of the picture
            is unchanged.
        box: tight box of the pixels that are at least half visible object.
        homography: float64 (3, 3) of norm 1, from coordinates of the photograph to those of the picture.
    """

    picture: Picture
    alpha: Floats
    box: PixelBox
    homography: Matrix


def plant(
    picture: Picture,
    photo: Picture,
    box: Box,
    config: ClutterConfig,
    rng: np.random.Generator,
    *,
    occluder: Picture | None = None,
    taken: Sequence[Box] = (),
) -> Planting | None:
    """Plant the part ``box`` of a photograph in a picture, warped, relit, perhaps partly occluded, without a seam.

    Args:
        picture: uint8 (H, W, 3), the picture to plant in; it is not changed.
        photo: uint8 (h, w, 3), the photograph of the object.
        box: the object in ``photo``; its corners are rounded off irregularly.
        config: limits of every change; the visible box covers ``config.share`` of the picture.
        rng: source of randomness.
        occluder: uint8 photograph; a bar or a patch of it occludes up to ``config.occlusion`` of the object. None
            occludes nothing.
        taken: boxes in ``picture`` that the object must not touch.

    Returns:
        the planting, or None if a few tries found no free place.
    """
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = (float(value) for value in box)
    half = np.array([x2 - x1, y2 - y1]) / 2
    shape = outline(rng) * half
    unit = float(np.hypot(*half))
    view = viewpoint(config, rng) @ np.diag([1 / unit, 1 / unit, 1]) @ _shift(-(x1 + x2) / 2, -(y1 + y2) / 2)
    rim = _transform(view, shape + np.array([x1 + x2, y1 + y2]) / 2)

    low, high = rim.min(axis=0), rim.max(axis=0)
    # Rounding to pixels changes a box a little, hence the margin at both ends of the range.
    share = rng.uniform(config.share[0] * 1.05, config.share[1] * 0.98)
    scale = math.sqrt(share * width * height / float(np.prod(high - low)))
    scale = min(scale, width / float(high[0] - low[0]), height / float(high[1] - low[1]))
    size = (high - low) * scale
    corner = _free_place(picture, size, rng, taken)
    if corner is None:
        return None
    homography = _shift(*(corner - low * scale)) @ np.diag([scale, scale, 1]) @ view
    rim = (rim - low) * scale + corner

    feather = max(0.8, _FEATHER * math.sqrt(float(np.prod(size))))
    pad = math.ceil(4 * feather) + 1  # a Gaussian is negligible beyond four sigma
    left, top = (max(0, math.floor(value) - pad) for value in corner)
    right, bottom = (math.ceil(value) + pad for value in corner + size)
    right, bottom = min(width, right), min(height, bottom)
    window = (slice(top, bottom), slice(left, right))
    extent = (right - left, bottom - top)
    local = rim - [left, top]

    alpha = cv2.GaussianBlur(_fill(local, extent), (0, 0), feather)
    visible = _tight_box(alpha, left, top)

    texture = cv2.LUT(_warp(photo, _shift(-left, -top) @ homography, extent), tone_curve(config.lighting, rng))
    texture *= shade(extent, config.lighting, rng)[:, :, None]
    if occluder is not None:
        hidden = _occlusion(local, extent, config.occlusion * rng.uniform(0, 1), rng)
        rest = _tight_box(alpha * (1 - hidden), left, top)
        if float(area(rest)[0]) >= config.share[0] * width * height:  # or too little of a small object would be left
            texture += hidden[:, :, None] * (_random_part(occluder, extent, rng) - texture)
            visible = rest
    around = picture[window].astype(np.float32)
    texture = _defocus(_match_tone(texture, around, alpha), config, rng)
    planted = picture.copy()
    planted[window] = np.rint(np.clip(around + alpha[:, :, None] * (texture - around), 0, 255)).astype(np.uint8)
    whole = np.zeros((height, width), np.float32)
    whole[window] = alpha
    return Planting(planted, whole, visible, homography / np.linalg.norm(homography))


def _shift(x: float, y: float) -> Matrix:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def _transform(homography: Matrix, points: ArrayLike) -> Matrix:
    mapped = np.asarray(points) @ homography[:, :2].T + homography[:, 2]
    return np.asarray(mapped[:, :2] / mapped[:, 2:])


def _free_place(picture: Picture, size: Matrix, rng: np.random.Generator, taken: Sequence[Box]) -> Matrix | None:
    """Return the upper left corner of the most textured of a few random places of ``size`` away from ``taken``."""
    height, width = picture.shape[:2]
    corners = rng.uniform(0, 1, (_PLACES, 2)) * np.maximum([width, height] - size, 0)
    if taken:
        gap = 0.1 * math.sqrt(float(np.prod(size)))
        grown = np.hstack([corners - gap, corners + size + gap])
        corners = corners[~intersection(grown, np.asarray(taken)).any(axis=1)]
    if not len(corners):
        return None
    texture = texture_energy(picture, side=80)
    shrunk = texture.shape[1] / width
    means = [
        texture[pixel_slices(np.concatenate([corner, corner + size]).astype(np.float32) * shrunk)].mean()
        for corner in corners
    ]
    return np.asarray(corners[int(np.argmax(means))])


def _fill(points: Matrix, extent: tuple[int, int]) -> Floats:
    """Return the mask (height, width) of a polygon, 1 inside, in a window of ``extent`` (width, height)."""
    mask = np.zeros((extent[1], extent[0]), np.float32)
    fine = 16  # corners to a sixteenth of a pixel; OpenCV counts from the centre of pixel 0
    cv2.fillPoly(mask, [np.rint((points - 0.5) * fine).astype(np.int32)], 1.0, shift=4)
    return mask


def _tight_box(visible: Floats, left: int, top: int) -> PixelBox:
    x, y, width, height = cv2.boundingRect((visible >= 0.5).astype(np.uint8))
    return (float(left + x), float(top + y), float(left + x + width), float(top + y + height))


def _warp(photo: Picture, homography: Matrix, extent: tuple[int, int]) -> Picture:
    """Return a photograph warped by ``homography`` to a window of ``extent`` (width, height)."""
    # Source pixels per pixel of the window, at its middle: shrink by area first, as a warp alone would alias.
    middle = np.array([extent[0] / 2, extent[1] / 2])
    a, b, c = _transform(np.asarray(np.linalg.inv(homography), np.float64), middle + np.array([[0, 0], [1, 0], [0, 1]]))
    pixels = math.sqrt(abs(float(np.linalg.det(np.stack([b - a, c - a])))))
    if pixels > 1.2:
        source = shrink(photo, max(8, round(max(photo.shape[:2]) / pixels * 1.2)))
        scale = [photo.shape[1] / source.shape[1], photo.shape[0] / source.shape[0], 1]
        photo, homography = source, homography @ np.diag(scale)
    on_centres = _shift(-0.5, -0.5) @ homography @ _shift(0.5, 0.5)
    # Not a mirrored border: OpenCV resolves reflections one by one, without end in a photo two pixels wide.
    warped = cv2.warpPerspective(photo, on_centres, extent, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, dtype=np.uint8)


def _occlusion(rim: Matrix, extent: tuple[int, int], part: float, rng: np.random.Generator) -> Floats:
    """Return how much of each pixel a bar across the object, or a patch at its rim, occludes."""
    side = math.sqrt(cv2.contourArea(rim.astype(np.float32)))
    if rng.random() < 0.5:
        # No chord of the object is longer than about 1.4 times the side of a square of its area.
        shape = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [2 * max(extent), part * side / 1.4 / 2]
        place = rim.mean(axis=0) + rng.uniform(-0.25, 0.25, 2) * np.ptp(rim, axis=0)
    else:
        # About half of a patch centred on the rim lies outside the object.
        shape = outline(rng) * math.sqrt(2 * part) * side / 2
        place = rim[rng.integers(len(rim))]
    angle = rng.uniform(0, np.pi)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.asarray(cv2.GaussianBlur(_fill(shape @ turn + place, extent), (0, 0), 1.0))


def _random_part(photo: Picture, extent: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return a random part of a photograph, half its sides, scaled to ``extent``: float32 (height, width, 3)."""
    height, width = photo.shape[:2]
    w, h = max(1, width // 2), max(1, height // 2)
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    part = cv2.resize(photo[y : y + h, x : x + w], extent, interpolation=cv2.INTER_AREA)
    return np.asarray(part, dtype=np.float32)


def _match_tone(texture: Floats, around: Floats, alpha: Floats) -> Floats:
    """Shift the tone of an object smoothly, so that it meets its surroundings at the rim.

    As in Poisson cloning, a smooth membrane spreads the difference along the rim inwards; unlike there, the middle
    follows only in part, and so keeps its own colours.
    """
    rim = 4 * alpha * (1 - alpha)
    difference = _membrane(around - texture, rim)
    inside = cv2.GaussianBlur(alpha, (0, 0), 0.08 * math.sqrt(alpha.size))
    depth = np.clip(2 * inside - 1, 0, 1)[:, :, None]
    return np.asarray(texture + difference * (1 - (1 - _CORE_TONE) * depth))


def _membrane(values: Floats, weight: Floats) -> Floats:
    """Spread ``values`` (H, W, 3) smoothly from where ``weight`` (H, W) is 1 to where it is 0 (push-pull pyramid)."""
    height, width = weight.shape
    total = cv2.pyrDown(weight)
    coarse = cv2.pyrDown(values * weight[:, :, None]) / (total + 1e-6)[:, :, None]
    if min(height, width) > 4:
        # Weights grow on the way up, so that each level trusts the few pixels that have values.
        coarse = _membrane(coarse, np.minimum(2 * total, 1))
    spread = cv2.pyrUp(coarse, dstsize=(width, height))
    return np.asarray(spread + weight[:, :, None] * (values - spread))


def _defocus(texture: Floats, config: ClutterConfig, rng: np.random.Generator) -> Floats:
    sigma, level = config.blur * rng.uniform(0, 1), config.noise * rng.uniform(0, 1)
    if sigma > 0.2:  # below, the kernel has one element
        texture = cv2.GaussianBlur(texture, (0, 0), sigma)
    return texture + np.float32(level) * rng.standard_normal(texture.shape, dtype=np.float32)

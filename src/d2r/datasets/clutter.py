"""The clutter benchmark: objects of real photographs planted small in busy photographs, at known boxes.

What a set holds, in ``folder``::

    query/000-castle.jpg ...   one picture of each instance, with a box
    photos/00000.jpg ...       the database: each instance in ``views`` pictures; decoys; plain distractors
    ground_truth.json          boxes, positives, every planted object, the seed, the configuration, the sources

An instance with several photographs is planted from photographs other than the query's that are *verified* to show
what the query's box shows (local features that agree with one homography), so that the viewpoints differ for real.
An instance with one photograph is planted by synthetic warps of it. Decoys are planted in the same way and are
nobody's answer.

Everything random about picture ``i`` comes from (seed, i): the same seed, configuration and sources give the same
bytes, whatever was composed before. Boxes are x1, y1, x2, y2 in pixels, half-open; a homography maps such
coordinates (not pixel indices) of the source photograph to those of the composed picture.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, TypeAlias, get_type_hints

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from d2r.boxes import Box, intersection, pixel_slices
from d2r.features import Features, RootSIFT
from d2r.files import display_path, replacing
from d2r.images import SUFFIXES, ImageError, Picture, encode_jpeg, read_image, shrink

Floats: TypeAlias = NDArray[np.float32]
Matrix: TypeAlias = NDArray[np.float64]
PixelBox: TypeAlias = tuple[float, float, float, float]
Homography: TypeAlias = tuple[tuple[float, ...], ...]
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``; the stages are "instances" and "pictures"."""

GROUND_TRUTH = "ground_truth.json"
_FORMAT = "d2r-clutter-1"

_QUERY_QUALITY = 92
_PLACES = 6  # positions tried for an object; the most textured that is free wins, for clutter hides a seam
_FEATHER = 0.02  # blur (sigma) of an object's rim, relative to the square root of its box's area
_CORE_TONE = 0.5  # how far the middle of an object follows the tone of its surroundings; its rim follows wholly

_MATCH_SIDE = 640  # photographs of one instance are compared at this long side
_MATCH_PIXELS = 6.0  # an agreeing feature lies this near to where the homography puts it
_MATCH_LEAST = 20  # agreeing features that prove a shared part; pairs of different landmarks reach 10
_MATCH_PHOTOS = 32  # photographs of one instance that are compared, and
_MATCH_QUERIES = 8  # those among them that are tried as the query
_DUPLICATE = 0.93  # correlation of thumbnails above which two photographs are one; neighbouring views reach 0.86


class ClutterError(Exception):
    """A set that cannot be composed or read; the message names the file or folder, and the field."""


@dataclass(frozen=True)
class ClutterConfig:
    """Everything, besides the seed and the sources, that makes a set what it is.

    Attributes:
        name: what the difficulty is called.
        share: least and largest area of an object's visible box, relative to the picture's.
        tilt: largest angle between the object's plane and the picture's, degrees, below 80.
        roll: largest rotation within the picture, degrees either way.
        stretch: largest ratio by which one axis is scaled against the other, 1 or more.
        lighting: strength of the change of gain, gamma, colour temperature and of a gradient of light, 0 to 1.
        blur: largest sigma of the blur, pixels.
        noise: largest standard deviation of the noise, grey levels.
        occlusion: largest part of an object that is hidden by a bar or a patch of another photograph, below 0.5.
        decoys: least and largest number of decoys in a picture that shows an instance.
        quality: least and largest JPEG quality.
        views: pictures that show each instance.
        decoy_pictures: pictures that show decoys and no instance.
        distractors: pictures in which nothing is planted.
        side: longer side of every picture, pixels.
    """

    name: str
    share: tuple[float, float]
    tilt: float
    roll: float
    stretch: float
    lighting: float
    blur: float
    noise: float
    occlusion: float
    decoys: tuple[int, int]
    quality: tuple[int, int]
    views: int = 5
    decoy_pictures: int = 100
    distractors: int = 500
    side: int = 640

    def __post_init__(self) -> None:
        valid = {
            "share": 0 < self.share[0] < self.share[1] <= 0.5,
            "tilt": 0 <= self.tilt < 80,
            "roll": 0 <= self.roll <= 180,
            "stretch": self.stretch >= 1,
            "lighting": 0 <= self.lighting <= 1,
            "blur": self.blur >= 0,
            "noise": self.noise >= 0,
            "occlusion": 0 <= self.occlusion < 0.5,
            "decoys": 0 <= self.decoys[0] <= self.decoys[1],
            "quality": 1 <= self.quality[0] <= self.quality[1] <= 100,
            "views": self.views >= 1,
            "decoy_pictures": self.decoy_pictures >= 0,
            "distractors": self.distractors >= 0,
            "side": self.side >= 64,
        }
        for field, holds in valid.items():
            if not holds:
                raise ValueError(f"{field}: {getattr(self, field)!r} is out of range")


DIFFICULTIES: Mapping[str, ClutterConfig] = MappingProxyType(
    {
        config.name: config
        for config in (
            ClutterConfig(
                name="easy",
                share=(0.12, 0.25),
                tilt=20,
                roll=10,
                stretch=1.15,
                lighting=0.3,
                blur=0.5,
                noise=2,
                occlusion=0,
                decoys=(0, 1),
                quality=(80, 95),
            ),
            ClutterConfig(
                name="medium",
                share=(0.06, 0.15),
                tilt=35,
                roll=20,
                stretch=1.3,
                lighting=0.6,
                blur=0.8,
                noise=4,
                occlusion=0.2,
                decoys=(1, 2),
                quality=(65, 90),
            ),
            ClutterConfig(
                name="hard",
                share=(0.02, 0.08),
                tilt=45,
                roll=30,
                stretch=1.5,
                lighting=1,
                blur=1,
                noise=6,
                occlusion=0.35,
                decoys=(2, 3),
                quality=(50, 85),
            ),
        )
    }
)
"""The named difficulties; ``dataclasses.replace`` makes variants."""


@dataclass(frozen=True)
class Instance:
    """One thing to search for: its name, and its photographs (one, or several from different viewpoints)."""

    name: str
    photos: tuple[Path, ...]


@dataclass(frozen=True)
class Planted:
    """An object in a database picture.

    Attributes:
        kind: "instance", or "decoy": nobody's answer.
        instance: the instance's name; None for a decoy.
        source: the photograph it was taken from.
        box: tight box of what is visible, in the composed picture.
        homography: 3 x 3, from coordinates of ``source`` to those of the composed picture.
    """

    kind: str
    instance: str | None
    source: Path
    box: PixelBox
    homography: Homography


@dataclass(frozen=True)
class DatabasePicture:
    """A picture of the database: its path within the set, its size, the background photograph, what is planted."""

    path: str
    width: int
    height: int
    background: Path
    planted: tuple[Planted, ...]


@dataclass(frozen=True)
class Query:
    """A query and its answers.

    Attributes:
        path: the query picture, within the set.
        instance: name of the instance.
        source: the photograph it is a copy of.
        box: the instance in the query picture.
        positives: database pictures that show it.
        junk: database pictures that show it too, planted there for another instance that overlaps with this one
            (a castle and its entry, for example): neither right nor wrong, to be left out of the ranking.
    """

    path: str
    instance: str
    source: Path
    box: PixelBox
    positives: tuple[str, ...]
    junk: tuple[str, ...]


@dataclass(frozen=True)
class Skipped:
    """A source that was not used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ClutterSet:
    """A composed set, as ``ground_truth.json`` in ``folder`` has it; paths of pictures are relative to ``folder``."""

    folder: Path
    seed: int
    config: ClutterConfig
    queries: tuple[Query, ...]
    database: tuple[DatabasePicture, ...]
    skipped: tuple[Skipped, ...]
    instances: tuple[Instance, ...]
    backgrounds: tuple[Path, ...]


# --- sources ---------------------------------------------------------------------------------------------------------


def read_instances(folder: Path) -> list[Instance]:
    """Return the instances in a folder: each sub-folder with pictures is one, and each picture directly in it is one.

    Raises:
        ClutterError: it is not a folder, or holds no pictures.
    """
    instances = [Instance(path.name, tuple(_pictures(path.iterdir()))) for path in _entries(folder) if path.is_dir()]
    instances += [Instance(path.stem, (path,)) for path in _pictures(_entries(folder))]
    instances = [instance for instance in instances if instance.photos]
    if not instances:
        raise ClutterError(f"{display_path(folder)}: no pictures in it or in its sub-folders")
    return instances


def draw_instances(folder: Path, most: int | None, seed: int) -> list[Instance]:
    """Return the instances in a folder, at most ``most`` of them, drawn by the seed; None is all.

    Raises:
        ClutterError: see :func:`read_instances`.
    """
    instances = read_instances(folder)
    if most is None or most >= len(instances):
        return instances
    rows = np.random.default_rng(seed).permutation(len(instances))[:most]
    return [instances[row] for row in sorted(rows)]


def read_backgrounds(folder: Path) -> list[Path]:
    """Return the pictures in a folder and everything below it, sorted.

    Raises:
        ClutterError: it is not a folder, or holds no pictures.
    """
    _entries(folder)
    photos = _pictures(folder.rglob("*"))
    if not photos:
        raise ClutterError(f"{display_path(folder)}: no pictures in it or below it")
    return photos


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise ClutterError(f"{display_path(folder)}: cannot be read: {error.strerror or error}") from error


def _pictures(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())


def textured_box(photo: Picture) -> PixelBox:
    """Return the part of a photograph that holds its subject most likely: much gradient, near the middle.

    Args:
        photo: uint8 (height, width, 3).

    Returns:
        a box inside the photograph, 45 to 75 % of it in each direction, at most twice as long as wide.
    """
    height, width = photo.shape[:2]
    energy = _texture(photo, side=128)
    rows, columns = energy.shape
    sums = cv2.integral(energy)
    best, best_score = (0.0, 0.0, float(width), float(height)), -1.0
    for h in (rows * share for share in (0.45, 0.6, 0.75)):
        for w in (columns * share for share in (0.45, 0.6, 0.75)):
            # A border of 3 % stays out: frames, captions and watermarks live there.
            y = np.arange(rows * 0.03, rows * 0.97 - h + 1e-6, 4)[:, None]
            x = np.arange(columns * 0.03, columns * 0.97 - w + 1e-6, 4)[None, :]
            y1, y2, x1, x2 = (np.rint(edge).astype(int) for edge in (y, y + h, x, x + w))
            inside = sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]
            off_centre = ((y + h / 2) / rows - 0.5) ** 2 + ((x + w / 2) / columns - 0.5) ** 2
            # The mean (exponent 1) takes the smallest box, the sum (0) the largest; this fits buildings best.
            score = inside / (h * w) ** 0.8 * (1 - 2 * off_centre)
            i, j = np.unravel_index(int(np.argmax(score)), score.shape)
            if score[i, j] > best_score:
                best_score = float(score[i, j])
                corner = (float(x[0, j]) / columns, float(y[i, 0]) / rows)
                best = (
                    corner[0] * width,
                    corner[1] * height,
                    (corner[0] + w / columns) * width,
                    (corner[1] + h / rows) * height,
                )
    return _compact(best)


def _compact(box: PixelBox) -> PixelBox:
    """Return the middle of a box that is longer than twice its width; else the box. A longer one may fit nowhere."""
    x1, y1, x2, y2 = box
    width, height = min(x2 - x1, 2 * (y2 - y1)), min(y2 - y1, 2 * (x2 - x1))
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _texture(picture: Picture, side: int) -> Floats:
    """Return the gradient of a picture shrunk to ``side``, cut at three times its mean: an edge is no texture."""
    gray = cv2.cvtColor(shrink(picture, side), cv2.COLOR_RGB2GRAY)
    dx, dy = (cv2.Sobel(gray, cv2.CV_32F, x, 1 - x, ksize=3) for x in (1, 0))
    energy = np.hypot(dx, dy)
    return np.asarray(np.minimum(energy, 3 * energy.mean()), dtype=np.float32)


# --- one object ------------------------------------------------------------------------------------------------------


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
    """Return the homography by which a random camera sees a plane that fills the disc of radius 1.

    The plane is stretched, turned out of the picture about a random axis in it, seen from 2.5 to 4 radii away, and
    rolled, each at most as much as ``config`` says.

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
    """Return a random change of light as a table, for ``cv2.LUT``: gain, gamma and colour temperature.

    Args:
        strength: 0 (none) to 1 (half to 1.4 times as bright, a gamma of 0.66 to 1.5, plainly warm or cold).
        rng: source of randomness.

    Returns:
        float32 (256, 1, 3), 0 to 255: what each grey level of each channel becomes.
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
        alpha: float32 (H, W), 0 to 1, how much of each pixel is the object (or what hides it); elsewhere the
            picture is unchanged.
        box: tight box of the pixels of which at least half is visible object.
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
    """Plant the part ``box`` of a photograph in a picture, warped, relit, perhaps hidden in part, without a seam.

    Args:
        picture: uint8 (H, W, 3), what to plant in; it is not changed.
        photo: uint8 (h, w, 3), what to take the object from.
        box: the object in ``photo``; its corners are rounded off irregularly.
        config: limits of every change; the visible box covers ``config.share`` of the picture.
        rng: source of randomness.
        occluder: uint8 photograph, of which a bar or a patch hides up to ``config.occlusion`` of the object; None
            hides nothing.
        taken: boxes in ``picture`` that the object must not touch.

    Returns:
        the planting, or None when no free place was found in a few trials.
    """
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = (float(value) for value in box)
    half = np.array([x2 - x1, y2 - y1]) / 2
    shape = outline(rng) * half
    unit = float(np.hypot(*half))
    view = viewpoint(config, rng) @ np.diag([1 / unit, 1 / unit, 1]) @ _shift(-(x1 + x2) / 2, -(y1 + y2) / 2)
    rim = _transform(view, shape + np.array([x1 + x2, y1 + y2]) / 2)

    low, high = rim.min(axis=0), rim.max(axis=0)
    # Rounding to pixels takes a little off a box, hence the margin at both ends of the range.
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
    pad = math.ceil(4 * feather) + 1  # a Gaussian is nothing beyond four sigma
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
        if _area(rest) >= config.share[0] * width * height:  # else too little of a small object would be left
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


def _area(box: Box) -> float:
    return (float(box[2]) - float(box[0])) * (float(box[3]) - float(box[1]))


def _free_place(
    picture: Picture, size: Matrix, rng: np.random.Generator, taken: Sequence[Box]
) -> NDArray[np.float64] | None:
    """Return the upper left corner of the most textured of a few places for ``size`` that are clear of ``taken``."""
    height, width = picture.shape[:2]
    corners = rng.uniform(0, 1, (_PLACES, 2)) * np.maximum([width, height] - size, 0)
    if taken:
        gap = 0.1 * math.sqrt(float(np.prod(size)))
        grown = np.hstack([corners - gap, corners + size + gap])
        corners = corners[~intersection(grown, np.asarray(taken)).any(axis=1)]
    if not len(corners):
        return None
    texture = _texture(picture, side=80)
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
    """Return what a window of ``extent`` (width, height) sees of a photograph through ``homography``."""
    # Source pixels to one pixel of the window, at its middle: shrink by area first, for a warp alone would alias.
    middle = np.array([extent[0] / 2, extent[1] / 2])
    a, b, c = _transform(np.asarray(np.linalg.inv(homography), np.float64), middle + np.array([[0, 0], [1, 0], [0, 1]]))
    pixels = math.sqrt(abs(float(np.linalg.det(np.stack([b - a, c - a])))))
    if pixels > 1.2:
        source = shrink(photo, max(8, round(max(photo.shape[:2]) / pixels * 1.2)))
        scale = [photo.shape[1] / source.shape[1], photo.shape[0] / source.shape[0], 1]
        photo, homography = source, homography @ np.diag(scale)
    on_centres = _shift(-0.5, -0.5) @ homography @ _shift(0.5, 0.5)
    # Not a mirrored border: OpenCV finds its way back one reflection at a time, for ever in a photo two pixels wide.
    warped = cv2.warpPerspective(photo, on_centres, extent, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, dtype=np.uint8)


def _occlusion(rim: Matrix, extent: tuple[int, int], part: float, rng: np.random.Generator) -> Floats:
    """Return how much of each pixel is hidden by a bar across the object or a patch at its rim."""
    side = math.sqrt(cv2.contourArea(rim.astype(np.float32)))
    if rng.random() < 0.5:
        # No chord of the object is longer than about 1.4 times the side of a square of its area.
        shape = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [2 * max(extent), part * side / 1.4 / 2]
        place = rim.mean(axis=0) + rng.uniform(-0.25, 0.25, 2) * np.ptp(rim, axis=0)
    else:
        # About half of a patch whose middle is on the rim lies outside the object.
        shape = outline(rng) * math.sqrt(2 * part) * side / 2
        place = rim[rng.integers(len(rim))]
    angle = rng.uniform(0, np.pi)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.asarray(cv2.GaussianBlur(_fill(shape @ turn + place, extent), (0, 0), 1.0))


def _random_part(photo: Picture, extent: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return a random part of a photograph, half of it each way, scaled to ``extent``: float32 (height, width, 3)."""
    height, width = photo.shape[:2]
    w, h = max(1, width // 2), max(1, height // 2)
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    part = cv2.resize(photo[y : y + h, x : x + w], extent, interpolation=cv2.INTER_AREA)
    return np.asarray(part, dtype=np.float32)


def _match_tone(texture: Floats, around: Floats, alpha: Floats) -> Floats:
    """Shift the tone of an object smoothly, so that it meets its surroundings at the rim.

    As in Poisson cloning, the difference along the rim is spread inwards by a smooth membrane; unlike it, the middle
    follows in part only, and keeps its own colours.
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
        # Weights grow on the way up, so that each level trusts what a few of its pixels know.
        coarse = _membrane(coarse, np.minimum(2 * total, 1))
    spread = cv2.pyrUp(coarse, dstsize=(width, height))
    return np.asarray(spread + weight[:, :, None] * (values - spread))


def _defocus(texture: Floats, config: ClutterConfig, rng: np.random.Generator) -> Floats:
    sigma, level = config.blur * rng.uniform(0, 1), config.noise * rng.uniform(0, 1)
    if sigma > 0.2:  # below, the kernel has one element
        texture = cv2.GaussianBlur(texture, (0, 0), sigma)
    return texture + np.float32(level) * rng.standard_normal(texture.shape, dtype=np.float32)


# --- several photographs of one instance -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """A part of a photograph: what an instance's query shows, or what is planted of it."""

    photo: Path
    box: PixelBox


@dataclass(frozen=True)
class _Described:
    """A photograph made comparable: local features and textured part in its own pixels, and a thumbnail."""

    photo: Path
    size: tuple[int, int]
    features: Features
    thumbnail: NDArray[np.float64]
    textured: PixelBox

    @property
    def tolerance(self) -> float:
        """How far from its predicted place an agreeing feature may lie, pixels."""
        return _MATCH_PIXELS * max(self.size) / _MATCH_SIDE

    def within(self, box: PixelBox) -> Features:
        """Return the features whose centres lie in a box."""
        x, y = self.features.positions.T
        return self.features.take((x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3]))


def _describe(path: Path) -> _Described:
    photo = read_image(path)
    height, width = photo.shape[:2]
    small = shrink(photo, _MATCH_SIDE)
    features = RootSIFT(top=1500).extract([small])[0].placed(width / small.shape[1], 0, 0)
    gray = cv2.cvtColor(cv2.resize(small, (24, 24), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    thumbnail = gray.ravel() - gray.mean()
    thumbnail /= max(float(np.linalg.norm(thumbnail)), 1e-9)
    return _Described(path, (width, height), features, thumbnail, textured_box(photo))


def _agreeing(query: Features, other: Features, pixels: float) -> Floats:
    """Return the places in ``other``, float32 (N, 2), of the features that one homography carries over."""
    none = np.zeros((0, 2), np.float32)
    if min(len(query), len(other)) < _MATCH_LEAST:
        return none
    likeness = query.descriptors @ other.descriptors.T
    nearest = likeness.argmax(axis=1)
    second, first = np.partition(likeness, -2, axis=1)[:, -2:].T
    distinct = 1 - first < 0.75 * (1 - second)  # half the squared distances of unit vectors
    mutual = likeness.argmax(axis=0)[nearest] == np.arange(len(query))
    rows = np.flatnonzero(distinct & mutual)
    if len(rows) < _MATCH_LEAST:
        return none
    there = other.positions[nearest[rows]]
    _, agree = cv2.findHomography(query.positions[rows], there, cv2.USAC_MAGSAC, pixels, None, 2000, 0.999)
    return none if agree is None or agree.sum() < _MATCH_LEAST else there[agree.ravel() > 0]


def _view_of(query: _Described, other: _Described) -> _Part | None:
    """Return the part of another photograph that is verified to show what the query's box shows, if there is one."""
    if float(query.thumbnail @ other.thumbnail) > _DUPLICATE:
        return None
    width, height = other.size
    points = _agreeing(query.within(query.textured), other.features, other.tolerance)
    if not len(points):
        return None
    low, high = np.percentile(points, [2, 98], axis=0)
    grow = 0.1 * (high - low)
    x1, y1 = np.maximum(low - grow, 0)
    x2, y2 = np.minimum(high + grow, [width, height])
    # A sliver says little about the object, and could not be told from the next one.
    if min(x2 - x1, y2 - y1) < 0.15 * min(width, height):
        return None
    return _Part(other.photo, _compact((float(x1), float(y1), float(x2), float(y2))))


def _query_and_views(photos: Sequence[_Described], views: int) -> tuple[_Described, list[_Part]]:
    """Choose the photograph whose box most others show (``views`` are enough), and the parts that show it."""
    best: tuple[_Described, list[_Part]] = photos[0], []
    for query in photos[:_MATCH_QUERIES]:
        found: list[_Part] = []
        for other in photos:
            if len(found) < views and other is not query and (part := _view_of(query, other)):
                found.append(part)
        if len(found) > len(best[1]):
            best = query, found
        if len(found) == views:
            break
    return best


# --- a set -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Target:
    """An instance as it is used.

    Attributes:
        name: the instance's name.
        query: what its query shows.
        views: the part to plant in each of its pictures.
        junk: parts that are planted for other instances and are seen to show its query as well.
    """

    name: str
    query: _Part
    views: tuple[_Part, ...]
    junk: frozenset[_Part] = frozenset()


@dataclass(frozen=True)
class _Slot:
    """What a database picture is to hold; ``target`` is None where no instance is planted."""

    background: Path
    target: _Target | None
    part: _Part | None
    decoys: tuple[int, int]


@dataclass(frozen=True)
class ClutterPlan:
    """Everything that is decided about a set before its first picture is composed; see :func:`plan_set`."""

    config: ClutterConfig
    seed: int
    instances: tuple[Instance, ...]
    backgrounds: tuple[Path, ...]
    targets: tuple[_Target, ...]
    slots: tuple[_Slot, ...]
    skipped: tuple[Skipped, ...]

    def __len__(self) -> int:
        return len(self.slots)


@dataclass(frozen=True)
class Composed:
    """A database picture: its JPEG file, what is in it, and the sources that turned out broken on the way."""

    jpeg: bytes
    truth: DatabasePicture
    skipped: tuple[Skipped, ...]


def plan_set(
    config: ClutterConfig,
    instances: Sequence[Instance],
    backgrounds: Sequence[Path],
    seed: int,
    progress: Progress | None = None,
) -> ClutterPlan:
    """Decide what each picture of a set will hold.

    Photographs of instances are read here: those of instances with several are compared with each other. An instance
    that cannot be used is skipped and listed: broken photographs, or none that show the same part.

    Args:
        config: sizes and limits.
        instances: what to search for; names must differ.
        backgrounds: photographs to plant in and to take decoys from; those that are also an instance's are left out.
        seed: of all that is random, 0 or more.
        progress: told about each instance.

    Raises:
        ClutterError: no instance or no background can be used, or two instances have the same name.
    """
    names = [instance.name for instance in instances]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ClutterError(f"two instances are called {twice!r}")
    own = {path.resolve() for instance in instances for path in instance.photos}
    free = tuple(path for path in backgrounds if path.resolve() not in own)
    if not free:
        raise ClutterError("no background is left that is not an instance's photograph")

    skipped: list[Skipped] = []
    targets: list[_Target] = []
    described: dict[Path, _Described] = {}
    for number, instance in enumerate(instances):
        rng = _generator(seed, _Stream.INSTANCE, number)
        if target := _target(instance, config.views, rng, skipped, described):
            targets.append(target)
        if progress:
            progress("instances", number + 1, len(instances))
    if not targets:
        reasons = "; ".join(f"{entry.path}: {entry.reason}" for entry in skipped[:3])
        raise ClutterError(f"none of {len(instances)} instances can be used ({reasons})")
    targets = _with_junk(targets, described)

    rng = _generator(seed, _Stream.PLAN)
    contents: list[tuple[_Target | None, _Part | None, tuple[int, int]]] = []
    contents += [(target, part, config.decoys) for target in targets for part in target.views]
    contents += [(None, None, (max(1, config.decoys[0]), max(1, config.decoys[1])))] * config.decoy_pictures
    contents += [(None, None, (0, 0))] * config.distractors
    # Shuffled, so that a picture's number says nothing about it: rankings break ties by name.
    rounds = math.ceil(len(contents) / len(free))
    hosts = np.concatenate([rng.permutation(len(free)) for _ in range(rounds)])
    slots = [_Slot(free[host], *contents[k]) for host, k in zip(hosts, rng.permutation(len(contents)), strict=False)]
    return ClutterPlan(config, seed, tuple(instances), free, tuple(targets), tuple(slots), tuple(skipped))


class _Stream(enum.IntEnum):
    """What a random generator is for; the first number of its key."""

    PLAN = 0
    INSTANCE = 1
    PICTURE = 2


def _generator(seed: int, stream: _Stream, index: int = 0) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, index)))


def _target(
    instance: Instance,
    views: int,
    rng: np.random.Generator,
    skipped: list[Skipped],
    described: dict[Path, _Described],
) -> _Target | None:
    """Choose an instance's query and the parts to plant; add to ``skipped``, and to ``described`` if it has several."""
    photos: list[_Described] = []
    for k in rng.permutation(len(instance.photos))[:_MATCH_PHOTOS]:
        path = instance.photos[k]
        try:
            if len(instance.photos) == 1:
                part = _Part(path, textured_box(read_image(path)))
                return _Target(instance.name, part, (part,) * views)
            photos.append(_describe(path))
        except ImageError as error:
            skipped.append(Skipped(error.name, error.reason))
    if not photos:
        return None
    query, found = _query_and_views(photos, views)
    if not found:
        skipped.append(Skipped(instance.name, "no two of its photographs are seen to show the same part"))
        return None
    described |= {photo.photo: photo for photo in photos}
    parts = tuple(found[k % len(found)] for k in range(views))
    return _Target(instance.name, _Part(query.photo, query.textured), parts)


def _with_junk(targets: Sequence[_Target], described: Mapping[Path, _Described]) -> list[_Target]:
    """Note for each instance which parts of *other* instances show its query too (a castle's, of the castle's entry).

    Only instances with several photographs are compared; a flat folder of photographs is taken at its word.
    """
    several = [target for target in targets if target.query.photo in described]
    marked = {target.name: target for target in targets}
    for target in several:
        query = described[target.query.photo].within(target.query.box)
        others = {part for other in several if other is not target for part in other.views}
        junk = {
            part
            for part in others
            if len(_agreeing(query, described[part.photo].within(part.box), described[part.photo].tolerance))
        }
        marked[target.name] = dataclasses.replace(target, junk=frozenset(junk))
    return [marked[target.name] for target in targets]


def compose_picture(plan: ClutterPlan, index: int) -> Composed:
    """Compose one database picture of a plan; the outcome depends on the plan and ``index`` alone.

    A background that cannot be read is replaced by another, and listed.

    Raises:
        ClutterError: no background can be read.
        d2r.images.ImageError: a photograph of an instance, read when planning, cannot be read any more.
    """
    config, slot = plan.config, plan.slots[index]
    rng = _generator(plan.seed, _Stream.PICTURE, index)
    skipped: dict[str, Skipped] = {}

    def readable(paths: Iterable[Path]) -> tuple[Path, Picture]:
        for path in paths:
            try:
                return path, read_image(path)
            except ImageError as error:
                skipped[error.name] = Skipped(error.name, error.reason)
        raise ClutterError("none of the backgrounds can be read")

    def shuffled() -> Iterator[Path]:
        return (plan.backgrounds[k] for k in rng.permutation(len(plan.backgrounds)))

    background, host = readable((slot.background, *shuffled()))
    picture = _vary(host, config.side, rng)
    decoys = int(rng.integers(*slot.decoys, endpoint=True))
    planted: list[Planted] = []
    for part in [*([slot.part] if slot.part else []), *[None] * decoys]:
        if part is None:
            path, photo = readable(shuffled())
            box = textured_box(photo)
        else:
            path, photo, box = part.photo, read_image(part.photo), part.box
        occluder = readable(shuffled())[1] if config.occlusion else None
        taken = [other.box for other in planted]
        planting = plant(picture, photo, box, config, rng, occluder=occluder, taken=taken)
        if planting is None:  # only a decoy can find its place taken: the instance comes first
            continue
        picture = planting.picture
        target = slot.target if part else None
        planted.append(
            Planted(
                "instance" if target else "decoy",
                target.name if target else None,
                path,
                planting.box,
                tuple(tuple(row) for row in planting.homography.tolist()),
            )
        )
    jpeg = encode_jpeg(picture, int(rng.integers(*config.quality, endpoint=True)))
    height, width = picture.shape[:2]
    truth = DatabasePicture(_picture_path(index), width, height, background, tuple(planted))
    return Composed(jpeg, truth, tuple(skipped.values()))


def _picture_path(index: int) -> str:
    return f"photos/{index:05d}.jpg"


def _vary(photo: Picture, side: int, rng: np.random.Generator) -> Picture:
    """Return most of a background, perhaps mirrored, in slightly other light, its longer side ``side`` pixels."""
    height, width = photo.shape[:2]
    # No panoramas: an object that covers a quarter of the picture must fit into it.
    h = max(1, round(min(height, 1.8 * width) * rng.uniform(0.75, 1)))
    w = max(1, round(min(width, 1.8 * height) * rng.uniform(0.75, 1)))
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    part = photo[y : y + h, x : x + w]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    scale = side / max(h, w)
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(np.ascontiguousarray(part), size, interpolation=interpolation)
    return np.asarray(cv2.LUT(scaled, np.rint(tone_curve(0.3, rng)).astype(np.uint8)), dtype=np.uint8)


def compose_set(
    config: ClutterConfig,
    instances: Sequence[Instance],
    backgrounds: Sequence[Path],
    seed: int,
    folder: Path,
    progress: Progress | None = None,
) -> ClutterSet:
    """Compose a whole set and write it; the arguments but ``folder`` are those of :func:`plan_set`.

    Files of the same name are written over; ``ground_truth.json`` comes last, so that a set that has it is whole.

    Args:
        config: sizes and limits.
        instances: what to search for; see :func:`read_instances`.
        backgrounds: photographs to plant in; see :func:`read_backgrounds`.
        seed: of all that is random.
        folder: where to write; made if need be.
        progress: told about each instance and each picture.

    Returns:
        the set, equal to what :func:`load_set` reads back.

    Raises:
        ClutterError: nothing can be composed, the folder holds pictures of another set, or it cannot be written.
        d2r.images.ImageError: a photograph of an instance, read when planning, cannot be read any more.
    """
    plan = plan_set(config, instances, backgrounds, seed, progress)
    names = [_query_path(k, target.name) for k, target in enumerate(plan.targets)]
    try:
        _prepare(folder, {*names, *(_picture_path(k) for k in range(len(plan)))})
        queries = [_write_query(plan, target, folder, name) for target, name in zip(plan.targets, names, strict=True)]
        database: list[DatabasePicture] = []
        skipped = dict.fromkeys(plan.skipped)
        for index in range(len(plan)):
            composed = compose_picture(plan, index)
            (folder / composed.truth.path).write_bytes(composed.jpeg)
            database.append(composed.truth)
            skipped |= dict.fromkeys(composed.skipped)
            if progress:
                progress("pictures", index + 1, len(plan))
        whole = ClutterSet(
            folder,
            seed,
            config,
            tuple(queries),
            tuple(database),
            tuple(skipped),
            plan.instances,
            plan.backgrounds,
        )
        _write_ground_truth(whole)
    except OSError as error:
        raise ClutterError(f"{display_path(folder)}: cannot be written: {error.strerror or error}") from error
    return whole


def _query_path(number: int, name: str) -> str:
    return f"query/{number:03d}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)[:60]}.jpg"


def _write_query(plan: ClutterPlan, target: _Target, folder: Path, name: str) -> Query:
    photo = read_image(target.query.photo)
    picture = shrink(photo, plan.config.side)
    (folder / name).write_bytes(encode_jpeg(picture, _QUERY_QUALITY))
    scale = picture.shape[1] / photo.shape[1]
    x1, y1, x2, y2 = (round(value * scale, 2) for value in target.query.box)
    return Query(
        path=name,
        instance=target.name,
        source=target.query.photo,
        box=(x1, y1, x2, y2),
        positives=tuple(_picture_path(k) for k, slot in enumerate(plan.slots) if slot.target is target),
        junk=tuple(_picture_path(k) for k, slot in enumerate(plan.slots) if slot.part in target.junk),
    )


def _prepare(folder: Path, paths: set[str]) -> None:
    """Make the folders of a set; refuse when they hold other pictures than the set will have."""
    for name in ("query", "photos"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for path in sorted((folder / name).iterdir()):
            if f"{name}/{path.name}" not in paths:
                raise ClutterError(f"{display_path(path)}: not of this set; compose into an empty folder")
    (folder / GROUND_TRUTH).unlink(missing_ok=True)


# --- the ground truth file -------------------------------------------------------------------------------------------


def _write_ground_truth(whole: ClutterSet) -> None:
    document = {"format": _FORMAT, **dataclasses.asdict(whole)}
    del document["folder"]
    with replacing(whole.folder / GROUND_TRUTH) as part:
        part.write_text(json.dumps(document, default=os.fspath, indent=1), encoding="utf-8")


def load_set(folder: Path) -> ClutterSet:
    """Read the ground truth of a composed set.

    Raises:
        ClutterError: the file is missing, is not JSON, or a field is missing or wrong; the message names the file and
            the field, for instance ``queries[3].box``.
    """
    file = folder / GROUND_TRUTH
    name = display_path(file)
    try:
        root = _Node(json.loads(file.read_text(encoding="utf-8")), name, "")
    except OSError as error:
        raise ClutterError(f"{name}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ClutterError(f"{name}: not JSON ({error})") from error
    if root["format"].text() != _FORMAT:
        raise root["format"].wrong(f"{_FORMAT!r}; the set was composed by another version")
    return ClutterSet(
        folder=folder,
        seed=root["seed"].whole(),
        config=_load_config(root["config"]),
        queries=tuple(
            Query(
                path=node["path"].inside(),
                instance=node["instance"].text(),
                source=Path(node["source"].text()),
                box=node["box"].box(),
                positives=tuple(path.inside() for path in node["positives"]),
                junk=tuple(path.inside() for path in node["junk"]),
            )
            for node in root["queries"]
        ),
        database=tuple(
            DatabasePicture(
                path=node["path"].inside(),
                width=node["width"].whole(),
                height=node["height"].whole(),
                background=Path(node["background"].text()),
                planted=tuple(_load_planted(planted) for planted in node["planted"]),
            )
            for node in root["database"]
        ),
        skipped=tuple(Skipped(node["path"].text(), node["reason"].text()) for node in root["skipped"]),
        instances=tuple(
            Instance(node["name"].text(), tuple(Path(photo.text()) for photo in node["photos"]))
            for node in root["instances"]
        ),
        backgrounds=tuple(Path(node.text()) for node in root["backgrounds"]),
    )


def _load_planted(node: _Node) -> Planted:
    if node["kind"].text() not in ("instance", "decoy"):
        raise node["kind"].wrong("'instance' or 'decoy'")
    decoy = node["kind"].text() == "decoy"
    return Planted(
        kind=node["kind"].text(),
        instance=None if decoy else node["instance"].text(),
        source=Path(node["source"].text()),
        box=node["box"].box(),
        homography=tuple(row.numbers(3) for row in node["homography"].items(3)),
    )


def _load_config(node: _Node) -> ClutterConfig:
    hints = get_type_hints(ClutterConfig)
    values = {field.name: _SETTINGS[hints[field.name]](node[field.name]) for field in dataclasses.fields(ClutterConfig)}
    try:
        return ClutterConfig(**values)
    except ValueError as error:
        raise ClutterError(f"{node.file}: {node.field}.{error}") from error


@dataclass(frozen=True)
class _Node:
    """A value of a JSON document that knows its file and field, for errors."""

    value: object
    file: str
    field: str

    def wrong(self, expected: str) -> ClutterError:
        return ClutterError(
            f"{self.file}: {self.field or 'the document'}: expected {expected}, found {self.value!r:.60}"
        )

    def __getitem__(self, key: str) -> _Node:
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        field = f"{self.field}.{key}".lstrip(".")
        if key not in self.value:
            raise ClutterError(f"{self.file}: {field}: missing")
        return _Node(self.value[key], self.file, field)

    def __iter__(self) -> Iterator[_Node]:
        return iter(self.items())

    def items(self, count: int | None = None) -> list[_Node]:
        if not isinstance(self.value, list) or count not in (None, len(self.value)):
            raise self.wrong("a list" if count is None else f"a list of {count}")
        return [_Node(value, self.file, f"{self.field}[{k}]") for k, value in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.wrong("text")
        return self.value

    def inside(self) -> str:
        """Return the path of a file in the set; one that leads out of it is refused."""
        path = PurePosixPath(self.text())
        if path.is_absolute() or ".." in path.parts:
            raise self.wrong("a path within the set")
        return self.text()

    def number(self) -> float:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float) or not math.isfinite(self.value):
            raise self.wrong("a number")
        return self.value

    def whole(self) -> int:
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise self.wrong("a whole number")
        return self.value

    def numbers(self, count: int) -> tuple[float, ...]:
        return tuple(node.number() for node in self.items(count))

    def box(self) -> PixelBox:
        x1, y1, x2, y2 = self.numbers(4)
        if x2 <= x1 or y2 <= y1:
            raise self.wrong("a box x1, y1, x2, y2 with x1 < x2 and y1 < y2")
        return (x1, y1, x2, y2)


_SETTINGS: Mapping[object, Callable[[_Node], Any]] = {
    str: _Node.text,
    int: _Node.whole,
    float: _Node.number,
    tuple[float, float]: lambda node: node.numbers(2),
    tuple[int, int]: lambda node: tuple(item.whole() for item in node.items(2)),
}

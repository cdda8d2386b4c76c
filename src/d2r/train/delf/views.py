"""Training views of photos: warped pairs with known matches of their cells, crops, and changes of light.

All random choices come from the generator given. Keypoints are in pixels, whose centres are at half-integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from d2r.images import Picture
from d2r.train.delf.networks import Field

_CROP: Final = (0.4, 1.0)  # share of a photo's shorter side that the first view shows
_ZOOM: Final = 2.0  # between the two views of a pair, either way
_SMALLEST, _LARGEST = 0.25, 1.4  # share of the shorter side that the second view may show
_SHIFT: Final = 0.25  # largest distance between the middles of the views, as a share of the larger
_TURN: Final = 20.0  # degrees
_ASPECT: Final = 1.2
_CORNER: Final = 0.12  # share of the side that a corner may move
_PASTED: Final = (0.5, 0.15)  # probability that the photo is only part of the second and of the first view
_PART: Final = (0.4, 0.9)  # share of the side that the photo then keeps
_MAX_ZOOM: Final = 2.5  # if a cell is larger or smaller than this in the other view, it has no match


@dataclass(frozen=True)
class Pair:
    """Two views of a photo.

    Attributes:
        views: uint8 (2, side, side, 3).
        matches: float32 (2, h * w, 2): the position of each cell of the first view in the second, as column and row of
            its cells, and the other way round; NaN if it is not visible there.
    """

    views: NDArray[np.uint8]
    matches: NDArray[np.float32]


def warped_pair(photo: Picture, background: Picture, side: int, field: Field, random: np.random.Generator) -> Pair:
    """Return two views of a photo in different light, partly covered by another photo.

    Args:
        photo: uint8 (H, W, 3).
        background: fills the views where the photo is not.
        side: side of the views, in pixels.
        field: cells of the network that sees them.
        random: generator of the random choices.
    """
    height, width = photo.shape[:2]
    short = min(height, width)
    share = float(np.exp(random.uniform(*np.log(_CROP))))
    crops = share, float(np.clip(share * np.exp(random.uniform(-1, 1) * np.log(_ZOOM)), _SMALLEST, _LARGEST))
    middle = np.array([_middle(width, share * short, random), _middle(height, share * short, random)])
    middles = middle, middle + random.uniform(-_SHIFT, _SHIFT, 2) * max(crops) * short
    drawn = [_view(photo, background, side, *at, random) for at in zip(middles, crops, reversed(_PASTED), strict=True)]
    if random.random() < 0.5:
        drawn.reverse()
    (first, to_first, in_first), (second, to_second, in_second) = drawn
    forth = to_second @ np.linalg.inv(to_first)
    return Pair(
        np.stack([recoloured(first, random), recoloured(second, random)]),
        np.stack(
            [
                _matches(forth, in_first, in_second, field),
                _matches(np.linalg.inv(forth), in_second, in_first, field),
            ]
        ),
    )


def random_crop(photo: Picture, side: int, area: tuple[float, float], random: np.random.Generator) -> Picture:
    """Return a crop of a photo, with an aspect ratio of 3:4 to 4:3, mirrored half of the time, in changed light.

    Args:
        photo: uint8 (H, W, 3).
        side: the crop is scaled to ``side`` x ``side`` pixels.
        area: range of the crop's share of the photo, as far as it fits.
        random: generator of the random choices.
    """
    height, width = photo.shape[:2]
    size = random.uniform(*area) * height * width
    aspect = float(np.exp(random.uniform(-1, 1) * np.log(4 / 3)))
    w, h = min(width, max(1, round(np.sqrt(size * aspect)))), min(height, max(1, round(np.sqrt(size / aspect))))
    x, y = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
    cut = scaled_photo(photo[y : y + h, x : x + w], side)
    return recoloured(cut[:, ::-1] if random.random() < 0.5 else cut, random)


def scaled_photo(photo: Picture, side: int) -> Picture:
    """Return a photo squashed to ``side`` x ``side`` pixels."""
    shrinks = photo.shape[0] * photo.shape[1] > side * side
    resized = cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def recoloured(photo: Picture, random: np.random.Generator) -> Picture:
    """Return a photo in changed light and quality: colours, gamma, blur, compression."""
    colour = random.uniform(0.5, 1.3) if random.random() > 0.05 else 0.0
    gain, lift, gamma = random.uniform(0.75, 1.3), random.uniform(-25, 25), np.exp(random.uniform(-0.3, 0.3))
    balance = random.uniform(0.92, 1.08, 3)
    table = 255.0 * (np.arange(256) / 255.0) ** gamma * gain + lift
    tables = np.clip(np.outer(balance, table), 0, 255).astype(np.uint8)
    out: Picture = np.ascontiguousarray(cv2.LUT(photo, np.ascontiguousarray(tables.T[None])))
    gray = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    out = np.asarray(cv2.addWeighted(out, colour, gray, 1.0 - colour, 0.0), np.uint8)
    if random.random() < 0.2:
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), random.uniform(0.5, 1.5)), np.uint8)
    if random.random() < 0.3:
        _, packed = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(30, 90))])
        out = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return out


def _middle(length: int, crop: float, random: np.random.Generator) -> float:
    return float(random.uniform(crop / 2, length - crop / 2)) if length > crop else length / 2


def _view(
    photo: Picture,
    background: Picture,
    side: int,
    middle: NDArray[np.float64],
    share: float,
    pasted: float,
    random: np.random.Generator,
) -> tuple[Picture, NDArray[np.float64], NDArray[np.bool_]]:
    """Return a view, the homography to it, float64 (3, 3), and the mask of the photo in it, bool (side, side)."""
    height, width = photo.shape[:2]
    half = share * min(height, width) / 2
    aspect = np.sqrt(np.exp(random.uniform(-1, 1) * np.log(_ASPECT)))
    angle = np.deg2rad(random.uniform(-_TURN, _TURN))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
    corners = corners + random.uniform(-2 * _CORNER, 2 * _CORNER, (4, 2))
    corners = (corners * [half * aspect, half / aspect]) @ turn.T + middle
    target = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), target).astype(np.float64)

    # Shrunk first: a warp samples single pixels and would alias.
    factor = min(1.0, 1.5 * side / (2 * half))
    small = photo
    if factor < 0.75:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        small = np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)
    to_small = np.diag([small.shape[1] / width, small.shape[0] / height, 1.0])
    to_index = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])  # OpenCV has pixel centres at integers
    warp = to_index @ matrix @ np.linalg.inv(to_small) @ np.linalg.inv(to_index)
    view = cv2.warpPerspective(small, warp, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    whole = np.full(small.shape[:2], 255, np.uint8)
    shown = cv2.warpPerspective(whole, warp, (side, side), flags=cv2.INTER_NEAREST) > 0
    if random.random() < pasted:
        w, h = (round(side * random.uniform(*_PART)) for _ in range(2))
        x, y = int(random.integers(side - w + 1)), int(random.integers(side - h + 1))
        part = np.zeros((side, side), np.uint8)
        if random.random() < 0.5:
            cv2.rectangle(part, (x, y), (x + w, y + h), 1, -1)
        else:
            cv2.ellipse(part, (x + w // 2, y + h // 2), (w // 2, h // 2), 0, 0, 360, 1, -1)
        shown &= part > 0
    if not shown.all():
        behind = recoloured(scaled_photo(background, side), random)
        view = np.where(shown[:, :, None], view, behind)
    return np.asarray(view, np.uint8), matrix, shown


def _matches(
    forth: NDArray[np.float64], here: NDArray[np.bool_], there: NDArray[np.bool_], field: Field
) -> NDArray[np.float32]:
    """Return the positions of the cells of one view in another, float32 (h * w, 2), in cells."""
    side = len(here)
    cells = side // field.stride
    axis = field.offset + field.stride * np.arange(cells)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    mapped, zoom = _mapped(forth, points)
    inside = _in_view(here, points) & _in_view(there, mapped) & (zoom < _MAX_ZOOM) & (zoom > 1 / _MAX_ZOOM)
    columns = (mapped - field.offset) / field.stride
    inside &= (columns > -0.5).all(axis=1) & (columns < cells - 0.5).all(axis=1)
    return np.where(inside[:, None], columns, np.nan).astype(np.float32)


def _mapped(
    matrix: NDArray[np.float64], points: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points (N, 2) after a homography, and its local enlargement."""
    x, y, z = (np.c_[points, np.ones(len(points))] @ matrix.T).T
    with np.errstate(divide="ignore", invalid="ignore"):
        mapped = np.stack([x / z, y / z], axis=1)
        zoom = np.sqrt(np.abs(np.linalg.det(matrix) / z**3))
    mapped[z <= 0] = -1e9
    return mapped, zoom


def _in_view(shown: NDArray[np.bool_], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    side = len(shown)
    inside = ((points >= 0) & (points < side)).all(axis=1)
    columns, rows = np.clip(points, 0, side - 1).astype(np.intp).T
    return np.asarray(inside & shown[rows, columns], np.bool_)

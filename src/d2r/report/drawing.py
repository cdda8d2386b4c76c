"""Drawings of local features with their scales, and of the matched points of two pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from d2r.boxes import Box
from d2r.features.base import Features
from d2r.images import Picture, shrink
from d2r.support.files import GENERATOR, is_our_png, writing

MATCH_SIDE: Final = 720
"""Longer side of each picture in a drawing of a match, in pixels."""

MAX_LINES: Final = 150
"""Most matched points to join by lines; more would hide the pictures."""

FEATURE_SIDE: Final = 1024
"""Longer side of the picture in a drawing of features, in pixels."""

_GAP = 16
_PAPER = 236
_INK = (40, 40, 40)
_BAR = (205, 205, 205)
_BOX = (255, 176, 46)
_COLOURS = ((230, 97, 1), (94, 60, 153), (27, 120, 55), (202, 0, 32), (5, 113, 176), (191, 129, 45))
_UNCONFIRMED = (150, 150, 150)
_LEGEND = 250
_ROW = 22
_SINGLE_SCALES = 12  # up to this many distinct scales are listed singly; more are counted by octave
_LARGEST_CIRCLE = 0.05  # largest diameter of the median feature's circle, relative to the longer side


@dataclass(frozen=True)
class ScaleCount:
    """The number of features in a range of scales.

    Attributes:
        low: the smallest scale, in pixels.
        high: the end of the range, in pixels; equal to ``low`` for a single scale.
        count: number of features.
    """

    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.low:.3g}" if self.low == self.high else f"{self.low:.3g} to {self.high:.3g}"


def write_png(picture: Picture, path: Path, *, force: bool = False) -> None:
    """Write a drawing as a PNG whose metadata name this program.

    Args:
        picture: uint8 (H, W, 3).
        path: path of the PNG.
        force: see :func:`d2r.support.files.writing`.

    Raises:
        d2r.support.files.OutputError: ``path`` is a file that is not a drawing of this program.
    """
    about = PngInfo()
    about.add_text("Software", GENERATOR)
    with writing(path, is_our_png, force=force) as part:
        Image.fromarray(picture).save(part, "PNG", optimize=True, pnginfo=about)


def count_by_scale(scales: NDArray[np.float32]) -> list[ScaleCount]:
    """Count features by scale, smallest first: by single scale if few are distinct, otherwise by octave.

    Args:
        scales: float32 (N,), diameters in pixels, above 0.
    """
    values, counts = np.unique(scales, return_counts=True)
    if len(values) <= _SINGLE_SCALES:
        return [ScaleCount(value, value, count) for value, count in zip(values.tolist(), counts.tolist(), strict=True)]
    octaves, counts = np.unique(np.floor(np.log2(scales)).astype(int), return_counts=True)
    return [
        ScaleCount(2.0**octave, 2.0 ** (octave + 1), count)
        for octave, count in zip(octaves.tolist(), counts.tolist(), strict=True)
    ]


def draw_features(image: Picture, features: Features, *, title: str, box: Box | None = None) -> Picture:
    """Return a picture with a circle for each feature, coloured by attention, and a legend beside it.

    Weak features are drawn first. Circles are as large as the described patches or, if that would hide the picture,
    half as large, a quarter and so on; the legend gives the factor.

    Args:
        image: uint8 (H, W, 3).
        features: its features, positions and scales in its pixels.
        title: title of the legend, for example the name of the extractor.
        box: box to draw, (x1, y1, x2, y2) in pixels, or None.
    """
    small = shrink(image, FEATURE_SIDE)
    scale = small.shape[1] / image.shape[1]
    drawn = np.rint(small * 0.6 + 40).astype(np.uint8)  # paler, so that the colours stand out
    share = _share_drawn(features.scales * scale, max(small.shape[:2]))
    order = np.argsort(features.attention, kind="stable")
    colours = _colours(_ranks(features.attention))
    radii = np.maximum(1, np.rint(features.scales * scale * share / 2)).astype(int)
    for row in order.tolist():
        centre = _subpixel(features.positions[row] * scale)
        cv2.circle(drawn, centre, int(radii[row]) << _SHIFT, colours[row].tolist(), 1, cv2.LINE_AA, _SHIFT)
    if box is not None:
        _rectangle(drawn, np.asarray(box) * scale)
    counts = count_by_scale(features.scales)
    height = max(drawn.shape[0], _ROW * (10 + len(counts)))
    sheet = Image.new("RGB", (drawn.shape[1] + _LEGEND, height), (_PAPER,) * 3)
    sheet.paste(Image.fromarray(drawn), (0, 0))
    _write_legend(sheet, drawn.shape[1] + _GAP, features, counts, title, share)
    return np.asarray(sheet)


def draw_match(
    query: Picture,
    other: Picture,
    query_positions: NDArray[np.float32],
    positions: NDArray[np.float32],
    *,
    box: Box | None = None,
    unconfirmed: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
) -> Picture:
    """Return two pictures side by side, with lines between their matched points.

    Args:
        query: uint8 (H, W, 3), the picture on the left.
        other: uint8 (H, W, 3), the picture on the right.
        query_positions: float32 (N, 2), the inliers in pixels of the query.
        positions: float32 (N, 2), the same points in pixels of the other picture.
        box: box to draw on the query, (x1, y1, x2, y2) in pixels, or None.
        unconfirmed: positions of the other matches in both pictures, drawn in grey below the inliers.
    """
    pictures = (query, other)
    small = [shrink(picture, MATCH_SIDE) for picture in pictures]
    scales = [one.shape[1] / whole.shape[1] for one, whole in zip(small, pictures, strict=True)]
    height = max(one.shape[0] for one in small)
    canvas: Picture = np.full((height, small[0].shape[1] + _GAP + small[1].shape[1], 3), _PAPER, np.uint8)
    lefts = (0, small[0].shape[1] + _GAP)
    tops = [(height - one.shape[0]) // 2 for one in small]
    for one, left, top in zip(small, lefts, tops, strict=True):
        canvas[top : top + one.shape[0], left : left + one.shape[1]] = one
    if box is not None:
        _rectangle(canvas, np.asarray(box) * scales[0] + [0, tops[0], 0, tops[0]])

    def join(starts: NDArray[np.float32], ends: NDArray[np.float32], colours: Sequence[tuple[int, int, int]]) -> None:
        order = np.argsort(starts[:, 1], kind="stable")
        if len(order) > MAX_LINES:
            order = order[np.linspace(0, len(order) - 1, MAX_LINES).round().astype(int)]
        left = starts[order] * scales[0] + [lefts[0], tops[0]]
        right = ends[order] * scales[1] + [lefts[1], tops[1]]
        for row, (start, end) in enumerate(zip(left.round().astype(int), right.round().astype(int), strict=True)):
            colour = colours[row * len(colours) // len(order)]
            cv2.line(canvas, start.tolist(), end.tolist(), colour, 1, cv2.LINE_AA)
            for point in (start, end):
                cv2.circle(canvas, point.tolist(), 3, colour, -1, cv2.LINE_AA)

    if unconfirmed is not None:
        join(*unconfirmed, (_UNCONFIRMED,))
    join(query_positions, positions, _COLOURS)
    return canvas


_SHIFT = 4  # fractional bits of coordinates in OpenCV's drawing functions


def _subpixel(point: ArrayLike) -> tuple[int, int]:
    """Return a point in fixed-point coordinates of OpenCV, whose pixel centres are at integers."""
    x, y = np.rint((np.asarray(point, np.float64) - 0.5) * (1 << _SHIFT)).astype(int).tolist()
    return x, y


def _rectangle(canvas: Picture, box: NDArray[np.floating]) -> None:
    x1, y1, x2, y2 = np.rint(box).astype(int).tolist()
    cv2.rectangle(canvas, (x1, y1), (x2, y2), _BOX, 2, cv2.LINE_AA)


def _share_drawn(diameters: NDArray[np.floating], side: int) -> float:
    """Return the factor for the diameters of circles: 1, halved as often as needed."""
    share = 1.0
    if len(diameters):
        while np.median(diameters) * share > _LARGEST_CIRCLE * side:
            share /= 2
    return share


def _ranks(attention: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return for each feature the share of the others with at most its attention, in [0, 1]; 1 for a single feature.

    The values of attention are distributed too unevenly to colour by them directly.
    """
    others = np.searchsorted(np.sort(attention), attention, side="right") - 1
    return others / (len(attention) - 1) if len(attention) > 1 else np.ones(len(attention))


def _colours(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the colours for shares in [0, 1], uint8 (N, 3)."""
    levels = np.rint(255 * shares).astype(np.uint8).reshape(-1, 1)
    if not len(levels):
        return np.zeros((0, 3), np.uint8)
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO)[:, 0, ::-1], np.uint8)


def _write_legend(
    sheet: Image.Image, left: int, features: Features, counts: Sequence[ScaleCount], title: str, share: float
) -> None:
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    y = 10

    def line(text: str) -> None:
        nonlocal y
        draw.text((left, y), text, fill=_INK, font=font)
        y += _ROW

    for start in range(0, len(title), 30):
        line(title[start : start + 30])
    line(f"{len(features):,} features")
    if not len(features):
        return
    drawn = "size of the patch" if share == 1.0 else f"1/{1 / share:.0f} of the patch size"
    line(f"circles: {drawn}")
    bar = _colours(np.linspace(0.0, 1.0, _LEGEND - 2 * _GAP))
    sheet.paste(Image.fromarray(np.repeat(bar[None], 12, axis=0)), (left, y + 4))
    y += _ROW
    least, middle, most = (f"{value:.3g}" for value in np.quantile(features.attention, (0.0, 0.5, 1.0)))
    for along, anchor, text in ((0.0, "la", least), (0.5, "ma", middle), (1.0, "ra", most)):
        draw.text((left + along * len(bar), y), text, fill=_INK, font=font, anchor=anchor)
    y += _ROW
    line("attention: min, median, max")
    y += _ROW // 2
    line("diameter in pixels: features")
    largest = max(count.count for count in counts)
    for count in counts:
        length = 1 + round(count.count / largest * len(bar))
        draw.rectangle((left, y + 2, left + length, y + 18), fill=_BAR)
        line(f"{count}: {count.count:,}")

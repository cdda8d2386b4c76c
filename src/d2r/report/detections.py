"""A sheet of pictures with their true boxes and the detected ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from d2r.boxes import Boxes
from d2r.evaluate.detector import Judged
from d2r.images import read_image, shrink
from d2r.report.drawing import write_png
from d2r.support.files import printable_path

_TILE = 300  # longer side of a picture, pixels
_CAPTION = 34
_GAP = 8
_COLUMNS = 4
_SHOWN = 3  # best detections per picture
_TRUE = (40, 200, 70)
_FOUND = ((255, 70, 40), (255, 160, 40), (240, 220, 60))


def write_sheet(judged: Sequence[Judged], path: Path, *, max_pixels: int, force: bool = False) -> None:
    """Write pictures to one PNG: true boxes in green, the three best detections in red, orange and yellow with scores.

    The caption of each picture gives its name and the IoU of its best detection with a true box.

    Args:
        judged: at least one picture.
        path: path of the PNG.
        max_pixels: see :func:`d2r.images.read_image`.
        force: see :func:`d2r.support.files.writing`.

    Raises:
        d2r.support.files.OutputError: ``path`` is a file that is not a drawing of this program.
    """
    columns = min(_COLUMNS, len(judged))
    rows = -(-len(judged) // columns)
    width, height = _TILE + _GAP, _TILE + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    for number, one in enumerate(judged):
        row, column = divmod(number, columns)
        sheet.paste(_tile(one, max_pixels), (_GAP + column * width, _GAP + row * height))
    write_png(np.asarray(sheet), path, force=force)


def _tile(one: Judged, max_pixels: int) -> Image.Image:
    image = read_image(one.path, max_pixels=max_pixels)
    small = Image.fromarray(shrink(image, _TILE))
    scale = small.width / image.shape[1]
    draw = ImageDraw.Draw(small)
    for k in reversed(range(min(_SHOWN, len(one.found)))):  # the best detection on top
        _draw_boxes(draw, one.found.boxes[k : k + 1] * scale, _FOUND[k], f"{one.found.scores[k]:.2f}")
    _draw_boxes(draw, one.true * scale, _TRUE, "")
    tile = Image.new("RGB", (_TILE, _TILE + _CAPTION), "white")
    tile.paste(small, ((_TILE - small.width) // 2, _TILE - small.height))
    caption = ImageDraw.Draw(tile)
    result = f"IoU {one.overlap:.2f}" if len(one.true) else "nothing to find"
    name = printable_path(os.path.join(one.path.parent.name, one.path.name))
    caption.text((2, _TILE + 2), name[-46:], fill="black", font=ImageFont.load_default(12))
    caption.text((2, _TILE + 17), result, fill="black", font=ImageFont.load_default(12))
    return tile


def _draw_boxes(draw: ImageDraw.ImageDraw, boxes: Boxes, color: tuple[int, int, int], text: str) -> None:
    for x1, y1, x2, y2 in boxes.tolist():
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=3)
        if text:
            font = ImageFont.load_default(13)
            corner = (x1 + 4, y1 + 3)
            draw.rectangle(draw.textbbox(corner, text, font=font), fill=color)
            draw.text(corner, text, fill="black", font=font)

"""Groups of pictures as one self-contained web page: of the same object (`d2r group`), or near-duplicates."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from d2r.boxes import Box
from d2r.defaults import MAX_PIXELS
from d2r.images import ImageError, read_image, shrink
from d2r.index import PictureRow
from d2r.mining.groups import Group
from d2r.report.html import corners, data_uri, polygon, template
from d2r.support.files import printable_path

CARD_SIDE = 320
"""Longer side of the pictures on the page, in pixels."""

MAX_CARDS = 24
"""Most pictures of a group to show; the page lists the others by name."""

MAX_GROUPS = 200
"""Most groups on the page, the largest first; more would make it too large to open and send."""


@dataclass(frozen=True)
class _Card:
    """The template's data of a picture; ``found`` is SVG path data in its pixels."""

    folder: str
    name: str
    width: int
    height: int
    image: str | None
    problem: str | None
    found: str | None


@dataclass(frozen=True)
class _Shown:
    """The template's data of a group; ``more`` are the names of pictures without a card."""

    pictures: int
    links: int
    cards: list[_Card]
    more: list[str]


def groups_page(
    groups: Sequence[Group],
    *,
    title: str,
    explanation: str,
    index_name: str,
    collection: int,
    boxed: bool,
    max_pixels: int = MAX_PIXELS,
) -> str:
    """Return an HTML document of groups; it embeds its pictures and needs no network.

    Args:
        groups: the groups, largest first.
        title: title of the page.
        explanation: a sentence that says what a group is.
        index_name: name of the index.
        collection: number of pictures in the index.
        boxed: draw on each picture the box of the inliers of its strongest link.
        max_pixels: pictures of more pixels are not decoded.
    """
    return template("groups.html.j2").render(
        title=title,
        explanation=explanation,
        index_name=printable_path(index_name),
        collection=collection,
        grouped=sum(len(group.pictures) for group in groups),
        groups=[_shown(group, boxed, max_pixels) for group in groups[:MAX_GROUPS]],
        left_out=max(0, len(groups) - MAX_GROUPS),
    )


def _shown(group: Group, boxed: bool, max_pixels: int) -> _Shown:
    boxes: dict[int, Box | None] = {}
    if boxed:
        for link in group.links:  # strongest first
            boxes.setdefault(link.first.id, link.boxes[0])
            boxes.setdefault(link.second.id, link.boxes[1])
    shown, others = group.pictures[:MAX_CARDS], group.pictures[MAX_CARDS:]
    cards = [_card(picture, boxes.get(picture.id), max_pixels) for picture in shown]
    return _Shown(len(group.pictures), len(group.links), cards, [_names(picture)[1] for picture in others])


def _card(picture: PictureRow, box: Box | None, max_pixels: int) -> _Card:
    folder, name = _names(picture)
    try:
        pixels = read_image(picture.path, max_pixels=max_pixels)
    except ImageError as error:
        return _Card(folder, name, 4, 3, None, error.reason[:1].upper() + error.reason[1:], None)
    height, width = pixels.shape[:2]
    same = (width, height) == (
        picture.width,
        picture.height,
    )  # otherwise the file was changed, and the box may be wrong
    found = polygon(corners(box)) if box is not None and same else None
    return _Card(folder, name, width, height, data_uri(shrink(pixels, CARD_SIDE)), None, found)


def _names(picture: PictureRow) -> tuple[str, str]:
    folder, name = os.path.split(picture.path)
    return printable_path(os.path.join(folder, "")), printable_path(name)

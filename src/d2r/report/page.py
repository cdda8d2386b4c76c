"""The answer to a search as one self-contained web page: the query, the results with their regions, the inliers.

html = search_page(read_image("query.jpg"), answer, query_name="query.jpg", index_name="holiday.index", ...)
write_page("results.html", html)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2r.boxes import Box
from d2r.defaults import MAX_PIXELS
from d2r.images import ImageError, Picture, read_image, shrink
from d2r.report.drawing import MAX_LINES
from d2r.report.html import corners, data_uri, polygon, rounded, template
from d2r.results import Answer, Result
from d2r.support.files import PathLike, is_our_page, printable_path, writing

LARGE_SIDE = 720
"""Longer side of the pictures on the page, in pixels. The card and the match view share one copy, which takes fewer
bytes than a small and a large one, and keeps the cards sharp on high-resolution screens."""

SMALL_SIDE = 360
"""Longer side if there are more than :data:`MANY` results, so that the page stays small enough to open and send."""

MANY = 60

COLOURS = 6
"""Number of colours of the lines, ``.line-0`` and up in the template."""

_UNKNOWN_SIZE = (400, 300)  # for the empty frame of a picture that was never read
_VIEW_SIDE = 600.0  # longer side of each picture in the match view, in units of the drawing
_VIEW_GAP = 28.0


@dataclass(frozen=True)
class _Place:
    """The place of a picture in a drawing."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class _MatchView:
    """Query and result, side by side or one below the other, and the lines between their inliers.

    Attributes:
        lines: SVG path data of each line, one list per colour.
        ends: SVG path data of the dots at the ends of the lines, one per colour.
    """

    width: float
    height: float
    query: _Place
    result: _Place
    lines: list[list[str]]
    ends: list[str]


@dataclass(frozen=True)
class _Card:
    """The template's data of a result; places are in pixels of its picture."""

    rank: int
    folder: str
    name: str
    score: float
    inliers: int | None
    confirmed: bool | None
    width: int
    height: int
    known_size: bool
    image: str | None
    problem: str | None
    regions: list[_Place]
    found: str | None
    points: str
    drawn: int
    views: dict[str, _MatchView]

    @property
    def path(self) -> str:
        return self.folder + self.name

    @property
    def verdict(self) -> str:
        """The result of spatial verification: "confirmed", "unconfirmed" or "unverified"."""
        if self.inliers is None:
            return "unverified"
        return "confirmed" if self.confirmed else "unconfirmed"


def search_page(
    query: Picture,
    answer: Answer,
    *,
    query_name: str,
    index_name: str = "",
    collection: int | None = None,
    box: Box | None,
    max_pixels: int = MAX_PIXELS,
) -> str:
    """Return an HTML document that shows an answer; it embeds its pictures and needs no network.

    A picture whose file is gone or broken gets an empty frame with the reason.

    Args:
        query: uint8 (H, W, 3) RGB, the query picture.
        answer: the answer to the query.
        query_name: name of the query, for example its file name.
        index_name: name of the index.
        collection: number of pictures that were searched; None leaves it out.
        box: the query box, (x1, y1, x2, y2) in pixels; None for the whole picture.
        max_pixels: results of more pixels are not decoded.
    """
    height, width = query.shape[:2]
    side = LARGE_SIDE if len(answer.results) <= MANY else SMALL_SIDE
    # The description holds the box clipped to the picture.
    region = np.asarray(answer.query.boxes[0], np.float64)
    cards = [
        _card(rank, result, (width, height), region, box is not None, side, max_pixels)
        for rank, result in enumerate(answer.results, start=1)
    ]
    return _TEMPLATE.render(
        query_name=printable_path(query_name),
        query_image=data_uri(shrink(query, LARGE_SIDE)),
        query_width=width,
        query_height=height,
        query_region=polygon(corners(region)) if box is not None else None,
        query_features=_dots(answer.query.features.positions),
        feature_count=len(answer.query.features),
        index_name=printable_path(index_name),
        collection=collection,
        stages=list(answer.seconds.items()),
        cards=cards,
    )


def write_page(path: PathLike, html: str, *, force: bool = False) -> None:
    """Write a page; an existing page is replaced once the new one is complete, and kept if writing fails.

    Raises:
        d2r.support.files.OutputError: ``path`` is a file that is not a page of this program, see
            :func:`d2r.support.files.writing`.
    """
    with writing(Path(os.fsdecode(path)), is_our_page, force=force) as part:
        part.write_bytes(html.encode())


def _card(
    rank: int,
    result: Result,
    query_size: tuple[int, int],
    region: NDArray[np.float64],
    boxed: bool,
    side: int,
    max_pixels: int,
) -> _Card:
    image, problem = None, None
    size = (result.width, result.height)
    known_size = min(size) > 0
    try:
        picture = read_image(result.path, max_pixels=max_pixels)
    except ImageError as error:
        problem = error.reason[:1].upper() + error.reason[1:]
    else:
        image = data_uri(shrink(picture, side))
        now = (picture.shape[1], picture.shape[0])
        if known_size and size != now:
            problem = "The picture was changed after it was indexed, so the marks may be wrong"
        elif not known_size:
            size, known_size = now, True
    if not known_size:
        size = _UNKNOWN_SIZE
    folder, name = os.path.split(result.path)
    chosen = _evenly_chosen(result.query_positions, MAX_LINES)
    query_positions, positions = result.query_positions[chosen], result.positions[chosen]
    return _Card(
        rank=rank,
        folder=printable_path(os.path.join(folder, "")) if folder else "",
        name=printable_path(name),
        score=result.score,
        inliers=result.inliers,
        confirmed=result.confirmed,
        width=size[0],
        height=size[1],
        known_size=known_size,
        image=image,
        problem=problem,
        regions=[_Place(*rounded([x1, y1, x2 - x1, y2 - y1])) for x1, y1, x2, y2 in result.boxes[1:].tolist()],
        found=_outline(result, region, boxed),
        points=_dots(result.positions),
        drawn=len(chosen),
        views={
            "beside": _match_view(query_size, size, query_positions, positions, axis=0),
            "below": _match_view(query_size, size, query_positions, positions, axis=1),
        },
    )


def _outline(result: Result, region: NDArray[np.float64], boxed: bool) -> str | None:
    """Return the outline of the query box on a result; for a query without a box, the box of the inliers."""
    if result.transform is None or result.found is None:
        return None
    return polygon(_mapped(corners(region), result.transform) if boxed else corners(result.found))


def _match_view(
    query_size: tuple[int, int],
    result_size: tuple[int, int],
    query_positions: NDArray[np.float32],
    positions: NDArray[np.float32],
    *,
    axis: int,
) -> _MatchView:
    """Arrange the two pictures along an axis (0: side by side, 1: one below the other) and join their inliers."""
    scales = [_VIEW_SIDE / max(size) for size in (query_size, result_size)]
    sizes = np.array([query_size, result_size]) * np.array(scales)[:, None]
    total = sizes.max(axis=0)
    total[axis] = sizes[:, axis].sum() + _VIEW_GAP
    origins = (total - sizes) / 2  # centred across the axis
    origins[:, axis] = [0.0, sizes[0, axis] + _VIEW_GAP]
    starts = query_positions * scales[0] + origins[0]
    ends = positions * scales[1] + origins[1]
    # Coloured in the order of their starts across the axis, so that correct matches keep the order of colours.
    order = np.argsort(starts[:, 1 - axis], kind="stable")
    bands = np.array_split(order, COLOURS)
    places = [_Place(*rounded([*origin, *size])) for origin, size in zip(origins, sizes, strict=True)]
    width, height = rounded(total)
    return _MatchView(
        width=width,
        height=height,
        query=places[0],
        result=places[1],
        lines=[[_line(starts[row], ends[row]) for row in band] for band in bands],
        ends=[_dots(np.concatenate([starts[band], ends[band]])) for band in bands],
    )


def _evenly_chosen(positions: NDArray[np.float32], limit: int) -> NDArray[np.intp]:
    """Return the rows of at most ``limit`` positions, spread evenly from the top of the picture to the bottom."""
    order = np.argsort(positions[:, 1], kind="stable")
    if len(order) <= limit:
        return order
    return order[np.linspace(0, len(order) - 1, limit).round().astype(np.intp)]


def _mapped(positions: NDArray[np.float64], transform: NDArray[np.float64]) -> NDArray[np.float64]:
    return positions @ transform[:, :2].T + transform[:, 2]


def _line(start: NDArray[np.floating], end: NDArray[np.floating]) -> str:
    return "M{} {}L{} {}".format(*rounded(start), *rounded(end))


def _dots(positions: NDArray[np.floating]) -> str:
    """Return SVG path data that round line caps draw as one dot per point, far shorter than circles."""
    return "".join("M{} {}h.1".format(*rounded(place)) for place in positions)


_TEMPLATE = template("page.html.j2")

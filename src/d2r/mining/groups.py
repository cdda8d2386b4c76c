"""Groups of pictures in a collection: instances (one object in many pictures), and near-duplicates.

Both start from links, the pairs of pictures that pass spatial verification (:meth:`d2r.engine.Engine.links`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from d2r.boxes import area
from d2r.defaults import GROUP_INLIERS
from d2r.engine import Engine
from d2r.index import PictureRow
from d2r.indexing.entry import Progress
from d2r.results import Link

SHIFT = 0.03
"""Near-duplicates: the transform moves no corner of the picture by more than this share of its longer side."""

INLIER_SHARE = 0.05
"""Near-duplicates: the inliers are at least this share of the keypoints of the picture that has fewer. The share is low
for a copy of half the size: the strongest keypoints of one are too small in the other."""

COVER = 0.5
"""Near-duplicates: the box of the inliers covers at least this share of both pictures. A banner in the same place of
different pictures matches perfectly."""


@dataclass(frozen=True)
class Group:
    """Pictures that belong together.

    Attributes:
        pictures: at least two, the one with the most inliers first.
        links: the links between them, strongest first.
    """

    pictures: tuple[PictureRow, ...]
    links: tuple[Link, ...]


def find_links(engine: Engine, *, top: int, progress: Progress) -> list[Link]:
    """Return all links of an index between each picture and the ``top`` pictures most similar to it.

    Args:
        engine: engine of the index.
        top: number of pictures to compare each picture with. A much larger group still holds together, because its
            pictures have different neighbours.
        progress: called with the progress of the stage "pairs".
    """
    pictures = engine.index.size().pictures
    found: list[Link] = []
    for done, (_, links) in enumerate(engine.links(top), start=1):
        found += links
        progress("pairs", done, pictures)
    return found


def instances(links: Iterable[Link], *, min_inliers: int = GROUP_INLIERS) -> list[Group]:
    """Return the groups of pictures that show the same object, largest first.

    These are the connected components of the links, with one rule against chains, in which a single picture of two
    objects, or a single wrong link, would merge two groups. Links are processed from the strongest to the weakest; two
    groups of several pictures are merged if links join two pictures of one to two different pictures of the other. A
    picture without a group joins by one link.

    Args:
        links: confirmed pairs, each once, in any order.
        min_inliers: links with fewer inliers are left out.
    """
    return _grouped([link for link in links if link.inliers >= min_inliers], _two_by_two)


def duplicate_groups(links: Iterable[Link]) -> list[Group]:
    """Return the groups of pictures that are the same photograph, rescaled or recompressed, largest first.

    Two pictures are near-duplicates if their files are equal, or if the transform of their link maps the frame of one
    to that of the other (:data:`SHIFT`) and they have enough inliers (:data:`INLIER_SHARE`, :data:`COVER`). Shots of
    one burst can be near-duplicates too; a crop of a picture is not.

    Args:
        links: confirmed pairs, each once, in any order.
    """
    return _grouped([link for link in links if _same_frame(link)], lambda one, other, joined: True)


_Joins = set[tuple[int, int]]  # pairs of pictures, one from each group


def _two_by_two(one: Sequence[int], other: Sequence[int], joined: _Joins) -> bool:
    if len(one) == 1 or len(other) == 1:
        return True
    return any(a != c and b != d for a, b in joined for c, d in joined)


def _grouped(links: Sequence[Link], joins: Callable[[Sequence[int], Sequence[int], _Joins], bool]) -> list[Group]:
    """Merge groups along links, strongest first, wherever ``joins`` allows it."""
    ordered = sorted(links, key=lambda link: (-link.inliers, link.first.id, link.second.id))
    pictures = {row.id: row for link in ordered for row in (link.first, link.second)}
    group_of = {number: number for number in pictures}
    members = {number: [number] for number in pictures}
    merged = True
    while merged:  # a merge may make further merges possible: repeat until nothing changes, two or three times
        merged = False
        between: defaultdict[tuple[int, int], _Joins] = defaultdict(set)
        for link in ordered:
            first, second = sorted((link.first.id, link.second.id), key=group_of.__getitem__)
            one, other = group_of[first], group_of[second]
            if one == other:
                continue
            joined = between[one, other]
            joined.add((first, second))
            if joins(members[one], members[other], joined):
                merged = True
                for number in members[other]:
                    group_of[number] = one
                members[one] += members.pop(other)
    return _as_groups(ordered, pictures, group_of)


def _as_groups(links: Sequence[Link], pictures: dict[int, PictureRow], group_of: dict[int, int]) -> list[Group]:
    own: defaultdict[int, list[Link]] = defaultdict(list)
    for link in links:
        if group_of[link.first.id] == group_of[link.second.id]:
            own[group_of[link.first.id]].append(link)
    groups = []
    for inside in own.values():
        inliers: defaultdict[int, int] = defaultdict(int)
        for link in inside:
            inliers[link.first.id] += link.inliers
            inliers[link.second.id] += link.inliers
        order = sorted(inliers, key=lambda number: (-inliers[number], number))
        groups.append(Group(tuple(pictures[number] for number in order), tuple(inside)))
    return sorted(groups, key=lambda group: (-len(group.pictures), group.pictures[0].path))


def _same_frame(link: Link) -> bool:
    """Return whether the two pictures of a link are the same photograph."""
    first, second = link.first, link.second
    if first.digest is not None and first.digest == second.digest:
        return True
    sizes = np.array([[one.width or 0, one.height or 0] for one in (first, second)], np.float64)
    if sizes.min() <= 0 or link.inliers < INLIER_SHARE * min(link.keypoint_counts):
        return False
    if (area(link.boxes) < COVER * sizes.prod(axis=1)).any():
        return False
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    moved = corners * sizes[0] @ link.transform[:, :2].T + link.transform[:, 2]
    shifts = np.linalg.norm(moved - corners * sizes[1], axis=1)
    return bool(shifts.max() <= SHIFT * sizes[1].max())

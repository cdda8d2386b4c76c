"""What links the pictures of an index: each with the most similar to it, and with those that verification confirms.

Nothing is described again: what ranking and verification compare is in the index for both pictures.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from concurrent.futures import Executor

from d2r.index import Hit, Index, PictureRow
from d2r.index_ranker import IndexRanker
from d2r.results import Link
from d2r.verify.localise import bounding_box


def similar_pictures(index: Index, top: int) -> Iterator[tuple[PictureRow, list[Hit]]]:
    """Yield every picture with the ``top`` pictures most similar to it, itself left out, unverified."""
    for picture, aggregated in index.aggregated():
        hits = index.search(aggregated, top + 1)
        yield picture, [hit for hit in hits if hit.picture.id != picture.id][:top]


def confirmed_links(
    index: Index, ranker: IndexRanker, threads: Executor, top: int
) -> Iterator[tuple[PictureRow, list[Link]]]:
    """Yield every picture with what links it to the ``top`` pictures most similar to it; each link comes once.

    Args:
        index: the pictures.
        ranker: of the same index.
        threads: that verify.
        top: most similar pictures of each.
    """
    # Of a picture that is still to come, those that looked at it before: each is forgotten when it has come, and
    # arrays are a tenth of what a set of pairs would be of a million pictures.
    before: dict[int, array[int]] = {}
    came: set[int] = set()
    for picture, hits in similar_pictures(index, top):
        known = set(before.pop(picture.id, ()))
        new = [hit for hit in hits if hit.picture.id not in known]
        for hit in new:
            if hit.picture.id not in came:
                before.setdefault(hit.picture.id, array("q")).append(picture.id)
        came.add(picture.id)
        found = threads.map(lambda hit, own=picture: _link(index, ranker, own, hit), new)
        yield picture, [link for link in found if link is not None]


def _link(index: Index, ranker: IndexRanker, picture: PictureRow, hit: Hit) -> Link | None:
    first, second = sorted((picture, hit.picture), key=lambda row: row.id)
    own = index.keypoints(first)
    verified = ranker.compare(own, second)
    if verified.transform is None:
        return None
    return Link(
        first=first,
        second=second,
        score=hit.score,
        inliers=len(verified.rows),
        keypoint_counts=(len(own), len(index.keypoints(second))),
        transform=verified.transform,
        boxes=(bounding_box(own.positions[verified.rows]), bounding_box(verified.positions)),
    )

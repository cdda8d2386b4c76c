"""Links between the pictures of an index: the most similar pairs, and those that verification confirms.

No features are extracted: ranking and verification use what the index holds of both pictures.
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
    """Yield every picture with the ``top`` others most similar to it, unverified."""
    for picture, aggregated in index.aggregated():
        hits = index.search(aggregated, top + 1)
        yield picture, [hit for hit in hits if hit.picture.id != picture.id][:top]


def confirmed_links(
    index: Index, ranker: IndexRanker, threads: Executor, top: int
) -> Iterator[tuple[PictureRow, list[Link]]]:
    """Yield every picture with its links to the ``top`` pictures most similar to it; each link is yielded once.

    Args:
        index: the pictures.
        ranker: the ranker of the same index.
        threads: run the verification.
        top: how many similar pictures to verify per picture.
    """
    # For each picture still to come, the earlier pictures that were compared with it. An entry is deleted when its
    # picture comes; for a million pictures these arrays take a tenth of the memory of a set of pairs.
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
    # A collection has so many pairs that coarse features, where there are others, would link wrong ones.
    precise = [kind for kind, exact in enumerate(ranker.precise) if exact]
    verified = ranker.compare(own, second, precise or None)
    if verified.transform is None:
        return None
    both = own, index.keypoints(second)
    count, its_count = (len(one.by_kind(own.starts)[verified.kind]) for one in both)
    return Link(
        first=first,
        second=second,
        score=hit.score,
        inliers=len(verified.rows),
        keypoint_counts=(count, its_count),
        transform=verified.transform,
        boxes=(bounding_box(own.positions[verified.rows]), bounding_box(verified.positions)),
    )

"""One part of an index, as a deployment of Ray Serve: scores its segments, and verifies where their features lie.

A shard keeps no state that matters. With each request comes what it is to search: a :class:`Share` of one commit, as
an object of Ray, of which a machine fetches the same one once. So all shards answer for the same commit, one that was
started again knows what to do, and a new segment is searched from the first request that names it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from ray import serve

from d2r.asmk.kernels import Aggregated
from d2r.boxes import Boxes
from d2r.index.files import load_segment
from d2r.index.ranking import Best, Ranker, Snapshot, make_snapshot, segment_and_slot
from d2r.index.ready import get_ready
from d2r.index.segment import Segment
from d2r.verify.keypoints import Keypoints
from d2r.verify.verify import threshold_for, verify

MOST_AT_ONCE = 16
"""Queries that are scored together at most."""

_WAIT_S = 0.002  # for more queries to score together
_KEPT = 2  # commits; a query may still ask for the one before


@dataclass(frozen=True)
class Share:
    """What a shard has of one commit.

    Attributes:
        version: of the commit.
        segments: their numbers.
        hidden: slots of pictures that were removed or replaced, or are missing, by segment.
    """

    version: int
    segments: tuple[int, ...]
    hidden: Mapping[int, NDArray[np.int64]]


class Wanted(NamedTuple):
    """A picture to look at: its place (:func:`d2r.index.ranking.place_of`), its longer side, and whether to verify."""

    place: int
    side: int
    verify: bool


class Sought(NamedTuple):
    """What pictures are verified against: the points of a query, and the bits of their codes."""

    points: Keypoints
    bits: int


class Look(NamedTuple):
    """What a shard sees of a picture.

    Attributes:
        boxes, box_scores, transform, rows, points: see :func:`d2r.results.make_result`.
    """

    boxes: Boxes
    box_scores: NDArray[np.float32]
    transform: NDArray[np.float64] | None = None
    rows: NDArray[np.int32] | None = None
    points: NDArray[np.float32] | None = None


class Shard:
    """Searches some segments of an index.

    Args:
        folder: of the index, of which this machine sees the segments.
        max_side: of the index's recipe.
        threads: that score, and that verify.
    """

    def __init__(self, folder: str, max_side: int, threads: int) -> None:
        _listen_on_own_address()
        self._folder = Path(folder)
        self._max_side = max_side
        self._threads = threads
        self._ranker = Ranker(threads)
        self._loading = asyncio.Lock()
        self._snapshots: OrderedDict[int, Snapshot] = OrderedDict()

    async def hold(self, share: tuple[int, Any]) -> None:
        """Get ready to search a share, for else the first question would miss its time; see :meth:`rank`."""
        snapshot = await self._snapshot(share)
        for segment in snapshot.segments.values():
            await asyncio.to_thread(get_ready, 64 * segment.posting_codes.shape[1])

    async def rank(self, share: tuple[int, Any], query: Aggregated, top: int) -> Best:
        """Return the best pictures of a share, best first.

        Args:
            share: its version and a reference to it, which is followed when the version is new.
            query: see :meth:`d2r.index.Index.search`.
            top: at most so many.

        Raises:
            FileNotFoundError: a segment is gone, because a later commit merged it.
            StoreError: the index is damaged.
        """
        snapshot = await self._snapshot(share)
        return await self._rank((snapshot, query, top))  # type: ignore[no-any-return]

    @serve.batch(max_batch_size=MOST_AT_ONCE, batch_wait_timeout_s=_WAIT_S)  # type: ignore[untyped-decorator]
    async def _rank(self, asked: list[tuple[Snapshot, Aggregated, int]]) -> list[Best]:
        return await asyncio.to_thread(self._rank_all, asked)

    def _rank_all(self, asked: list[tuple[Snapshot, Aggregated, int]]) -> list[Best]:
        """Score queries together, those of each commit; the segments are then read once for all of them."""
        found: dict[int, Best] = {}
        for snapshot in {id(one): one for one, _, _ in asked}.values():
            rows = [row for row, (one, _, _) in enumerate(asked) if one is snapshot]
            most = max(asked[row][2] for row in rows)
            found |= zip(rows, self._ranker.rank(snapshot, [asked[row][1] for row in rows], most), strict=True)
        return [found[row][:top] for row, (_, _, top) in enumerate(asked)]

    async def look(self, share: tuple[int, Any], query: tuple[Any], wanted: Sequence[Wanted]) -> list[Look]:
        """Return regions of pictures, and how they agree with a query.

        Args:
            share: see :meth:`rank`.
            query: reference to its :class:`Sought`, or None when nothing is to be verified.
            wanted: pictures of the share.

        Raises:
            FileNotFoundError: see :meth:`rank`.
        """
        snapshot = await self._snapshot(share)
        sought: Sought | None = await query[0] if query[0] is not None else None
        turns = [wanted[first :: self._threads] for first in range(self._threads)]
        parts = await asyncio.gather(
            *(asyncio.to_thread(self._look_at, snapshot.segments, sought, turn) for turn in turns)
        )
        return [parts[row % self._threads][row // self._threads] for row in range(len(wanted))]

    def _look_at(self, segments: Mapping[int, Segment], query: Sought | None, wanted: Sequence[Wanted]) -> list[Look]:
        return [self._look(segments, query, one) for one in wanted]

    def _look(self, segments: Mapping[int, Segment], query: Sought | None, wanted: Wanted) -> Look:
        number, slot = segment_and_slot(wanted.place)
        boxes, scores = segments[number].regions(slot)
        if query is None or not wanted.verify:
            return Look(boxes, scores)
        other = segments[number].points(slot)
        threshold = threshold_for(wanted.side, self._max_side)
        found = verify(query.points, other, bits=query.bits, threshold=threshold)
        rows, its = found.matches.T
        return Look(boxes, scores, found.transform, rows, other.positions[its])

    async def _snapshot(self, share: tuple[int, Any]) -> Snapshot:
        version, reference = share
        async with self._loading:
            if version not in self._snapshots:
                self._snapshots[version] = await asyncio.to_thread(self._load, await reference)
                while len(self._snapshots) > _KEPT:
                    self._snapshots.popitem(last=False)
            return self._snapshots[version]

    def _load(self, share: Share) -> Snapshot:
        known = {number: segment for one in self._snapshots.values() for number, segment in one.segments.items()}
        segments = {number: known.get(number) or load_segment(self._folder, number) for number in share.segments}
        return make_snapshot(share.version, segments, share.hidden)


def _listen_on_own_address() -> None:
    """Have this process listen on the address of its node.

    Ray Serve 2.60 starts a server between replicas that listens on every address there is, whatever address its node
    was given, and has no option for it. It is not used here: handles go through Ray itself.
    """
    import ray
    from ray.serve._private import replica

    bind = replica.add_port_to_grpc_server
    own = ray.util.get_node_ip_address()

    def narrowed(server: Any, address: str) -> Any:
        return bind(server, address.replace("[::]", f"[{own}]" if ":" in own else own))

    replica.add_port_to_grpc_server = narrowed

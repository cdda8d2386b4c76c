"""One part of an index, as a deployment of Ray Serve: scores its segments and verifies their pictures.

A shard is stateless. Each request says what to search: a :class:`ShardState` of one commit, as a Ray object that each
machine fetches once. So all shards answer for the same commit, a restarted shard works at once, and a new segment is
searched from the first request that names it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from ray import serve

from d2r.asmk.kernels import Aggregated
from d2r.index.files import load_segment
from d2r.index.ranking import Best, SegmentRanker, Snapshot, make_snapshot, segment_and_slot
from d2r.index.ready import get_ready
from d2r.index.segment import Segment
from d2r.search import Verified, verify_keypoints
from d2r.verify.keypoints import Keypoints

MAX_BATCH = 16
"""At most this many queries are scored together."""

_WAIT_S = 0.002  # for more queries to score together
_KEPT = 2  # commits; a query may still ask for the one before


@dataclass(frozen=True)
class ShardState:
    """A shard's part of one commit.

    Attributes:
        version: version of the commit.
        segments: numbers of the segments.
        hidden: segment to slots of pictures that were removed or replaced, or are missing.
    """

    version: int
    segments: tuple[int, ...]
    hidden: Mapping[int, NDArray[np.int64]]


class Place(NamedTuple):
    """Where a picture is (:func:`d2r.index.ranking.place_of`), and its longer side in pixels."""

    place: int
    side: int


class QueryKeypoints(NamedTuple):
    """The keypoints of a query, for verification, and the number of bits of their codes."""

    keypoints: Keypoints
    bits: int


_Question: TypeAlias = tuple[Snapshot, Aggregated, int, int]


class Shard:
    """Searches some segments of an index.

    Args:
        folder: folder of the index; this machine must be able to read the segments.
        max_side: ``max_side`` of the index's recipe.
        threads: number of threads to score with, and to verify with.
    """

    def __init__(self, folder: str, max_side: int, threads: int) -> None:
        _listen_on_own_address()
        self._folder = Path(folder)
        self._max_side = max_side
        self._threads = threads
        self._ranker = SegmentRanker(threads)
        self._loading = asyncio.Lock()
        self._snapshots: OrderedDict[int, Snapshot] = OrderedDict()

    async def hold(self, state: tuple[int, Any]) -> None:
        """Get ready to search a state, so that the first query does not time out; see :meth:`rank`."""
        snapshot = await self._snapshot(state)
        for segment in snapshot.segments.values():
            await asyncio.to_thread(get_ready, 64 * segment.posting_codes.shape[1])

    async def rank(self, state: tuple[int, Any], query: Aggregated, top: int, kind: int = 0) -> Best:
        """Return the best pictures of a shard's state, best first.

        Args:
            state: its version and a reference to it, which is resolved if the version is new.
            query: see :meth:`d2r.index.Index.search`.
            top: maximum number of pictures.
            kind: the kind of features of all words of the query.

        Raises:
            FileNotFoundError: a segment no longer exists, because a later commit merged it.
            StoreError: the index is damaged.
        """
        snapshot = await self._snapshot(state)
        return await self._rank((snapshot, query, top, kind))  # type: ignore[no-any-return]

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=_WAIT_S)  # type: ignore[untyped-decorator]
    async def _rank(self, asked: list[_Question]) -> list[Best]:
        return await asyncio.to_thread(self._rank_all, asked)

    def _rank_all(self, asked: list[_Question]) -> list[Best]:
        """Score the queries of the same commit and kind together, so that segments are read once for all of them."""
        found: dict[int, Best] = {}
        groups: dict[tuple[int, int], list[int]] = {}
        for row, (snapshot, _, _, kind) in enumerate(asked):
            groups.setdefault((id(snapshot), kind), []).append(row)
        for (_, kind), rows in groups.items():
            most = max(asked[row][2] for row in rows)
            queries = [asked[row][1] for row in rows]
            found |= zip(rows, self._ranker.rank(asked[rows[0]][0], queries, most, kind), strict=True)
        return [found[row][:top] for row, (_, _, top, _) in enumerate(asked)]

    async def verify(self, state: tuple[int, Any], query: tuple[Any], places: Sequence[Place]) -> list[Verified]:
        """Verify pictures against a query.

        Args:
            state: see :meth:`rank`.
            query: reference to its :class:`QueryKeypoints`.
            places: where the pictures are in the state.

        Raises:
            FileNotFoundError: see :meth:`rank`.
        """
        snapshot = await self._snapshot(state)
        keypoints: QueryKeypoints = await query[0]
        turns = [places[first :: self._threads] for first in range(self._threads)]
        parts = await asyncio.gather(
            *(asyncio.to_thread(self._verify, snapshot.segments, keypoints, turn) for turn in turns)
        )
        return [parts[row % self._threads][row // self._threads] for row in range(len(places))]

    def _verify(
        self, segments: Mapping[int, Segment], query: QueryKeypoints, places: Sequence[Place]
    ) -> list[Verified]:
        found = []
        for place, side in places:
            number, slot = segment_and_slot(place)
            other = segments[number].keypoints(slot)
            found.append(verify_keypoints(query.keypoints, other, bits=query.bits, side=side, max_side=self._max_side))
        return found

    async def _snapshot(self, state: tuple[int, Any]) -> Snapshot:
        version, reference = state
        async with self._loading:
            if version not in self._snapshots:
                self._snapshots[version] = await asyncio.to_thread(self._load, await reference)
                while len(self._snapshots) > _KEPT:
                    self._snapshots.popitem(last=False)
            return self._snapshots[version]

    def _load(self, state: ShardState) -> Snapshot:
        known = {number: segment for one in self._snapshots.values() for number, segment in one.segments.items()}
        segments = {number: known.get(number) or load_segment(self._folder, number) for number in state.segments}
        return make_snapshot(state.version, segments, state.hidden)


def _listen_on_own_address() -> None:
    """Have this process listen on the address of its node.

    Ray Serve 2.60 starts a server between replicas that listens on all addresses, whatever address its node was given,
    and has no option to change that. It is not used here: handles go through Ray itself.
    """
    import ray
    from ray.serve._private import replica

    bind = replica.add_port_to_grpc_server
    own = ray.util.get_node_ip_address()

    def narrowed(server: Any, address: str) -> Any:
        return bind(server, address.replace("[::]", f"[{own}]" if ":" in own else own))

    replica.add_port_to_grpc_server = narrowed

"""Search an index in shards on many machines: send the query to all, merge their exact rankings, verify on the shards.

The catalogue stays with the process that asks. A shard (:mod:`d2r.cluster.shard`) has some segments of one commit and
returns the best of their pictures; merged, these rank as in one index that holds everything, ties included. A shard
that does not answer is left out, and the answer says how many pictures are missing.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2r.asmk.kernels import Aggregated, by_kind
from d2r.cluster.connect import ClusterError, processors
from d2r.cluster.shard import MAX_BATCH, Place, QueryKeypoints, Shard, ShardState
from d2r.engine import Engine
from d2r.index import Hit, Index, PictureRow
from d2r.index.fusion import depth, fuse
from d2r.index.ranking import Best, merge_best, place_of
from d2r.index.rows import Layout
from d2r.index_ranker import IndexRanker, codebook_of
from d2r.indexing.entry import Recipe
from d2r.search import Candidate, Query, Ranking, RankingChanged, Verified

TIMEOUT_S = 5.0
"""A shard that takes longer is left out of an answer."""

_START_S = 300.0  # for a shard to start and map its segments
_TRIES = 20  # per query, if commits move the pictures found
_HEALTH_S = 1.0  # between Ray Serve's health checks of a shard, after which a dead one is restarted


@dataclass(frozen=True)
class Placement:
    """Which shard has which segment of one commit.

    Attributes:
        version: version of the commit.
        shard_of: number of a segment to its shard.
        pictures: number of pictures that can be found in each shard.
        states: for each shard the version and a reference to its :class:`~d2r.cluster.shard.ShardState`.
    """

    version: int
    shard_of: Mapping[int, int]
    pictures: Sequence[int]
    states: Sequence[tuple[int, Any]]


def assign_segments(layout: Layout, shards: int, before: Mapping[int, int]) -> dict[int, int]:
    """Return the shard of each segment, by number, such that all shards have about equally many postings.

    Args:
        layout: layout of the index.
        shards: number of shards.
        before: shards of earlier segments, which stay where they are, because that machine has them in memory.
    """
    placed = {row.id: before[row.id] for row in layout.segments if row.id in before}
    load = np.zeros(shards, np.int64)
    for row in layout.segments:
        if row.id in placed:
            load[placed[row.id]] += row.postings
    # The largest first, so that the small ones even out the load.
    for row in sorted(layout.segments, key=lambda row: (-row.postings, row.id)):
        if row.id not in placed:
            placed[row.id] = int(load.argmin())
            load[placed[row.id]] += row.postings
    return placed


class Shards:
    """The shards of an index; thread-safe.

    Args:
        index: its catalogue lists the segments and pictures.
        handles: handles of the deployments, one per shard.
        timeout_s: a shard that takes longer is left out until it answers again, in seconds.
    """

    def __init__(self, index: Index, handles: Sequence[Any], *, timeout_s: float = TIMEOUT_S) -> None:
        self._index = index
        self._handles = handles
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._placement: Placement | None = None
        self._away: dict[int, Any] = {}  # answers that tell when a shard is back

    def wait(self) -> None:
        """Wait until every shard has its segments.

        Raises:
            ClusterError: a shard cannot read them.
        """
        placement = self._current()
        answers = [handle.hold.remote(state) for handle, state in zip(self._handles, placement.states, strict=True)]
        for shard, answer in enumerate(answers):
            try:
                answer.result(timeout_s=_START_S)
            except FileNotFoundError as error:
                raise ClusterError(
                    f"shard {shard} cannot read {self._index.folder}; every machine must be able to, under this path"
                ) from error

    def rank(self, query: Aggregated, top: int) -> tuple[list[Hit], int]:
        """Return the at most ``top`` pictures most similar to a query, and how many pictures were not searched.

        Raises:
            StoreError: the index is damaged.
            ClusterError: commits come faster than a search takes.
        """
        starts = codebook_of(self._index).starts
        split, deep = by_kind(query, starts), depth(top, len(starts))

        def questions(handle: Any, state: Any) -> list[Any]:
            return [handle.rank.remote(state, part, deep, kind) for kind, part in enumerate(split)]

        for _ in range(_TRIES):
            placement = self._current()
            asked = [shard for shard, count in enumerate(placement.pictures) if count and self._is_there(shard)]
            with suppress(RankingChanged):
                parts: dict[int, list[Best]] = self._ask(placement, dict.fromkeys(asked, questions))
                of_kinds = [[of_shard[kind] for of_shard in parts.values()] for kind in range(len(starts))]
                best = fuse([merge_best(of_kind, deep) for of_kind in of_kinds], top)
                hits = self._index.hits([best])
                if hits is not None:
                    return hits[0], sum(count for shard, count in enumerate(placement.pictures) if shard not in parts)
            self._index.check_changed(placement.version)
        raise ClusterError("the index changes faster than it can be searched; try again")

    def verify(self, query: QueryKeypoints, pictures: Sequence[PictureRow]) -> list[Verified]:
        """Verify pictures against a query.

        Raises:
            RankingChanged: a commit has moved a picture, or a shard with some of them no longer answers: without it
                other pictures rank best.
            StoreError: the index is damaged.
        """
        import ray

        placement = self._current()
        rows: dict[int, list[int]] = {}
        for row, picture in enumerate(pictures):
            shard = placement.shard_of.get(picture.segment) if picture.segment is not None else None
            if shard is None:
                raise RankingChanged
            rows.setdefault(shard, []).append(row)
        reference = ray.put(query)
        answers = self._ask(
            placement,
            {
                shard: lambda handle, state, own=own: [
                    handle.verify.remote(state, (reference,), [_place(pictures[row]) for row in own])
                ]
                for shard, own in rows.items()
            },
        )
        if len(answers) < len(rows):
            raise RankingChanged
        found = {row: one for shard, own in rows.items() for row, one in zip(own, answers[shard][0], strict=True)}
        return [found[row] for row in range(len(pictures))]

    def _ask(self, placement: Placement, questions: Mapping[int, Callable[..., list[Any]]]) -> dict[int, list[Any]]:
        """Ask several shards at once, each several questions; return the answers of shards that answer all in time."""
        from ray.exceptions import RayError, RayTaskError
        from ray.serve.exceptions import RayServeException

        asked = {shard: ask(self._handles[shard], placement.states[shard]) for shard, ask in questions.items()}
        answers = {}
        end = time.monotonic() + self._timeout_s
        for shard, own in asked.items():
            try:
                answers[shard] = [answer.result(timeout_s=max(0.001, end - time.monotonic())) for answer in own]
            except FileNotFoundError as error:
                raise RankingChanged from error
            except RayTaskError:
                raise  # the shard works, but the index is damaged
            except (RayError, RayServeException, TimeoutError):
                self._lose(shard, placement)
        return answers

    def _lose(self, shard: int, placement: Placement) -> None:
        """Leave a shard out until it answers the question asked here."""
        with self._lock:
            if shard not in self._away:
                self._away[shard] = self._handles[shard].hold.remote(placement.states[shard])

    def _is_there(self, shard: int) -> bool:
        with self._lock:
            back = self._away.get(shard)
            if back is None:
                return True
            try:
                back.result(timeout_s=0.001)
            except TimeoutError:
                return False
            except Exception:  # lost again after a restart, or the commit no longer exists
                placement = self._placement
                assert placement is not None
                self._away[shard] = self._handles[shard].hold.remote(placement.states[shard])
                return False
            del self._away[shard]
            return True

    def _current(self) -> Placement:
        """Return the placement of the last commit; put its shard states into Ray if it is new."""
        import ray

        with self._lock:
            version = self._index.version()
            old = self._placement
            if old is not None and old.version == version:
                return old
            layout = self._index.layout()
            hidden = layout.hidden
            count = len(self._handles)
            shard_of = assign_segments(layout, count, old.shard_of if old is not None else {})
            pictures = [0] * count
            for row in layout.segments:
                pictures[shard_of[row.id]] += row.slots - len(hidden.get(row.id, ()))
            states = []
            for shard in range(count):
                own = tuple(number for number in shard_of if shard_of[number] == shard)
                unsought = {number: hidden[number] for number in own if number in hidden}
                states.append((version, ray.put(ShardState(version, own, unsought))))
            self._placement = Placement(version, shard_of, pictures, states)
            return self._placement


class ShardRanker(IndexRanker):
    """Ranks and verifies the pictures of an index on shards; this machine reads the rest.

    Args:
        shards: the shards of the index.
        index: see :class:`d2r.index_ranker.IndexRanker`.
        recipe: see there.
        threads: see there.
    """

    def __init__(self, shards: Shards, index: Index, recipe: Recipe, threads: Executor) -> None:
        super().__init__(index, recipe, threads)
        self._shards = shards

    def rank(self, query: Query, top: int) -> Ranking:
        """See :class:`d2r.search.Ranker`; the pictures of shards that do not answer are missing."""
        hits, missing = self._shards.rank(query.descriptor, top)
        return Ranking([Candidate(hit.picture, hit.score) for hit in hits], missing)

    def verify(
        self, query: Query, pictures: Sequence[PictureRow], stopped: Callable[[], bool]
    ) -> Sequence[Verified | None]:
        """See :class:`d2r.search.Ranker`."""
        assert query.keypoints is not None
        return self._shards.verify(QueryKeypoints(query.keypoints, codebook_of(self._index).dim), pictures)


class ClusterEngine(Engine):
    """An engine that searches on shards and does everything else itself.

    Args:
        index: see :class:`~d2r.engine.Engine`.
        shards: the shards of the index.
    """

    def __init__(self, index: Index, shards: Shards) -> None:
        super().__init__(index)
        self.ranker = ShardRanker(shards, index, self.recipe, self._threads)


@contextmanager
def sharded(
    index: Index,
    *,
    shards: int | None = None,
    replicas: int = 1,
    threads: int | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Iterator[ClusterEngine]:
    """Search an index with the cluster that this process is connected to, within a block.

    Every machine must be able to read the folder of the index under the same path.

    Args:
        index: may be filled here meanwhile; a commit is searched at once.
        shards: number of shards; None is one per machine.
        replicas: number of processes per shard.
        threads: number of threads per process; None divides the processors among them.
        timeout_s: see :class:`Shards`.

    Raises:
        ClusterError: a machine cannot read the index.
    """
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it logs every deployment
    count = shards or sum(bool(node["Alive"]) for node in ray.nodes())
    deployment = serve.deployment(Shard).options(
        num_replicas=replicas,
        max_ongoing_requests=4 * MAX_BATCH,
        health_check_period_s=_HEALTH_S,
        graceful_shutdown_timeout_s=2.0,
        ray_actor_options={"num_cpus": 1},
    )
    own = threads or max(1, processors() // (count * replicas))
    max_side = Engine(index).recipe.max_side
    own_name = f"d2r-{secrets.token_hex(4)}"  # the cluster may also serve another index
    names = [f"{own_name}-shard-{number}" for number in range(count)]
    targets = [
        serve.RunTarget(
            deployment.options(name=name).bind(str(index.folder.absolute()), max_side, own),
            name=name,
            route_prefix=None,
        )
        for name in names
    ]
    serve.start(proxy_location="Disabled")  # requests come through our own service, never Ray's
    try:
        parts = Shards(index, serve.run_many(targets), timeout_s=timeout_s)
        parts.wait()
        yield ClusterEngine(index, parts)
    finally:
        if set(serve.status().applications) <= set(names):
            serve.shutdown()
        else:  # it also serves something of somebody else's
            for name in names:
                serve.delete(name)


def _place(picture: PictureRow) -> Place:
    assert picture.segment is not None  # it was found in a segment
    assert picture.slot is not None
    return Place(place_of(picture.segment, picture.slot), max(picture.width or 0, picture.height or 0))

"""Search an index in parts on many machines: scatter a query, gather the exact best, verify where features lie.

The catalogue stays here, with the process that asks. A shard (:mod:`d2r.cluster.shard`) has some segments of one commit
and says which of their pictures are best; the best of those are the best of all, with ties in the order of one index
that holds everything. A shard that does not answer is left out, and the answer says how many pictures that were.
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

_START_S = 300.0  # for a shard to be there and to have mapped its segments
_TRIES = 20  # at one query, when commits move what was found
_HEALTH_S = 1.0  # between two looks of Ray Serve at a shard: one that died is started again after so long


@dataclass(frozen=True)
class Placement:
    """Which shard has which segment of one commit.

    Attributes:
        version: of the commit.
        shard_of: shard of each segment, by number.
        pictures: how many can be found, in each shard.
        states: for each shard the version and a reference to its :class:`~d2r.cluster.shard.ShardState`.
    """

    version: int
    shard_of: Mapping[int, int]
    pictures: Sequence[int]
    states: Sequence[tuple[int, Any]]


def assign_segments(layout: Layout, shards: int, before: Mapping[int, int]) -> dict[int, int]:
    """Return the shard of each segment, by number, so that each shard has about as many postings.

    Args:
        layout: of the index.
        shards: how many there are.
        before: shards of segments that had one: these stay, because their machine has them in memory.
    """
    placed = {row.id: before[row.id] for row in layout.segments if row.id in before}
    load = np.zeros(shards, np.int64)
    for row in layout.segments:
        if row.id in placed:
            load[placed[row.id]] += row.postings
    # The largest first: the small ones then even out.
    for row in sorted(layout.segments, key=lambda row: (-row.postings, row.id)):
        if row.id not in placed:
            placed[row.id] = int(load.argmin())
            load[placed[row.id]] += row.postings
    return placed


class Shards:
    """The shards of an index; safe to use from several threads.

    Args:
        index: whose catalogue says what there is.
        handles: of the deployments, one a shard.
        timeout_s: a shard that takes longer is left out of an answer, and from then on until it answers again.
    """

    def __init__(self, index: Index, handles: Sequence[Any], *, timeout_s: float = TIMEOUT_S) -> None:
        self._index = index
        self._handles = handles
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._placement: Placement | None = None
        self._away: dict[int, Any] = {}  # what will tell that a shard is back

    def wait(self) -> None:
        """Return when every shard has its segments.

        Raises:
            ClusterError: one does not see them.
        """
        placement = self._current()
        answers = [handle.hold.remote(state) for handle, state in zip(self._handles, placement.states, strict=True)]
        for shard, answer in enumerate(answers):
            try:
                answer.result(timeout_s=_START_S)
            except FileNotFoundError as error:
                raise ClusterError(
                    f"shard {shard} does not see {self._index.folder}; every machine must, under this path"
                ) from error

    def rank(self, query: Aggregated, top: int) -> tuple[list[Hit], int]:
        """Return the pictures most similar to a query, at most ``top``, and how many pictures did not answer.

        Raises:
            StoreError: the index is damaged.
            ClusterError: commits follow each other faster than a search.
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
        """Return how each of the pictures agrees with a query.

        Raises:
            RankingChanged: a commit has moved one of them, or a shard that has some is gone: without it others are
                among the best.
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
        """Ask shards at the same time, each several things; return the answers of those that answer all in time."""
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
                raise  # it is there, and something is wrong with the index
            except (RayError, RayServeException, TimeoutError):
                self._lose(shard, placement)
        return answers

    def _lose(self, shard: int, placement: Placement) -> None:
        """Ask a shard no more until it has answered this."""
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
            except Exception:  # started, and lost again; or the commit that it was asked for is not there any more
                placement = self._placement
                assert placement is not None
                self._away[shard] = self._handles[shard].hold.remote(placement.states[shard])
                return False
            del self._away[shard]
            return True

    def _current(self) -> Placement:
        """Return the state of the last commit, telling the shards' machines what is new."""
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
    """Ranks and verifies the pictures of an index on shards; all else of confirmed pictures this machine reads.

    Args:
        shards: of the index.
        index: see :class:`d2r.index_ranker.IndexRanker`.
        recipe: the same.
        threads: the same.
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
    """An engine whose searches are those of shards; everything else it does itself.

    Args:
        index: see :class:`~d2r.engine.Engine`.
        shards: of the index.
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
    """Have an index searched by the cluster that this process is connected to, in a block.

    Every machine must see the folder of the index under the same path.

    Args:
        index: filled here; what is committed to it is searched at once.
        shards: parts; None is one a machine.
        replicas: processes that can search each part.
        threads: that each of them searches with; None divides the processors among them.
        timeout_s: see :class:`Shards`.

    Raises:
        ClusterError: a machine does not see the index.
    """
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it tells of every deployment
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
    own_name = f"d2r-{secrets.token_hex(4)}"  # the cluster may serve another index too
    names = [f"{own_name}-shard-{number}" for number in range(count)]
    targets = [
        serve.RunTarget(
            deployment.options(name=name).bind(str(index.folder.absolute()), max_side, own),
            name=name,
            route_prefix=None,
        )
        for name in names
    ]
    serve.start(proxy_location="Disabled")  # requests come through our own service, never through Ray's
    try:
        parts = Shards(index, serve.run_many(targets), timeout_s=timeout_s)
        parts.wait()
        yield ClusterEngine(index, parts)
    finally:
        if set(serve.status().applications) <= set(names):
            serve.shutdown()
        else:  # somebody else has it serve something too
            for name in names:
                serve.delete(name)


def _place(picture: PictureRow) -> Place:
    assert picture.segment is not None  # it was found there
    assert picture.slot is not None
    return Place(place_of(picture.segment, picture.slot), max(picture.width or 0, picture.height or 0))

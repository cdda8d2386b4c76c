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
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from d2r.asmk.kernels import Aggregated
from d2r.cluster.connect import ClusterError, processors
from d2r.cluster.shard import MOST_AT_ONCE, Look, Shard, Share, Sought, Wanted
from d2r.describe import Description
from d2r.engine import Engine, Looked, SearchStopped
from d2r.index import Hit, Index
from d2r.index.ranking import Best, merge_best, place_of
from d2r.index.rows import Layout
from d2r.results import Result, make_result
from d2r.verify.keypoints import Keypoints

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
        shares: for each shard the version and a reference to its :class:`~d2r.cluster.shard.Share`.
    """

    version: int
    shard_of: Mapping[int, int]
    pictures: Sequence[int]
    shares: Sequence[tuple[int, Any]]


@dataclass(frozen=True)
class Found:
    """What the shards found.

    Attributes:
        hits: the most similar pictures, best first.
        looks: at each of them.
        missing: pictures in shards that did not answer.
        ranked_s: seconds until the hits were known.
    """

    hits: list[Hit]
    looks: list[Look]
    missing: int
    ranked_s: float


class _Moved(Exception):  # noqa: N818
    """A later commit has moved what was found."""


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
        answers = [handle.hold.remote(share) for handle, share in zip(self._handles, placement.shares, strict=True)]
        for shard, answer in enumerate(answers):
            try:
                answer.result(timeout_s=_START_S)
            except FileNotFoundError as error:
                raise ClusterError(
                    f"shard {shard} does not see {self._index.folder}; every machine must, under this path"
                ) from error

    def search(
        self, query: Aggregated, sought: Sought | None, *, top: int, verify: int, stopped: Callable[[], bool]
    ) -> Found:
        """Return the pictures most similar to a query, at most ``top``, the first ``verify`` of them verified.

        What is verified against is ``sought``, which may be None where ``verify`` is 0.

        Raises:
            SearchStopped: nobody waits for it any more.
            StoreError: the index is damaged.
            ClusterError: commits follow each other faster than a search.
        """
        for _ in range(_TRIES):
            placement = self._current()
            try:
                return self._search(placement, query, sought, top, verify, stopped)
            except _Moved:
                self._index.check_changed(placement.version)
        raise ClusterError("the index changes faster than it can be searched; come again")

    def _search(
        self,
        placement: Placement,
        query: Aggregated,
        sought: Sought | None,
        top: int,
        verify: int,
        stopped: Callable[[], bool],
    ) -> Found:
        import ray

        started = time.perf_counter()
        parts: dict[int, Best] = self._ask(
            placement,
            {
                shard: lambda handle, share: handle.rank.remote(share, query, top)
                for shard, count in enumerate(placement.pictures)
                if count and self._is_there(shard)
            },
        )
        ranked_s = time.perf_counter() - started
        reference = ray.put(sought) if verify else None
        while True:
            if stopped():
                raise SearchStopped
            hits = self._hits(parts, top)
            wanted: dict[int, list[Wanted]] = {}
            for rank, hit in enumerate(hits):
                wanted.setdefault(_shard(placement, hit), []).append(_wanted(hit, rank < verify))
            looks = self._ask(
                placement,
                {
                    shard: lambda handle, share, some=some: handle.look.remote(share, (reference,), some)
                    for shard, some in wanted.items()
                },
            )
            if len(looks) == len(wanted):
                break
            # One was lost on the way: without it others are among the best.
            parts = {shard: part for shard, part in parts.items() if shard in looks or shard not in wanted}
        missing = sum(count for shard, count in enumerate(placement.pictures) if shard not in parts)
        turns = {shard: iter(some) for shard, some in looks.items()}
        return Found(hits, [next(turns[_shard(placement, hit)]) for hit in hits], missing, ranked_s)

    def _hits(self, parts: Mapping[int, Best], top: int) -> list[Hit]:
        hits = self._index.hits([merge_best(list(parts.values()), top)])
        if hits is None:
            raise _Moved
        return hits[0]

    def _ask(self, placement: Placement, questions: Mapping[int, Callable[..., Any]]) -> dict[int, Any]:
        """Ask shards at the same time; return the answers of those that answer in time."""
        from ray.exceptions import RayError, RayTaskError
        from ray.serve.exceptions import RayServeException

        asked = {shard: ask(self._handles[shard], placement.shares[shard]) for shard, ask in questions.items()}
        answers = {}
        end = time.monotonic() + self._timeout_s
        for shard, answer in asked.items():
            try:
                answers[shard] = answer.result(timeout_s=max(0.001, end - time.monotonic()))
            except FileNotFoundError as error:
                raise _Moved from error
            except RayTaskError:
                raise  # it is there, and something is wrong with the index
            except (RayError, RayServeException, TimeoutError):
                self._lose(shard, placement)
        return answers

    def _lose(self, shard: int, placement: Placement) -> None:
        """Ask a shard no more until it has answered this."""
        with self._lock:
            if shard not in self._away:
                self._away[shard] = self._handles[shard].hold.remote(placement.shares[shard])

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
                self._away[shard] = self._handles[shard].hold.remote(placement.shares[shard])
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
            shares = []
            for shard in range(count):
                own = tuple(number for number in shard_of if shard_of[number] == shard)
                unsought = {number: hidden[number] for number in own if number in hidden}
                shares.append((version, ray.put(Share(version, own, unsought))))
            self._placement = Placement(version, shard_of, pictures, shares)
            return self._placement


class ClusterEngine(Engine):
    """An engine whose searches are those of shards; everything else it does itself.

    Args:
        index: see :class:`~d2r.engine.Engine`.
        shards: of the index.
    """

    def __init__(self, index: Index, shards: Shards) -> None:
        super().__init__(index)
        self._shards = shards

    def _look(
        self,
        query: Description,
        sought: Aggregated,
        points: Keypoints | None,
        top: int,
        verify: int,
        known: Mapping[int, Result],
        stopped: Callable[[], bool],
    ) -> Looked:
        """See :class:`~d2r.engine.Engine`; shards look at all pictures anew, and those that do not answer are missing.

        Raises:
            SearchStopped: nobody waits for it any more.
            StoreError: the index is damaged.
            ClusterError: commits follow each other faster than a search.
        """
        started = time.perf_counter()
        compared = Sought(points, self._codebook().dim) if points is not None else None
        found = self._shards.search(sought, compared, top=top, verify=verify, stopped=stopped)
        results = [  # what was verified before stays so, also where this ranking has it beyond what is verified
            replace(known[hit.picture.id], score=hit.score)
            if hit.picture.id in known
            else make_result(query, hit, *look)
            for hit, look in zip(found.hits, found.looks, strict=True)
        ]
        return Looked(results, found.missing, found.ranked_s, time.perf_counter() - started - found.ranked_s)


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
        max_ongoing_requests=4 * MOST_AT_ONCE,
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


def _shard(placement: Placement, hit: Hit) -> int:
    assert hit.picture.segment is not None  # it was found there
    return placement.shard_of[hit.picture.segment]


def _wanted(hit: Hit, verify: bool) -> Wanted:
    picture = hit.picture
    assert picture.segment is not None
    assert picture.slot is not None
    side = max(picture.width or 0, picture.height or 0)
    return Wanted(place_of(picture.segment, picture.slot), side, verify)

"""One search: rank the pictures, verify the best, expand the query with confirmed results, rank and verify again.

The same code searches every :class:`Ranker`: the index of one machine (:mod:`d2r.index_ranker`), its shards on many
machines (:mod:`d2r.cluster.search`), and the database of an evaluation (:mod:`d2r.evaluate.ranker`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.codebook import Codebook
from d2r.asmk.codes import LocalCodes
from d2r.asmk.kernels import KERNELS, Aggregated, aggregate, pool_codes
from d2r.describe import Description, assign_words
from d2r.errors import D2RError
from d2r.expand import DIFFUSED_RESULTS, diffused_scores, inside, join
from d2r.features.base import Features
from d2r.index import PictureRow, StoreError
from d2r.options import SearchOptions
from d2r.ordering import is_confirmed, order
from d2r.verify.keypoints import Keypoints, make_keypoints
from d2r.verify.verify import NEAREST, NOT_FOUND, threshold_for, verify

_TRIES = 20  # per query, if the collection changes meanwhile


class SearchStopped(D2RError):  # noqa: N818
    """A search was stopped before its end, because nobody waits for it."""


class RankingChanged(D2RError):  # noqa: N818
    """The ranked pictures have moved, or their machine is gone: rank again."""


@dataclass(frozen=True)
class Query:
    """A query, ready to be searched for.

    Attributes:
        description: of the query picture, or of the query box.
        descriptor: its R-ASMK* descriptor, or that of the expanded query.
        keypoints: used by verification; None if pictures are not verified.
    """

    description: Description
    descriptor: Aggregated
    keypoints: Keypoints | None


@dataclass(frozen=True)
class Verified:
    """The result of verifying a picture against a query.

    Attributes:
        transform: float64 (2, 3), the affine transform from query pixels to pixels of the picture; None if there is
            none.
        rows: int32 (inliers,), the features of the query that are inliers.
        positions: float32 (inliers, 2), the matched keypoints in pixels of the picture.
        kind: the kind of features with the most inliers, to which these belong.
        inliers: number of inliers of each kind.
    """

    transform: NDArray[np.float64] | None
    rows: NDArray[np.int32]
    positions: NDArray[np.float32]
    kind: int
    inliers: tuple[int, ...]


@dataclass(frozen=True)
class Candidate:
    """A picture that a search considers: its similarity to the query, and its verification, if there was one."""

    picture: PictureRow
    score: float
    verified: Verified | None = None

    @property
    def inliers(self) -> int | None:
        """Number of inliers; None if the picture was not verified."""
        return None if self.verified is None else len(self.verified.rows)


@dataclass(frozen=True)
class Ranking:
    """The most similar pictures, best first, and how many pictures could not be searched."""

    candidates: Sequence[Candidate]
    missing: int = 0


class Ranker(Protocol):
    """A collection that can be searched."""

    @property
    def precise(self) -> Sequence[bool]:
        """Whether each kind of features locates its keypoints precisely."""

    def rank(self, query: Query, top: int) -> Ranking:
        """Return the pictures most similar to a query, best first, at most ``top``, none with score 0."""

    def verify(
        self, query: Query, pictures: Sequence[PictureRow], stopped: Callable[[], bool]
    ) -> Sequence[Verified | None]:
        """Verify each of the pictures against a query; None for one that was removed.

        Raises:
            RankingChanged: the pictures must be ranked again.
            SearchStopped: ``stopped`` returned True.
        """

    def expand(self, query: Query, confirmed: Sequence[Candidate]) -> Query:
        """Return the query expanded with what confirmed results have inside its box, see :func:`d2r.expand.join`."""

    def similarities(self, pictures: Sequence[PictureRow]) -> NDArray[np.float32]:
        """Return the similarity of each pair of N pictures, float32 (N, N), 0 on the diagonal and for removed ones."""


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        candidates: best first, at most as many as requested.
        seconds: wall-clock time by stage: "search", "verify", and "expand" if the query was expanded.
        missing: number of pictures that could not be searched.
    """

    candidates: list[Candidate]
    seconds: dict[str, float]
    missing: int


def make_query(description: Description, codebook: Codebook, *, verify: bool) -> Query:
    """Make a query from its description, with the visual words of the collection.

    Args:
        description: from :func:`d2r.describe.describe_query`, with the collection's features.
        codebook: of the collection.
        verify: whether pictures will be verified against the query.
    """
    assigned = assign_words(codebook, description)
    keypoints = make_keypoints(whole_features(description), codebook, nearest=NEAREST) if verify else None
    return Query(description, aggregate(assigned, KERNELS["r-asmk*"]), keypoints)


def search(
    ranker: Ranker,
    query: Query,
    options: SearchOptions,
    *,
    ignored: Collection[int] = (),
    stopped: Callable[[], bool] = lambda: False,
) -> Found:
    """Search a collection.

    Args:
        ranker: the collection.
        query: with keypoints if ``options.verify`` is not 0.
        options: the options of the search.
        ignored: numbers of pictures to leave out, for example the query itself.
        stopped: called now and then; returns True if nobody waits for the answer any more.

    Raises:
        SearchStopped: ``stopped`` returned True.
    """
    timer = _Timer()
    wide = max(options.top, options.verify)

    def rank(query: Query, top: int, known: Mapping[int, Verified]) -> Ranking:
        return _rank_and_verify(ranker, query, top, options.verify, known, frozenset(ignored), stopped, timer)

    first = rank(query, wide, {})
    candidates, missing = _ordered(ranker, first.candidates), first.missing
    confirmed = [one for one in candidates if _is_confirmed(ranker, one)][: options.expand]
    if confirmed:
        with timer("expand"):
            expanded = ranker.expand(query, confirmed)
        known = {one.picture.id: one.verified for one in candidates if one.verified is not None}
        second = rank(expanded, max(wide, DIFFUSED_RESULTS * options.diffuse), known)
        with timer("expand"):
            scores = _diffused(ranker, second.candidates, confirmed) if options.diffuse else None
            candidates = _ordered(ranker, second.candidates, scores)
        missing = max(missing, second.missing)
    return Found(candidates[: options.top], timer.seconds, missing)


def verify_keypoints(
    query: Keypoints, picture: Keypoints, *, bits: int, side: int, max_side: int, kinds: Container[int] | None = None
) -> Verified:
    """Verify one picture against a query, separately for each kind of features.

    Args:
        query: keypoints from :func:`make_query`.
        picture: keypoints of the picture, with the same coarse words.
        bits: number of bits per code, which is the dimension of the descriptors.
        side: longer side of the picture, in pixels.
        max_side: longer side at which it was described, in pixels.
        kinds: verify only these kinds; None verifies all.

    Raises:
        ValueError: the keypoints do not fit each other, see :func:`d2r.verify.keypoints.check_keypoints`.
    """
    threshold, starts = threshold_for(side, max_side), query.starts
    parts = picture.by_kind(starts)
    outcomes = [
        verify(own, its, bits=bits, threshold=threshold) if kinds is None or kind in kinds else NOT_FOUND
        for kind, (own, its) in enumerate(zip(query.by_kind(starts), parts, strict=True))
    ]
    kind = max(range(len(outcomes)), key=lambda number: outcomes[number].inliers)
    rows, found = outcomes[kind].matches.T
    return Verified(
        outcomes[kind].transform, rows, parts[kind].positions[found], kind, tuple(one.inliers for one in outcomes)
    )


Held: TypeAlias = tuple[Candidate, NDArray[np.float32], LocalCodes]
"""A confirmed picture: the positions of its keypoints, float32 (N, 2) in its pixels, and their local codes."""


def expand_by(query: Query, confirmed: Iterable[Held]) -> Query:
    """Return the query expanded with what confirmed pictures have inside its box."""
    return replace(query, descriptor=join(query.descriptor, parts_inside(query, confirmed)))


def parts_inside(query: Query, confirmed: Iterable[Held]) -> list[Aggregated]:
    """Return the descriptor of the part of each confirmed picture inside the query box."""
    x1, y1, x2, y2 = query.description.boxes[0].tolist()
    parts = []
    for one, positions, codes in confirmed:
        assert one.verified is not None
        assert one.verified.transform is not None
        parts.append(pool_codes(codes.take(inside(positions, one.verified.transform, (x1, y1, x2, y2)))))
    return parts


def whole_features(query: Description) -> Features:
    """Return the features of the query box, without those of regions inside it."""
    return query.features if len(query.boxes) == 1 else query.features.take(query.regions == 0)


class _Timer:
    """Adds up the seconds of each stage."""

    def __init__(self) -> None:
        self.seconds = {"search": 0.0, "verify": 0.0}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started


def _rank_and_verify(
    ranker: Ranker,
    query: Query,
    top: int,
    num_verified: int,
    known: Mapping[int, Verified],
    ignored: frozenset[int],
    stopped: Callable[[], bool],
    timer: _Timer,
) -> Ranking:
    """Rank the pictures, and verify the best ``num_verified`` except those in ``known``, which is by number."""
    for _ in range(_TRIES):
        if stopped():
            raise SearchStopped
        with timer("search"):
            ranking = ranker.rank(query, top + len(ignored))
        best = [one for one in ranking.candidates if one.picture.id not in ignored][:top]
        unknown = [one.picture for one in best[:num_verified] if one.picture.id not in known]
        try:
            with timer("verify"):
                found = ranker.verify(query, unknown, stopped) if unknown else ()
        except RankingChanged:
            continue
        verified: dict[int, Verified | None] = {picture.id: one for picture, one in zip(unknown, found, strict=True)}
        verified |= known
        gone = {number for number, one in verified.items() if one is None}
        return Ranking(
            [replace(one, verified=verified.get(one.picture.id)) for one in best if one.picture.id not in gone],
            ranking.missing,
        )
    raise StoreError("the index changes faster than it can be searched; try again")


def _is_confirmed(ranker: Ranker, candidate: Candidate) -> bool:
    return candidate.verified is not None and is_confirmed(candidate.verified.inliers, ranker.precise)


def _ordered(
    ranker: Ranker, candidates: Sequence[Candidate], scores: NDArray[np.float64] | None = None
) -> list[Candidate]:
    """Return candidates, best first; ``scores`` replace their own scores for sorting."""
    own = np.array([one.score for one in candidates], np.float64) if scores is None else scores
    none = (0,) * len(ranker.precise)
    inliers = np.array([one.verified.inliers if one.verified is not None else none for one in candidates], np.int64)
    return [candidates[row] for row in order(own, inliers.reshape(-1, len(none)), ranker.precise)]


def _diffused(ranker: Ranker, candidates: Sequence[Candidate], confirmed: Sequence[Candidate]) -> NDArray[np.float64]:
    """Return the scores of candidates, with diffusion from the confirmed ones among the best."""
    scores = np.array([one.score for one in candidates], np.float64)
    head = candidates[:DIFFUSED_RESULTS]
    start = np.isin([one.picture.id for one in head], [one.picture.id for one in confirmed])
    graph = ranker.similarities([one.picture for one in head])
    scores[: len(head)] = diffused_scores(scores[: len(head)], start, graph)
    return scores

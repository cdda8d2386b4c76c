"""The in-memory database of an evaluation, as a :class:`d2r.search.Ranker`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.kernels import KERNELS, by_kind
from d2r.evaluate.extraction import Stored
from d2r.evaluate.methods import METHODS, Inverted, scores
from d2r.expand import similarities
from d2r.index import PictureRow
from d2r.index.fusion import depth, fuse
from d2r.index.ranking import best_of
from d2r.search import Candidate, Query, Ranking, Verified, expand_by, verify_keypoints


@dataclass(frozen=True)
class MemoryRanker:
    """Ranks the pictures of a database by a method, and verifies them, for one query.

    Attributes:
        name: name of the method in :data:`d2r.evaluate.methods.METHODS`.
        databases: its descriptors for each kind of features.
        starts: first word of each kind.
        precise: see :class:`d2r.search.Ranker`.
        pictures: rows of the database by number, see :func:`picture_rows`.
        stored: what is stored about each picture.
        bits: number of bits per code in verification.
        max_side: longer side at which pictures were described, in pixels.
        verified: known verifications by picture number; new ones are added.
        seconds: time of each ranking, without description.
    """

    name: str
    databases: Sequence[Inverted]
    starts: Sequence[int]
    precise: Sequence[bool]
    pictures: Sequence[PictureRow]
    stored: Sequence[Stored]
    bits: int
    max_side: int
    verified: dict[int, Verified]
    seconds: list[float] = field(default_factory=list)

    def rank(self, query: Query, top: int) -> Ranking:
        """See :class:`d2r.search.Ranker`."""
        started = time.perf_counter()
        method, deep = METHODS[self.name], depth(top, len(self.starts))
        parts = [
            best_of(scores(part, database, KERNELS[method.kernel], method.pool), deep)
            for part, database in zip(by_kind(query.descriptor, self.starts), self.databases, strict=True)
        ]
        best = fuse(parts, top)
        self.seconds.append(time.perf_counter() - started)
        return Ranking([Candidate(self.pictures[row], score) for score, row in best.tolist()])

    def verify(
        self, query: Query, pictures: Sequence[PictureRow], stopped: Callable[[], bool]
    ) -> Sequence[Verified | None]:
        """See :class:`d2r.search.Ranker`."""
        assert query.keypoints is not None
        for picture in pictures:
            if picture.id not in self.verified:
                one = self.stored[picture.id]
                self.verified[picture.id] = verify_keypoints(
                    query.keypoints, one.keypoints, bits=self.bits, side=one.side, max_side=self.max_side
                )
        return [self.verified[picture.id] for picture in pictures]

    def expand(self, query: Query, confirmed: Sequence[Candidate]) -> Query:
        """See :class:`d2r.search.Ranker`."""
        own = [self.stored[one.picture.id] for one in confirmed]
        return expand_by(
            query, ((one, its.keypoints.positions, its.local) for one, its in zip(confirmed, own, strict=True))
        )

    def similarities(self, pictures: Sequence[PictureRow]) -> NDArray[np.float32]:
        """See :class:`d2r.search.Ranker`; only for a method with one binary descriptor per picture."""
        return similarities([self.stored[one.id].descriptors[self.name][0] for one in pictures])


def picture_rows(paths: Sequence[str], stored: Sequence[Stored]) -> list[PictureRow]:
    """Return the pictures of a database as catalogue rows, numbered in order."""
    rows = []
    for number, (path, one) in enumerate(zip(paths, stored, strict=True)):
        rows.append(PictureRow(number, path, 0, 0, None, one.side, one.side, None, None, None, None))
    return rows

"""The index of this machine, as a search sees it (:class:`d2r.search.Ranker`)."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.codebook import Codebook
from d2r.expand import similarities
from d2r.features import precise_kinds
from d2r.index import Index, PictureRow, RemovedError, StoreError
from d2r.indexing.entry import Recipe
from d2r.search import Candidate, Held, Query, Ranking, SearchStopped, Verified, expand_by, verify_keypoints
from d2r.verify.keypoints import Keypoints


class IndexRanker:
    """Ranks the pictures of an index, and verifies them in threads.

    Args:
        index: the open index.
        recipe: how its pictures were described.
        threads: run the verification.
    """

    def __init__(self, index: Index, recipe: Recipe, threads: Executor) -> None:
        self.precise = precise_kinds(recipe.features)
        self._index = index
        self._max_side = recipe.max_side
        self._threads = threads

    def rank(self, query: Query, top: int) -> Ranking:
        """See :class:`d2r.search.Ranker`."""
        return Ranking([Candidate(hit.picture, hit.score) for hit in self._index.search(query.descriptor, top)])

    def verify(
        self, query: Query, pictures: Sequence[PictureRow], stopped: Callable[[], bool]
    ) -> Sequence[Verified | None]:
        """See :class:`d2r.search.Ranker`; the query must have keypoints."""
        keypoints = query.keypoints
        assert keypoints is not None

        def one(picture: PictureRow) -> Verified | None:
            if stopped():
                raise SearchStopped
            with suppress(RemovedError):
                return self.compare(keypoints, picture)
            return None

        return list(self._threads.map(one, pictures))

    def expand(self, query: Query, confirmed: Sequence[Candidate]) -> Query:
        """See :class:`d2r.search.Ranker`."""
        return expand_by(query, self._local(confirmed))

    def similarities(self, pictures: Sequence[PictureRow]) -> NDArray[np.float32]:
        """See :class:`d2r.search.Ranker`."""
        return similarities(self._index.aggregated_of(pictures))

    def compare(self, query: Keypoints, picture: PictureRow, kinds: Container[int] | None = None) -> Verified:
        """Verify one picture of the index against the keypoints of a query, by all kinds of features or some.

        Raises:
            RemovedError: the picture is not in the index any more.
            StoreError: the index is damaged.
        """
        keypoints = self._index.keypoints(picture)
        side = max(picture.width or 0, picture.height or 0)
        try:
            return verify_keypoints(
                query,
                keypoints,
                bits=codebook_of(self._index).dim,
                side=side,
                max_side=self._max_side,
                kinds=kinds,
            )
        except ValueError as error:
            raise StoreError(
                f"{self._index.folder}: its data of {picture.path} does not fit ({error}); `d2r check` says"
                " whether it is damaged"
            ) from error

    def _local(self, confirmed: Sequence[Candidate]) -> Iterator[Held]:
        for one in confirmed:
            with suppress(RemovedError):
                positions, codes = self._index.keypoints(one.picture).positions, self._index.local(one.picture)
                if len(positions) == len(codes):  # otherwise it was described again between the two reads
                    yield one, positions, codes


def codebook_of(index: Index) -> Codebook:
    """Return the visual words of an index.

    Raises:
        StoreError: it has none yet.
    """
    if index.codebook is None:
        raise StoreError(f"{index.folder}: it holds no pictures yet; add some before searching")
    return index.codebook

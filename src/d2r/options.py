"""What can be asked of a search; light to import, for the command line and for clients of a service."""

from __future__ import annotations

from dataclasses import dataclass

from d2r.defaults import EXPAND, TOP, VERIFY
from d2r.errors import UsageError


@dataclass(frozen=True)
class SearchOptions:
    """What a search does.

    Attributes:
        top: at most this many results.
        verify: this many of the most similar pictures are verified spatially and put first, by (inliers, score); 0
            ranks by score alone.
        expand: search again, with the query joined with what at most this many confirmed results show of it
            (:mod:`d2r.expand`), and order by :func:`d2r.expand.rank_key`; 0 does not. Where no result has
            :data:`d2r.expand.MIN_INLIERS_TO_EXPAND` inliers, or none is verified, the answer is as without.
        diffuse: re-rank by diffusion from the verified results. It needs ``verify`` and ``expand``.
        query_regions: describe the query by the regions of the index's selector too: the symmetric R-AMK.

    Raises:
        UsageError: a number is too low, or ``diffuse`` lacks what it starts from.
    """

    top: int = TOP
    verify: int = VERIFY
    expand: int = EXPAND
    diffuse: bool = False
    query_regions: bool = False

    def __post_init__(self) -> None:
        if self.top < 1 or self.verify < 0 or self.expand < 0:
            raise UsageError("top must be 1 or more, verify and expand 0 or more")
        if self.diffuse and not (self.verify and self.expand):
            raise UsageError("diffusion starts from verified results that expand a query: both must be 1 or more")


DEFAULT_OPTIONS = SearchOptions()
"""What a search does unless it is told otherwise."""

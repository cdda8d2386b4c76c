"""Options of a search; quick to import, for the command line and for clients of a service."""

from __future__ import annotations

from dataclasses import dataclass

from d2r.defaults import EXPAND, TOP, VERIFY
from d2r.errors import UsageError


@dataclass(frozen=True)
class SearchOptions:
    """What a search does.

    Attributes:
        top: at most this many results.
        verify: length of the shortlist for spatial verification. Verified pictures come first, by (inliers, score); 0
            ranks by score alone.
        expand: query expansion with at most this many verified results (:mod:`d2r.expand`), ordered by
            :func:`d2r.ordering.order`; 0 is none. Without a verified result of at least
            :data:`d2r.ordering.MIN_CONFIRMED` inliers, it changes nothing.
        diffuse: re-rank by diffusion from the verified results. Needs ``verify`` and ``expand``.
        query_regions: also describe the query by regions, with the index's selector: the symmetric R-AMK.

    Raises:
        UsageError: a number is too low, or ``diffuse`` is set without ``verify`` and ``expand``.
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
"""What a search does by default."""

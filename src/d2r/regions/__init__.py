"""Where to look: regions of a picture, one small module per selector, chosen by name.

A selector is written as a specification, ``NAME[:option=value,...]``: ``whole``, ``rmac:levels=2``,
``selective-search:top=5``. :func:`make_selector` turns it into an object and ``SELECTORS.spec`` gives it back.
"""

from __future__ import annotations

from d2r.regions.base import Regions, RegionSelector
from d2r.regions.rmac import RMAC
from d2r.regions.selective_search import SelectiveSearch
from d2r.regions.whole import Whole
from d2r.registry import Registry

SELECTORS: Registry[RegionSelector] = Registry(
    "regions", {"whole": Whole, "rmac": RMAC, "selective-search": SelectiveSearch}
)


def make_selector(spec: str) -> RegionSelector:
    """Return the selector that a specification names.

    Raises:
        d2r.registry.SpecError: unknown name or option, or a value out of range.
    """
    return SELECTORS.make(spec)


__all__ = ["RMAC", "SELECTORS", "RegionSelector", "Regions", "SelectiveSearch", "Whole", "make_selector"]

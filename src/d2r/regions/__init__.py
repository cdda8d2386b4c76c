"""Region proposals, one small module per selector, chosen by name.

A specification of a selector is ``NAME[:option=value,...]``: ``whole``, ``rmac:levels=2``, ``selective-search:top=5``,
``detector:threshold=0.2``. :func:`make_selector` turns it into an object, ``SELECTORS.spec`` the object into a
specification.
"""

from __future__ import annotations

from d2r.regions.base import Regions, RegionSelector
from d2r.regions.detector import Detector
from d2r.regions.network import DetectorError
from d2r.regions.rmac import RMAC
from d2r.regions.selective_search import SelectiveSearch
from d2r.regions.whole import Whole
from d2r.support.registry import Registry

SELECTORS: Registry[RegionSelector] = Registry(
    "regions", {"whole": Whole, "rmac": RMAC, "selective-search": SelectiveSearch, "detector": Detector}
)


def make_selector(spec: str) -> RegionSelector:
    """Return the selector that a specification names.

    Raises:
        d2r.support.registry.SpecError: a name or an option is unknown, or a value is out of range.
    """
    return SELECTORS.make(spec)


def pinned_regions(spec: str) -> str:
    """Return a specification that means the same everywhere and at any time: for a detector it has the file's SHA-256.

    Raises:
        d2r.support.registry.SpecError: see :func:`make_selector`; or a specification cannot hold the model's path.
        DetectorError: the detector's model cannot be used.
    """
    return SELECTORS.pinned(spec)


__all__ = [
    "RMAC",
    "SELECTORS",
    "Detector",
    "DetectorError",
    "RegionSelector",
    "Regions",
    "SelectiveSearch",
    "Whole",
    "make_selector",
    "pinned_regions",
]

"""What to describe: local features, one small module per extractor, chosen by name.

An extractor is written as a specification, ``NAME[:option=value,...]``, for instance ``rootsift`` or
``rootsift:top=500``; :func:`make_extractor` turns it into an object and ``EXTRACTORS.spec`` gives it back.
"""

from __future__ import annotations

from d2r.features.base import FeatureExtractor, Features, concatenate
from d2r.features.rootsift import RootSIFT
from d2r.registry import Registry

EXTRACTORS: Registry[FeatureExtractor] = Registry("features", {"rootsift": RootSIFT})


def make_extractor(spec: str) -> FeatureExtractor:
    """Return the extractor that a specification names.

    Raises:
        d2r.registry.SpecError: unknown name or option, or a value out of range.
    """
    return EXTRACTORS.make(spec)


__all__ = ["EXTRACTORS", "FeatureExtractor", "Features", "RootSIFT", "concatenate", "make_extractor"]

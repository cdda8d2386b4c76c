"""Local features: one small module per extractor, chosen by name.

An extractor is written as a specification, ``NAME[:option=value,...]``, for instance ``rootsift``,
``rootsift:top=500``, ``hardnet`` or ``delf:model=FILE.onnx``; :func:`make_extractor` turns it into an object and
``EXTRACTORS.spec`` does the reverse. Several kinds are joined by ``+``: ``hardnet+delf:top=700``.
"""

from __future__ import annotations

import re

from d2r.features.base import FeatureExtractor, Features, ViewExtractor, concatenate
from d2r.features.combined import Combined
from d2r.features.delf import Delf
from d2r.features.hardnet import HardNet
from d2r.features.network import FeatureError
from d2r.features.rootsift import RootSIFT
from d2r.support.registry import Registry

EXTRACTORS: Registry[FeatureExtractor] = Registry("features", {"rootsift": RootSIFT, "hardnet": HardNet, "delf": Delf})


def kinds_of(spec: str) -> list[str]:
    """Return the specification of each kind of features, for example the two parts of ``hardnet+delf:scales=0.5+1``."""
    names = "|".join(map(re.escape, {*EXTRACTORS.parts, *EXTRACTORS.added}))
    return re.split(rf"\+(?=(?:{names})(?:[:+]|$))", spec.strip())


def kind_names(spec: str) -> list[str]:
    """Return the name of each kind of features, numbered if two have the same."""
    names = [kind.partition(":")[0] for kind in kinds_of(spec)]
    return [name if names.count(name) == 1 else f"{name}-{number}" for number, name in enumerate(names, start=1)]


def make_extractor(spec: str) -> FeatureExtractor:
    """Return the extractor that a specification names.

    Raises:
        d2r.support.registry.SpecError: unknown name or option, or a value out of range; or kinds that cannot be
            combined.
    """
    kinds = tuple(EXTRACTORS.make(kind) for kind in kinds_of(spec))
    return kinds[0] if len(kinds) == 1 else Combined(kinds)


def features_spec(features: str | FeatureExtractor) -> str:
    """Return the specification of an extractor, which this process then knows, see :meth:`Registry.known`."""
    if isinstance(features, Combined):
        return "+".join(EXTRACTORS.known(kind) for kind in features.kinds)
    return EXTRACTORS.known(features)


def pinned_features(spec: str) -> str:
    """Return a specification with a fixed meaning: for a network it includes the SHA-256 of its file.

    Raises:
        d2r.support.registry.SpecError: see :func:`make_extractor`; or the path of the model cannot be part of a
            specification.
        FeatureError: the model cannot be used.
    """
    return "+".join(EXTRACTORS.pinned(kind) for kind in kinds_of(spec))


def precise_kinds(spec: str) -> tuple[bool, ...]:
    """Return whether each kind of features locates its features precisely."""
    return tuple(getattr(EXTRACTORS.make(kind), "precise", False) for kind in kinds_of(spec))


_SELECT = frozenset({"model", "top", "contrast", "threshold", "nms", "scales"})


def same_descriptors(one: str, other: str) -> bool:
    """Say whether the descriptors of two pinned specifications can be compared.

    They can if the extractor and the SHA-256 of its network are the same: other options select which places are
    described, and ``model`` is only the path of the network.
    """
    return [_described(kind) for kind in kinds_of(one)] == [_described(kind) for kind in kinds_of(other)]


def _described(kind: str) -> tuple[str, frozenset[str]]:
    name, _, options = kind.partition(":")
    return name, frozenset(option for option in options.split(",") if option.partition("=")[0] not in {*_SELECT, ""})


__all__ = [
    "EXTRACTORS",
    "Combined",
    "Delf",
    "FeatureError",
    "FeatureExtractor",
    "Features",
    "HardNet",
    "RootSIFT",
    "ViewExtractor",
    "concatenate",
    "features_spec",
    "kind_names",
    "kinds_of",
    "make_extractor",
    "pinned_features",
    "precise_kinds",
    "same_descriptors",
]

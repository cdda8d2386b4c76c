"""The common part of extractors with a network: finding it by name, and pinning it by SHA-256."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

from d2r.features.network import FeatureError
from d2r.models.onnx import check_pinned, find_file, pinned_model


class _DescribingNetwork(Protocol):
    """A loaded network: its file, the SHA-256 of that in hexadecimal, and the dimension D of its descriptors."""

    @property
    def path(self) -> Path: ...

    @property
    def sha256(self) -> str: ...

    @property
    def dim(self) -> int: ...


_Network = TypeVar("_Network", bound=_DescribingNetwork)


class NetworkExtractor(Generic[_Network]):
    """An extractor with a network; a frozen dataclass with these attributes among its fields.

    Attributes:
        model: path of an ONNX file (it ends in ``.onnx``), or the name of a model.
        sha256: required SHA-256 of the file, in hexadecimal; empty accepts any file.
    """

    model: str
    sha256: str

    def load(self, path: Path) -> _Network:
        """Return the network of a file, loaded once per process.

        Raises:
            FeatureError: the file is missing, or does not have the extractor's format.
        """
        raise NotImplementedError

    @property
    def dim(self) -> int:
        """The dimension D of the network's descriptors; this loads the network.

        Raises:
            FeatureError: see :meth:`network`.
        """
        return self.network().dim

    def network(self) -> _Network:
        """Return the network, loaded once per process.

        Raises:
            FeatureError: the file is missing, or does not have the extractor's format or the given SHA-256.
        """
        network = self.load(find_file(self.model, FeatureError))
        check_pinned(network.path, network.sha256, self.sha256, FeatureError)
        return network

    def pinned(self) -> Self:
        """Return this extractor with the absolute path and the SHA-256 of its model.

        Raises:
            ValueError: the path has a comma, which a specification cannot contain.
            FeatureError: see :meth:`network`.
        """
        network = self.network()
        pinned = {"model": pinned_model(self.model, network.path), "sha256": network.sha256}
        return replace(self, **pinned)  # type: ignore[type-var]  # each sub-class is a dataclass

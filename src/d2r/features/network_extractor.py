"""What extractors have in common whose descriptors a network computes: the network, found by name, and its pin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

from d2r.features.network import FeatureError
from d2r.models.onnx import check_pinned, find_file, pinned_model


class _DescribingNetwork(Protocol):
    """A network that was loaded: its file, the SHA-256 of it in hexadecimal, and D of its descriptors."""

    @property
    def path(self) -> Path: ...

    @property
    def sha256(self) -> str: ...

    @property
    def dim(self) -> int: ...


_Network = TypeVar("_Network", bound=_DescribingNetwork)


class NetworkExtractor(Generic[_Network]):
    """An extractor with a network; a frozen dataclass that has these attributes among its fields.

    Attributes:
        model: path of an ONNX file (it ends in ``.onnx``), or the name of a model.
        sha256: what the file must have, in hexadecimal; empty takes any.
    """

    model: str
    sha256: str

    def load(self, path: Path) -> _Network:
        """Return the network of a file, loaded once in a process.

        Raises:
            FeatureError: the file is missing, or is not of the extractor's format.
        """
        raise NotImplementedError

    @property
    def dim(self) -> int:
        """D, as the network has it, which is loaded for that.

        Raises:
            FeatureError: see :meth:`network`.
        """
        return self.network().dim

    def network(self) -> _Network:
        """Return the network, which is loaded once in a process.

        Raises:
            FeatureError: the file is missing, is not of the extractor's format, or does not have the given SHA-256.
        """
        network = self.load(find_file(self.model, FeatureError))
        check_pinned(network.path, network.sha256, self.sha256, FeatureError)
        return network

    def pinned(self) -> Self:
        """Return this extractor with the absolute path of its model and its SHA-256, which no other file has.

        Raises:
            ValueError: the path has a comma, which a specification cannot hold.
            FeatureError: see :meth:`network`.
        """
        network = self.network()
        pinned = {"model": pinned_model(self.model, network.path), "sha256": network.sha256}
        return replace(self, **pinned)  # type: ignore[type-var]  # each sub-class is a dataclass

"""Published networks that can be fetched and converted to the formats of this project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True)
class KnownModel:
    """A network that can be fetched by name.

    Attributes:
        summary: a short description.
        urls: URLs of its file, tried in turn.
        sha256: SHA-256 of that file, in lower-case hexadecimal; None if unknown: then the download cannot be verified.
        licence: as stated by its authors.
        arch: architecture, as named by :func:`d2r.train.delf.convert.convert_checkpoint`; the file is a torch
            checkpoint.
    """

    summary: str
    urls: tuple[str, ...]
    sha256: str | None
    licence: str
    arch: str


_HOW: Final = "http://ptak.felk.cvut.cz/personal/toliageo/share/how/models"

KNOWN: Final[Mapping[str, KnownModel]] = MappingProxyType(
    {
        "how-r18": KnownModel(
            "HOW local features (Tolias, Jenicek, Chum, ECCV 2020) on ResNet18, 128 dimensions",
            (f"{_HOW}/how_r18.pth",),
            None,
            "MIT (of the code at github.com/gtolias/how; the weights name none)",
            "how-r18",
        ),
        "how-r50": KnownModel(
            "HOW local features (Tolias, Jenicek, Chum, ECCV 2020) on ResNet50 without its last block, 128 dimensions",
            (f"{_HOW}/how_r50-.pth",),
            None,
            "MIT (of the code at github.com/gtolias/how; the weights name none)",
            "how-r50",
        ),
    }
)

"""Networks that others published, and how to make files of this project's formats of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True)
class KnownModel:
    """A network that can be fetched by its name.

    Attributes:
        summary: what it is.
        urls: addresses of its file, to be tried in turn.
        sha256: of that file, in lower-case hexadecimal; None where its authors give none and nobody has measured it:
            then what arrives cannot be verified.
        licence: as its authors say.
        arch: what :func:`d2r.train.delf.convert.convert_checkpoint` calls it: it is a checkpoint of torch.
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

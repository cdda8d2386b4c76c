"""Networks that are shipped: ``NAME.onnx``, and ``NAME.md``, its card, beside this file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

DETECTOR: Final = "ssd-efficientnet-lite0"
"""The detector that is used where none is named."""

FOLDER: Final = Path(str(resources.files(__name__)))


@dataclass(frozen=True)
class ShippedModel:
    """A network that is shipped.

    Attributes:
        name: what to call it by.
        path: of its file.
        bytes: size of the file.
        sha256: of the file, in hexadecimal.
        summary: the heading of its card; empty without a card.
    """

    name: str
    path: Path
    bytes: int
    sha256: str
    summary: str


def model_names(folder: Path = FOLDER) -> list[str]:
    """Return the names of the networks in a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.onnx"))


def list_models(folder: Path = FOLDER) -> list[ShippedModel]:
    """Return the networks in a folder, by name."""
    return [_describe(folder, name) for name in model_names(folder)]


def find_model(model: str, folder: Path = FOLDER) -> Path:
    """Return the file that is meant: ``model`` itself where it ends in ``.onnx``, else the shipped one of that name.

    Raises:
        FileNotFoundError: no network of that name is shipped; the message lists those that are.
    """
    if model.lower().endswith(".onnx"):
        return Path(model)
    if model not in model_names(folder):
        known = ", ".join(model_names(folder)) or "none"
        raise FileNotFoundError(f"no such model is shipped (there are: {known}), and the name of a file ends in .onnx")
    return folder / f"{model}.onnx"


def _describe(folder: Path, name: str) -> ShippedModel:
    path, card = folder / f"{name}.onnx", folder / f"{name}.md"
    data = path.read_bytes()
    lines = card.read_text(encoding="utf-8").splitlines() if card.exists() else []
    heading = next((line.lstrip("#").strip() for line in lines if line.startswith("#")), "")
    return ShippedModel(name, path, len(data), hashlib.sha256(data).hexdigest(), heading)

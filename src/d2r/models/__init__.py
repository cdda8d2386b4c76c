"""Networks by name: those shipped, ``NAME.onnx`` beside this file, and those that the user added.

Beside a network is its card, ``NAME.md``, or the record of its addition, ``NAME.json`` (:mod:`d2r.hub.catalogue`).
:mod:`d2r.hub.known` lists networks from elsewhere that can be fetched.
"""

from __future__ import annotations

import os
import sys
from importlib import resources
from pathlib import Path
from typing import Final

DETECTOR: Final = "ssd-efficientnet-lite0"
"""The default detector."""

LOCAL_FEATURES: Final = "delf-efficientnet-lite0"
"""The default network of local features."""

PATCH_DESCRIPTORS: Final = "hardnet"
"""The default network of patch descriptors."""

MODELS_FOLDER: Final = Path(str(resources.files(__name__)))
"""Folder of the networks that are shipped."""

VARIABLE: Final = "D2R_MODELS"
"""Environment variable that names the folder of added networks."""


def user_folder() -> Path:
    """Return the folder of added networks: that of :data:`VARIABLE`, or one in the platform's folder for user data."""
    if given := os.environ.get(VARIABLE):
        return Path(given).absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "d2r" / "models"
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (data if data.is_absolute() else Path.home() / ".local" / "share") / "d2r" / "models"


def folders() -> tuple[Path, Path]:
    """Return the folders of networks, in the order of look-up: shipped, then added."""
    return MODELS_FOLDER, user_folder()


def model_names(folder: Path) -> list[str]:
    """Return the sorted names of the networks in a folder; empty if there is no such folder."""
    return sorted(path.stem for path in folder.glob("*.onnx") if not path.name.startswith("."))


def find_model(model: str) -> Path:
    """Return the file of a model: ``model`` itself if it ends in ``.onnx``, otherwise the network of that name.

    Raises:
        FileNotFoundError: there is no network of that name; the message lists those there are.
    """
    if model.lower().endswith(".onnx"):
        return Path(model)
    known = {name: folder for folder in reversed(folders()) for name in model_names(folder)}
    if model in known:
        return known[model] / f"{model}.onnx"
    raise FileNotFoundError(
        f"there is no such model (there are: {', '.join(sorted(known)) or 'none'}), and the name of a file ends in"
        f" .onnx; a known model is fetched with: d2r models pull {model}"
    )

"""Networks by name: those that are shipped, ``NAME.onnx`` beside this file, and those that were added.

Beside a network is its card, ``NAME.md``, or what was recorded when it was added, ``NAME.json``
(:mod:`d2r.hub.catalogue`). :mod:`d2r.hub.known` has networks of others that can be fetched.
"""

from __future__ import annotations

import os
import sys
from importlib import resources
from pathlib import Path
from typing import Final

DETECTOR: Final = "ssd-efficientnet-lite0"
"""The detector that is used where none is named."""

LOCAL_FEATURES: Final = "delf-efficientnet-lite0"
"""The local features that are used where none are named."""

PATCH_DESCRIPTORS: Final = "hardnet"
"""The network that describes patches where none is named."""

MODELS_FOLDER: Final = Path(str(resources.files(__name__)))
"""Where the networks are that are shipped."""

VARIABLE: Final = "D2R_MODELS"
"""Environment variable that names the folder of networks that were added."""


def user_folder() -> Path:
    """Return the folder of networks that were added: that of :data:`VARIABLE`, or of the platform's data of a user."""
    if given := os.environ.get(VARIABLE):
        return Path(given).absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "d2r" / "models"
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (data if data.is_absolute() else Path.home() / ".local" / "share") / "d2r" / "models"


def folders() -> tuple[Path, Path]:
    """Return where networks are, in the order in which names are looked up: shipped, and added."""
    return MODELS_FOLDER, user_folder()


def model_names(folder: Path) -> list[str]:
    """Return the names of the networks in a folder, sorted; none where there is no such folder."""
    return sorted(path.stem for path in folder.glob("*.onnx") if not path.name.startswith("."))


def find_model(model: str) -> Path:
    """Return the file that is meant: ``model`` itself where it ends in ``.onnx``, else the network of that name.

    Raises:
        FileNotFoundError: no network of that name is shipped or was added; the message lists those that are there.
    """
    if model.lower().endswith(".onnx"):
        return Path(model)
    known = {name: folder for folder in reversed(folders()) for name in model_names(folder)}
    if model in known:
        return known[model] / f"{model}.onnx"
    raise FileNotFoundError(
        f"no such model is shipped or was added (there are: {', '.join(sorted(known)) or 'none'}), and the name of a"
        f" file ends in .onnx; one that is known is fetched by: d2r models pull {model}"
    )

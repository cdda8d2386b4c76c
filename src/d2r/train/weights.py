"""Read the weights of a run for its export, from ``best.safetensors``, and their metadata."""

from __future__ import annotations

from pathlib import Path

import safetensors
from safetensors import safe_open
from torch import Tensor

from d2r.errors import D2RError
from d2r.support.files import display_path
from d2r.train.course import BEST


class ExportError(D2RError):
    """A run that cannot be exported; the message names the file."""


def read_run(run: Path) -> tuple[Path, dict[str, Tensor], dict[str, str]]:
    """Return the path of a run's weights, the weights, and their metadata.

    Args:
        run: folder of a run, or its .safetensors file.

    Raises:
        ExportError: the weights are missing or damaged.
    """
    path = run / BEST if run.is_dir() else run
    shown = display_path(path)
    if not path.is_file():
        raise ExportError(f"{shown}: there are no weights here; train with `d2r train` and --out {run} first")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise ExportError(f"{shown}: damaged, or not a .safetensors file ({error})") from error
    return path, weights, about

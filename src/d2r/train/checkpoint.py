"""Checkpoints: everything a run needs to continue as if it had not stopped."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import torch

from d2r.support.files import display_path, replacing
from d2r.train.settings import TrainError

LAST: Final = "last.pt"
_FORMAT: Final = "d2r-training-2"
_PARTS: Final = frozenset(
    {"format", "settings", "epoch", "network", "average", "optimiser", "schedule", "scaler", "best", "history"}
)


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; the old one stays until the new one is complete."""
    with replacing(path) as part:
        torch.save({"format": _FORMAT, **state}, part)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to CPU memory. Nothing in the file is executed.

    Raises:
        TrainError: the file is missing or damaged, or not a checkpoint.
    """
    shown = display_path(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise TrainError(f"{shown}: there is no checkpoint to resume from; leave out --resume to start") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, BadZipFile) as error:
        reason = str(error).partition("\n")[0][:200] or "it is empty"
        raise TrainError(
            f"{shown}: the checkpoint is damaged or not one ({reason}); start again in"
            " another folder, with --init best.safetensors of this one if it exists"
        ) from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT or set(state) != _PARTS:
        raise TrainError(f"{shown}: not a checkpoint of this program, or of another version of it")
    return state

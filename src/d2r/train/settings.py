"""Settings of a training run."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2r.errors import D2RError
from d2r.support.files import display_path, marked, replacing

SETTINGS = "settings.json"


class TrainError(D2RError):
    """A run that cannot be started, continued or used; the message names the setting or the file."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of all runs. The weights depend on all of them, and a run can be resumed only with the same settings.

    Attributes:
        data: sources of pictures to train on.
        hold_out: share of ``data`` to validate on.
        init: "none", "imagenet" or a file of weights.
        freeze: number of first blocks of the backbone that keep the weights of ``init``.
        epochs: passes over the data.
        batch: pictures per step.
        lr: the highest learning rate.
        seed: seed of everything random.
        validate_every: epochs between two validations; the last epoch is always validated.
        patience: stop after this many validations without improvement.
    """

    data: tuple[str, ...]
    hold_out: float = 0.15
    init: str = "none"
    freeze: int = 0
    epochs: int = 100
    batch: int = 32
    lr: float = 1e-3
    seed: int = 0
    validate_every: int = 1
    patience: int = 30

    def __post_init__(self) -> None:
        if not self.data:
            raise TrainError("--data: there is nothing to train on; give at least one")
        if not 0.0 < self.hold_out < 1.0:
            raise TrainError(f"--hold-out must be between 0 and 1, not {self.hold_out:g}")
        if not 0.0 < self.lr < math.inf:
            raise TrainError(f"--lr must be above 0, not {self.lr:g}")
        for name in ("epochs", "validate_every", "patience"):
            if getattr(self, name) < 1:
                raise TrainError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.freeze < 0:
            raise TrainError(f"--freeze must not be negative, but is {self.freeze}")
        if self.freeze and self.init == "none":
            raise TrainError("--freeze keeps the weights of --init, and there are none; give --init")
        if self.seed < 0:
            raise TrainError(f"--seed must not be negative, but is {self.seed}")


def as_document(settings: RunSettings) -> dict[str, Any]:
    """Return settings as in JSON."""
    document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return document


def write_settings(settings: RunSettings, folder: Path) -> None:
    """Write ``settings.json`` into the folder of a run."""
    with replacing(folder / SETTINGS) as part:
        part.write_text(json.dumps(marked(as_document(settings)), indent=1) + "\n", encoding="utf-8")


def check_same_settings(stored: dict[str, Any], settings: RunSettings, where: Path) -> None:
    """Refuse to resume a run with other settings.

    Raises:
        TrainError: a setting differs; the message names the first one.
    """
    for name, value in as_document(settings).items():
        if stored.get(name) != value:
            flag = {"shares": "--share"}.get(name, f"--{name.replace('_', '-')}")
            raise TrainError(
                f"{display_path(where)}: the run has {flag} {_shown(stored.get(name))}, not {_shown(value)}; resume it"
                " with the same settings, or start another in a new folder"
            )


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)

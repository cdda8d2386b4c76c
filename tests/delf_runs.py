"""Short runs of the three recipes for local features."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeAlias

from d2r.train.delf.settings import DelfSettings
from d2r.train.log import EpochRow

RECIPES: Final = ("self", "metric", "classify")

Runs: TypeAlias = dict[str, tuple[Path, list[EpochRow]]]
"""For each recipe the folder of a run and its epochs."""


def settings_of(recipe: str, data: Path) -> DelfSettings:
    """A run of two short epochs."""
    return DelfSettings(
        data=(str(data),),
        recipe=recipe,
        arch="efficientnet-lite0",
        init="imagenet",
        hold_out=0.25,
        side=96,
        dim=32,
        epochs=2,
        attention_epochs=2,
        batch=2 if recipe == "metric" else 5,
        hard=2,
        lr=1e-4 if recipe == "metric" else 4e-3,
        seed=3,
    )

"""Settings of a training run of local features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from d2r.train.settings import RunSettings, TrainError

RECIPES: Final = {"self": 5e-4, "metric": 2e-5, "classify": 1e-3}
"""The recipes, and the default of the highest learning rate of each."""


@dataclass(frozen=True, kw_only=True)
class DelfSettings(RunSettings):
    """All settings of local features; ``data`` are sources for :mod:`d2r.datasets.labelled`.

    Attributes:
        recipe: one of :data:`RECIPES`.
        arch: one of :data:`d2r.train.delf.networks.BACKBONES`.
        side: side of the squares cut from pictures, in pixels; a multiple of 32.
        dim: dimensions of a descriptor.
        attention_epochs: epochs of attention in the recipe "classify", after those of descriptors.
        hard: negatives per query in the recipe "metric".
        lr: the highest learning rate of new layers; the backbone's is a tenth. In the recipe "metric", the backbone's.
        batch: pictures per step; in the recipe "metric", queries, each with its positive and its negatives.
    """

    recipe: str
    arch: str
    side: int = 256
    dim: int = 128
    attention_epochs: int = 5
    hard: int = 5

    def __post_init__(self) -> None:
        from d2r.train.delf.networks import BACKBONES

        super().__post_init__()
        if self.recipe not in RECIPES:
            raise TrainError(f"--recipe {self.recipe!r} is not known; there are: {', '.join(RECIPES)}")
        if self.arch not in BACKBONES:
            raise TrainError(f"--arch {self.arch!r} is not known; there are: {', '.join(BACKBONES)}")
        if self.side < 64 or self.side % 32:
            raise TrainError(f"--side must be a multiple of 32, at least 64, not {self.side}")
        if not 8 <= self.dim <= 256:
            raise TrainError(f"--dim must be 8 to 256, not {self.dim}")
        for name in ("batch", "attention_epochs", "hard"):
            if getattr(self, name) < 1:
                raise TrainError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.batch < 2 and self.recipe != "metric":
            raise TrainError("--batch must be at least 2: a picture is compared with the others of its step")

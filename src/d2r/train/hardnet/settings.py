"""Settings of a training run of patch descriptors."""

from __future__ import annotations

from dataclasses import dataclass

from d2r.train.settings import RunSettings, TrainError


@dataclass(frozen=True, kw_only=True)
class HardNetSettings(RunSettings):
    """All settings of patch descriptors; ``data`` are sources for :mod:`d2r.datasets.labelled`.

    Attributes:
        channels: channels of the first layers; the last have four times as many.
        batch: photos from which the pairs of a step come.
    """

    channels: int = 16
    batch: int = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels < 1:
            raise TrainError(f"--channels must be at least 1, not {self.channels}")
        if self.batch < 2:
            raise TrainError("--batch must be at least 2: patches of the other photos are the negatives")

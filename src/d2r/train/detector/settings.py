"""Settings of a detector's training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from d2r.train.settings import RunSettings, TrainError


@dataclass(frozen=True, kw_only=True)
class DetectorSettings(RunSettings):
    """All settings of a detector's training; ``data`` are sources for :mod:`d2r.datasets.detection`.

    Attributes:
        arch: one of :data:`d2r.train.detector.architectures.ARCHITECTURES`.
        shares: for each source, how often an epoch takes each of its pictures on average.
        validation: a source to validate on; None holds out pictures of ``data``.
        side: side of the squashed pictures, in pixels; a multiple of 32.
    """

    arch: str
    shares: tuple[float, ...] = ()
    validation: str | None = None
    side: int = 320

    def __post_init__(self) -> None:
        from d2r.train.detector.architectures import ARCHITECTURES

        super().__post_init__()
        if not self.shares:
            object.__setattr__(self, "shares", (1.0,) * len(self.data))
        if len(self.shares) != len(self.data):
            raise TrainError(
                f"--share is given {len(self.shares)} times and --data {len(self.data)} times; give one each"
            )
        if not all(share > 0 and math.isfinite(share) for share in self.shares):
            raise TrainError(f"--share must be above 0, not {min(self.shares):g}")
        if self.arch not in ARCHITECTURES:
            raise TrainError(f"--arch {self.arch!r} is not known; there are: {', '.join(ARCHITECTURES)}")
        if self.side < 64 or self.side % 32:
            raise TrainError(f"--side must be a multiple of 32, at least 64, not {self.side}")
        if self.batch < 2:
            raise TrainError(f"--batch must be at least 2, not {self.batch}: weights are normalised over the batch")

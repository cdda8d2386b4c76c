"""The difficulty of a clutter set: limits of the changes to planted objects, and numbers of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final


@dataclass(frozen=True)
class ClutterConfig:
    """The configuration of a set: all that determines it besides the seed and the sources.

    Attributes:
        name: name of the difficulty.
        share: smallest and largest area of an object's visible box, relative to the picture's.
        tilt: largest angle between the object's plane and the picture's, degrees, below 80.
        roll: largest rotation within the picture, degrees either way.
        stretch: largest ratio of the scales of the two axes, 1 or more.
        lighting: strength of the changes of gain, gamma and colour temperature, and of a gradient of light, 0 to 1.
        blur: largest sigma of the blur, pixels.
        noise: largest standard deviation of the noise, grey levels.
        occlusion: largest share of an object that a bar or a patch of another photograph hides, below 0.5.
        decoys: smallest and largest number of decoys in a picture that shows an instance.
        quality: smallest and largest JPEG quality.
        views: pictures per instance.
        decoy_pictures: pictures with decoys and no instance.
        distractors: pictures with nothing planted.
        side: longer side of every picture, pixels.
    """

    name: str
    share: tuple[float, float]
    tilt: float
    roll: float
    stretch: float
    lighting: float
    blur: float
    noise: float
    occlusion: float
    decoys: tuple[int, int]
    quality: tuple[int, int]
    views: int = 5
    decoy_pictures: int = 100
    distractors: int = 500
    side: int = 640

    def __post_init__(self) -> None:
        valid = {
            "share": 0 < self.share[0] < self.share[1] < 1,
            "tilt": 0 <= self.tilt < 80,
            "roll": 0 <= self.roll <= 180,
            "stretch": self.stretch >= 1,
            "lighting": 0 <= self.lighting <= 1,
            "blur": self.blur >= 0,
            "noise": self.noise >= 0,
            "occlusion": 0 <= self.occlusion < 0.5,
            "decoys": 0 <= self.decoys[0] <= self.decoys[1],
            "quality": 1 <= self.quality[0] <= self.quality[1] <= 100,
            "views": self.views >= 1,
            "decoy_pictures": self.decoy_pictures >= 0,
            "distractors": self.distractors >= 0,
            "side": self.side >= 64,
        }
        for field, holds in valid.items():
            if not holds:
                raise ValueError(f"{field}: {getattr(self, field)!r} is out of range")


_NAMES: Final = ("easy", "medium", "hard")
_LIMITS: Final[Mapping[str, tuple[Any, Any, Any]]] = {  # one column per name, in this order
    "share": ((0.12, 0.25), (0.06, 0.15), (0.02, 0.08)),
    "tilt": (20, 35, 45),
    "roll": (10, 20, 30),
    "stretch": (1.15, 1.3, 1.5),
    "lighting": (0.3, 0.6, 1),
    "blur": (0.5, 0.8, 1),
    "noise": (2, 4, 6),
    "occlusion": (0, 0.2, 0.35),
    "decoys": ((0, 1), (1, 2), (2, 3)),
    "quality": ((80, 95), (65, 90), (50, 85)),
}

DIFFICULTIES: Final[Mapping[str, ClutterConfig]] = MappingProxyType(
    {
        name: ClutterConfig(name=name, **{field: values[column] for field, values in _LIMITS.items()})
        for column, name in enumerate(_NAMES)
    }
)
"""The named difficulties; ``dataclasses.replace`` makes variants."""

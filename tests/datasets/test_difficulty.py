"""Settings in range, and difficulties in order."""

from __future__ import annotations

import dataclasses

import pytest

from d2r.datasets.difficulty import DIFFICULTIES, ClutterConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [("share", (0.0, 0.1)), ("tilt", 85), ("stretch", 0.9), ("lighting", 2), ("occlusion", 0.6), ("quality", (0, 90))],
)
def test_a_setting_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field}: .* out of range"):
        dataclasses.replace(DIFFICULTIES["easy"], **{field: value})


def test_each_difficulty_is_harder_than_the_one_before():
    easy, medium, hard = (DIFFICULTIES[name] for name in ("easy", "medium", "hard"))

    def strengths(config: ClutterConfig) -> list[float]:
        fields = (config.tilt, config.roll, config.stretch, config.lighting, config.blur, config.noise)
        return [*fields, config.occlusion, *config.decoys, -config.share[0], -config.share[1], -config.quality[0]]

    for weaker, stronger in ((easy, medium), (medium, hard)):
        assert all(a < b for a, b in zip(strengths(weaker), strengths(stronger), strict=True))
    assert hard.share[0] >= 0.02
    assert easy.share[1] <= 0.25

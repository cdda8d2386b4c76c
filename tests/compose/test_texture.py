"""The box of a photograph's subject."""

from __future__ import annotations

import numpy as np

from d2r.compose.texture import textured_box
from synthetic import texture


def test_the_textured_box_leaves_out_empty_sky():
    photo = np.full((300, 400, 3), 200, np.uint8)
    photo[140:, 100:320] = texture(1, 220, 160)
    x1, y1, x2, y2 = textured_box(photo)
    assert y1 > 90
    assert 40 < x1 < x2 < 380
    assert y2 <= 300

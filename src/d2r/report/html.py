"""Helpers for the pages of this package: templates, embedded pictures, and outlines drawn on them."""

from __future__ import annotations

import base64
import hashlib

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from numpy.typing import ArrayLike, NDArray

from d2r.images import Picture, encode_jpeg

_QUALITY = 80


def template(name: str) -> Template:
    """Return a template of this package; it has the filters ``csp_hash`` and ``duration``."""
    return _ENVIRONMENT.get_template(name)


def data_uri(picture: Picture) -> str:
    """Return a picture as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(picture, _QUALITY)).decode()


def corners(box: ArrayLike) -> NDArray[np.float64]:
    """Return the corners of a box, float64 (4, 2), clockwise from the upper left."""
    x1, y1, x2, y2 = np.asarray(box, np.float64)
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def rounded(values: ArrayLike) -> list[float]:
    """Return numbers rounded to a tenth, enough for a drawing; whole ones as integers, which print shorter."""
    tenths = np.round(np.asarray(values, np.float64), 1) + 0.0  # -0.0 becomes 0.0
    return [int(value) if value == int(value) else value for value in tenths.tolist()]


def polygon(points: NDArray[np.float64]) -> str:
    """Return the SVG path data of a closed polygon, from points (N, 2)."""
    return "M" + "L".join("{} {}".format(*rounded(point)) for point in points) + "Z"


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.001 else "under 1 ms"


def _csp_hash(text: str) -> str:
    """Return the source expression by which a content security policy allows only this inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("d2r.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"csp_hash": _csp_hash, "duration": _duration}
    return environment


_ENVIRONMENT = _environment()

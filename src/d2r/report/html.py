"""What the pages of this package share: their templates, pictures inside of them, and outlines drawn on those."""

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
    """Return a picture as the address of an image inside a page."""
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(picture, _QUALITY)).decode()


def corners(box: ArrayLike) -> NDArray[np.float64]:
    """Return the corners of a box, float64 (4, 2), clockwise from the upper left."""
    x1, y1, x2, y2 = np.asarray(box, np.float64)
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def rounded(values: ArrayLike) -> list[float]:
    """Return numbers to a tenth, enough for a drawing, whole ones as integers so that they print short."""
    tenths = np.round(np.asarray(values, np.float64), 1) + 0.0  # -0.0 becomes 0.0
    return [int(value) if value == int(value) else value for value in tenths.tolist()]


def polygon(points: NDArray[np.float64]) -> str:
    """Return SVG path data of a closed polygon."""
    return "M" + "L".join("{} {}".format(*rounded(point)) for point in points) + "Z"


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.001 else "under 1 ms"


def _csp_hash(text: str) -> str:
    """Return what a content security policy calls an inline style or script by, to allow that one and no other."""
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

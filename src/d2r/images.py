"""Read any picture safely: orientation, size and pixel limits, one clear error type.

A picture is a ``uint8`` array of shape (height, width, 3), RGB, upright, C-contiguous.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import GifImagePlugin, Image, TiffImagePlugin, UnidentifiedImageError

from d2r.defaults import MAX_PIXELS
from d2r.files import PathLike, display_path, read_bytes

Picture: TypeAlias = NDArray[np.uint8]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
"""File endings, in lower case, of the pictures a folder walk takes."""

# Decoders that are tried, whatever the file is called. GIF is here because cameras and web sites label
# one as .jpg often enough; the many other formats that Pillow knows only widen the surface of attack.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")

# EXIF orientation, and what makes the picture upright again; 1 is upright already.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(Exception):
    """A picture that cannot be used; ``str(error)`` names the file and says why.

    Attributes:
        name: the file's path, or what the caller called the picture.
        reason: why it cannot be used, without the name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def read_image(source: PathLike, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode a picture file into an upright RGB array.

    The content decides the format, not the file's ending. EXIF orientation is applied, transparency is laid
    over white, 16-bit and floating-point samples are scaled to 8 bits, the first frame of an animation is used.

    Args:
        source: path of the file, or its URL in object storage.
        max_pixels: refuse a picture of more pixels (width x height) before decoding it.

    Returns:
        uint8 array (height, width, 3).

    Raises:
        ImageError: the file is missing, empty, damaged, not a picture, or has too many pixels.
    """
    name = display_path(source)
    try:
        data = read_bytes(source)
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have, with a zero byte in it
        raise ImageError(name, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return decode_image(data, name=name, max_pixels=max_pixels)


def decode_image(data: bytes, *, name: str = "picture", max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode an encoded picture held in memory; the same rules and errors as :func:`read_image`."""
    if not data:
        raise ImageError(name, "the file is empty")
    try:
        with warnings.catch_warnings(), _pillow_limit.lifted():
            warnings.simplefilter("ignore")  # damaged metadata is common and harmless here
            return _decode(data, name, max_pixels)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(name, "not a picture in a format that is read (JPEG, PNG, WebP, BMP, TIFF)") from error
    except MemoryError as error:
        raise ImageError(name, "not enough memory to decode it") from error
    except Exception as error:  # decoders raise anything at all on a hostile or damaged file
        raise ImageError(name, f"damaged or truncated ({error})") from error


def _decode(data: bytes, name: str, max_pixels: int) -> Picture:
    with _open(data) as image:
        width, height = image.size
        if width < 1 or height < 1:
            raise ImageError(name, "it has no pixels")
        for columns, rows in (image.size, _tile_size(image)):
            if columns * rows > max_pixels:
                raise ImageError(
                    name,
                    f"{columns} x {rows} pixels is above the limit of {max_pixels:,} (raise it with --max-pixels)",
                )
        image.seek(0)
        image.load()
        return np.ascontiguousarray(_to_rgb(_upright(image)))


def _open(data: bytes) -> Image.Image:
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _FirstFrame(io.BytesIO(data))
    return Image.open(io.BytesIO(data), formats=_FORMATS)


def _tile_size(image: Image.Image) -> tuple[int, int]:
    """Return the width and height of the tiles of a TIFF, which are decoded whole and may be larger than it is."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.size
    tags = image.tag_v2
    return tags.get(TiffImagePlugin.TILEWIDTH, 1), tags.get(TiffImagePlugin.TILELENGTH, 1)


class _FirstFrame(GifImagePlugin.GifImageFile):
    """A GIF that is only opened for its first frame.

    In opening one, before its size can be checked, Pillow makes what the frame is to be replaced with afterwards: in
    a file of 40 bytes that can be 4 GB. Here nothing is ever to replace it.
    """

    @property
    def disposal_method(self) -> int:
        return 0

    @disposal_method.setter
    def disposal_method(self, value: int) -> None:
        pass


class _PillowLimit:
    """Pillow's own limit on pixels, which is one global for the whole process and checked in opening and in loading.

    Ours is checked in ``_decode``, on every picture; Pillow's is lifted while any thread is in there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: int | None = None

    @contextmanager
    def lifted(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    Image.MAX_IMAGE_PIXELS = self._limit


_pillow_limit = _PillowLimit()


def _upright(image: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose also writes the EXIF anew, which fails where any other part of it is broken.
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # broken EXIF must not cost the picture
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_rgb(image: Image.Image) -> Picture:
    if image.mode.startswith("I"):  # 16 bits a sample, also where Pillow holds them in 32
        samples = np.asarray(image).astype(np.float32) / 257.0
        return _gray_to_rgb(samples)
    if image.mode == "F":
        samples = np.asarray(image, dtype=np.float32)
        finite = np.isfinite(samples)  # "no data" is often written as infinity or not-a-number
        low = float(samples.min(where=finite, initial=np.inf))
        high = float(samples.max(where=finite, initial=-np.inf))
        stretched = (samples - low) * (255.0 / (high - low) if high > low else 0.0)
        return _gray_to_rgb(np.nan_to_num(stretched, nan=0.0))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(image.convert("RGB"))


def _gray_to_rgb(samples: NDArray[np.float32]) -> Picture:
    gray = np.clip(np.rint(samples), 0, 255).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


def shrink(image: Picture, max_side: int) -> Picture:
    """Scale a picture down so that its longer side is at most ``max_side`` pixels; never up.

    Args:
        image: uint8 (height, width, 3).
        max_side: pixels.

    Returns:
        uint8 (h, w, 3); the picture itself when it is small enough.
    """
    height, width = image.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1.0:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def encode_jpeg(image: Picture, quality: int = 80) -> bytes:
    """Encode a picture as JPEG; ``image`` is uint8 (height, width, 3) RGB, ``quality`` 1 to 100."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()

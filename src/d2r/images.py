"""Read any picture safely: orientation, size and pixel limits, one clear error type.

A picture is a ``uint8`` array of shape (height, width, 3), RGB, upright, C-contiguous.
"""

from __future__ import annotations

import fcntl
import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import GifImagePlugin, Image, TiffImagePlugin, UnidentifiedImageError

from d2r.defaults import MAX_PIXELS
from d2r.errors import D2RError
from d2r.support.files import PathLike, display_path, read_bytes

Picture: TypeAlias = NDArray[np.uint8]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
"""File endings, in lower case, of the pictures that a walk through a folder finds."""

# Decoders to try, whatever the file is called. GIF is here because web sites often name one .jpg; the many other
# formats that Pillow knows only widen the attack surface.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")

LARGE: Final = 16_000_000
"""Pixels above which processes that call :func:`take_turns` decode one picture at a time."""

_AT_ONCE: Final = 1 << 20  # pixels converted to RGB at a time
_ENOUGH: Final = 2  # decode a JPEG at no less than this many times the wanted side

# EXIF orientation to the view of an upright array (height, width, 3) that has the stored order of pixels; 1 is
# already upright.
_ORIENTATION = 0x0112
_STORED: Final[dict[int, Callable[[Picture], Picture]]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright[::-1].swapaxes(0, 1),
}


class ImageError(D2RError):
    """A picture that cannot be used; ``str(error)`` names the file and says why.

    Attributes:
        name: the file's path, or the caller's name for the picture.
        reason: why it cannot be used, without the name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def read_image(source: PathLike, *, max_pixels: int = MAX_PIXELS, side: int | None = None) -> Picture:
    """Decode a picture file into an upright RGB array.

    The content decides the format, not the file's ending. Applies EXIF orientation, blends transparency with white,
    scales 16-bit and floating-point samples to 8 bits, and takes the first frame of an animation.

    Args:
        source: path of the file, or its URL in object storage.
        max_pixels: refuse a picture with more pixels (width x height) before decoding it.
        side: longer side, in pixels, that the caller will shrink the picture to for display. A JPEG is decoded at a
            half, a quarter or an eighth of its size if at least twice this side is left, which takes a fraction of
            the time and memory. None decodes every pixel.

    Returns:
        uint8 array (height, width, 3); smaller than the picture where ``side`` allows it.

    Raises:
        ImageError: the file is missing, empty or damaged, is not a picture, or has too many pixels.
    """
    name = display_path(source)
    try:
        data = read_bytes(source)
    except (OSError, ValueError) as error:  # ValueError: the path has a zero byte, so no file can have it
        raise ImageError(name, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return decode_image(data, name=name, max_pixels=max_pixels, side=side)


def decode_image(
    data: bytes, *, name: str = "picture", max_pixels: int = MAX_PIXELS, side: int | None = None
) -> Picture:
    """Decode an encoded picture in memory, with the rules and errors of :func:`read_image`."""
    if not data:
        raise ImageError(name, "the file is empty")
    try:
        with warnings.catch_warnings(), _pillow_limit.lifted():
            warnings.simplefilter("ignore")  # damaged metadata is common and harmless here
            return _decode(data, name, max_pixels, side)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(name, "not a picture in a supported format (JPEG, PNG, WebP, BMP, TIFF)") from error
    except MemoryError as error:
        raise ImageError(name, "not enough memory to decode it") from error
    except Exception as error:  # decoders raise anything on a hostile or damaged file
        raise ImageError(name, f"damaged or truncated ({error})") from error


def _decode(data: bytes, name: str, max_pixels: int, side: int | None) -> Picture:
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
        if side is not None:
            share = min(1.0, _ENOUGH * side / max(width, height))
            image.draft(None, (max(1, int(width * share)), max(1, int(height * share))))  # only a JPEG heeds it
        with _turns.taken(image.width * image.height):
            image.load()
            return _upright_rgb(image)


def _open(data: bytes) -> Image.Image:
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _FirstFrame(io.BytesIO(data))
    return Image.open(io.BytesIO(data), formats=_FORMATS)


def _tile_size(image: Image.Image) -> tuple[int, int]:
    """Return the width and height of a TIFF's tiles, which are decoded whole and may be larger than the picture."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.size
    tags = image.tag_v2
    return tags.get(TiffImagePlugin.TILEWIDTH, 1), tags.get(TiffImagePlugin.TILELENGTH, 1)


class _FirstFrame(GifImagePlugin.GifImageFile):
    """A GIF opened only for its first frame.

    On opening a GIF, before its size can be checked, Pillow allocates what will replace the frame: up to 4 GB for a
    file of 40 bytes. Here nothing replaces it.
    """

    @property
    def disposal_method(self) -> int:
        return 0

    @disposal_method.setter
    def disposal_method(self, value: int) -> None:
        pass


class _PillowLimit:
    """Pillow's own limit on pixels: one global of the process, which Pillow checks when it opens and loads a picture.

    ``_decode`` checks our limit on every picture; Pillow's is lifted while any thread is decoding.
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


def take_turns(folder: str | os.PathLike[str]) -> None:
    """Decode pictures of more than :data:`LARGE` pixels in turns with all processes that name the same folder.

    Only one worker process at a time takes the memory that a large picture needs. Nothing is written to the folder.
    """
    _turns.folder = os.fspath(folder)


class _Turns:
    """Turns of processes at decoding large pictures. A turn ends with its process, however that ends."""

    folder: str | None = None

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        if self.folder is None or pixels <= LARGE:
            yield
            return
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # a file system that cannot lock folders: go without turns
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


_turns = _Turns()


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF must not cost the picture
        return 1


def _upright_rgb(image: Image.Image) -> Picture:
    """Return the upright pixels of a loaded picture. Converting a few rows at a time avoids a third copy of it."""
    width, height = image.size
    orientation = _orientation(image)
    upright = np.empty((width, height, 3) if orientation in (5, 6, 7, 8) else (height, width, 3), np.uint8)
    stored = _STORED[orientation](upright) if orientation in _STORED else upright
    to_rgb = partial(_stretched, *_range(image)) if image.mode == "F" else _to_rgb
    for top, band in _bands(image):
        stored[top : top + band.height] = to_rgb(band)
    return upright


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield a picture a few rows at a time, each part with the number of its first row."""
    width, height = image.size
    step = max(1, _AT_ONCE // width)
    for top in range(0, height, step):
        yield top, image.crop((0, top, width, min(top + step, height)))


def _to_rgb(image: Image.Image) -> Picture:
    if image.mode.startswith("I"):  # 16 bits per sample, which Pillow may hold in 32
        return _gray_to_rgb(np.asarray(image).astype(np.float32) / 257.0)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(image.convert("RGB"))


def _range(image: Image.Image) -> tuple[float, float]:
    """Return the smallest and the largest finite sample; "no data" is often stored as infinity or not-a-number."""
    lows, highs = [], []
    for _, band in _bands(image):
        samples = np.asarray(band, np.float32)
        finite = np.isfinite(samples)
        lows.append(float(samples.min(where=finite, initial=np.inf)))
        highs.append(float(samples.max(where=finite, initial=-np.inf)))
    return min(lows), max(highs)


def _stretched(low: float, high: float, image: Image.Image) -> Picture:
    samples = np.asarray(image, np.float32)
    stretched = (samples - low) * (255.0 / (high - low) if high > low else 0.0)
    return _gray_to_rgb(np.nan_to_num(stretched, nan=0.0))


def _gray_to_rgb(samples: NDArray[np.float32]) -> Picture:
    gray = np.clip(np.rint(samples), 0, 255).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


def shrink(image: Picture, max_side: int) -> Picture:
    """Scale a picture down so that its longer side is at most ``max_side`` pixels; never scale it up.

    Args:
        image: uint8 (height, width, 3).
        max_side: pixels.

    Returns:
        uint8 (h, w, 3); the picture itself if it is small enough.
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

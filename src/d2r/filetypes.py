"""Guess a file's type from its first bytes and then its ending, so that an error can name what was given instead."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Final

from d2r.images import SUFFIXES

_LOOKED_AT: Final = 64 << 10  # bytes; there is no zero byte among them in text

_PICTURE: Final = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|BM....\0\0\0\0|II\*\0|MM\0\*", re.DOTALL
)

_CONTENTS: Final = {
    rb"\x89HDF\r\n\x1a\n": "an HDF5 file",
    rb"PK\x03\x04|PK\x05\x06": "a zip archive, or a document that is one",
    rb"SQLite format 3\0": "an SQLite database",
    rb"%PDF-": "a PDF document",
    rb"\x1f\x8b|BZh\d1AY|\xfd7zXZ\0|\x28\xb5\x2f\xfd|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|.{257}ustar": "an archive",
    rb"\x93NUMPY": "a NumPy array",
    rb".{6}\0\0\{.*?\"centroids\"": "a codebook, which `--codebook` takes",
    rb".{6}\0\0\{\"": "a safetensors file",
    rb"....ftyp(?:heic|heix|hevc|mif1|msf1|avif|avis)": "a HEIC or AVIF picture, which is not supported",
    rb"....(?:ftyp|moov|mdat)|\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01[\xb3\xba]|FLV\x01": "a video",
    rb"\x7fELF|MZ.{30}.*?PE\0\0": "a program",
    rb"\x80[\x02-\x05]": "a Python pickle",
    rb"(?:\xef\xbb\xbf)?\s*<(?:\?xml|!doctype|html|svg)": "an XML document or a web page",
}
"""Pattern of the first bytes to what the file is; the first match counts."""

_ENDINGS: Final = {
    ending: kind
    for kind, endings in {
        "a file of DELF features": ".delf",
        "a file of boxes, as the tools of DELF write them": ".boxes",
        "a network": ".onnx .pb .pt .pth",
        "an HDF5 file": ".h5 .hdf5",
        "a file of arrays": ".npy .npz .mat .pkl .parquet .safetensors",
        "a JSON file": ".json .jsonl .geojson",
        "a video": ".mp4 .mov .m4v .avi .mkv .webm .mpg .mpeg .mts .wmv",
        "a HEIC or AVIF picture, which is not supported": ".heic .heif .avif",
        "an archive": ".zip .tar .tgz .gz .bz2 .xz .7z .rar",
        "a document": ".pdf .doc .docx .odt .xls .xlsx .ods",
        "a database": ".sqlite .db",
    }.items()
    for ending in endings.split()
}


def is_picture(file: Path) -> bool:
    """Return whether a file is a picture by its first bytes or its ending."""
    return file.suffix.lower() in SUFFIXES or _PICTURE.match(_start(file)) is not None


def seems_to_be(file: Path) -> str | None:
    """Return what a file that is not a picture seems to be, such as "a video"; None for text of no known kind.

    Raises:
        OSError: it cannot be read.
    """
    start = _start(file)
    for pattern, kind in _CONTENTS.items():
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return kind
    kind_by_ending = _ENDINGS.get(file.suffix.lower())
    if kind_by_ending is None and b"\0" in start and not start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "a binary file"
    return kind_by_ending


def _start(file: Path) -> bytes:
    with file.open("rb") as content:
        return content.read(_LOOKED_AT)

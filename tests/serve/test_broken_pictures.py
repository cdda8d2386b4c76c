"""Broken and hostile pictures: each is refused with a reason, and the service keeps running."""

import io
import struct
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from d2r.images import ImageError, decode_image
from serving import AUTHORIZED


def encoded(kind, **options):
    buffer = io.BytesIO()
    Image.effect_noise((48, 32), 60).convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


WHOLE = {kind: encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")}


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, data=b""):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


CORPUS = {
    "nothing but a name": b"\x89PNG\r\n\x1a\n",
    "a bomb": png(2**31 - 1, 2**31 - 1),
    "a wide bomb": png(60_000, 60_000, bytes(1000)),
    "no width": png(0, 10),
    "less data than pixels": png(1000, 1000, bytes(10)),
    "a GIF of a huge screen": b"GIF89a\xff\xff\xff\xff\x80\x00\x00"
    + bytes(6)
    + b",\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x00;",
    "half a JPEG": WHOLE["JPEG"][: len(WHOLE["JPEG"]) // 3],
    "a JPEG in name only": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + b"\xff" * 400,
    "a TIFF that points outside": b"II*\x00\xff\xff\xff\x7f",
    "a WebP of no frame": b"RIFF\x0c\x00\x00\x00WEBPVP8 ",
    "a drawing": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "an EPS that would run": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(ls) system",
    "a zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("path", ["/v1/search", "/v1/pictures"])
def test_a_broken_picture_is_refused_by_the_service_with_a_reason(client, name, path):
    response = client.post(path, content=CORPUS[name], headers=AUTHORIZED)
    assert response.status_code == 422
    assert "The picture cannot be used" in response.json()["detail"]


def test_the_service_works_after_them(client, pagoda):
    assert client.post("/v1/search?top=1", content=pagoda).json()["results"]
    assert "d2r_worker_deaths 0.0" in client.get("/v1/metrics").text


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(sorted(WHOLE)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12),
    keep=st.floats(0.02, 1.0),
)
def test_the_decoder_gives_a_picture_or_its_one_error_whatever_is_changed(kind, changes, keep):
    data = bytearray(WHOLE[kind])
    for place, value in changes:
        data[int(place * len(data))] = value
    decodes(bytes(data[: max(1, int(keep * len(data)))]))


@settings(max_examples=100, deadline=None)
@given(start=st.sampled_from([data[:12] for data in WHOLE.values()]), rest=st.binary(max_size=300))
def test_the_decoder_gives_a_picture_or_its_one_error_for_any_bytes(start, rest):
    decodes(start + rest)


def decodes(data):
    try:
        picture = decode_image(data, max_pixels=200_000)
    except ImageError:
        return
    assert picture.ndim == 3
    assert picture.shape[2] == 3

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from d2r.images import ImageError, decode_image, encode_jpeg, read_image, shrink


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width=40, height=30):
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], axis=2).astype(np.uint8)


def photo():
    return Image.fromarray(gradient())


def declared_png(width, height):
    """A PNG of a few bytes that says it has width x height pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_back_every_pixel(kind):
    np.testing.assert_array_equal(decode_image(encoded(photo(), kind)), gradient())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_come_close(kind):
    difference = decode_image(encoded(photo(), kind, quality=95)).astype(int) - gradient()
    assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_truncated_file_is_an_error_that_says_so(kind, tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"cut\.jpg: damaged or truncated"):
        read_image(path)


def test_an_empty_file_is_an_error_that_says_so(tmp_path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match=r"empty\.jpg: the file is empty"):
        read_image(tmp_path / "empty.jpg")


def test_a_missing_file_and_a_folder_cannot_be_read(tmp_path):
    with pytest.raises(ImageError, match=r"none\.jpg: cannot be read: No such file"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="cannot be read: Is a directory"):
        read_image(tmp_path)


def test_the_content_decides_the_format_not_the_name(tmp_path):
    (tmp_path / "really-png.jpg").write_bytes(encoded(photo(), "PNG"))
    np.testing.assert_array_equal(read_image(tmp_path / "really-png.jpg"), gradient())
    (tmp_path / "text.png").write_text("no picture at all")
    with pytest.raises(ImageError, match=r"text\.png: not a picture in a format that is read"):
        read_image(tmp_path / "text.png")


def test_a_picture_without_pixels_is_an_error():
    with pytest.raises(ImageError):
        decode_image(declared_png(0, 10))


def test_too_many_pixels_are_refused_before_decoding_until_the_limit_is_raised():
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match=r"60000 x 60000 pixels is above the limit of 150,000,000 .*--max-pixels"):
        decode_image(declared_png(60_000, 60_000))
    data = encoded(photo(), "PNG")
    with pytest.raises(ImageError, match="above the limit"):
        decode_image(data, max_pixels=40 * 30 - 1)
    assert decode_image(data, max_pixels=40 * 30).shape == (30, 40, 3)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_gray_is_scaled_to_eight(kind):
    deep = np.array([[0, 257 * 10], [257 * 200, 65535]], np.uint16)
    picture = decode_image(encoded(Image.fromarray(deep), kind))
    np.testing.assert_array_equal(picture[:, :, 0], [[0, 10], [200, 255]])
    assert (picture[:, :, :1] == picture).all()


def test_floating_point_samples_are_stretched_to_the_whole_range():
    picture = decode_image(encoded(Image.fromarray(np.array([[0.0, 0.5], [0.75, 1.0]], np.float32)), "TIFF"))
    np.testing.assert_array_equal(picture[:, :, 0], [[0, 128], [191, 255]])
    flat = decode_image(encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"))
    assert not flat.any()


def test_cmyk_keeps_its_colours():
    picture = decode_image(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100))
    assert (np.abs(picture.reshape(-1, 3).astype(int) - [255, 0, 0]) < 12).all()


def test_transparency_is_laid_over_white():
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    clear.putpixel((1, 0), (0, 0, 0, 0))
    assert decode_image(encoded(clear, "PNG")).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    gray = Image.new("LA", (1, 1), (0, 0))
    assert decode_image(encoded(gray, "PNG")).tolist() == [[[255, 255, 255]]]


def test_palettes_with_and_without_transparency():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    assert decode_image(encoded(palette, "PNG")).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert decode_image(encoded(palette, "PNG", transparency=0)).tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_one_bit_pictures_are_black_and_white():
    picture = decode_image(encoded(Image.new("1", (3, 2), 1), "TIFF"))
    assert (picture == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = Image.fromarray(gradient(48, 32))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode_image(encoded(stored, "PNG", exif=exif))
    np.testing.assert_array_equal(picture, gradient(48, 32))


def test_broken_exif_does_not_cost_the_picture():
    data = encoded(photo(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    assert decode_image(data).shape == (30, 40, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_used(kind):
    first, second = Image.new("RGB", (8, 8), (255, 255, 255)), Image.new("RGB", (8, 8), (0, 0, 0))
    data = encoded(first, kind, save_all=True, append_images=[second], **({"lossless": True} if kind == "WEBP" else {}))
    assert (decode_image(data) == 255).all()


def test_a_jpeg_of_two_pictures_gives_the_first():
    data = encoded(photo(), "MPO", save_all=True, append_images=[Image.new("RGB", (40, 30))])
    assert np.abs(decode_image(data).astype(int) - gradient()).mean() < 6


@pytest.mark.parametrize("size", [(1, 1), (500, 1), (1, 500)])
def test_the_smallest_pictures_are_read(size):
    assert decode_image(encoded(Image.new("RGB", size, "red"), "PNG")).shape == (size[1], size[0], 3)


def test_names_that_are_not_utf8_or_very_long(tmp_path):
    for name in (b"\xe9t\xe9-\xff.png", b"x" * 251 + b".png"):
        path = os.fsencode(tmp_path) + b"/" + name
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(encoded(photo(), "PNG"))
        assert read_image(path).shape == (30, 40, 3)
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(b"junk")
        with pytest.raises(ImageError) as caught:
            read_image(path)
        str(caught.value).encode("utf-8")  # printable


_SAMPLES = {kind: encoded(photo(), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")}


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(sorted(_SAMPLES)),
    end=st.integers(0, 3000),
    changes=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=6),
)
def test_no_damage_raises_anything_but_an_image_error(kind, end, changes):
    data = bytearray(_SAMPLES[kind][:end] if end % 3 else _SAMPLES[kind])
    for place, value in changes:
        if data:
            data[place % len(data)] = value
    try:
        picture = decode_image(bytes(data), max_pixels=1_000_000)
    except ImageError:
        return
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3


def test_shrinking_keeps_the_shape_and_never_enlarges():
    assert shrink(gradient(400, 300), 100).shape == (75, 100, 3)
    assert shrink(gradient(40, 30), 100).shape == (30, 40, 3)
    assert shrink(gradient(1000, 2), 10).shape == (1, 10, 3)


def test_a_jpeg_that_is_written_can_be_read():
    assert np.abs(decode_image(encode_jpeg(gradient(), 95)).astype(int) - gradient()).mean() < 4

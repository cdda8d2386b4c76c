import fcntl
import io
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import threading
import warnings
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from d2r import images
from d2r.images import ImageError, decode_image, encode_jpeg, read_image, shrink, take_turns
from programs import join, run, running


@pytest.fixture(autouse=True)
def some_rows_at_a_time(monkeypatch):
    """Convert even the small pictures here in several parts."""
    monkeypatch.setattr(images, "_AT_ONCE", 64)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width=40, height=30):
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], axis=2).astype(np.uint8)


def photo():
    return Image.fromarray(gradient())


def png(width, height, rows, *, bits=8, colour=2, extra=()):
    """A PNG assembled by hand from rows of raw samples and extra chunks."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), *extra, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks)


def declared_png(width, height):
    """A PNG of a few bytes that claims to have width x height pixels."""
    return png(width, height, [bytes(99)])


def tiff(samples, *, orientation=1):
    """A TIFF assembled by hand: gray, uncompressed, in the byte order of the samples."""
    big = samples.dtype.newbyteorder("=") != samples.dtype
    order = ">" if big else "<"
    fields = [
        (256, samples.shape[1]), (257, samples.shape[0]), (258, samples.itemsize * 8), (259, 1), (262, 1), (273, 8),
        (274, orientation), (277, 1), (278, samples.shape[0]), (279, samples.nbytes),
    ]  # fmt: skip
    entries = [struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in fields]
    head = (b"MM" if big else b"II") + struct.pack(order + "HI", 42, 8 + samples.nbytes)
    return head + samples.tobytes() + struct.pack(order + "H", len(fields)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_back_every_pixel(kind):
    np.testing.assert_array_equal(decode_image(encoded(photo(), kind)), gradient())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_come_close(kind):
    difference = decode_image(encoded(photo(), kind, quality=95)).astype(int) - gradient()
    assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
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
    with pytest.raises(ImageError, match=r"text\.png: not a picture in a supported format"):
        read_image(tmp_path / "text.png")


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (0, 0)])
def test_a_picture_without_pixels_is_an_error(size):
    with pytest.raises(ImageError, match=r"^picture: "):
        decode_image(declared_png(*size))


def test_too_many_pixels_are_refused_before_decoding_until_the_limit_is_raised():
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match=r"60000 x 60000 pixels is above the limit of 150,000,000 .*--max-pixels"):
        decode_image(declared_png(60_000, 60_000))
    data = encoded(photo(), "PNG")
    with pytest.raises(ImageError, match="above the limit"):
        decode_image(data, max_pixels=40 * 30 - 1)
    assert decode_image(data, max_pixels=40 * 30).shape == (30, 40, 3)
    assert limit == Image.MAX_IMAGE_PIXELS


def declared_gif(screen, frame, disposal):
    """A GIF of a few bytes that claims to have many pixels, all to be replaced after the first frame."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    control = b"\x21\xf9\x04" + bytes([disposal << 2 | 1]) + bytes(4)
    return head + control + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\x00;"


@pytest.mark.parametrize("disposal", [0, 2, 3])
@pytest.mark.parametrize("screen", [(65535, 65535), (2, 2)])
def test_a_gif_that_is_too_large_is_refused_before_it_takes_any_memory(disposal, screen, tmp_path):
    path = tmp_path / "bomb.gif"
    path.write_bytes(declared_gif(screen, (65535, 65535), disposal))
    script = """
        import resource, sys
        from d2r.images import ImageError, read_image
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20), -1))
        try:
            read_image(sys.argv[1])
        except ImageError as error:
            print(error.reason)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), path]
    done = run(*command)
    assert done.stdout.startswith("65535 x 65535 pixels is above the limit"), done.stdout + done.stderr


def tiled_tiff(picture, tile):
    """A TIFF assembled by hand: gray, black, with one compressed tile."""
    data = zlib.compress(bytes(tile[0] * tile[1]))
    data += bytes(len(data) % 2)
    fields = [
        (256, picture[0]), (257, picture[1]), (258, 8), (259, 8), (262, 1), (277, 1),
        (322, tile[0]), (323, tile[1]), (324, 8), (325, len(data)),
    ]  # fmt: skip
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields]
    head = b"II" + struct.pack("<HI", 42, 8 + len(data))
    return head + data + struct.pack("<H", len(fields)) + b"".join(entries) + bytes(4)


def test_a_tile_larger_than_the_picture_counts_for_the_limit():
    data = tiled_tiff((10, 9), (64, 32))
    assert decode_image(data, max_pixels=64 * 32).shape == (9, 10, 3)
    with pytest.raises(ImageError, match="64 x 32 pixels is above the limit of 2,047"):
        decode_image(data, max_pixels=64 * 32 - 1)


@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
def test_a_gif_is_read_whatever_comes_after_its_first_frame(disposal):
    frames = [Image.fromarray(np.full((6, 8), value, np.uint8)) for value in (200, 100, 0)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=disposal)
    assert (decode_image(data) == 200).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "MPO"])
def test_pillows_own_limit_plays_no_part_and_stays_what_it_is(kind, monkeypatch):
    several = {"save_all": True, "append_images": [photo().rotate(180)]} if kind not in ("JPEG", "BMP") else {}
    data = encoded(photo(), kind, **several)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode_image(data).shape == (30, 40, 3)
    assert Image.MAX_IMAGE_PIXELS == 10
    with pytest.raises(ImageError):
        decode_image(data, max_pixels=100)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_threads_leave_pillows_own_limit_as_it_was(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    data, shapes = encoded(photo(), "TIFF"), []
    threads = [
        threading.Thread(target=lambda: shapes.extend(decode_image(data).shape for _ in range(20))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    join(*threads)
    assert shapes == [(30, 40, 3)] * 160
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_gray_is_scaled_to_eight(kind):
    deep = np.array([[0, 257 * 10], [257 * 200, 65535]], np.uint16)
    picture = decode_image(encoded(Image.fromarray(deep), kind))
    np.testing.assert_array_equal(picture[:, :, 0], [[0, 10], [200, 255]])
    assert (picture[:, :, :1] == picture).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_sixteen_bit_tiff_of_either_byte_order_is_scaled_and_turned_upright(order, orientation):
    samples = (np.arange(12).reshape(3, 4) * 20 * 257).astype(order + "u2")
    expected = np.arange(12).reshape(3, 4) * 20
    picture = decode_image(tiff(samples, orientation=orientation))
    np.testing.assert_array_equal(picture[:, :, 1], expected if orientation == 1 else np.rot90(expected, -1))


@pytest.mark.parametrize("ending", [".png", ".tiff"])
def test_sixteen_bit_colour_is_scaled_to_eight(ending):
    deep = gradient().astype(np.uint16) * 257
    data = cv2.imencode(ending, deep[:, :, ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_image(data), gradient())


def test_sixteen_bit_gray_with_alpha_is_laid_over_white():
    data = png(2, 1, [struct.pack(">4H", 257 * 7, 65535, 257 * 9, 0)], bits=16, colour=4)
    assert decode_image(data).tolist() == [[[7] * 3, [255] * 3]]


def test_floating_point_samples_are_stretched_to_the_whole_range():
    picture = decode_image(encoded(Image.fromarray(np.array([[0.0, 0.5], [0.75, 1.0]], np.float32)), "TIFF"))
    np.testing.assert_array_equal(picture[:, :, 0], [[0, 128], [191, 255]])
    flat = decode_image(encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"))
    assert not flat.any()


def test_samples_that_are_not_finite_do_not_spoil_the_others():
    samples = np.array([[np.nan, 100, 101, 102], [np.inf, -np.inf, 101, 101]], np.float32)
    picture = decode_image(encoded(Image.fromarray(samples), "TIFF"))
    assert picture[:, :, 0].tolist() == [[0, 0, 128, 255], [255, 0, 128, 128]]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize(
    ("inks", "colour"),
    [
        ((0, 255, 255, 0), (255, 0, 0)),
        ((255, 255, 0, 0), (0, 0, 255)),
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
    ],
)
def test_cmyk_keeps_its_colours(kind, inks, colour):
    options = {"quality": 100} if kind == "JPEG" else {}
    picture = decode_image(encoded(Image.new("CMYK", (16, 16), inks), kind, **options))
    assert (np.abs(picture.reshape(-1, 3).astype(int) - colour) < 12).all()


def test_transparency_is_laid_over_white():
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    clear.putpixel((1, 0), (0, 0, 0, 0))
    assert decode_image(encoded(clear, "PNG")).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    gray = Image.new("LA", (1, 1), (0, 0))
    assert decode_image(encoded(gray, "PNG")).tolist() == [[[255, 255, 255]]]
    half = decode_image(encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 128)), "PNG"))
    np.testing.assert_allclose(half[0, 0], [255, 127, 127], atol=1)
    webp = decode_image(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "WEBP", lossless=True))
    assert (webp == 255).all()


def test_a_colour_declared_transparent_is_laid_over_white():
    data = png(2, 1, [bytes([255, 0, 0, 10, 20, 30])], extra=[(b"tRNS", struct.pack(">3H", 255, 0, 0))])
    assert decode_image(data).tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_palettes_with_and_without_transparency():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    assert decode_image(encoded(palette, "PNG")).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert decode_image(encoded(palette, "PNG", transparency=0)).tolist() == [[[255, 255, 255], [200, 100, 50]]]
    each = decode_image(encoded(palette, "PNG", transparency=bytes([255, 0])))
    assert each.tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert decode_image(encoded(palette, "GIF", transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_one_bit_pictures_are_black_and_white():
    picture = decode_image(encoded(Image.new("1", (3, 2), 1), "TIFF"))
    assert (picture == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, kind):
    upright = Image.fromarray(gradient(48, 32))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode_image(encoded(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})))
    np.testing.assert_array_equal(picture, gradient(48, 32))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_camera_held_upright_gives_an_upright_jpeg(mode):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = photo().transpose(Image.Transpose.ROTATE_90).convert(mode)
    picture = decode_image(encoded(stored, "JPEG", exif=exif, quality=95))
    expected = np.asarray(photo().convert(mode).convert("RGB")).astype(int)
    assert np.abs(picture - expected).mean() < 6


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_means_nothing_is_passed_over(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode_image(encoded(photo(), "PNG", exif=exif)), gradient())


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0*\xff\xff\xff\xff broken", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
def test_broken_exif_does_not_cost_the_picture(exif):
    assert decode_image(encoded(photo(), "JPEG", exif=exif)).shape == (30, 40, 3)


def test_orientation_is_applied_although_other_exif_is_broken():
    """A maker's name that is a floating-point number: it can be read, but not written."""
    entries = struct.pack(">HHIf", 0x010F, 11, 1, 2.5) + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + entries + bytes(4)
    assert decode_image(encoded(photo(), "JPEG", exif=exif)).shape == (40, 30, 3)


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


def test_a_path_that_no_file_can_have_cannot_be_read():
    with pytest.raises(ImageError, match="cannot be read: embedded null byte"):
        read_image("photo.jpg\0.png")


def test_a_name_too_long_for_the_file_system_cannot_be_read(tmp_path):
    with pytest.raises(ImageError, match="cannot be read: File name too long"):
        read_image(tmp_path / ("x" * 300 + ".png"))


def test_an_error_carries_name_and_reason_also_from_another_process():
    with pytest.raises(ImageError) as caught:
        decode_image(b"", name="a.jpg")
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.name, error.reason, str(error)) == ("a.jpg", "the file is empty", "a.jpg: the file is empty")


def test_reading_damaged_metadata_says_nothing_on_the_side():
    data = encoded(photo(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(data).shape == (30, 40, 3)


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
    assert picture.flags.c_contiguous


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300), start=st.sampled_from([b"", *(sample[:12] for sample in _SAMPLES.values())]))
def test_no_bytes_at_all_raise_anything_but_an_image_error(start, data):
    with pytest.raises(ImageError):
        decode_image(start + data, max_pixels=1_000_000)


@settings(max_examples=100, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300), max_side=st.integers(1, 400))
def test_shrinking_keeps_to_the_limit_and_at_least_one_pixel_and_never_enlarges(width, height, max_side):
    image = np.zeros((height, width, 3), np.uint8)
    small = shrink(image, max_side)
    assert small.dtype == np.uint8
    assert 1 <= small.shape[0] <= height
    assert 1 <= small.shape[1] <= width
    assert max(small.shape[:2]) == min(max_side, max(width, height))
    if max(width, height) <= max_side:
        assert small is image


def test_shrinking_takes_the_mean_of_what_it_merges():
    image = np.repeat(np.array([[0, 100], [100, 200]], np.uint8)[:, :, None], 3, axis=2)
    assert shrink(image, 1).tolist() == [[[100, 100, 100]]]


def test_shrinking_keeps_the_shape_and_never_enlarges():
    assert shrink(gradient(400, 300), 100).shape == (75, 100, 3)
    assert shrink(gradient(40, 30), 100).shape == (30, 40, 3)
    assert shrink(gradient(1000, 2), 10).shape == (1, 10, 3)


def test_a_jpeg_that_is_written_can_be_read():
    assert np.abs(decode_image(encode_jpeg(gradient(), 95)).astype(int) - gradient()).mean() < 4


def stored_turned(picture, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture, "JPEG", exif=exif, quality=92)


def test_decoding_takes_the_memory_of_two_pictures_and_no_more(tmp_path):
    """Pillow's picture, with four bytes per pixel, and the array, with three."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(stored_turned(Image.effect_noise((4000, 3000), 30).convert("RGB"), 6))
    script = """
        import re, sys
        from d2r.images import read_image
        def peak():
            return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1))
        before = peak()
        read_image(sys.argv[1])
        print((peak() - before) / 12e6)
    """
    done = run(sys.executable, "-c", textwrap.dedent(script), path)
    assert done.returncode == 0, done.stderr
    assert 3 < float(done.stdout) < 10  # bytes per pixel


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_jpeg_that_is_only_shown_is_decoded_at_a_fraction_of_its_size(orientation):
    data = stored_turned(Image.fromarray(gradient(1603, 1203)), orientation)
    whole, small = decode_image(data), decode_image(data, side=110)
    assert max(small.shape) == 401  # a quarter; an eighth would leave less than twice 110
    shown, expected = shrink(small, 110), shrink(whole, 110)
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 2
    np.testing.assert_array_equal(decode_image(data, side=900), whole)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_other_formats_are_decoded_whole_although_they_are_only_shown(kind):
    assert decode_image(encoded(photo(), kind), side=1).shape == (30, 40, 3)


def test_half_a_jpeg_is_found_damaged_at_a_fraction_of_its_size_too():
    data = encoded(Image.effect_noise((800, 600), 60), "JPEG")
    with pytest.raises(ImageError, match="damaged or truncated"):
        decode_image(data[: len(data) // 2], side=1)


def test_large_pictures_are_decoded_in_turn_and_a_process_that_dies_loses_its_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "LARGE", 40 * 30 - 1)
    monkeypatch.setattr(images._turns, "folder", None)
    take_turns(tmp_path)
    script = """
        import fcntl, os, sys
        fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
        print(flush=True)
        input()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), tmp_path]
    with running(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert decode_image(encoded(photo().resize((39, 30)), "PNG")).shape == (30, 39, 3)  # it is not large
        decoding = threading.Thread(target=decode_image, args=[encoded(photo(), "PNG")], daemon=True)
        decoding.start()
        decoding.join(0.3)
        assert decoding.is_alive()
    join(decoding)
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released
    os.close(handle)
    assert not list(tmp_path.iterdir())

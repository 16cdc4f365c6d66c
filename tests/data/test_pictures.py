"""Every kind of picture comes out as upright 8-bit RGB of the asked size."""

import io

import numpy as np
import pytest
from PIL import Image

from kdhash.data.pictures import decode_picture, fit_square, to_rgb


def encoded(picture, format="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {})]
)
def test_rgb_pixels_are_untouched(noise, format, options):
    decoded = decode_picture(encoded(Image.fromarray(noise), format, **options))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, noise)


def test_a_file_reads_like_its_bytes(noise, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(Image.fromarray(noise)))
    np.testing.assert_array_equal(decode_picture(path), noise)


def test_grey_is_repeated(noise):
    decoded = decode_picture(encoded(Image.fromarray(noise[..., 0])))
    np.testing.assert_array_equal(decoded, np.repeat(noise[..., :1], 3, axis=-1))


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 128, 257, 32896, 65535]], np.uint16)
    decoded = decode_picture(encoded(Image.fromarray(values)))
    np.testing.assert_array_equal(decoded[0, :, 0], [0, 0, 1, 128, 255])


def test_one_bit(noise):
    bits = Image.fromarray(noise[..., 0] > 127)
    np.testing.assert_array_equal(decode_picture(encoded(bits))[..., 1], (noise[..., 0] > 127) * 255)


def test_transparency_lies_over_white():
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], np.uint8)
    decoded = decode_picture(encoded(Image.fromarray(rgba)))
    np.testing.assert_array_equal(decoded[0, 0], [10, 20, 30])
    np.testing.assert_array_equal(decoded[0, 1], [255, 255, 255])
    np.testing.assert_allclose(decoded[0, 2], [127, 127, 127], atol=1)


def test_grey_with_alpha_lies_over_white():
    decoded = decode_picture(encoded(Image.fromarray(np.array([[[9, 255], [9, 0]]], np.uint8), "LA")))
    np.testing.assert_array_equal(decoded[0], [[9, 9, 9], [255, 255, 255]])


@pytest.mark.parametrize("transparency", [None, 1])
def test_palette_is_looked_up(transparency):
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    options = {} if transparency is None else {"transparency": transparency}
    decoded = decode_picture(encoded(picture, **options))
    green = [0, 255, 0] if transparency is None else [255, 255, 255]
    np.testing.assert_array_equal(decoded[0], [[255, 0, 0], green, [0, 0, 255]])


def test_one_transparent_colour_of_an_rgb_png():
    picture = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    decoded = decode_picture(encoded(picture, transparency=(4, 5, 6)))
    np.testing.assert_array_equal(decoded[0], [[1, 2, 3], [255, 255, 255]])


def test_cmyk_is_not_inverted():
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # full magenta and yellow: red
    np.testing.assert_allclose(decode_picture(encoded(cmyk, "JPEG", quality=95))[4, 4], [255, 0, 0], atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(noise, orientation):
    # what a camera stores for each way it may be held, so that the shown picture is `noise`
    stored = {
        1: noise,
        2: noise[:, ::-1],
        3: noise[::-1, ::-1],
        4: noise[::-1],
        5: noise.transpose(1, 0, 2),
        6: np.rot90(noise),
        7: noise[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(noise, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(decode_picture(data), noise)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_lose_the_picture(noise):
    data = encoded(Image.fromarray(noise), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03")
    np.testing.assert_array_equal(decode_picture(data), noise)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_picture(data)[0, 0], [255, 0, 0])


def test_floating_point_and_wide_integers_are_refused():
    with pytest.raises(ValueError, match="floating-point"):
        to_rgb(Image.fromarray(np.ones((2, 2), np.float32)))
    with pytest.raises(ValueError, match="0..70000"):
        to_rgb(Image.fromarray(np.array([[0, 70000]], np.int32)))


def test_damaged_bytes_raise(noise):
    data = encoded(Image.fromarray(np.tile(noise, (20, 20, 1))))
    with pytest.raises(OSError, match="truncated"):
        decode_picture(data[: len(data) // 2])
    with pytest.raises(OSError, match="cannot identify"):
        decode_picture(b"these are no pixels")


def test_too_many_pixels():
    data = encoded(Image.new("1", (9000, 8000)))
    with pytest.raises(ValueError, match="9000 x 8000 pixels, more than 64,000,000"):
        decode_picture(data)


def test_fit_square_keeps_exact_size_and_cuts_the_centre(noise):
    picture = Image.fromarray(noise[:5])
    assert fit_square(picture, 5) is picture
    bands = np.zeros((30, 90, 3), np.uint8)
    bands[:, 30:60] = 200
    np.testing.assert_array_equal(fit_square(Image.fromarray(bands), 30), bands[:, 30:60])
    shrunk = np.asarray(fit_square(Image.fromarray(bands), 10))
    assert shrunk.shape == (10, 10, 3)
    assert (shrunk[:, 2:-2] == 200).all()


@pytest.mark.parametrize(("width", "height"), [(1, 40), (40, 1), (3, 7), (200, 199)])
def test_fit_square_any_shape(width, height):
    fitted = np.asarray(fit_square(Image.new("RGB", (width, height), (9, 8, 7)), 8))
    np.testing.assert_array_equal(fitted, np.broadcast_to(np.array([9, 8, 7], np.uint8), (8, 8, 3)))

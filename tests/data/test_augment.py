"""Each augmentation against loops over pixels, and the rule that a picture's fate is its key's alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdhash.data import (
    add_noise,
    augment_images,
    color_jitter,
    cutout,
    example_keys,
    normalize,
    random_crop,
    random_flip,
    resized_crop,
)

HEIGHT, WIDTH = 9, 12
ALL = {
    "pad": 2,
    "flip": True,
    "cutout": 3,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "noise": 0.05,
}


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).uniform(size=(HEIGHT, WIDTH, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def batch():
    return np.random.default_rng(1).integers(0, 256, (24, HEIGHT, WIDTH, 3), np.uint8)


def keys(count, seed=0):
    return example_keys(jax.random.key(seed), jnp.arange(count))


def test_random_crop_is_one_of_the_windows_each_as_likely(image):
    pad = 1
    windows = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            window = np.zeros_like(image)
            for row in range(HEIGHT):
                for column in range(WIDTH):
                    y, x = row + top - pad, column + left - pad
                    if 0 <= y < HEIGHT and 0 <= x < WIDTH:
                        window[row, column] = image[y, x]
            windows[window.tobytes()] = 0
    crops = np.asarray(jax.vmap(lambda key: random_crop(key, image, pad))(keys(900)))
    for crop in crops:
        windows[crop.tobytes()] += 1  # a KeyError here is a window that does not exist
    assert len(windows) == 9
    assert all(60 <= count <= 140 for count in windows.values())  # 100 expected, 9.4 standard deviation


def test_random_flip_mirrors_half(image):
    pictures, flipped = jax.vmap(lambda key: random_flip(key, image))(keys(400))
    for picture, was in zip(np.asarray(pictures), np.asarray(flipped), strict=True):
        np.testing.assert_array_equal(picture, image[:, ::-1] if was else image)
    assert 150 <= int(flipped.sum()) <= 250


@pytest.mark.parametrize("size", [1, 4, 5, 40])
def test_cutout_is_a_square_around_a_pixel(image, size):
    squares = set()
    for row in range(HEIGHT):
        for column in range(WIDTH):
            expected = image.copy()
            for y in range(row - size // 2, row - size // 2 + size):
                for x in range(column - size // 2, column - size // 2 + size):
                    if 0 <= y < HEIGHT and 0 <= x < WIDTH:
                        expected[y, x] = 0.25
            squares.add(expected.tobytes())
    results = np.asarray(jax.vmap(lambda key: cutout(key, image, size, fill=0.25))(keys(1500)))
    assert {result.tobytes() for result in results} == squares  # every centre occurs, and nothing else


def slow_jitter(image, factors):
    """The three mixes pixel by pixel, in float64; a factor None is left out."""
    image = image.astype(np.float64)

    def grey(pixel):
        return 0.2989 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]

    for kind, factor in enumerate(factors):
        if factor is None:
            continue
        mean = np.mean([grey(pixel) for line in image for pixel in line])
        result = np.zeros_like(image)
        for row in range(image.shape[0]):
            for column in range(image.shape[1]):
                pixel = image[row, column]
                other = (0.0, mean, grey(pixel))[kind]
                result[row, column] = np.clip(factor * pixel + (1 - factor) * other, 0, 1)
        image = result
    return image


@pytest.mark.parametrize(
    "strengths", [(0.4, 0, 0), (0, 0.5, 0), (0, 0, 0.9), (0.4, 0.3, 0.2), (2.0, 0.5, 0.5)]
)
def test_color_jitter_equals_the_loop(image, strengths):
    brightness, contrast, saturation = strengths
    for seed in range(4):
        key = jax.random.key(seed)
        draws = np.asarray(jax.random.uniform(key, (3,)))
        factors = [
            max(0, 1 - strength) + (1 + strength - max(0, 1 - strength)) * draw if strength else None
            for strength, draw in zip(strengths, draws, strict=True)
        ]
        result = color_jitter(key, image, brightness=brightness, contrast=contrast, saturation=saturation)
        np.testing.assert_allclose(result, slow_jitter(image, factors), atol=1e-6)


def test_brightness_factors_fill_their_range():
    grey = jnp.full((2, 2, 3), 0.5)
    values = jax.vmap(lambda key: color_jitter(key, grey, brightness=0.4)[0, 0, 0])(keys(500))
    assert 0.3 <= float(values.min()) < 0.31
    assert 0.69 < float(values.max()) <= 0.7
    assert abs(float(values.mean()) - 0.5) < 0.02


def test_jitter_of_zero_is_the_picture(image):
    np.testing.assert_array_equal(color_jitter(jax.random.key(0), image), image)


def test_noise_has_its_deviation_and_is_clipped(image):
    flat = jnp.full((100, 100, 3), 0.5)
    noisy = np.asarray(add_noise(jax.random.key(0), flat, 0.1))
    assert abs(noisy.mean() - 0.5) < 0.005
    assert abs(noisy.std() - 0.1) < 0.005
    wild = np.asarray(add_noise(jax.random.key(1), image, 3.0))
    assert wild.min() == 0
    assert wild.max() == 1


def slow_window(image, top, left, tall, wide):
    """Bilinear samples of a window given in pixels: their centres at .5, the picture's border repeated."""
    height, width, channels = image.shape
    result = np.zeros((height, width, channels))
    for row in range(height):
        for column in range(width):
            y = np.clip(top + (row + 0.5) * tall / height - 0.5, 0, height - 1)
            x = np.clip(left + (column + 0.5) * wide / width - 0.5, 0, width - 1)
            y0, x0 = min(int(y), height - 2), min(int(x), width - 2)
            for corner_y, weight_y in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
                for corner_x, weight_x in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
                    result[row, column] += weight_y * weight_x * image[corner_y, corner_x]
    return result


@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.5, 1.0), (3 / 4, 4 / 3)), ((0.1, 0.2), (1.0, 1.0)), ((0.9, 1.0), (0.2, 5.0))]
)
def test_resized_crop_equals_the_loop(image, scale, ratio):
    for seed in range(6):
        key = jax.random.key(seed)
        draws = np.asarray(jax.random.uniform(key, (4,)), np.float64)
        pixels = (scale[0] + (scale[1] - scale[0]) * draws[0]) * HEIGHT * WIDTH
        aspect = ratio[0] * (ratio[1] / ratio[0]) ** draws[1]
        tall, wide = min(HEIGHT, np.sqrt(pixels / aspect)), min(WIDTH, np.sqrt(pixels * aspect))
        top, left = (HEIGHT - tall) * draws[2], (WIDTH - wide) * draws[3]
        result = resized_crop(key, image, scale, ratio)
        np.testing.assert_allclose(result, slow_window(image, top, left, tall, wide), atol=2e-5)


def test_resized_crop_of_everything_is_the_picture():
    square = np.random.default_rng(3).uniform(size=(8, 8, 3)).astype(np.float32)
    result = resized_crop(jax.random.key(0), square, (1.0, 1.0), (1.0, 1.0))
    np.testing.assert_allclose(result, square, atol=1e-6)


def test_normalize(image):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    batch = np.stack([image, image / 2])
    expected = np.stack([(batch[..., c] - mean[c]) / std[c] for c in range(3)], axis=-1)
    np.testing.assert_allclose(normalize(batch, mean, std), expected, rtol=1e-6)
    np.testing.assert_allclose(normalize(image, mean, std), expected[0], rtol=1e-6)
    with pytest.raises(ValueError, match="mean has 1 and std 3 values for 3 channels"):
        normalize(image, (0.5,), std)


def test_without_operations_only_the_range_changes(batch):
    pictures, flipped = augment_images(keys(24), batch, pad=0, flip=False)
    assert pictures.dtype == jnp.float32
    np.testing.assert_allclose(pictures, batch / 255, atol=1e-7)
    assert not np.asarray(flipped).any()


def test_augment_images_is_the_operations_in_their_order(batch):
    pictures, flipped = augment_images(keys(24), batch, **ALL)
    for place in range(3):
        picture, was = pictures[place], flipped[place]
        image, parts = batch[place], jax.random.split(keys(24)[place], 5)
        expected, mirrored = random_flip(parts[1], random_crop(parts[0], jnp.float32(image) / 255, 2))
        expected = color_jitter(parts[2], expected, brightness=0.4, contrast=0.4, saturation=0.4)
        expected = cutout(parts[4], add_noise(parts[3], expected, 0.05), 3)
        np.testing.assert_allclose(picture, expected, atol=1e-6)
        assert bool(was) == bool(mirrored)
    assert 0 < int(flipped.sum()) < 24


def test_flips_do_not_depend_on_the_other_operations(batch):
    np.testing.assert_array_equal(
        augment_images(keys(24), batch, pad=0, flip=True)[1], augment_images(keys(24), batch, **ALL)[1]
    )


def test_the_same_keys_give_the_same_pictures(batch):
    first, _ = augment_images(keys(24), batch, **ALL)
    again, _ = augment_images(keys(24), batch, **ALL)
    other, _ = augment_images(keys(24, seed=1), batch, **ALL)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("parts", [3, 24])
def test_the_batch_a_picture_is_in_does_not_matter(batch, parts):
    whole, flipped = augment_images(keys(24), batch, **ALL)
    pieces = [
        augment_images(piece_keys, piece, **ALL)
        for piece_keys, piece in zip(jnp.split(keys(24), parts), np.split(batch, parts), strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate([piece[1] for piece in pieces]), flipped)
    np.testing.assert_allclose(np.concatenate([piece[0] for piece in pieces]), whole, atol=1e-6)


def test_the_spread_over_devices_does_not_matter(batch):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    pictures, flipped = augment_images(jax.device_put(keys(24), spread), jax.device_put(batch, spread), **ALL)
    whole, whole_flipped = augment_images(keys(24), batch, **ALL)
    np.testing.assert_array_equal(flipped, whole_flipped)
    np.testing.assert_allclose(pictures, whole, atol=1e-6)

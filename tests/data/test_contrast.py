"""The operations of contrastive views against loops over pixels, and how often and how strongly they happen."""

import colorsys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from kdhash.data import (
    color_jitter,
    contrast_view,
    example_keys,
    gaussian_blur,
    grayscale,
    hue_shift,
    random_apply,
    random_flip,
    resized_crop,
)

HEIGHT, WIDTH = 9, 12
MANY = 2000


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).uniform(size=(HEIGHT, WIDTH, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def batch():
    return np.random.default_rng(1).uniform(size=(24, HEIGHT, WIDTH, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def corners():
    """Where hue has no value or two channels tie: greys, and all mixes of 0, .5 and 1."""
    levels = np.array([0, 0.5, 1], np.float32)
    return np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(3, 9, 3)


def keys(count, seed=0):
    return example_keys(jax.random.key(seed), jnp.arange(count))


VIEWS = jax.jit(jax.vmap(contrast_view))


@cache
def compiled(jitter, own_pixels):
    """A view for every key; numbers are traced, so that the tests share few programs."""

    def view(key, picture, options):
        if own_pixels:
            options = options | {"blur_reference": None}
        if jitter is not None:
            options = options | {"jitter": dict(jitter)}
        return contrast_view(key, picture, **options)

    return jax.jit(jax.vmap(view, in_axes=(0, None, None)))


def views(keys, picture, *, jitter=None, blur_reference=224, **options):
    jitter = jitter if jitter is None else tuple(jitter.items())
    if blur_reference is not None:
        options["blur_reference"] = blur_reference
    numbers = {"jitter_p": 0.7, "gray_p": 0.2, "blur_p": 0.5, "blur_sigma": (0.1, 2.0)} | options
    return np.asarray(compiled(jitter, blur_reference is None)(keys, picture, numbers))


def slow_hue(image, turn):
    result = np.zeros(image.shape)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            hue, saturation, value = colorsys.rgb_to_hsv(*map(float, image[row, column]))
            result[row, column] = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
    return result


def slow_grayscale(image):
    result = np.zeros(image.shape)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            red, green, blue = map(float, image[row, column])
            result[row, column] = 0.2989 * red + 0.587 * green + 0.114 * blue
    return result


def slow_blur(image, sigma, kernel):
    """The sum over the two-dimensional window, in float64; places outside are mirrored on the edge pixel."""
    reach = kernel // 2

    def mirrored(length, shift):
        places = range(shift, length + shift)
        return [-place if place < 0 else min(place, 2 * (length - 1) - place) for place in places]

    result, total = np.zeros(image.shape), 0.0
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            weight = np.exp(-(down**2 + right**2) / (2 * float(sigma) ** 2))
            total += weight
            window = image[mirrored(image.shape[0], down)][:, mirrored(image.shape[1], right)]
            result += weight * window.astype(np.float64)
    return result / total


@pytest.mark.parametrize("turn", [0.0, 0.1, -0.1, 0.5, -0.5, 0.77, 1.0])
def test_hue_shift_equals_colorsys(image, corners, turn):
    for picture in (image, corners):
        result = np.asarray(jax.jit(hue_shift)(picture, turn))
        np.testing.assert_allclose(result, slow_hue(picture, turn), atol=2e-6)
        assert result.min() >= 0
        assert result.max() <= 1


def test_hue_shift_in_float64_and_there_and_back(image):
    with jax.enable_x64(True):
        picture = jnp.asarray(image, jnp.float64)
        result = hue_shift(picture, 0.3)
        assert result.dtype == jnp.float64
        np.testing.assert_allclose(result, slow_hue(image, 0.3), atol=1e-14)
        np.testing.assert_allclose(hue_shift(result, -0.3), picture, atol=1e-14)


def test_hue_shift_turns_red_to_green_to_blue_and_leaves_grey():
    colors = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.3, 0.3, 0.3]]], np.float32)
    np.testing.assert_allclose(hue_shift(colors, 1 / 3), colors[:, [1, 2, 0, 3]], atol=1e-6)
    for grey in (0.0, 0.3, 1.0):
        flat = jnp.full((2, 2, 3), grey)
        np.testing.assert_array_equal(hue_shift(flat, 0.1), flat)


def test_grayscale_is_the_luma_as_in_pil(image):
    result = np.asarray(grayscale(image))
    np.testing.assert_allclose(result, slow_grayscale(image), atol=1e-6)
    whole = np.random.default_rng(2).integers(0, 256, (20, 20, 3), np.uint8)
    pil = np.asarray(Image.fromarray(whole).convert("L"))
    result = np.asarray(grayscale(jnp.float32(whole) / 255))
    np.testing.assert_allclose(result * 255, np.repeat(pil[..., None], 3, -1), atol=0.55)  # PIL rounds


@pytest.mark.parametrize("kernel", [1, 3, 5, 9])
@pytest.mark.parametrize("sigma", [0.1, 0.6, 2.0, 50.0])
def test_gaussian_blur_equals_the_loop(image, sigma, kernel):
    result = jax.jit(gaussian_blur, static_argnames="kernel")(image, sigma, kernel=kernel)
    np.testing.assert_allclose(result, slow_blur(image, sigma, kernel), atol=1e-6)


def test_gaussian_blur_has_a_sigma_for_every_picture(batch):
    sigmas = np.linspace(0.1, 2, len(batch)).astype(np.float32)
    results = jax.vmap(lambda picture, sigma: gaussian_blur(picture, sigma, 3))(batch, sigmas)
    for place in (0, 11, 23):
        np.testing.assert_allclose(results[place], slow_blur(batch[place], sigmas[place], 3), atol=1e-6)


def test_gaussian_blur_of_nothing_and_of_a_flat_picture(image):
    for sigma in (0.0, 1e-6, 0.01):
        np.testing.assert_array_equal(gaussian_blur(image, sigma, 5), image)
    flat = jnp.full((5, 7, 3), 0.3)
    np.testing.assert_allclose(gaussian_blur(flat, 1.0, 5), flat, atol=1e-6)


def test_gaussian_blur_keeps_the_dtype(image):
    assert gaussian_blur(jnp.bfloat16(image), jnp.float32(1.0), 3).dtype == jnp.bfloat16
    with jax.enable_x64(True):
        result = gaussian_blur(jnp.asarray(image, jnp.float64), 0.8, 5)
        assert result.dtype == jnp.float64
        np.testing.assert_allclose(result, slow_blur(image, 0.8, 5), atol=1e-14)


def test_gaussian_blur_refuses_kernels_that_do_not_fit(image):
    for kernel in (0, 2, -1):
        with pytest.raises(ValueError, match="positive odd"):
            gaussian_blur(image, 1.0, kernel)
    with pytest.raises(ValueError, match="9 x 12 is too small for kernel 19"):
        gaussian_blur(image, 1.0, 19)


@pytest.mark.parametrize("p", [0.0, 0.2, 0.7, 1.0])
def test_random_apply_happens_with_its_probability(image, p):
    results = np.asarray(jax.vmap(lambda key: random_apply(key, p, image, 1 - image))(keys(MANY)))
    happened = (results == 1 - image).all((1, 2, 3))
    assert (happened | (results == image).all((1, 2, 3))).all()  # all of it or none
    assert abs(happened.mean() - p) <= 4 * np.sqrt(p * (1 - p) / MANY)


@jax.jit
@partial(jax.vmap, in_axes=(0, None))
def draws(key, image):
    """What a key draws, and the view as far as `kdhash.data.augment` makes it: `cropped`, then `mixed`."""
    crop, flip, color, hue, jitter, gray, sigma, blur = jax.random.split(key, 8)
    cropped = random_flip(flip, resized_crop(crop, image))[0]
    chances = {
        name: jax.random.uniform(k) for name, k in (("jitter", jitter), ("gray", gray), ("blur", blur))
    }
    return chances | {
        "cropped": cropped,
        "mixed": color_jitter(color, cropped, brightness=0.4, contrast=0.4, saturation=0.4),
        "turn": jax.random.uniform(hue, minval=-0.1, maxval=0.1),
        "sigma": 0.1 + 1.9 * jax.random.uniform(sigma),
    }


def slow_view(drawn, *, jitter_p=0.7, gray_p=0.2, blur_p=0.5, sigma_unit=HEIGHT / 224):
    view = drawn["cropped"]
    if drawn["jitter"] < jitter_p:
        view = slow_hue(drawn["mixed"], drawn["turn"])
    if drawn["gray"] < gray_p:
        view = slow_grayscale(view)
    if drawn["blur"] < blur_p:
        view = slow_blur(view, drawn["sigma"] * sigma_unit, 3)
    return view


def test_a_view_is_the_operations_in_their_order(image):
    drawn = jax.device_get(draws(keys(24), image))
    defaults = VIEWS(keys(24), np.broadcast_to(image, (24, *image.shape)))
    own_pixels = views(keys(24), image, blur_reference=None, gray_p=0.5)
    scaled = views(keys(24), image, blur_reference=18, gray_p=0)
    cropped = views(keys(24), image, jitter_p=0, gray_p=0, blur_p=0)
    for place in range(24):
        one = {name: values[place] for name, values in drawn.items()}
        expected = slow_view(one)
        np.testing.assert_allclose(defaults[place], expected, atol=5e-6)
        expected = slow_view(one, gray_p=0.5, sigma_unit=1)
        np.testing.assert_allclose(own_pixels[place], expected, atol=5e-6)
        expected = slow_view(one, gray_p=0, sigma_unit=0.5)
        np.testing.assert_allclose(scaled[place], expected, atol=5e-6)
        np.testing.assert_allclose(cropped[place], one["cropped"], atol=1e-6)


def test_jitter_without_strengths_changes_nothing(image):
    results = views(keys(24), image, jitter={}, jitter_p=1, gray_p=0, blur_p=0)
    np.testing.assert_allclose(results, draws(keys(24), image)["cropped"], atol=1e-6)


def test_hue_comes_after_the_mixes():
    """On a colour whose mixes are clipped, another order gives another colour."""
    color = np.broadcast_to(np.float32([0.95, 0.5, 0.02]), (HEIGHT, WIDTH, 3))
    results = views(keys(24), color, jitter_p=1, gray_p=0, blur_p=0)
    drawn = jax.device_get(draws(keys(24), color))
    turned = np.stack([slow_hue(color, turn) for turn in drawn["turn"]]).astype(np.float32)
    mix = partial(color_jitter, brightness=0.4, contrast=0.4, saturation=0.4)
    color_keys = jax.vmap(lambda key: jax.random.split(key, 8)[2])(keys(24))
    others = jax.jit(jax.vmap(mix))(color_keys, turned)
    for result, mixed, turn in zip(results, drawn["mixed"], drawn["turn"], strict=True):
        np.testing.assert_allclose(result, slow_hue(mixed, turn), atol=5e-6)
    assert (np.abs(results - others).max((1, 2, 3)) > 1e-3).sum() > 10


def test_how_often_each_happens_and_that_they_are_independent():
    """An operation happened where leaving it out gives another view: no draw depends on the others' settings."""
    picture = np.random.default_rng(3).uniform(0.2, 0.6, (8, 8, 3)).astype(np.float32)
    picture += np.linspace(0, 0.4, 8, dtype=np.float32)[None, :, None]  # brighter to the right
    visible = {"blur_reference": 8, "blur_sigma": (0.5, 2.0)}
    full = views(keys(MANY), picture, **visible)
    happened, expected = [], {"jitter_p": 0.7, "gray_p": 0.2, "blur_p": 0.5}
    for name in expected:
        without = views(keys(MANY), picture, **visible, **{name: 0.0})
        happened.append(np.abs(full - without).max((1, 2, 3)) > 1e-4)
    plain = views(keys(MANY), picture, jitter_p=0, gray_p=0, blur_p=0)
    happened.append(plain[:, :, :4].mean((1, 2, 3)) > plain[:, :, 4:].mean((1, 2, 3)))  # mirrored
    for was, p in zip(happened, [*expected.values(), 0.5], strict=True):
        assert abs(was.mean() - p) <= 4 * np.sqrt(p * (1 - p) / MANY)
    correlations = np.corrcoef(np.array(happened, float)) - np.eye(4)
    assert np.abs(correlations).max() < 4 / np.sqrt(MANY)


def hues(pictures):
    """Hue of each picture's first pixel, in (-.5, .5]."""
    found = np.array([colorsys.rgb_to_hsv(*map(float, picture[0, 0]))[0] for picture in pictures])
    return np.where(found > 0.5, found - 1, found)


def test_hue_turns_fill_their_range():
    hue, red = 0.1, np.broadcast_to(np.float32([0.9, 0.1, 0.1]), (8, 8, 3))
    turns = hues(views(keys(MANY), red, jitter={"hue": hue}, jitter_p=1, gray_p=0, blur_p=0))
    assert np.abs(turns).max() <= hue + 1e-5
    counts, _ = np.histogram(turns, bins=10, range=(-hue - 1e-5, hue + 1e-5))
    assert np.abs(counts - MANY / 10).max() < 4 * np.sqrt(MANY / 10)


@pytest.mark.parametrize(("reference", "unit"), [(8, 1.0), (16, 0.5), (4, 2.0)])
def test_blur_sigmas_fill_their_range_in_pixels_of_the_reference(reference, unit):
    """Lines of one colour: sigma is read from how the blurred view follows from the sharp one with the same key."""
    lines = np.random.default_rng(4).uniform(size=(8, 1, 3)).astype(np.float32).repeat(8, axis=1)
    plain = {"jitter_p": 0, "gray_p": 0}
    low, high = 0.5 / unit, 1.5 / unit  # sigma between half a pixel and one and a half
    sharp = views(keys(MANY), lines, blur_p=0, **plain).astype(np.float64)
    blurred = views(keys(MANY), lines, blur_p=1, blur_sigma=(low, high), blur_reference=reference, **plain)
    around = (sharp[:, :-2] + sharp[:, 2:] - 2 * sharp[:, 1:-1])[:, :, 0]
    change = (blurred - sharp)[:, 1:-1, 0]
    weight = (around * change).sum((1, 2)) / (around**2).sum((1, 2))  # of a neighbour
    sigma = np.sqrt(-0.5 / np.log(weight / (1 - 2 * weight)))
    assert 0.5 - 1e-3 < sigma.min() < 0.52
    assert 1.48 < sigma.max() < 1.5 + 1e-2
    counts, _ = np.histogram(sigma, bins=5, range=(0.49, 1.51))
    assert np.abs(counts - MANY / 5).max() < 4 * np.sqrt(MANY / 5)


def test_at_32_pixels_the_protocols_blur_is_next_to_nothing():
    """The documented weight of a neighbour, for the largest sigma: 2 * 32 / 224 pixels."""
    point = np.zeros((5, 5, 3), np.float32)
    point[2, 2] = 1
    assert 0.002 < float(gaussian_blur(point, 2 * 32 / 224, 3)[2, 1, 0]) < 0.0023


def test_views_are_pictures_of_the_same_size_in_range(corners):
    extreme = {"brightness": 2.0, "contrast": 2.0, "saturation": 2.0, "hue": 0.5}
    colors = np.concatenate([corners.reshape(-1, 3), np.ones((37, 3), np.float32)]).reshape(8, 8, 3)
    for picture in (colors, np.ones_like(colors), np.zeros_like(colors)):
        for options in ({}, {"jitter": extreme, "jitter_p": 1.0, "blur_reference": 8}):
            results = views(keys(MANY), picture, **options)
            assert results.shape == (MANY, 8, 8, 3)
            assert results.dtype == np.float32
            assert np.isfinite(results).all()
            assert results.min() >= 0
            assert results.max() <= 1


def test_jitter_is_checked(image):
    def attempt(**jitter):
        jax.eval_shape(lambda key: contrast_view(key, image, jitter=jitter), jax.random.key(0))

    with pytest.raises(ValueError, match=r"hue is 0.6; it must be in 0..0.5"):
        attempt(hue=0.6)
    with pytest.raises(TypeError, match="sharpness"):
        attempt(sharpness=0.6)


def test_the_same_keys_give_the_same_views_and_other_keys_others(batch):
    first, again, other = (VIEWS(keys(24, seed), batch) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (np.abs(first - other).max((1, 2, 3)) > 1e-3).all()


def test_the_batch_a_picture_is_in_does_not_matter(batch):
    pieces = map(VIEWS, jnp.split(keys(24), 3), np.split(batch, 3))
    np.testing.assert_allclose(np.concatenate(list(pieces)), VIEWS(keys(24), batch), atol=2e-6)


def test_the_spread_over_devices_does_not_matter(batch):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    result = VIEWS(jax.device_put(keys(24), spread), jax.device_put(batch, spread))
    assert len(result.sharding.device_set) == 8
    np.testing.assert_allclose(result, VIEWS(keys(24), batch), atol=2e-6)

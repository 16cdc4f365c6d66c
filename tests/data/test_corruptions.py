"""Corruptions: what each does, and that a picture's does not depend on its batch."""

import numpy as np
import pytest

from kdhash.data.corruptions import CORRUPTIONS, blur, gaussian_noise, jpeg, occlusion

ROWS = np.array([7, 100, 3])
SLOPE = np.stack([*np.meshgrid(4 * np.arange(32), 4 * np.arange(32)), np.full((32, 32), 36)], axis=-1)
SMOOTH = np.stack([SLOPE, SLOPE + 1, SLOPE + 2]).astype(np.uint8)
RNG = np.random.default_rng(0)
ROUGH = RNG.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_picture_is_spoilt_alike_in_any_batch_and_more_at_each_strength(name):
    function, strengths, _ = CORRUPTIONS[name]
    before = ROUGH.copy()
    far = []
    for strength in strengths:
        whole = function(ROUGH, ROWS, 5, strength)
        assert whole.dtype == np.uint8
        assert whole.shape == ROUGH.shape
        np.testing.assert_array_equal(function(ROUGH[1:2], ROWS[1:2], 5, strength)[0], whole[1])
        far.append(np.abs(whole.astype(float) - ROUGH).mean())
    assert 0 < far[0] < far[1] < far[2]
    np.testing.assert_array_equal(ROUGH, before)


def test_noise_has_its_deviation_and_other_rows_and_seeds_draw_anew():
    grey = np.full((2, 64, 64, 3), 128, np.uint8)
    noisy = gaussian_noise(grey, np.array([0, 1]), 0, 0.08).astype(float) - 128
    assert noisy.std() == pytest.approx(0.08 * 255, rel=0.02)
    assert abs(noisy.mean()) < 0.5
    assert np.abs(np.corrcoef(noisy[0].ravel(), noisy[1].ravel())[0, 1]) < 0.05
    assert (gaussian_noise(grey, np.array([0, 1]), 1, 0.08) != noisy + 128).any()


def test_occlusion_hides_one_square_and_touches_nothing_else():
    black = np.zeros((40, 32, 32, 3), np.uint8)
    hidden = occlusion(black, np.arange(40), 0, 8)
    assert (hidden.reshape(40, -1) > 0).sum(axis=1).tolist() == [8 * 8 * 3] * 40
    places = {tuple(np.argwhere(picture[..., 0])[0]) for picture in hidden}
    assert len(places) > 20
    with pytest.raises(ValueError, match="a square of 33 pixels does not fit into pictures of 32x32"):
        occlusion(black, np.arange(40), 0, 33)


def test_blur_keeps_the_mean_and_flattens_and_jpeg_keeps_what_is_smooth():
    assert abs(blur(ROUGH, ROWS, 0, 1.0).mean() - ROUGH.mean()) < 2
    assert blur(ROUGH, ROWS, 0, 2.0).std() < blur(ROUGH, ROWS, 0, 0.5).std() < ROUGH.std()
    point = np.zeros((1, 9, 9, 3), np.uint8)
    point[0, 4, 4] = 255
    spread = blur(point, ROWS[:1], 0, 1.0)[0, :, :, 0]
    assert spread[4, 4] == pytest.approx(255 / (2 * np.pi), rel=0.02)
    np.testing.assert_array_equal(spread, spread.T)
    assert np.abs(jpeg(SMOOTH, ROWS, 0, 75).astype(float) - SMOOTH).mean() < 4

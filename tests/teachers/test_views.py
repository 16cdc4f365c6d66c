"""Named views: what they are, and that a student sees the teacher's pixels again."""

import jax
import numpy as np
import pytest

from kdhash.teachers import views
from kdhash.teachers.views import RECIPES, numbered_views, recipe_of

view_pictures = jax.jit(views.view_pictures, static_argnums=0)

PICTURES = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), dtype=np.uint8)
ROWS = np.arange(3)


def test_original_and_flip():
    np.testing.assert_allclose(view_pictures("original", ROWS, PICTURES), PICTURES / 255, rtol=1e-6)
    np.testing.assert_allclose(view_pictures("flip", ROWS, PICTURES), PICTURES[:, :, ::-1] / 255, rtol=1e-6)


@pytest.mark.parametrize("kind", RECIPES)
def test_numbered_views_differ_and_depend_on_number_and_row_alone(kind):
    first, second = (np.asarray(view_pictures(f"{kind}{number}", ROWS, PICTURES)) for number in (1, 2))
    assert np.abs(first - second).max() > 0.05
    assert first.min() >= 0
    assert first.max() <= 1
    alone = view_pictures(f"{kind}1", ROWS[1:2], PICTURES[1:2])
    np.testing.assert_allclose(alone[0], first[1], atol=1e-6)


@pytest.mark.parametrize("kind", RECIPES)
def test_views_of_several_numbers_are_the_same_pixels(kind):
    mixed = jax.jit(numbered_views, static_argnums=0)(kind, np.array([2, 1, 2]), ROWS, PICTURES)
    for row, number in enumerate((2, 1, 2)):
        one = view_pictures(f"{kind}{number}", ROWS, PICTURES)[row]
        np.testing.assert_allclose(mixed[row], one, atol=1e-5)


def test_recipes_and_wrong_names():
    assert recipe_of("original") is None
    assert recipe_of("contrast12") == RECIPES["contrast"]
    for name in ("sideways", "augment", "contrast", "flip2", "1"):
        with pytest.raises(ValueError, match=f"no view is called '{name}'"):
            recipe_of(name)

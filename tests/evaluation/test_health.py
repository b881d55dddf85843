"""What alignment is measured on; the metrics themselves are tested in ``test_evaluate``."""

import dataclasses

import jax
import numpy as np

from repre_jax.data.device.augment import augment_views
from repre_jax.data.recipes import ViewRecipe
from repre_jax.evaluation.health import pair_of_views


def test_two_views_are_the_runs_own_without_its_local_crops():
    recipe = ViewRecipe(crop_scale=(0.4, 1.0), local_crops=8)
    assert pair_of_views(recipe) == dataclasses.replace(recipe, local_crops=0)


def test_a_single_view_is_drawn_twice():
    """As masked reconstruction has it: the second view is another draw of the same recipe."""
    single = ViewRecipe(
        crop_scale=(0.2, 1.0),
        global_crops=1,
        flip_probability=0.0,
        jitter_probability=1.0,
        blur_probability=(0.0,),
        solarise_probability=(0.0,),
    )
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    batch = {"index": np.arange(4, dtype=np.int32), "epoch": np.zeros(4, np.int32)}

    def augmented(recipe):
        views = np.stack([pixels] * recipe.global_crops, axis=1)
        augment = jax.jit(lambda batch: augment_views(batch, recipe, 0)["global"])
        return np.asarray(augment(batch | {"global": views}))

    pair = augmented(pair_of_views(single))
    np.testing.assert_allclose(pair[:, :1], augmented(single), atol=1e-6)
    assert np.abs(pair[:, 0] - pair[:, 1]).max() > 0.05

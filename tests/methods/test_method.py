"""What a method makes of ``config.views``."""

import json

from ml_collections import ConfigDict

from repre_jax.methods import dino
from repre_jax.methods.method import with_overrides
from repre_jax.training import defaults


def test_a_recorded_config_gives_the_recipe_that_the_config_gave():
    """config.json has lists for tuples; the recipe must be the same, and hashable."""
    views = defaults.get_config("dino").views
    views.update({"blur_probability": (0.25, 0.75), "crop_scale": (0.3, 0.9)})
    recorded = ConfigDict(json.loads(json.dumps(views.to_dict())))
    assert isinstance(recorded.blur_probability, list)
    recipe = with_overrides(dino.VIEWS, recorded)
    assert recipe == with_overrides(dino.VIEWS, views)
    assert recipe.blur_probability == (0.25, 0.75)
    hash(recipe)

"""Views and encoders of the configs against the papers' numbers, written out here once more.

None comes from a default of the library: a number that changes there must change here, with the
paper in hand. Methods are in test_published_methods.py, optimizers in test_recipes.py.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import pytest
from published import ENCODERS, NAMES, config_of, method_of, rows

from repre_jax.data.recipes import ViewRecipe
from repre_jax.methods import METHODS
from repre_jax.models import BACKBONES


def test_every_config_of_a_paper_is_among_the_names():
    own = [name for name in NAMES if ":" not in name]
    assert own == sorted(f"{method}_{encoder}" for method in METHODS for encoder in ENCODERS)
    assert len(NAMES) == len(own) + 4 * 3 + 2  # official and released ones


# What all papers share.
SHARED = {
    "crop_ratio": (3 / 4, 4 / 3),
    "global_crops": 2,
    "clamp_crop": False,
    "flip_probability": 0.5,
    "jitter_probability": 0.8,
    "grey_probability": 0.2,
    "blur_sigma": (0.1, 2.0),
    "rand_augment": None,
}
SIMCLR_VIEWS = ViewRecipe(
    crop_scale=(0.08, 1.0),
    interpolation="bicubic",
    photometric="simclr",
    jitter=(0.8, 0.8, 0.8, 0.2),
    blur_probability=(0.5, 0.5),
    solarise_probability=(0.0, 0.0),
    local_crops=0,
    **SHARED,
)
MOCO_V2_VIEWS = dataclasses.replace(
    SIMCLR_VIEWS,
    crop_scale=(0.2, 1.0),
    interpolation="bilinear",
    photometric="torchvision",
    jitter=(0.4, 0.4, 0.4, 0.1),
)
BYOL_VIEWS = dataclasses.replace(
    SIMCLR_VIEWS,
    photometric="byol",
    jitter=(0.4, 0.4, 0.2, 0.1),
    blur_probability=(1.0, 0.1),
    solarise_probability=(0.0, 0.2),
)
# MoBY's, too.
MOCO_V3_VIEWS = dataclasses.replace(BYOL_VIEWS, interpolation="bilinear", photometric="torchvision")
DINO_VIEWS = dataclasses.replace(
    BYOL_VIEWS,
    crop_scale=(0.4, 1.0),
    photometric="torchvision",
    local_crops=8,
    local_size=96,
    local_crop_scale=(0.05, 0.4),
    local_blur_probability=0.5,
)
RELEASED_VIEWS = dataclasses.replace(
    DINO_VIEWS, crop_scale=(0.25, 1.0), local_crops=10, local_crop_scale=(0.05, 0.25)
)

VIEWS = (
    rows(MOCO_V3_VIEWS, "simclr", "byol", "simsiam", "moco_v3", "moby")
    | rows(MOCO_V2_VIEWS, "moco_v2", "moco_v2:official", "simsiam:official")
    | rows(SIMCLR_VIEWS, "simclr:official")
    | rows(BYOL_VIEWS, "byol:official")
    | rows(DINO_VIEWS, "dino")
    | rows(RELEASED_VIEWS, "dino:released")
)


def visible(recipe: ViewRecipe) -> dict:
    """The numbers that a view depends on: without local crops theirs mean nothing."""
    numbers = dataclasses.asdict(recipe)
    return {k: x for k, x in numbers.items() if recipe.local_crops or not k.startswith("local_")}


@pytest.mark.parametrize("name", NAMES)
def test_views(name):
    config = config_of(name)
    assert visible(method_of(config).views) == visible(VIEWS[name])
    assert config.model.image_size == 224
    # SimCLR's own code leaves pixels in [0, 1].
    assert config.model.normalise == (not name.startswith("simclr") or ":" not in name)


class Encoder(NamedTuple):
    """What a config's encoder is."""

    width: int  # of the first stage, in Swin
    blocks: int | tuple[int, ...]
    patch: int
    heads: int | tuple[int, ...]
    drop_path: float
    norm_epsilon: float
    position: str
    initialisation: str


VIT_S = Encoder(384, 12, 16, 6, 0.0, 1e-6, "learned", "dino")
VIT_B = VIT_S._replace(width=768, heads=12)
SWIN_T = Encoder(96, (2, 2, 6, 2), 4, (3, 6, 12, 24), 0.0, 1e-5, "in windows of 7", "dino")
MOCO_V3_FORM = {"heads": 12, "position": "sincos", "initialisation": "moco_v3"}
FORMS = {
    "moco_v3_vits": VIT_S._replace(**MOCO_V3_FORM),
    "moco_v3_vitb": VIT_B._replace(**MOCO_V3_FORM),
    "moco_v3_swint": SWIN_T,
    "moco_v2_vits": VIT_S,
    "moco_v2_vitb": VIT_B,
    "moco_v2_swint": SWIN_T,
    "moby_vits": VIT_S._replace(drop_path=0.2),
    "moby_vitb": VIT_B._replace(drop_path=0.2),
    "moby_swint": SWIN_T._replace(drop_path=0.2),
    "dino_vits": VIT_S._replace(drop_path=0.1),
    "dino_vitb": VIT_B._replace(drop_path=0.1),
    "dino_swint": SWIN_T._replace(drop_path=0.1, norm_epsilon=1e-6),
}
# These borrow MoCo v3's.
FORMS |= {
    f"{method}_{encoder}": FORMS[f"moco_v3_{encoder}"]
    for method in ("simclr", "byol", "simsiam")
    for encoder in ENCODERS
}


@pytest.mark.parametrize("name", NAMES)
def test_encoder(name):
    """The same with every variant."""
    model = config_of(name).model
    found = BACKBONES[model.name](model, jnp.float32)
    swin = name.partition(":")[0].endswith("swint")
    assert found.image_size == 224
    assert FORMS[name.partition(":")[0]] == Encoder(
        found.embed_width if swin else found.width,
        found.depths if swin else found.depth,
        found.patch_size,
        found.heads,
        found.drop_path,
        found.norm_epsilon,
        f"in windows of {found.window}" if swin else found.position,
        found.initialisation,
    )


def test_published_weights_of_dino_were_trained_in_float32():
    for name in NAMES:
        released = name.endswith(":released")
        assert config_of(name).train.compute_dtype == ("float32" if released else "auto")

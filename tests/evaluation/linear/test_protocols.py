"""Every number of the linear probes, written out once more from the papers' own scripts.

A probe learns with almost any numbers, and the recorded steps begin behind features and kernels, so
nothing else would notice another crop or another deviation of the first kernel.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repre_jax.data.recipes import ViewRecipe
from repre_jax.evaluation.linear.protocols import LINEAR_PROTOCOLS

TRAINING = {
    # optimizer, rate at 256, batch, epochs, schedule, warm-up epochs, weight decay
    "dino": ("sgd", 0.001, 1024, 100, "cosine_by_epoch", 0, 0),
    "moco_v3": ("sgd", 3.0, 1024, 90, "cosine_by_epoch", 0, 0),
    "moby": ("nesterov", 0.5, 512, 100, "moby", 5, 0),
    "simsiam": ("larc", 0.1, 4096, 90, "cosine_by_epoch", 0, 0),
    "mocov2": ("sgd", 30.0, 256, 100, "steps", 0, 0),
    "byol": ("nesterov", 0.2, 4096, 80, "cosine_by_step", 0, 0),
    "simclr": ("nesterov", 0.1, 4096, 90, "cosine_by_step", 0, 1e-6),
    "mae": ("lars", 0.1, 16384, 90, "cosine_by_step", 10, 0),
}
# What one script alone does; everywhere else a plain layer on the pooled feature of a still network
OWN = {
    "dino": {"feature": "dino"},
    "moby": {"clip": 5.0, "label_smoothing": 0.1, "drop_path": 0.2},
    "mae": {"batch_norm": True},
}
PLAIN = {
    "feature": "pooled",
    "clip": 0.0,
    "label_smoothing": 0.0,
    "drop_path": 0.0,
    "batch_norm": False,
}
IMAGES = {
    # interpolation of training crops, of validation images, crops cut down to the image
    "dino": ("bilinear", "bicubic", False),
    "moco_v3": ("bilinear", "bilinear", False),
    "moby": ("bilinear", "bilinear", False),
    "simsiam": ("bilinear", "bilinear", False),
    "mocov2": ("bilinear", "bilinear", False),
    "byol": ("bicubic", "bicubic", True),
    "simclr": ("bicubic", "bicubic", False),
    "mae": ("bicubic", "bicubic", True),
}
FAN_IN = 400
# Haiku's Linear: deviation 1 / sqrt(fan in), cut at two of them, which leaves 0.8796 of it.
DEVIATIONS = dict.fromkeys(LINEAR_PROTOCOLS, 0.01) | {
    "moby": 0.02,
    "byol": 0.8796 / FAN_IN**0.5,
    "simclr": 0.0,
}


@pytest.mark.parametrize("name", LINEAR_PROTOCOLS)
def test_numbers_of_the_training(name):
    protocol = LINEAR_PROTOCOLS[name]
    assert TRAINING[name] == (
        protocol.optimizer,
        protocol.learning_rate,
        protocol.batch_size,
        protocol.epochs,
        protocol.schedule,
        protocol.warmup_epochs,
        protocol.weight_decay,
    )
    expected = PLAIN | OWN.get(name, {})
    assert {field: getattr(protocol, field) for field in PLAIN} == expected


@pytest.mark.parametrize("name", LINEAR_PROTOCOLS)
def test_images_are_cropped_and_flipped_and_nothing_else(name):
    crops, validation, clamp = IMAGES[name]
    assert LINEAR_PROTOCOLS[name].interpolation == validation
    assert LINEAR_PROTOCOLS[name].views == ViewRecipe(
        crop_scale=(0.08, 1.0),
        crop_ratio=(3 / 4, 4 / 3),
        interpolation=crops,
        global_crops=1,
        clamp_crop=clamp,
        local_crops=0,
        flip_probability=0.5,
        jitter_probability=0.0,
        grey_probability=0.0,
        blur_probability=(0.0,),
        solarise_probability=(0.0,),
        rand_augment=None,
    )


@pytest.mark.parametrize("name", LINEAR_PROTOCOLS)
def test_deviation_of_the_first_kernel(name):
    initialise = LINEAR_PROTOCOLS[name].initialiser
    kernel = np.asarray(initialise(jax.random.key(0), (FAN_IN, 200), jnp.float32))
    assert kernel.std() == pytest.approx(DEVIATIONS[name], rel=0.02)
    assert kernel.mean() == pytest.approx(0, abs=0.03 * DEVIATIONS[name])
    # Cut at two deviations or, as good as not at all, at four and more of 80,000 draws.
    reach = np.abs(kernel).max()
    assert reach <= 2 / FAN_IN**0.5 if name == "byol" else reach >= 4 * DEVIATIONS[name]

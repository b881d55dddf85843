"""Every ViT that has a name: exact parameter counts by formula, output shapes, refusals."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_params

from repre_jax.errors import UserError
from repre_jax.models import BACKBONES
from repre_jax.models.positions import resize_learned_positions
from repre_jax.models.taps import apply_with_taps
from repre_jax.training import defaults

# Written out: the papers' numbers for ti, s, b, l.
SIZES = {
    "vit_nano": (128, 4, 4),
    "vit_micro": (192, 6, 3),
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
    "vit_huge": (1280, 32, 16),
}
CONV_SIZES = {
    "vit_conv_nano": (128, 4, 4),
    "vit_conv_small": (384, 11, 12),
    "vit_conv_base": (768, 11, 12),
}
NANO = SIZES["vit_nano"][0]


def encoder(name, patch_size=16, image_size=224, **changes):
    config = defaults.get_config("dino")
    config.model.update({"name": name, "patch_size": patch_size, "image_size": image_size})
    config.model.update(changes)
    return BACKBONES[name](config.model, jnp.float32)


def shapes(model, image=224):
    images = jax.ShapeDtypeStruct((2, image, image, 3), np.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


def formula(width, depth, patch, grid, position, heads=1):
    block = 12 * width**2 + 13 * width  # qkv 3D^2+3D, out D^2+D, MLP 8D^2+5D, two norms 4D
    if position == "relative":
        block += width // heads * 50
    patch_embedding = 3 * patch**2 * width + width
    positions = (1 + grid**2) * width if position == "learned" else 0
    return patch_embedding + width + positions + depth * block + 2 * width


def test_no_vit_is_missing_here():
    assert {name for name in BACKBONES if name.startswith("vit")} == {*SIZES, *CONV_SIZES}


@pytest.mark.parametrize("name", sorted(SIZES))
def test_sizes(name):
    model = encoder(name)
    assert (model.width, model.depth, model.heads) == SIZES[name]


# Those of the papers' sizes are in test_vit_parity.py.
@pytest.mark.parametrize(
    ("name", "patch", "position"),
    [
        ("vit_nano", 8, "learned"),
        ("vit_nano", 14, "learned"),
        ("vit_nano", 16, "learned"),
        ("vit_nano", 32, "learned"),
        ("vit_nano", 16, "sincos"),
        ("vit_nano", 16, "relative"),
        ("vit_micro", 16, "learned"),
        ("vit_small", 16, "relative"),
        ("vit_huge", 14, "learned"),
    ],
)
def test_parameter_counts(name, patch, position):
    width, depth, heads = SIZES[name]
    model = encoder(name, patch, position=position)
    count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes(model)))
    assert count == formula(width, depth, patch, 224 // patch, position, heads)


@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("name", sorted(CONV_SIZES))
def test_parameter_counts_with_a_convolutional_stem(name, patch):
    width, depth, heads = CONV_SIZES[name]
    model = encoder(name, patch)
    assert (model.width, model.depth, model.heads) == (width, depth, heads)
    count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes(model)))
    channels = [3, *(width // 8, width // 4, width // 2, width)[-(patch // 8) - 2 :]]
    stem = sum(9 * a * b + 2 * b for a, b in itertools.pairwise(channels)) + width**2 + width
    linear = 3 * patch**2 * width + width
    assert count == formula(width, depth, patch, 224 // patch, "learned") - linear + stem


def test_a_convolutional_stem_halves():
    for patch in (14, 1):
        with pytest.raises(UserError, match=f"patch_size={patch}.*a power of two above 1"):
            encoder("vit_conv_nano", patch, image_size=14)
    with pytest.raises(UserError, match=r"width divisible by 8 at model\.patch_size=16; it is 36"):
        encoder("vit_conv_nano", width=36)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (96, 96), (64, 160)])
@pytest.mark.parametrize("position", ["learned", "sincos", "relative"])
def test_any_size_divisible_by_the_patch(height, width, position):
    model = encoder("vit_nano", position=position)
    variables = {"params": shapes(model)}
    images = jax.ShapeDtypeStruct((2, height, width, 3), np.float32)
    encoded, maps = jax.eval_shape(
        lambda v, x: apply_with_taps(model, v, x, (0, 3)), variables, images
    )
    rows, columns = height // 16, width // 16
    assert encoded.pooled.shape == (2, NANO)
    assert encoded.tokens.shape == (2, rows * columns, NANO)
    assert [m.shape for m in maps] == [(2, rows, columns, NANO)] * 2


def test_image_not_divisible_by_the_patch():
    model = encoder("vit_nano")
    with pytest.raises(ValueError, match="image 100x100 is not divisible by patch 16"):
        shapes(model, image=100)
    with pytest.raises(UserError, match=r"model\.image_size=100 is not a multiple"):
        encoder("vit_nano", image_size=100)


def test_heads_must_divide_the_width():
    assert encoder("vit_small", heads=12).heads == 12
    with pytest.raises(UserError, match=r"model\.heads=7 does not divide the width 384"):
        encoder("vit_small", heads=7)


def test_taps_and_epsilon():
    assert encoder("vit_small").taps == (2, 5, 8, 11)
    assert encoder("vit_small").block_strides == (16,) * 12
    assert encoder("vit_small").norm_epsilon == 1e-6
    assert encoder("vit_small", norm_epsilon=1e-5).norm_epsilon == 1e-5


def test_parameters_are_float32_whatever_is_computed_in():
    config = defaults.get_config("dino")
    config.model.name = "vit_nano"
    model = BACKBONES["vit_nano"](config.model, jnp.bfloat16)
    params = shapes(model)
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), np.float32)
    encoded = jax.eval_shape(lambda v, x: model.apply({"params": v}, x), params, images)
    assert encoded.pooled.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["vit_nano", pytest.param("swin_nano", marks=pytest.mark.slow)])
def test_float32_sums_keep_digits_of_bfloat16(name):
    """Of all blocks; under PyTorch's autocast sums and norms are float32, too."""
    config = defaults.get_config("dino")
    config.model.update({"name": name, "image_size": 32, "patch_size": 4})
    config.model.update(
        {"depth": 6} if name == "vit_nano" else {"stage_depths": (4, 4, 4), "window": 4}
    )
    config.model.stage_heads = (1, 2, 4) if name == "swin_nano" else None
    images = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype(np.float32)
    exact = BACKBONES[name](config.model, jnp.float32)
    variables = jax.jit(exact.init)(jax.random.key(0), images)

    def tokens(dtype, float32_residual):
        config.model.float32_residual = float32_residual
        encoder = BACKBONES[name](config.model, dtype)
        return np.float32(jax.jit(encoder.apply)(variables, images).tokens)

    expected = tokens(jnp.float32, False)
    half, mixed = (np.abs(tokens(jnp.bfloat16, sums) - expected).mean() for sums in (False, True))
    assert mixed < 0.7 * half


def test_learned_positions_of_a_rectangle():
    """Resized for good, as for another image size on the way through, they are the same."""
    square = encoder("vit_nano", image_size=64, depth=1)
    wide = encoder("vit_nano", image_size=(32, 96), depth=1)
    assert (square.grid, wide.grid) == ((4, 4), (2, 6))
    images = np.random.default_rng(0).random((1, 32, 96, 3)).astype(np.float32)
    params = random_params(square, images)
    of_wide = jax.eval_shape(wide.init, jax.random.key(0), images)["params"]
    assert of_wide["position_embedding"].shape == (1, 13, NANO)
    positions = params["position_embedding"]
    resized = resize_learned_positions(positions, square.grid, wide.grid, guard=0.1)
    expected = jax.jit(square.apply)({"params": params}, images)
    params = params | {"position_embedding": resized}
    found = jax.jit(wide.apply)({"params": params}, images)
    np.testing.assert_allclose(found.tokens, expected.tokens, atol=1e-5)
    back = jax.eval_shape(wide.apply, {"params": params}, images[:, :, :64])
    assert back.tokens.shape == (1, 8, NANO)


def test_the_patches_of_bands_start_as_torchs_of_that_fan():
    grey, bands = (encoder("vit_nano", channels=channels, depth=1) for channels in (1, 8))
    kernels = [
        jax.jit(e.init)(jax.random.key(0), np.zeros((1, 16, 16, e.channels)))["params"][
            "patch_embed"
        ]
        for e in (grey, bands)
    ]
    for channels, patch in zip((1, 8), kernels, strict=True):
        bound = (channels * 16**2) ** -0.5
        for x in patch.values():
            assert 0.9 * bound < np.abs(x).max() <= bound

"""Swin's own properties: counts, grids, taps, windows, shifts, drop path, precision, devices."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import equations, random_params

from repre_jax.errors import UserError
from repre_jax.models import BACKBONES
from repre_jax.models.layers import normal_002
from repre_jax.models.swin import (
    Swin,
    WindowAttention,
    relative_positions,
    shifted_regions,
)
from repre_jax.models.taps import apply_with_taps
from repre_jax.sharding import by_row, make_mesh, replicated
from repre_jax.training import defaults

# Written out: the paper's T, S and B.
SIZES = {
    "swin_nano": (32, (2, 2, 2, 2), (1, 2, 4, 8)),
    "swin_tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin_small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin_base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
}
# 8, 4, 2 and 1 vectors a side: shifted windows, and smaller maps than windows.
TINY = {"embed_width": 8, "depths": (2, 1, 2, 1), "heads": (1, 2, 2, 4), "window": 3}
TINY |= {"image_size": 32}
IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)


def encoder(name, dtype=jnp.float32, **changes):
    config = defaults.get_config("dino")
    config.model.update({"name": name, "patch_size": 4, "image_size": 224} | changes)
    return BACKBONES[name](config.model, dtype)


@functools.cache
def shapes(model, image=(224, 224)):
    images = jax.ShapeDtypeStruct((2, *image, 3), np.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


def count(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def formula(width, depths, heads):
    """Of windows of 7."""
    total = 3 * 4**2 * width + width + 2 * width  # patch embedding and its norm
    for stage, (blocks, stage_heads) in enumerate(zip(depths, heads, strict=True)):
        d = width * 2**stage
        total += blocks * (12 * d**2 + 13 * d + 13**2 * stage_heads)
        total += 8 * d**2 + 8 * d if stage < 3 else 2 * d  # merging, or the final norm
    return total


@pytest.fixture(scope="module")
def variables():
    return {"params": random_params(Swin(**TINY), IMAGES)}


def test_no_swin_is_missing_here():
    assert {name for name in BACKBONES if name.startswith("swin")} == set(SIZES)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_parameter_counts(name):
    model = encoder(name)
    assert (model.embed_width, model.depths, model.heads) == SIZES[name]
    assert count(shapes(model)) == formula(*SIZES[name])


@pytest.mark.parametrize(
    ("name", "taps"),
    [("swin_tiny", (1, 3, 9, 11)), ("swin_small", (1, 3, 21, 23)), ("swin_nano", (1, 3, 5, 7))],
)
def test_taps_are_the_last_blocks_of_the_stages(name, taps):
    model = encoder(name)
    assert model.taps == taps
    assert model.depth == taps[-1] + 1
    assert [model.block_strides[k] for k in model.taps] == [4, 8, 16, 32]


# Image and the grid of the first stage; every further stage has half of it, rounded up.
@pytest.mark.parametrize(
    ("image", "grid"),
    [((224, 224), (56, 56)), ((96, 96), (24, 24)), ((100, 70), (25, 18)), ((33, 5), (9, 2))],
)
def test_grids_at_any_size(image, grid):
    model = encoder("swin_nano")
    images = jax.ShapeDtypeStruct((2, *image, 3), np.float32)
    variables = {"params": shapes(model)}
    encoded, maps = jax.eval_shape(
        lambda v, x: apply_with_taps(model, v, x, range(8)), variables, images
    )
    for k, feature_map in enumerate(maps):
        stage = k // 2
        rows, columns = (-(-side // 2**stage) for side in grid)
        assert feature_map.shape == (2, rows, columns, 32 * 2**stage)
    assert encoded.tokens.shape == (2, rows * columns, 256)
    assert encoded.pooled.shape == (2, 256)


def tables(model):
    params = shapes(model)
    blocks = [params[f"block_{k}"]["attention"] for k in range(model.depth)]
    return [block["relative_position_bias"].shape for block in blocks]


def test_windows_are_at_most_the_map_they_are_made_for():
    # Maps of 8, 4, 2, 1.
    sides = [2 * w - 1 for w in (7, 7, 4, 4, 2, 2, 1, 1)]
    heads = (1, 1, 2, 2, 4, 4, 8, 8)
    expected = [(side**2, h) for side, h in zip(sides, heads, strict=True)]
    assert tables(encoder("swin_nano", image_size=32)) == expected
    assert tables(encoder("swin_nano", window=3))[0] == (25, 1)


def test_windows_of_a_rectangle_are_fitted_to_its_shorter_side():
    """As microsoft/Swin-Transformer's models/swin_transformer.py: min(input_resolution)."""
    square, wide = encoder("swin_nano", image_size=32), encoder("swin_nano", image_size=(32, 128))
    assert tables(wide) == tables(square)


def test_relative_positions_are_counted_row_by_row():
    found = relative_positions(3)
    for query in range(9):
        for key in range(9):
            rows, columns = query // 3 - key // 3, query % 3 - key % 3
            assert found[query, key] == 5 * (rows + 2) + columns + 2


def test_regions_of_shifted_windows():
    """A 4 x 4 map, windows of 2 shifted by 1: rows and columns 1 2 | 3 0."""
    regions = shifted_regions((4, 4), window=2, shift=1)
    np.testing.assert_array_equal(regions, [[0, 0, 0, 0], [1, 2, 1, 2], [3, 3, 6, 6], [4, 5, 7, 8]])


@pytest.mark.parametrize("shift", [0, 1])
def test_vectors_see_their_window_only(shift):
    """On a 4 x 4 map with windows of 2; shifted, rows and columns group as 0 | 1 2 | 3."""
    attention = WindowAttention(2, normal_002, normal_002, window=2, shift=shift)
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 8))
    variables = attention.init(jax.random.key(1), x)
    group = np.array([0, 0, 1, 1] if shift == 0 else [0, 1, 1, 2])
    jacobian = jax.jit(jax.jacobian(lambda x: attention.apply(variables, x).sum(-1)))(x)
    sees = np.abs(jacobian).sum((0, 3, 6)) > 1e-9
    expected = (group[:, None, None, None] == group[None, None, :, None]) & (
        group[None, :, None, None] == group[None, None, None, :]
    )
    np.testing.assert_array_equal(sees, expected)


def test_drop_path_rises_over_all_blocks_to_the_rate():
    model = encoder("swin_tiny", drop_path=0.2)
    rates = []

    def note(next_function, arguments, keywords, context):
        if isinstance(context.module, nn.Dropout):
            rates.append(context.module.rate)
        return next_function(*arguments, **keywords)

    with nn.intercept_methods(note):
        jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    np.testing.assert_allclose(rates, np.linspace(0, 0.2, 12).repeat(2))


def test_drop_path_drops_whole_examples(variables):
    model = Swin(**TINY, drop_path=0.9)
    images = np.repeat(IMAGES[:1], 16, axis=0)
    apply = jax.jit(
        lambda v, x, key: apply_with_taps(model, v, x, (1,), train=True, rngs={"drop_path": key})
    )
    _, (first,) = apply(variables, images, jax.random.key(0))
    # Block 0 keeps all; two branches of block 1 are kept or dropped, with others the same maps.
    distinct = np.unique(np.asarray(first).reshape(16, -1).round(4), axis=0)
    assert 2 <= len(distinct) <= 4


@pytest.mark.slow
@pytest.mark.parametrize("level", ["attention", "block"])
def test_taps_survive_rematerialisation_and_the_gradient_is_the_same(variables, level):
    def loss(params, remat):
        model = Swin(**TINY, remat=remat)
        encoded, maps = apply_with_taps(model, {"params": params}, IMAGES, model.taps)
        return sum(jnp.sum(m**2) for m in maps) + jnp.sum(encoded.pooled**3)

    gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    plain, again = (gradient(variables["params"], remat) for remat in ("none", level))
    np.testing.assert_allclose(plain[0], again[0], rtol=1e-6)
    for a, b in zip(jax.tree.leaves(plain[1]), jax.tree.leaves(again[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max())


def test_bfloat16_keeps_float32_parameters_and_softmax(variables):
    exact = jax.jit(Swin(**TINY).apply)(variables, IMAGES)
    model = Swin(**TINY, dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(shapes(model))} == {np.dtype(np.float32)}
    half = jax.jit(model.apply)(variables, IMAGES)
    assert half.pooled.dtype == half.tokens.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.pooled.astype(np.float32), exact.pooled, atol=0.1)
    found = equations(jax.make_jaxpr(model.apply)(variables, IMAGES).jaxpr)
    exponentials = [e.invars[0].aval.dtype for e in found if e.primitive.name == "exp"]
    # Each block has a softmax for CPUs and one for other devices.
    assert len(exponentials) == 2 * model.depth
    assert set(exponentials) == {np.dtype(np.float32)}


def test_a_split_batch_stays_split(variables):
    mesh = make_mesh(2)
    model = Swin(**TINY)
    run = jax.jit(
        lambda v, x: apply_with_taps(model, v, x, model.taps),
        in_shardings=(replicated(mesh), by_row(mesh)),
        out_shardings=by_row(mesh),
    )
    compiled = run.lower(variables, IMAGES).compile()
    assert not {"all-gather", "all-to-all", "all-reduce", "collective-permute"} & set(
        compiled.as_text().replace("(", " ").split()
    )


@pytest.mark.parametrize("initialisation", ["dino", "moco_v3"])
def test_initialisation(initialisation):
    small = {"embed_width": 32, "depths": (1, 1), "heads": (1, 1)}
    model = Swin(**(TINY | small), initialisation=initialisation)
    params = jax.jit(model.init)(jax.random.key(0), IMAGES)["params"]
    attention, merging = params["block_0"]["attention"], params["merging_1"]["reduction"]["kernel"]
    xavier = initialisation == "moco_v3"
    # Xavier uniform's deviation is sqrt(2 / (fan in + fan out)); query, key, value one by one.
    deviation = (2 / 64) ** 0.5 if xavier else 0.02
    np.testing.assert_allclose(np.std(attention["qkv"]["kernel"]), deviation, rtol=0.05)
    deviation = (2 / (128 + 64)) ** 0.5 if xavier else 0.02
    np.testing.assert_allclose(np.std(merging), deviation, rtol=0.05)
    bound = (6 / (48 + 32)) ** 0.5 if xavier else 48**-0.5
    patches = params["patch_embed"]
    assert 0.9 * bound < np.abs(patches["kernel"]).max() <= bound
    assert (np.abs(patches["bias"]).max() == 0) == xavier
    np.testing.assert_allclose(np.std(attention["relative_position_bias"]), 0.02, rtol=0.5)


def test_options_that_swin_does_not_have():
    with pytest.raises(UserError, match=r"model\.patch_size=16, but Swin's patch is 4 pixels"):
        encoder("swin_tiny", patch_size=16)
    with pytest.raises(UserError, match=r"swin_tiny has stages: set model\.stage_heads"):
        encoder("swin_tiny", heads=6)


def test_options_of_the_config():
    assert encoder("swin_tiny").norm_epsilon == 1e-5
    model = encoder("swin_tiny", window=14, norm_epsilon=1e-6, drop_path=0.1, remat="block")
    assert (model.window, model.norm_epsilon, model.drop_path, model.remat) == (
        14,
        1e-6,
        0.1,
        "block",
    )

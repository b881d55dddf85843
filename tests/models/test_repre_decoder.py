"""RePre's decoder: pixels in their places, shapes, options, parameter counts by formula."""

import re

import jax
import numpy as np
import pytest
from tiny import random_params

from repre_jax.errors import UserError
from repre_jax.models.layers import BlockForm
from repre_jax.models.repre_decoder import (
    FusionBlock,
    RePreDecoder,
    depth_to_space,
    upsample_by_two,
)
from repre_jax.models.taps import even_taps

WIDTH, PATCH = 8, 4


def decoder(**changes):
    options = {"operator": "conv", "layers": 2, "width": None, "patch_size": PATCH}
    return RePreDecoder(**(options | changes))


def maps(count=4, width=WIDTH, grid=(3, 2), batch=2):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(batch, *grid, width)).astype(np.float32) for _ in range(count)]


def shapes(module, taps):
    return jax.eval_shape(module.init, jax.random.key(0), taps)["params"]


def parameters(module, taps):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes(module, taps)))


def convolution(inputs, outputs, size):
    return size * size * inputs * outputs + outputs


def patchify(images, patch):
    """[B, gh*P, gw*P, 3] -> [B, gh, gw, P*P*3], patch by patch in plain loops."""
    batch, height, width, _ = images.shape
    rows, columns = height // patch, width // patch
    out = np.zeros((batch, rows, columns, patch * patch * 3), images.dtype)
    for r in range(rows):
        for c in range(columns):
            tile = images[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
            out[:, r, c] = tile.reshape(batch, -1)
    return out


def test_depth_to_space_inverts_patchify():
    images = np.arange(2 * 12 * 8 * 3, dtype=np.float32).reshape(2, 12, 8, 3)
    np.testing.assert_array_equal(depth_to_space(patchify(images, PATCH), PATCH), images)


@pytest.mark.parametrize(
    ("depth", "taps"),
    [(12, (2, 5, 8, 11)), (4, (0, 1, 2, 3)), (24, (5, 11, 17, 23)), (6, (0, 1, 2, 5))],
)
def test_even_taps(depth, taps):
    assert even_taps(depth) == taps


@pytest.mark.parametrize("operator", ["conv", "transformer"])
@pytest.mark.parametrize("taps", [1, 4])
@pytest.mark.parametrize("width", [None, 16])
def test_output_is_the_image_in_float32(operator, taps, width):
    module = decoder(operator=operator, width=width, dtype=np.dtype("bfloat16"))
    out = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), maps(taps))[0])
    assert out.shape == (2, 3 * PATCH, 2 * PATCH, 3)
    assert out.dtype == np.float32


def test_vit_small_at_224_gives_the_view():
    tapped = [jax.ShapeDtypeStruct((2, 14, 14, 384), np.float32)] * 4
    module = decoder(patch_size=16)
    out = jax.eval_shape(lambda *t: module.init_with_output(jax.random.key(0), t)[0], *tapped)
    assert out.shape == (2, 224, 224, 3)
    # 2C -> C and C -> C, three times, and 1x1 to the 768 values of a patch: 12.2 M.
    expected = 3 * (convolution(768, 384, 3) + convolution(384, 384, 3)) + convolution(384, 768, 1)
    assert parameters(module, tapped) == expected == 12_241_920


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("width", [None, 16])
@pytest.mark.parametrize("taps", [1, 4])
def test_parameters_of_the_convolutional_form(layers, width, taps):
    inner = width or WIDTH
    first = inner + WIDTH if taps == 4 else inner
    block = convolution(first, inner, 3) + (layers - 1) * convolution(inner, inner, 3)
    expected = 3 * block + convolution(inner, 3 * PATCH**2, 1)
    expected += convolution(WIDTH, inner, 1) if width else 0
    assert parameters(decoder(layers=layers, width=width), maps(taps)) == expected


@pytest.mark.parametrize(("layers", "width"), [(1, None), (2, 16), (4, 64)])
def test_parameters_of_the_transformer_form(layers, width):
    inner = width or WIDTH
    norm, attention = 2 * inner, 4 * inner**2 + 4 * inner
    mlp = 8 * inner**2 + 5 * inner
    block = convolution(inner + WIDTH, inner, 1) + layers * (2 * norm + attention + mlp)
    expected = 3 * block + convolution(inner, 3 * PATCH**2, 1)
    expected += convolution(WIDTH, inner, 1) if width else 0
    module = decoder(operator="transformer", layers=layers, width=width)
    assert parameters(module, maps()) == expected


def test_transformer_fusion_in_windows_shifts_every_other_block():
    """A change at a corner reaches its window in one layer, and the neighbours in two."""
    form = BlockForm(head_width=4, window=2)
    x = np.random.default_rng(0).normal(size=(1, 4, 4, WIDTH)).astype(np.float32)
    changed = x.copy()
    changed[:, 0, 0] += 1
    reached = {}
    for layers in (1, 2):
        module = FusionBlock("transformer", layers, WIDTH, form)
        apply = jax.jit(module.apply)
        variables = {"params": random_params(module, x)}
        difference = np.abs(np.subtract(apply(variables, x), apply(variables, changed)))
        reached[layers] = (difference.max(axis=(0, 3)) > 0).tolist()
    near, far = [True, True, False, False], [False] * 4
    assert reached[1] == [near, near, far, far]
    assert reached[2] == [[True, True, True, False]] * 3 + [far]


def test_every_tap_matters_and_the_deepest_is_fused_first():
    """A path of ones: the first fusion block sees (y4, y3), the second y2, the third y1."""
    taps = maps()
    module = decoder(layers=1)
    variables = module.init(jax.random.key(1), taps)
    apply = jax.jit(module.apply)
    plain = apply(variables, taps)
    for k in range(4):
        changed = list(taps)
        changed[k] = taps[k] + 1
        assert not np.allclose(apply(variables, changed), plain), k
    # Without what the first block puts out, both deep taps are gone; the shallower two are not.
    silent = jax.tree.map(lambda x: x, variables)
    for name in ("kernel", "bias"):
        zero = np.zeros_like(silent["params"]["block_0"]["fusion_0"][name])
        silent["params"]["block_0"]["fusion_0"][name] = zero
    plain = apply(silent, taps)
    blind = []
    for k in range(4):
        changed = list(taps)
        changed[k] = taps[k] + 1
        blind.append(bool(np.allclose(apply(silent, changed), plain)))
    assert blind == [False, False, True, True]


def test_output_is_linear_in_the_last_layer():
    """Neither sigmoid nor clipping: a bias of 7 gives pixels 7 higher."""
    taps, module = maps(), decoder(layers=1)
    variables = module.init(jax.random.key(1), taps)
    plain = module.apply(variables, taps)
    variables["params"]["to_pixels"]["bias"] += 7
    np.testing.assert_allclose(module.apply(variables, taps), plain + 7, atol=1e-5)


def swin_maps(sides=(56, 28, 14, 7), width=96, batch=2):
    return [
        jax.ShapeDtypeStruct((batch, side, side, width * 2**stage), np.float32)
        for stage, side in enumerate(sides)
    ]


def test_swin_tiny_at_224_gives_the_view():
    """Widths are those of the maps merged in: 384, 192, 96."""
    tapped, module = swin_maps(), decoder()
    out = jax.eval_shape(lambda *t: module.init_with_output(jax.random.key(0), t)[0], *tapped)
    assert out.shape == (2, 224, 224, 3)
    expected = convolution(768 + 384, 384, 3) + convolution(384, 384, 3)
    expected += convolution(384 + 192, 192, 3) + convolution(192, 192, 3)
    expected += convolution(192 + 96, 96, 3) + convolution(96, 96, 3) + convolution(96, 48, 1)
    assert parameters(module, tapped) == expected


@pytest.mark.parametrize("operator", ["conv", "transformer"])
@pytest.mark.parametrize("width", [None, 16])
@pytest.mark.parametrize("taps", [1, 4])
def test_maps_that_halve_give_the_view(operator, width, taps):
    tapped = swin_maps((8, 4, 2, 1), 8)[-taps:]
    module = decoder(operator=operator, width=width, upsamplings=3)
    out = jax.eval_shape(lambda *t: module.init_with_output(jax.random.key(0), t)[0], *tapped)
    assert out.shape == (2, 32, 32, 3)


def test_a_single_tap_of_swin_keeps_the_upsampling_and_the_widths():
    tapped, module = swin_maps()[-1:], decoder(layers=1, upsamplings=3)
    expected = convolution(768, 384, 3) + convolution(384, 192, 3) + convolution(192, 96, 3)
    assert parameters(module, tapped) == expected + convolution(96, 48, 1)
    # From the second stage: one upsampling, then two plain blocks.
    tapped, module = swin_maps()[1:2], decoder(layers=1, upsamplings=1)
    expected = convolution(192, 96, 3) + 2 * convolution(96, 96, 3) + convolution(96, 48, 1)
    assert parameters(module, tapped) == expected


def test_upsampling_is_bilinear_with_half_pixel_centres():
    """As torch's interpolate(mode="bilinear", align_corners=False), by its formula."""
    x = maps(count=1, grid=(3, 5))[0]
    expected = np.zeros((2, 6, 10, WIDTH))
    for row in range(6):
        for column in range(10):
            r, c = max((row + 0.5) / 2 - 0.5, 0), max((column + 0.5) / 2 - 0.5, 0)
            top, left = int(r), int(c)
            for i, down in ((top, 1 - (r - top)), (min(top + 1, 2), r - top)):
                for j, right in ((left, 1 - (c - left)), (min(left + 1, 4), c - left)):
                    expected[:, row, column] += down * right * x[:, i, j]
    np.testing.assert_allclose(upsample_by_two(x), expected, atol=1e-6)
    np.testing.assert_allclose(
        upsample_by_two(x), jax.image.resize(x, expected.shape, "bilinear"), atol=1e-6
    )
    np.testing.assert_array_equal(upsample_by_two(x[:, :1, :1]), np.tile(x[:, :1, :1], (2, 2, 1)))


@pytest.mark.parametrize("sides", [(25, 13), (12, 3), (7, 14)])
def test_maps_neither_equal_nor_twice_as_large_are_refused(sides):
    shallow, deep = sides
    said = f"a tapped map of {deep}x{deep} into one of {shallow}x{shallow}, which is neither"
    with pytest.raises(UserError, match=re.escape(said)):
        shapes(decoder(blocks=1), swin_maps(sides))

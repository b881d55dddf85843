"""Encoders, positions and parameter counts against the official PyTorch code (tests/golden)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import from_torch_names
from golden.cases import FORWARD_VIT, SINCOS_ROWS
from golden.compare import FOLDER, assert_same_shapes
from golden.weights import ViTShape, faint, images, normalised, vit_shapes, weights

from repre_jax.models.heads import PrototypeHead, moco_v3_projector
from repre_jax.models.positions import bicubic_resize_matrix, sincos_2d
from repre_jax.models.taps import apply_with_attention, read_block, tap_name
from repre_jax.models.vit import VIT_SIZES, ViT

GOLDEN = dict(np.load(FOLDER / "vit.npz"))
COUNTS = from_torch_names.with_prefix(GOLDEN, "parameters/")


def encoder(vit: ViTShape, position: str) -> ViT:
    return ViT(
        patch_size=vit.patch_size,
        width=vit.width,
        depth=vit.depth,
        heads=vit.heads,
        image_size=vit.image_size,
        position=position,
    )


def recorded_params(model: ViT, learned_positions: bool) -> dict:
    state = weights(vit_shapes(FORWARD_VIT, learned_positions=learned_positions))
    params = from_torch_names.encoder(state)
    size = FORWARD_VIT.image_size
    initial = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    assert_same_shapes(params, jax.tree.map(lambda x: np.empty(x.shape), initial["params"]))
    return params


def view(size: int) -> np.ndarray:
    return normalised(images(f"forward/{size}", 2, size))


@pytest.mark.parametrize("size", [32, 16, 48])
def test_dino_forward_at_the_trained_a_smaller_and_a_larger_size(size):
    model = encoder(FORWARD_VIT, "learned")
    params = recorded_params(model, learned_positions=True)
    apply = jax.jit(functools.partial(model.apply, mutable=["intermediates"]))
    encoded, sown = apply({"params": params}, view(size))
    layers = GOLDEN[f"dino/{size}/layers"]
    np.testing.assert_allclose(encoded.pooled, GOLDEN[f"dino/{size}/pooled"], atol=1e-4)
    np.testing.assert_allclose(encoded.tokens, layers[-1][:, 1:], atol=1e-4)
    norm = params["norm"]
    for k, layer in enumerate(layers):
        block = sown["intermediates"][tap_name(k)][0]
        maps = np.asarray(block.feature_map).reshape(layer[:, 1:].shape)
        tokens = np.concatenate([np.asarray(block.class_token)[:, None], maps], axis=1)
        np.testing.assert_allclose(layer_norm(tokens, norm), layer, atol=1e-4)


@pytest.mark.parametrize("size", [32, 16, 48])
def test_attention_of_the_last_block_is_what_dino_visualises(size):
    """get_last_selfattention, of which visualize_attention.py shows the class token's row."""
    model = encoder(FORWARD_VIT, "learned")
    params = {"params": recorded_params(model, learned_positions=True)}
    attention = apply_with_attention(model, params, view(size), 2)
    golden = GOLDEN[f"dino/{size}/attention"][:, :, 1:]
    np.testing.assert_allclose(attention, golden.reshape(attention.shape), atol=1e-4)
    assert attention.shape == (2, 3, size // 4, size // 4)
    assert np.ptp(golden, axis=-1).min() > 0.01, "of even attention nothing could be seen"


def test_attention_of_another_block_is_its_own():
    """softmax(q k / sqrt(d)) of what the block before put out, by the official names of weights."""
    model = encoder(FORWARD_VIT, "learned")
    state = weights(vit_shapes(FORWARD_VIT, learned_positions=True))
    params = {"params": recorded_params(model, learned_positions=True)}
    _, sown = model.apply(params, view(32), mutable=["intermediates"])
    block = read_block(sown["intermediates"], 0)
    patches = np.asarray(block.feature_map).reshape(2, 64, 48)
    x = np.concatenate([np.asarray(block.class_token)[:, None], patches], axis=1)
    norm = {"scale": state["blocks.1.norm1.weight"], "bias": state["blocks.1.norm1.bias"]}
    qkv = (
        layer_norm(x, norm) @ state["blocks.1.attn.qkv.weight"].T + state["blocks.1.attn.qkv.bias"]
    )
    query, key, _ = qkv.reshape(2, 65, 3, 3, 16).transpose(2, 0, 3, 1, 4)
    weight = np.exp(query[:, :, :1] @ key.swapaxes(2, 3) / np.sqrt(16))[:, :, 0]
    weight /= weight.sum(axis=-1, keepdims=True)
    attention = apply_with_attention(model, params, view(32), 1)
    np.testing.assert_allclose(attention, weight[:, :, 1:].reshape(2, 3, 8, 8), atol=1e-4)


@pytest.mark.parametrize("remat", ["none", "attention", "block"])
def test_attention_is_only_there_for_who_asks(remat):
    """A softmax a block, and no more, in what is trained; the parameters do not know of it."""
    model = encoder(FORWARD_VIT, "learned").clone(remat=remat)
    images = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert set(variables) == {"params"}

    def exponentials(*collections):
        def forward(params, x):
            return model.apply({"params": params}, x, mutable=list(collections))

        jaxpr = jax.make_jaxpr(forward)(variables["params"], images)
        return str(jaxpr).count(" exp ")

    assert exponentials("intermediates") == exponentials()
    assert exponentials("attention") > exponentials()
    attention = jax.eval_shape(lambda p, x: apply_with_attention(model, p, x, 1), variables, images)
    assert attention.shape == (1, 3, 8, 8)


def test_epsilon_of_the_norms():
    params = from_torch_names.encoder(
        faint(weights(vit_shapes(FORWARD_VIT, learned_positions=True)))
    )
    encoded = encoder(FORWARD_VIT, "learned").apply({"params": params}, view(32))
    np.testing.assert_allclose(encoded.pooled, GOLDEN["dino/faint/pooled"], atol=1e-4)


def layer_norm(x: np.ndarray, norm: dict) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * norm["scale"] + norm["bias"]


@pytest.mark.parametrize(("model_name", "position"), [("moco_v3", "sincos"), ("timm", "learned")])
def test_moco_v3_and_timm_forward(model_name, position):
    model = encoder(FORWARD_VIT, position)
    params = recorded_params(model, learned_positions=position == "learned")
    encoded = model.apply({"params": params}, view(32))
    tokens = np.concatenate([encoded.pooled[:, None], encoded.tokens], axis=1)
    np.testing.assert_allclose(tokens, GOLDEN[f"{model_name}/tokens"], atol=1e-4)
    np.testing.assert_allclose(encoded.pooled, GOLDEN[f"{model_name}/pooled"], atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(96, 96), (112, 112), (256, 256), (96, 160)])
def test_bicubic_resize_of_learned_positions(height, width):
    vit = ViTShape(image_size=224, patch_size=16, width=12, depth=1, heads=3)
    positions = weights(vit_shapes(vit, learned_positions=True))["pos_embed"]
    rows, columns = (bicubic_resize_matrix(14, side // 16) for side in (height, width))
    patches = np.einsum("yr,xc,rcd->yxd", rows, columns, positions[0, 1:].reshape(14, 14, 12))
    golden = GOLDEN[f"positions/dino/224_to_{height}x{width}"]
    np.testing.assert_allclose(patches.reshape(-1, 12), golden[0, 1:], atol=1e-6)
    np.testing.assert_array_equal(positions[:, :1], golden[:, :1])


def test_sincos_positions():
    np.testing.assert_allclose(sincos_2d((8, 8), 48), GOLDEN["positions/moco_v3/8x8x48"], atol=1e-6)
    np.testing.assert_allclose(
        sincos_2d((14, 14), 384)[:, list(SINCOS_ROWS)],
        GOLDEN["positions/moco_v3/14x14x384_rows"],
        atol=2e-6,  # angles up to 13 in float32 there, in float64 here
    )


def count(shapes) -> int:
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize("name", sorted(n for n in COUNTS if n.startswith(("dino/vit", "timm"))))
def test_encoder_parameter_counts(name):
    size, patch = name.split("/")[1].rsplit("_", 1)
    width, depth, heads = VIT_SIZES[size]
    model = encoder(ViTShape(224, int(patch), width, depth, heads), "learned")
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert count(shapes) == COUNTS[name]


@pytest.mark.parametrize("width", [384, 768])
def test_dino_head_parameter_counts(width):
    shapes = jax.eval_shape(PrototypeHead(65536).init, jax.random.key(0), jnp.zeros((1, width)))
    assert count(shapes) == COUNTS[f"dino/head_{width}"]
    gain = shapes["params"]["prototypes"]["scale"].size
    assert COUNTS[f"dino/head_{width}/trained_gain"] == count(shapes)
    assert COUNTS[f"dino/head_{width}/frozen_gain"] == count(shapes) - gain


@pytest.mark.parametrize(("size", "width"), [("small", 384), ("base", 768)])
def test_moco_v3_parameter_counts(size, width):
    def shapes(module, features):
        x = jnp.zeros((2, features))
        return jax.eval_shape(lambda: module.init(jax.random.key(0), x, True))

    projector = count(shapes(moco_v3_projector(3, 4096, 256, jnp.float32), width))
    predictor = count(shapes(moco_v3_projector(2, 4096, 256, jnp.float32), 256))
    _, depth, heads = VIT_SIZES[f"vit_{size}"]
    model = encoder(ViTShape(224, 16, width, depth, heads), "sincos")
    trunk = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    official = from_torch_names.with_prefix(COUNTS, f"moco_v3/vit_{size}/")
    assert projector == official["projector"]
    assert predictor == official["predictor"]
    fixed_positions = 197 * width  # a parameter there, a constant here
    assert count(trunk) + projector == official["base_encoder"] - fixed_positions
    patch_embedding = 3 * 16 * 16 * width + width
    assert count(trunk) + projector + predictor - patch_embedding == official["trainable"]

"""Tables of names: there and back bit for bit, and in agreement with the official state dicts."""

import jax
import numpy as np
import pytest
from foreign_weights import depths, random_params, swin, vit
from golden import from_torch_names, swin_weights
from golden.weights import ViTShape, vit_shapes, weights

from repre_jax.convert.names import has_place, to_ours, to_theirs
from repre_jax.convert.tables import (
    BIG_VISION,
    FORMATS,
    HUGGING_FACE_SWIN,
    HUGGING_FACE_VIT,
    SWIN,
    TIMM_SWIN,
    VIT,
)
from repre_jax.errors import UserError

ENCODERS = {"vit": vit(), "swin": swin()}


def assert_same_tree(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("names", FORMATS, ids=lambda names: names.title)
def test_there_and_back_is_bit_exact(names):
    encoder = ENCODERS[names.kind]
    params = random_params(encoder)
    theirs = to_theirs(names, params, depths(encoder), heads=2)
    back, used = to_ours(names, theirs, params, depths(encoder))
    assert_same_tree(back, params)
    assert used == set(theirs)
    # Nothing is written twice, or lost: as many numbers as there were.
    assert sum(x.size for x in theirs.values()) == sum(x.size for x in jax.tree.leaves(params))


def test_relative_positions_of_lomar_go_there_and_back():
    params = random_params(vit(position="relative"))
    theirs = to_theirs(VIT, params, (3,), heads=2)
    assert theirs["blocks.2.attn.rpe_k.lookup_table_weight"].shape == (1, 16, 50)
    assert_same_tree(to_ours(VIT, theirs, params, (3,))[0], params)
    assert not has_place(HUGGING_FACE_VIT, "block_0/attention/relative_position/kernel")
    assert has_place(HUGGING_FACE_VIT, "block_0/attention/qkv/kernel")


def test_official_vits_are_read_as_their_recorded_outputs_are_compared():
    state = weights(vit_shapes(ViTShape(32, 8, 32, 3, 2), learned_positions=True))
    expected = from_torch_names.encoder(state)
    assert_same_tree(to_ours(VIT, state, expected, (3,))[0], expected)
    back = to_theirs(VIT, expected, (3,), heads=2)
    assert back.keys() == state.keys()
    assert_same_tree(back, state)


def test_official_swins_are_read_as_their_recorded_outputs_are_compared():
    state = swin_weights.state_of(swin_weights.CASES["transformer_ssl"])
    expected = swin_weights.params_of(state)
    assert_same_tree(to_ours(SWIN, state, expected, swin_weights.DEPTHS)[0], expected)
    back = to_theirs(SWIN, expected, swin_weights.DEPTHS, heads=1)
    assert back.keys() == state.keys()
    assert_same_tree(back, state)


def test_timm_keeps_a_merging_with_the_stage_after_it():
    params, stages = random_params(swin()), depths(swin())
    old, new = (to_theirs(names, params, stages, heads=1) for names in (SWIN, TIMM_SWIN))
    np.testing.assert_array_equal(
        new["layers.1.downsample.reduction.weight"], old["layers.0.downsample.reduction.weight"]
    )
    assert old.keys() - new.keys() == {
        f"layers.0.downsample.{x}" for x in ("norm.weight", "norm.bias", "reduction.weight")
    }


def test_queries_keys_and_values_are_the_thirds_of_the_fused_ones():
    params = random_params(vit())
    fused = params["block_1"]["attention"]["qkv"]
    theirs = to_theirs(HUGGING_FACE_VIT, params, (3,), heads=2)
    key = "encoder.layer.1.attention.attention.key"
    np.testing.assert_array_equal(theirs[f"{key}.weight"], fused["kernel"][:, 32:64].T)
    np.testing.assert_array_equal(theirs[f"{key}.bias"], fused["bias"][32:64])
    of_flax = to_theirs(BIG_VISION, params, (3,), heads=2)
    kernel = of_flax["Transformer/encoderblock_1/MultiHeadDotProductAttention_0/key/kernel"]
    assert kernel.shape == (32, 2, 16)
    np.testing.assert_array_equal(kernel[:, 1], fused["kernel"][:, 48:64])
    stage = to_theirs(HUGGING_FACE_SWIN, random_params(swin()), depths(swin()), heads=1)
    assert stage["encoder.layers.2.blocks.2.attention.self.value.weight"].shape == (32, 32)


def test_what_is_missing_or_of_another_shape_is_named():
    params = random_params(vit())
    theirs = to_theirs(VIT, params, (3,), heads=2)
    wrong = theirs | {"blocks.1.mlp.fc1.weight": np.zeros((64, 32), np.float32)}
    with pytest.raises(UserError, match=r"blocks\.1\.mlp\.fc1\.weight is \[64, 32\]"):
        to_ours(VIT, wrong, params, (3,))
    del theirs["blocks.2.norm1.bias"]
    with pytest.raises(UserError, match=r"blocks\.2\.norm1\.bias is missing"):
        to_ours(VIT, theirs, params, (3,))

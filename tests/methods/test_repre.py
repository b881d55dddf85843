"""The RePre branch: what a config makes of it, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repre_jax.errors import UserError
from repre_jax.methods.repre import build
from repre_jax.models.swin import Swin
from repre_jax.models.vit import ViT
from repre_jax.training import defaults


def branch(encoder=None, **changes):
    """The branch on ViT-S, or on an encoder of one's own."""
    config = defaults.get_config("dino")
    if isinstance(encoder, Swin):
        defaults.swin_tiny(config)
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (config.repre[section] if section else config.repre)[name] = value
    encoder = encoder or ViT(patch_size=16, width=384, depth=12, heads=6, image_size=224)
    return build(config.repre, encoder, config.model, "contrast")


SWIN = Swin(embed_width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24))
SHALLOW = ViT(patch_size=16, width=384, depth=3, heads=6, image_size=224)


def test_single_tap_keeps_the_blocks():
    repre = branch(taps="single")
    assert repre.taps == (11,)
    assert repre.decoder.blocks == 3


def test_decoder_options():
    repre = branch(decoder__operator="transformer", decoder__layers=4, decoder__width=128)
    decoder = repre.decoder
    assert (decoder.operator, decoder.layers, decoder.width) == ("transformer", 4, 128)


def test_transformer_fusion_is_made_of_the_encoders_blocks():
    """Table 5: heads as wide, windows as large and shifted as often as in the backbone."""
    moco_v3 = ViT(patch_size=16, width=384, depth=12, heads=12, image_size=224)
    assert branch(encoder=moco_v3).decoder.form.head_width == 32
    assert branch().decoder.form == (64, 1e-6, "dino", None, False)
    repre = branch(encoder=SWIN, decoder__operator="transformer")
    assert repre.decoder.form == (32, 1e-5, "dino", 7, True)
    sides = [(56, 96), (28, 192), (14, 384), (7, 768)]
    maps = [jax.ShapeDtypeStruct((1, side, side, width), jnp.float32) for side, width in sides]
    params = jax.eval_shape(repre.init, jax.random.key(0), maps)["decoder"]
    for block, heads in (("block_0", 12), ("block_1", 6), ("block_2", 3)):
        for layer in ("fusion_0", "fusion_1"):
            table = params[block][layer]["attention"]["relative_position_bias"]
            assert table.shape == (13 * 13, heads)


def test_blocks_by_number():
    repre = branch(taps="3,11")
    assert repre.taps == (3, 11)
    assert repre.decoder.blocks == 1


def test_swin_taps_the_last_block_of_each_stage_and_ends_at_stride_4():
    repre = branch(encoder=SWIN)
    assert repre.taps == (1, 3, 9, 11)
    assert (repre.decoder.blocks, repre.decoder.patch_size) == (3, 4)
    single = branch(encoder=SWIN, taps="single")
    assert single.taps == (11,)
    assert single.decoder.upsamplings == 3
    assert (single.decoder.blocks, single.decoder.patch_size) == (3, 4)


def initial(repre):
    maps = [jax.ShapeDtypeStruct((1, 2, 2, 32), np.float32)] * len(repre.taps)
    return jax.eval_shape(repre.init, jax.random.key(0), maps)


def test_fixed_weights_have_no_parameters():
    repre = branch(weighting="fixed", fixed_weights=(0.2, 14.0))
    assert set(initial(repre)) == {"decoder"}
    assert [float(x) for x in repre.weighting.weights({})] == pytest.approx([0.2, 14.0, 0.0])


def test_learned_weights_start_at_one():
    repre = branch()
    params = initial(repre)
    assert set(params) == {"decoder", "log_variance"}
    assert set(params["log_variance"]) == {"contrast", "reconstruct"}
    zero = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params["log_variance"])
    assert all(x.shape == () and x.dtype == np.float32 for x in zero.values())
    assert [float(x) for x in repre.weighting.weights({"log_variance": zero})] == [1.0, 1.0, 0.0]


def test_an_encoder_with_fewer_blocks_than_taps():
    """What else it refuses is told by the command line: tests/test_main.py."""
    with pytest.raises(
        UserError, match=r"^RePre taps 4 blocks, and vit_small has only 3: name several"
    ):
        branch(encoder=SHALLOW)
    assert branch(encoder=SHALLOW, taps="0,2").taps == (0, 2)

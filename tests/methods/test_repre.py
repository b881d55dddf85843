"""The RePre branch: what a config makes of it, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from repre_jax.errors import UserError
from repre_jax.methods.repre import build


def branch(depth=12, **changes):
    config = default.get_config("dino")
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (config.repre[section] if section else config.repre)[name] = value
    return build(config.repre, config.model, depth, jnp.float32)


def test_default_is_the_papers():
    repre = branch()
    assert repre.taps == (2, 5, 8, 11)
    assert repre.fixed is None
    decoder = repre.decoder
    assert (decoder.operator, decoder.layers, decoder.width) == ("conv", 2, None)
    assert (decoder.blocks, decoder.patch_size) == (3, 16)


def test_disabled_is_nothing():
    assert branch(enabled=False) is None


def test_single_tap_keeps_the_blocks():
    repre = branch(taps="single")
    assert repre.taps == (11,)
    assert repre.decoder.blocks == 3


def test_decoder_options():
    repre = branch(decoder__operator="transformer", decoder__layers=4, decoder__width=128)
    decoder = repre.decoder
    assert (decoder.operator, decoder.layers, decoder.width) == ("transformer", 4, 128)


def initial(repre):
    maps = [jax.ShapeDtypeStruct((1, 2, 2, 32), np.float32)] * len(repre.taps)
    return jax.eval_shape(repre.init, jax.random.key(0), maps)


def test_fixed_weights_have_no_parameters():
    repre = branch(weighting="fixed", fixed_weights=(0.2, 14.0))
    assert set(initial(repre)) == {"decoder"}
    assert [float(x) for x in repre.weights({})] == pytest.approx([0.2, 14.0, 0.0])


def test_learned_weights_start_at_one():
    repre = branch()
    params = initial(repre)
    assert set(params) == {"decoder", "log_variance"}
    assert set(params["log_variance"]) == {"contrast", "reconstruct"}
    zero = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params["log_variance"])
    assert all(x.shape == () and x.dtype == np.float32 for x in zero.values())
    assert [float(x) for x in repre.weights({"log_variance": zero})] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"taps": "all"}, "repre.taps='all' must be one of multi, single."),
        ({"weighting": "kendall"}, "repre.weighting='kendall' must be one of learned, fixed."),
        (
            {"decoder__operator": "mlp"},
            "repre.decoder.operator='mlp' must be one of conv, transformer.",
        ),
        ({"depth": 3}, "RePre taps 4 blocks, and vit_small has only 3."),
    ],
)
def test_what_it_refuses(changes, sentence):
    with pytest.raises(UserError) as caught:
        branch(**changes)
    assert str(caught.value) == sentence

"""The whole online network of a run, to show what it reconstructs: encoder, heads and branch."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from repre_jax.errors import UserError
from repre_jax.evaluation.checkpoint import Pretrained
from repre_jax.evaluation.stored import read_parts
from repre_jax.methods.branch import Branch
from repre_jax.methods.method import Method
from repre_jax.models import build_encoder
from repre_jax.models.conv_stem import fold
from repre_jax.training.learner import build_branch, build_method, init_params


class OnlineNetwork(NamedTuple):
    """What a run trains, whatever its paper evaluates.

    Attributes:
      encoder: as it is trained; pictures are painted with its ``frozen`` form.
      method: the framework.
      branch: the reconstruction branch; None for the baseline.
      params: {"encoder" as its frozen form takes it, "heads", "tokens"?, "repre"?}.
    """

    encoder: nn.Module
    method: Method
    branch: Branch | None
    params: Any


def load_online_network(pretrained: Pretrained) -> OnlineNetwork:
    """Reads it from the checkpoint that ``pretrained`` is of.

    Raises:
      UserError: these are weights before training, or the checkpoint is damaged.
    """
    if pretrained.weights == "random":
        raise UserError("weights=random have learnt no reconstruction")
    config = pretrained.config
    encoder = build_encoder(config, pretrained.encoder.dtype)
    method = build_method(config, encoder)
    branch = build_branch(config, encoder, method)
    init = functools.partial(init_params, encoder, method, branch, seed=config.seed)
    params, statistics = jax.eval_shape(init)
    expected = {"params": params}
    if "encoder" in statistics:
        expected["batch_stats"] = {"encoder": statistics["encoder"]}
    found = read_parts(pretrained.run / "checkpoints" / str(pretrained.step), expected)
    folded = fold(found["params"]["encoder"], found.get("batch_stats", {}).get("encoder"))
    return OnlineNetwork(encoder, method, branch, found["params"] | {"encoder": folded})

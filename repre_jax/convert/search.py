"""Finds the encoders among the tensors of a file, whatever they are wrapped in.

An encoder is found by the kernel of its patches: what stands before that name is the wrapping
("teacher.module.backbone.", "model.encoder."), and what begins so belongs to it.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from repre_jax.convert.names import Names, Tensors
from repre_jax.convert.tables import (
    BIG_VISION,
    FORMATS,
    HUGGING_FACE_DINOV2,
    HUGGING_FACE_SWIN,
    HUGGING_FACE_VIT,
    SWIN,
    TIMM_SWIN,
    VIT,
)
from repre_jax.errors import UserError

# Of a moving average, in the wrappings of DINO, MoCo v3, MoBY, BYOL and timm.
_AVERAGES = {
    "teacher",
    "momentum_encoder",
    "encoder_k",
    "target",
    "target_encoder",
    "target_network",
    "ema",
    "model_ema",
    "state_dict_ema",
}
_ONLINE = {"student", "base_encoder", "encoder_q", "online", "online_encoder", "online_network"}


class Found(NamedTuple):
    """An encoder in a file.

    Attributes:
      names: of its format.
      prefix: what it is wrapped in; empty for nothing.
      weights: "online" or "target" where the wrapping says so, else None.
      tensors: its own, without the prefix.
    """

    names: Names
    prefix: str
    weights: str | None
    tensors: dict[str, np.ndarray]


def find_encoders(tensors: Tensors) -> list[Found]:
    """Every encoder in a file; UserError when there is none of a known format."""
    # torch.compile puts a name of its own before what it compiled, at any depth.
    tensors = {name.replace("_orig_mod.", ""): value for name, value in tensors.items()}
    found = {}
    for anchor in sorted({names.anchor for names in FORMATS}):
        for name in tensors:
            prefix = name.removesuffix(anchor)
            if name != anchor and (prefix == name or prefix[-1] not in "./"):
                continue
            inner = {
                n.removeprefix(prefix): value
                for n, value in tensors.items()
                if n.startswith(prefix)
            }
            found[prefix] = Found(_format(anchor, inner), prefix, _weights(prefix), inner)
    if not found:
        shown = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise UserError(
            f"no encoder of a known format is in it (it holds {shown}): known are "
            f"{'; '.join(names.title for names in FORMATS)}."
        )
    return list(found.values())


def choose(found: list[Found], weights: str, evaluated: str) -> Found:
    """The encoder with these weights, whose ``weights`` is then "online" or "target".

    Args:
      found: all of a file.
      weights: "online", "target", or "auto" for the one there is, of two the ``evaluated``.
      evaluated: what the method's paper evaluates.

    Raises:
      UserError: it has no such weights, or several encoders that nothing tells apart.
    """
    if len(found) == 1:
        only = found[0]._replace(weights=found[0].weights or evaluated)
        if weights not in ("auto", only.weights):
            raise UserError(f"it has {only.weights} weights alone: set weights={only.weights}.")
        return only
    # Next to a moving average, one without a name is what is averaged.
    roles = [encoder.weights or "online" for encoder in found]
    wanted = evaluated if weights == "auto" else weights
    if Counter(roles)[wanted] != 1:
        prefixes = ", ".join(repr(encoder.prefix) for encoder in found)
        raise UserError(f"it has several encoders ({prefixes}), of which not one is {wanted}.")
    return found[roles.index(wanted)]._replace(weights=wanted)


def outside(tensors: Tensors, prefix: str) -> list[str]:
    """What of a file is not in its encoder: "optimizer.state.* (152)", by the first two names."""
    names = (name for name in tensors if not name.replace("_orig_mod.", "").startswith(prefix))
    return grouped(names)


def grouped(names: Iterable[str]) -> list[str]:
    """Names that begin alike as one, with their number."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        groups.setdefault(tuple(re.split(r"[./]", name)[:2]), []).append(name)
    return sorted(
        inside[0] if len(inside) == 1 else f"{'.'.join(group)}.* ({len(inside)})"
        for group, inside in groups.items()
    )


def _format(anchor: str, tensors: Tensors) -> Names:
    if anchor == BIG_VISION.anchor:
        return BIG_VISION
    stages = any(".blocks.0." in name for name in tensors)
    if anchor == HUGGING_FACE_VIT.anchor:
        if stages:
            return HUGGING_FACE_SWIN
        dinov2 = "encoder.layer.0.norm1.weight" in tensors
        return HUGGING_FACE_DINOV2 if dinov2 else HUGGING_FACE_VIT
    if not any(name.startswith("layers.0.") for name in tensors):
        return VIT
    return SWIN if any(name.startswith("layers.0.downsample.") for name in tensors) else TIMM_SWIN


def _weights(prefix: str) -> str | None:
    words = set(re.split(r"[./]", prefix))
    if words & _AVERAGES:
        return "target"
    return "online" if words & _ONLINE else None

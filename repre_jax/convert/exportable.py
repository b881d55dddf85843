"""An encoder on its way out, and which libraries have a place for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from repre_jax.convert.names import Names, has_place
from repre_jax.convert.tables import HUGGING_FACE_SWIN, HUGGING_FACE_VIT, SWIN, VIT
from repre_jax.errors import UserError
from repre_jax.image_size import height_and_width, size_in_words
from repre_jax.models.swin import Swin

# Norms' epsilons that timm builds its encoders with.
_TIMM_EPSILON = {"vit": 1e-6, "swin": 1e-5}
_NAMES = {
    # timm takes a Swin without a head for one of its versions before 0.9, and renames what it reads
    # (checkpoint_filter_fn in models/swin_transformer.py).
    "timm": {"vit": VIT, "swin": SWIN},
    "huggingface": {"vit": HUGGING_FACE_VIT, "swin": HUGGING_FACE_SWIN},
    "official": {"vit": VIT, "swin": SWIN},
}


class Exportable(NamedTuple):
    """An encoder and where it comes from.

    Attributes:
      encoder: the module, which computes in float32.
      params: its parameters, on the host.
      config: of the run.
      run: its folder.
      step: of the checkpoint.
      weights: "online", "target" or "random".
    """

    encoder: nn.Module
    params: Any
    config: ConfigDict
    run: Path
    step: int
    weights: str

    @property
    def kind(self) -> str:
        """ "vit" or "swin"."""
        return "swin" if isinstance(self.encoder, Swin) else "vit"

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return self.encoder.depths if self.kind == "swin" else (self.encoder.depth,)


def names_for(exportable: Exportable, format: str) -> Names:
    """The names that an encoder's tensors have in "timm", "huggingface" or "official".

    Raises:
      UserError: the format has no such encoder; tells which ones have.
    """
    reason = why_not(exportable, format)
    if reason:
        others = [other for other in _NAMES if not why_not(exportable, other)]
        listed = ", ".join([*others, "safetensors"])
        raise UserError(f"{reason}: choose format={listed} or stablehlo.")
    return _NAMES[format][exportable.kind]


def why_not(exportable: Exportable, format: str) -> str | None:
    """What keeps an encoder from being written in a format; None where nothing does."""
    reason = _REASONS[format](exportable)
    if reason:
        return reason
    names, name = _NAMES[format][exportable.kind], exportable.config.model.name
    for path in flatten_dict(exportable.params, sep="/"):
        if not has_place(names, path):
            return f"{path} of {name} has no place in a {names.title}"
    return None


def _not_in_timm(exportable: Exportable) -> str | None:
    encoder, kind = exportable.encoder, exportable.kind
    if _has_relative_positions(encoder):
        return "timm has no ViT with LoMaR's relative positions"
    if encoder.norm_epsilon != _TIMM_EPSILON[kind]:
        return (
            f"timm builds every {kind} with a norm epsilon of {_TIMM_EPSILON[kind]:g}, and this "
            f"one has {encoder.norm_epsilon:g}"
        )
    if kind == "swin" and not _has_windows_of_timm(encoder):
        return (
            "timm shifts a Swin's maps before it pads them and fits windows to height and width "
            f"apart, which is another function for windows of {encoder.window} on images of "
            f"{size_in_words(encoder.image_size)}"
        )
    return None


def _not_in_transformers(exportable: Exportable) -> str | None:
    encoder = exportable.encoder
    if _has_relative_positions(encoder):
        return "transformers has no ViT with LoMaR's relative positions"
    height, width = height_and_width(encoder.image_size)
    if height != width or encoder.channels != 3:
        return (
            "The image processors of transformers make squares of RGB, and this encoder takes "
            f"{height} x {width} pixels of {encoder.channels} channel(s)"
        )
    if exportable.kind == "swin":
        windows = {encoder.stage_window(stage) for stage in range(len(encoder.depths))}
        if windows != {encoder.window}:
            return (
                f"transformers' Swin has windows of {encoder.window} in every stage, and the last "
                f"maps of images of {size_in_words(encoder.image_size)} are smaller"
            )
    return None


def official_epsilon(kind: str, method: str) -> float:
    """Of the norms of an encoder, "vit" or "swin", in the code of the method's authors.

    Swin's own is 1e-5; EsViT, which is DINO on Swin, has 1e-6 (get_cls_model in its
    models/swin_transformer.py).
    """
    return 1e-5 if kind == "swin" and method != "dino" else 1e-6


def _not_official(exportable: Exportable) -> str | None:
    size, own = exportable.encoder.image_size, exportable.encoder.norm_epsilon
    epsilon = official_epsilon(exportable.kind, exportable.config.method.name)
    if own != epsilon:
        return (
            f"The official code builds such an encoder with a norm epsilon of {epsilon:g}, and "
            f"this one has {own:g}"
        )
    if len(set(height_and_width(size))) > 1:
        return (
            "The official encoders are made for squares, and this one for images of "
            f"{size_in_words(size)}"
        )
    return None


_REASONS: dict[str, Callable[[Exportable], str | None]] = {
    "timm": _not_in_timm,
    "huggingface": _not_in_transformers,
    "official": _not_official,
}


def _has_relative_positions(encoder: nn.Module) -> bool:
    return getattr(encoder, "position", None) == "relative"


def _has_windows_of_timm(encoder: Swin) -> bool:
    """Whether timm's Swin looks through the same windows (timm, models/swin_transformer.py).

    It fits windows and shifts to each side of a map alone, rounds the sides of maps down, drops
    pixels that fill no patch, and shifts before it pads; which is the same for half a window of
    padding, a window of its own either way.
    """
    sides = height_and_width(encoder.image_size)
    if any(side % encoder.patch_size for side in sides):
        return False
    for stage, depth in enumerate(encoder.depths):
        stride = encoder.patch_size * 2**stage
        window, maps = encoder.stage_window(stage), [-(-side // stride) for side in sides]
        if any(min(encoder.window, side // stride) != window for side in sides):
            return False
        shifted = depth > 1 and window > 1 and max(maps) > window
        if shifted and (min(maps) == window or any(2 * side % window for side in maps)):
            return False
    return True

"""The encoder of a run as a function of images, for use outside of this library's evaluations.

encoder = repre_jax.load("runs/a")  # or weights of another library: "dino_deitsmall16.pth"
features = encoder.features(images)  # [B, D]
encoder.save("for_timm", format="timm")
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from repre_jax.convert.export import export
from repre_jax.convert.exportable import Exportable
from repre_jax.errors import UserError
from repre_jax.evaluation.checkpoint import Pretrained, open_pretrained
from repre_jax.evaluation.frozen import from_levels, frozen_features
from repre_jax.models.pixels import encoder_input
from repre_jax.models.taps import apply_with_attention, apply_with_taps
from repre_jax.models.vit import ViT
from repre_jax.training import resolution


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """A frozen encoder, compiled once for every shape and type of images.

    Images are [B, H, W, C], RGB mostly, uint8 or floats in [0, 1], not normalised: the encoder does
    that where it was trained so. H and W may differ from the training's; a ViT's patch must divide
    them. Of a run with a ``data.range``, whose ends are 0 and 1, only floats are taken.

    Attributes:
      pretrained: which run, step and weights it is of, and the run's config.
      params: its parameters, on the device.
    """

    pretrained: Pretrained
    params: Any

    def features(self, images: ArrayLike) -> jax.Array:
        """Pooled features float32 [B, D], which the k-NN and the few-label evaluation use.

        Raises:
          UserError: images of another shape, type or range.
        """
        return self._features(self.params, self._checked(images))

    def maps(self, images: ArrayLike, blocks: Sequence[int]) -> list[jax.Array]:
        """Maps float32 [B, gh, gw, D] of what blocks put out, without class token, before any norm.

        Args:
          images: as for ``features``.
          blocks: their numbers from 0; the maps come back in this order.

        Raises:
          UserError: images as for ``features``, or a block that the encoder does not have.
        """
        blocks = tuple(map(self._checked_block, blocks))
        return self._maps(self.params, self._checked(images), blocks)

    def attention(self, images: ArrayLike, block: int) -> jax.Array:
        """How much the class token attends to every patch in a block: float32 [B, H, gh, gw].

        The sum over patches is 1 less what the class token keeps for itself.

        Args:
          images: as for ``features``.
          block: its number from 0.

        Raises:
          UserError: images or a block as for ``maps``, or an encoder without a class token.
        """
        block = self._checked_block(block)
        if not isinstance(self.pretrained.encoder, ViT):
            name = self.pretrained.config.model.name
            raise UserError(f"{name} has no class token, so nothing attends for the whole image.")
        return self._attention(self.params, self._checked(images), block)

    def save(self, folder: str | Path, *, format: str = "timm") -> str:
        """Writes the encoder, with a model card, as another library opens it.

        Args:
          folder: that does not exist yet.
          format: "timm", "huggingface", "official", "safetensors", "stablehlo" or "onnx"; what
            they are is told in ``configs/export.py``.

        Returns:
          A sentence on how it compares with this encoder on random images.

        Raises:
          UserError: a format that has no place for it, a folder that is in use, or an export that
            computes something else.
        """
        pretrained = self.pretrained
        exportable = Exportable(
            encoder=pretrained.encoder.clone(dtype=jnp.float32),
            params=jax.device_get(self.params),
            config=pretrained.config,
            run=pretrained.run,
            step=pretrained.step,
            weights=pretrained.weights,
        )
        return export(exportable, Path(folder).expanduser(), format)

    @functools.cached_property
    def _features(self) -> Callable[[Any, jax.Array], jax.Array]:
        encoder, prepared = self.pretrained.encoder, self._prepared
        return jax.jit(lambda params, x: frozen_features(encoder, params, prepared(x), "pooled"))

    @functools.cached_property
    def _maps(self) -> Callable[[Any, jax.Array, tuple[int, ...]], list[jax.Array]]:
        encoder, prepared = self.pretrained.encoder, self._prepared

        @functools.partial(jax.jit, static_argnums=2)
        def encode(params, images, blocks):
            _, maps = apply_with_taps(encoder, {"params": params}, prepared(images), blocks)
            return [feature_map.astype(jnp.float32) for feature_map in maps]

        return encode

    @functools.cached_property
    def _attention(self) -> Callable[[Any, jax.Array, int], jax.Array]:
        encoder, prepared = self.pretrained.encoder, self._prepared

        @functools.partial(jax.jit, static_argnums=2)
        def attend(params, images, block):
            return apply_with_attention(encoder, {"params": params}, prepared(images), block)

        return attend

    def _checked_block(self, block: int) -> int:
        depth = len(self.pretrained.encoder.block_strides)
        if block not in range(depth):
            name = self.pretrained.config.model.name
            raise UserError(f"There is no block {block!r}: {name} has blocks 0 to {depth - 1}.")
        return int(block)

    def _prepared(self, images: jax.Array) -> jax.Array:
        """Checked images as the encoder takes them."""
        prepare = from_levels if images.dtype == jnp.uint8 else encoder_input
        return prepare(self.pretrained.encoder, images)

    def _checked(self, images: ArrayLike) -> np.ndarray:
        """uint8 or float32 [B, H, W, C]; UserError when a result would be wrong in silence."""
        try:
            images = np.asarray(images)
        except ValueError as error:
            raise UserError("Images of several shapes need a call for each shape.") from error
        channels = self.pretrained.encoder.channels
        if images.ndim != 4 or images.shape[3] != channels or not images.size:
            raise UserError(f"Images must be [B, H, W, {channels}], not {list(images.shape)}.")
        multiple = self.pretrained.encoder.size_multiple
        height, width = images.shape[1:3]
        if height % multiple or width % multiple:
            raise UserError(
                f"Images of {height} x {width} pixels do not fit: both sides must be multiples of "
                f"{multiple}, the encoder's patch."
            )
        ends = self.pretrained.config.data.range
        if ends and not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(
                f"The encoder was trained on values from {ends[0]:g} to {ends[1]:g}: give floats, "
                f"(values - {ends[0]:g}) / {ends[1] - ends[0]:g}, not {images.dtype}."
            )
        if images.dtype == np.uint8:
            return images
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(f"Images must be uint8, or floats in [0, 1], not {images.dtype}.")
        low, high = images.min(), images.max()
        if not (low >= 0 and high <= 1):  # NaN, too
            raise UserError(
                f"Floats must lie in [0, 1], neither normalised nor 0 to 255; these images go from "
                f"{low:.3g} to {high:.3g}."
            )
        return images.astype(np.float32)


def load(
    run: str | Path,
    *,
    step: int | None = None,
    weights: str = "auto",
    compute_dtype: str = "auto",
) -> Encoder:
    """Opens the encoder of a pre-training run, finished or not, without touching the run.

    Args:
      run: its folder, or one of the folders in its ``checkpoints/``; or weights of another library,
        a file or a folder of timm or transformers, which are converted in memory.
      step: of the checkpoint; None for the newest.
      weights: "auto" for those that the method's paper evaluates; or "online", "target", "random"
        (the encoder before training).
      compute_dtype: of activations: "float32", "bfloat16", or "auto", which evaluations use:
        bfloat16 on accelerators, float32 on a CPU.

    Raises:
      UserError: no such run, checkpoint, weights or type, or a checkpoint that is damaged.
    """
    if compute_dtype not in resolution.COMPUTE_DTYPES:
        known = ", ".join(resolution.COMPUTE_DTYPES)
        raise UserError(f"compute_dtype={compute_dtype!r} must be one of {known}.")
    dtype = resolution.compute_dtype(compute_dtype)
    pretrained = open_pretrained(run, step=step, weights=weights, compute_dtype=dtype)
    return Encoder(pretrained, jax.device_put(pretrained.load_params()))

"""The train step as a program: jitted, and compiled from shapes for the devices of a mesh.

The mesh may be of devices that are not here (``training/accelerators.py``).
"""

import functools

import jax
import numpy as np
from jax.sharding import Sharding

from repre_jax.data.pixel_format import RGB
from repre_jax.data.recipes import ViewRecipe
from repre_jax.image_size import ImageSize, height_and_width
from repre_jax.sharding import by_row, jitted, placed
from repre_jax.training.learner import Learner
from repre_jax.training.placement import Placement
from repre_jax.training.step import loss_gradient_norms, train_step

Batch = dict[str, jax.ShapeDtypeStruct]


def jitted_step(learner: Learner, placement: Placement) -> jax.stages.Wrapped:
    """``train_step`` of a learner, (state, batch) -> (state, metrics).

    It takes over the state, and puts the next one where that lay.
    """
    return jitted(
        functools.partial(train_step, learner, placement=placement),
        placement.mesh,
        donate_argnums=0,
        out_shardings=(placement.of(learner.shapes), None),
    )


def jitted_gradient_norms(learner: Learner, placement: Placement) -> jax.stages.Wrapped:
    """``loss_gradient_norms`` of a learner, (state, batch) -> metrics."""

    def norms(state, batch):
        return loss_gradient_norms(learner, placement.gathered(state), batch)

    return jitted(norms, placement.mesh)


def abstract_batch(
    learner: Learner,
    batch_size: int,
    sharding: Sharding | None = None,
    *,
    pixels: np.dtype = RGB.dtype,
) -> Batch:
    """``abstract_views`` of what a learner sees."""
    views, encoder = learner.method.views, learner.encoder
    return abstract_views(
        views, encoder.image_size, encoder.channels, batch_size, sharding, pixels=pixels
    )


def abstract_views(
    recipe: ViewRecipe,
    image_size: ImageSize,
    channels: int,
    batch_size: int,
    sharding: Sharding | None = None,
    *,
    pixels: np.dtype = RGB.dtype,
) -> Batch:
    """Shapes of a batch of ``data.pipeline.training_batches``.

    Args:
      recipe: of the views.
      image_size: of a global view.
      channels: of the images.
      batch_size: images a step, over all devices.
      sharding: of every array.
      pixels: type of the stored values, ``PixelFormat.dtype``.
    """

    def images(views: int, size: ImageSize) -> jax.ShapeDtypeStruct:
        shape = (batch_size, views, *height_and_width(size), channels)
        return jax.ShapeDtypeStruct(shape, pixels, sharding=sharding)

    batch = {"global": images(recipe.global_crops, image_size)}
    if recipe.local_crops:
        batch["local"] = images(recipe.local_crops, recipe.local_size)
    numbers = jax.ShapeDtypeStruct((batch_size,), np.int32, sharding=sharding)
    return batch | dict.fromkeys(("index", "epoch", "label"), numbers)


def lowered_step(
    learner: Learner, batch_size: int, placement: Placement, *, pixels: np.dtype = RGB.dtype
) -> jax.stages.Lowered:
    """``jitted_step`` for the devices of a mesh, ready to be compiled.

    Args:
      learner: static parts.
      batch_size: images a step, over all devices.
      placement: of the state, on the devices that share a step.
      pixels: type of the stored values, ``PixelFormat.dtype``.
    """
    state = placed(learner.shapes, placement.of)
    batch = abstract_batch(learner, batch_size, by_row(placement.mesh), pixels=pixels)
    return jitted_step(learner, placement).lower(state, batch)


def memory_bytes(compiled: jax.stages.Compiled) -> dict[str, int]:
    """The compiler's plan for one device: bytes of "argument", "output", "alias", "temp", "peak".

    "alias" is what the successor of a donated argument takes over; "peak" counts it once.
    """
    plan = compiled.memory_analysis()
    parts = ("argument", "output", "alias", "temp")
    sizes = {part: getattr(plan, f"{part}_size_in_bytes") for part in parts}
    return sizes | {"peak": sum(sizes.values()) - 2 * sizes["alias"]}

"""Images beside those that an encoder takes for the most alike."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from repre_jax.data.samples import Sample, centre_views
from repre_jax.data.sources.decode import BadImage
from repre_jax.data.sources.source import Source
from repre_jax.evaluation.neighbours import Neighbour, class_name, nearest_images
from repre_jax.image_size import ImageSize, height_and_width
from repre_jax.visualize.figure import OKABE_ITO, Panel, save_grid
from repre_jax.visualize.scene import Scene

SAME, OTHER = OKABE_ITO[2], OKABE_ITO[3]  # green and vermilion; their captions say it as well
_CHARACTERS = 13


def draw_neighbours(scene: Scene) -> Iterator[Path]:
    """Every image beside the nearest training images, a row a checkpoint."""
    train, _ = scene.images
    found = [
        nearest_images(evaluation, train, scene.samples, scene.config.neighbours)
        for evaluation in scene.evaluations
    ]
    rows, names = [], []
    for query, *of_subjects in zip(scene.samples, *found, strict=True):
        for subject, near in zip(scene.subjects, of_subjects, strict=True):
            rows.append(neighbour_panels(query, near, train, subject.config.image_size))
            names.append(scene.row_name(subject))
    title = (
        f"{scene.told}. At the left an image, then the nearest of {train.description} by cosine of "
        f"their {scene.feature} features."
    )
    save_grid(scene.path("neighbours"), title, rows, names)
    yield scene.path("neighbours")


def neighbour_panels(
    query: Sample, neighbours: Sequence[Neighbour], gallery: Source, image_size: ImageSize
) -> list[Panel]:
    """A row: the query, then its neighbours with class and cosine, nearest first.

    Frames tell neighbours of the query's class from others, where both are known.

    Args:
      query: the image.
      neighbours: of it, images of ``gallery``.
      gallery: whose class names label the panels.
      image_size: of the views, in pixels.
    """
    names = gallery.class_names
    caption = class_name(query.label, names)[:_CHARACTERS]
    panels = [Panel(centre_views([query], image_size)[0], caption=caption)]
    for near in neighbours:
        try:
            pixels = gallery.read(near.index)
        except BadImage:  # it was readable when its features were made
            pixels = np.full((*height_and_width(image_size), 3), 255, np.uint8)
        view = centre_views([Sample(near.name, pixels, near.label)], image_size)[0]
        known = query.label >= 0 and near.label >= 0
        frame = (SAME if near.label == query.label else OTHER) if known else ""
        caption = f"{class_name(near.label, names)[:_CHARACTERS]} {near.similarity:.2f}".strip()
        panels.append(Panel(view, caption=caption, frame=frame))
    return panels

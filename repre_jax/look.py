"""Pictures of what runs have learnt: checkpoints, images, then one figure after the other."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict

from repre_jax.data.pixel_format import as_shares, pixel_format
from repre_jax.data.samples import centre_views, read_samples, sample_images
from repre_jax.errors import UserError
from repre_jax.evaluate import open_encoder
from repre_jax.evaluation.checkpoint import Pretrained
from repre_jax.evaluation.images import fill_in_data, open_images
from repre_jax.evaluation.task import SHARED_RANGES
from repre_jax.models.taps import block_numbers
from repre_jax.ranges import AT_LEAST_ONE, SHARE_BELOW_ONE, Range, check_ranges
from repre_jax.visualize.attention import draw_attention
from repre_jax.visualize.components import draw_features
from repre_jax.visualize.embeddings import MOST_CLASSES, draw_embedding
from repre_jax.visualize.figure import MOST_COLUMNS
from repre_jax.visualize.neighbours import draw_neighbours
from repre_jax.visualize.reconstructions import draw_reconstructions
from repre_jax.visualize.scene import Scene, Subject

FIGURES: dict[str, Callable[[Scene], Iterator[Path]]] = {
    "attention": draw_attention,
    "features": draw_features,
    "embedding": draw_embedding,
    "reconstructions": draw_reconstructions,
    "neighbours": draw_neighbours,
}
RANGES = {
    **SHARED_RANGES,
    "count": AT_LEAST_ONE,
    "mass": SHARE_BELOW_ONE,
    "classes": Range(1, MOST_CLASSES, whole=True),
    "images_per_class": AT_LEAST_ONE,
    "neighbours": Range(1, MOST_COLUMNS - 1, whole=True),
}


def look(config: ConfigDict, workdir: Path | None) -> list[Path]:
    """Draws every figure of ``config.figures`` that the checkpoints can give.

    What cannot be drawn is told in a sentence each.

    Args:
      config: of ``configs/look.py``.
      workdir: where figures go; None for ``figures/`` of the first run, in a folder that is named
        after weights and step, and after the other runs.

    Returns:
      The figures.

    Raises:
      UserError: whatever the user can mend, or nothing can be drawn.
    """
    check_ranges(config, RANGES)
    for name in config.figures:
        if name not in FIGURES:
            raise UserError(f"figures: {name!r} must be one of {', '.join(FIGURES)}.")
    if not config.figures or not config.blocks:
        raise UserError("figures and blocks must name one at least.")
    if jax.process_count() > 1:
        raise UserError("Pictures are drawn by one process: leave --distributed out.")
    scene = open_scene(config.copy_and_resolve_references(), workdir)
    drawn: list[Path] = []
    missing: list[str] = []
    for name in dict.fromkeys(config.figures):
        try:
            for path in FIGURES[name](scene):
                print(path)
                drawn.append(path)
        except UserError as error:
            missing.append(f"{name}: {error}")
    if missing and not drawn:
        raise UserError("Nothing could be drawn. " + " ".join(missing))
    for sentence in missing:
        print(f"Not drawn: {sentence}")
    return drawn


def open_scene(config: ConfigDict, workdir: Path | None) -> Scene:
    """Opens checkpoints and images; nothing is drawn or written yet.

    Raises:
      UserError: one of them is not there.
    """
    opened: list[tuple[ConfigDict, Pretrained]] = []
    for checkpoint in config.checkpoint.split(","):
        inner = config.copy_and_resolve_references()
        with inner.unlocked():
            inner.checkpoint = checkpoint.strip()
            if opened:  # all look at the images of the first
                inner.data.source = opened[0][0].data.source
            pretrained = open_encoder(inner)
            fill_in_data(inner.data, pretrained.config.data)
            inner.cache_path = inner.cache_path or str(pretrained.run / "eval" / "features")
            inner.data = opened[0][0].data if opened else inner.data
        opened.append((inner, pretrained))
    _check_same_pixels([pretrained for _, pretrained in opened])
    channels = opened[0][1].encoder.channels
    opened_images = functools.cache(lambda: open_images(opened[0][0].data, channels))
    samples = read_samples(config.images, "images", pixel_format(opened[0][0].data, channels))
    if not samples:
        _, val = opened_images()
        samples = sample_images(val, min(config.count, len(val)))
    subjects = [
        Subject(
            name,
            inner,
            pretrained,
            as_shares(centre_views(samples, inner.image_size)),
            block_numbers(pretrained.encoder, config.blocks, "blocks"),
        )
        for name, (inner, pretrained) in zip(_names(opened), opened, strict=True)
    ]
    folder = workdir or _default_folder(subjects)
    return Scene(config, subjects, samples, folder, opened_images)


def _check_same_pixels(of_runs: list[Pretrained]) -> None:
    """Raises UserError where runs see other values of the same images."""
    first, *others = of_runs
    for key, of in (
        ("model.channels", lambda x: x.encoder.channels),
        ("data.range", lambda x: x.config.data.range),
    ):
        for other in others:
            if of(other) != of(first):
                raise UserError(
                    f"{first.run.name} and {other.run.name} have other {key} ({of(first)}, "
                    f"{of(other)}) and cannot look at the same images: draw each by itself."
                )


def _names(opened: list[tuple[ConfigDict, Pretrained]]) -> list[str]:
    """Names that tell the checkpoints apart: of the run, else with the step, else with its path."""
    of_runs = [pretrained for _, pretrained in opened]
    for name in (
        lambda x: x.run.name,
        lambda x: f"{x.run.name} {x.step}",
        lambda x: f"{'-'.join(x.run.parts[-2:])} {x.step}",
    ):
        names = [name(pretrained) for pretrained in of_runs]
        if len(set(names)) == len(names):
            return names
    twice = next(name for name in names if names.count(name) > 1)
    raise UserError(
        f"checkpoint names {twice} twice, or two runs of the same name: name each once."
    )


def _default_folder(subjects: list[Subject]) -> Path:
    """``<run>/figures/target-1440``, or ``target-1440-beside-b`` for several runs."""
    first, *others = subjects
    name = f"{first.pretrained.weights}-{first.pretrained.step}"
    if others:
        name += "-beside-" + "-".join(other.name.replace(" ", "-") for other in others)
    return first.pretrained.run / "figures" / name[:100]

"""Features of a few classes in two dimensions, by PCA and by t-SNE.

As in figure 4 of RePre (arXiv 2201.06857), with 20 random classes of the validation images.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from repre_jax.data.sources.source import Chosen
from repre_jax.errors import UserError
from repre_jax.evaluation.features import unit_rows
from repre_jax.visualize.figure import OKABE_ITO, WIDTH, save, wrapped
from repre_jax.visualize.scene import Scene

_MARKERS = "o^sD"  # with the eight colours for 32 classes
MOST_CLASSES = len(_MARKERS) * len(OKABE_ITO)
_PERPLEXITY = 30
_FEWEST_POINTS = 8


def draw_embedding(scene: Scene) -> Iterator[Path]:
    """PCA and t-SNE of some validation images of some classes, a row a checkpoint."""
    config, (_, val) = scene.config, scene.images
    if val.labels is None:
        raise UserError(f"{val.description} has no labels ({val.why_unlabelled}).")
    chosen = some_images_of_some_classes(
        val.labels, classes=config.classes, images=config.images_per_class, seed=config.seed
    )
    embeddings = []
    for subject, evaluation in zip(scene.subjects, scene.evaluations, strict=True):
        found = evaluation.features_of(Chosen(val, chosen), subject.config.feature)
        if len(found.index) < _FEWEST_POINTS:
            raise UserError(
                f"{val.description} gives {len(found.index)} images of {config.classes} classes, "
                f"fewer than {_FEWEST_POINTS}: raise classes or images_per_class."
            )
        embeddings.append((subject.name, in_two_dimensions(found.features, config.seed)))
    labels = np.asarray(found.labels)
    names = val.class_names or tuple(map(str, range(labels.max() + 1)))
    there = len(np.unique(val.labels[val.labels >= 0]))
    title = (
        f"{scene.told}. {len(labels)} images of {len(np.unique(labels))} of the {there} classes of "
        f"{val.description}, at random: {scene.feature} features of unit length."
    )
    save_embeddings(scene.path("embedding"), title, embeddings, labels, names)
    yield scene.path("embedding")


def some_images_of_some_classes(
    labels: np.ndarray, *, classes: int, images: int, seed: int
) -> np.ndarray:
    """Numbers of at most so many images of each of so many classes, both drawn by ``seed``.

    Args:
      labels: int [n], -1 for unknown ones, which are not drawn.
      classes: fewer where there are fewer.
      images: of a class.
      seed: of the draw.

    Returns:
      int [m], ascending.
    """
    rng = np.random.default_rng(seed)
    known = np.unique(labels[labels >= 0])
    drawn = np.sort(rng.permutation(known)[:classes])
    members = [rng.permutation(np.flatnonzero(labels == label))[:images] for label in drawn]
    return np.sort(np.concatenate(members))


def in_two_dimensions(features: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """{"PCA": [n, 2], "t-SNE": [n, 2]} of features [n, D], normalised to unit length.

    t-SNE begins at the PCA and has a perplexity of 30, or less for fewer than about a hundred.
    """
    from sklearn.decomposition import PCA  # seconds to import
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    unit = unit_rows(np.asarray(features, np.float64))
    perplexity = min(_PERPLEXITY, (len(unit) - 1) / 3)
    init = "pca" if unit.std(axis=0).max() > 1e-9 else "random"  # the latter of collapsed ones
    tsne = TSNE(perplexity=perplexity, init=init, learning_rate="auto", random_state=seed)
    # Threads add up in an order of their own, and chaos does the rest. Collapsed features have no
    # variance to be explained, which is no error.
    with threadpool_limits(1), np.errstate(invalid="ignore"):
        return {
            "PCA": PCA(2, svd_solver="full").fit_transform(unit),
            "t-SNE": tsne.fit_transform(unit),
        }


def save_embeddings(
    path: Path,
    title: str,
    embeddings: Sequence[tuple[str, dict[str, np.ndarray]]],
    labels: np.ndarray,
    class_names: Sequence[str],
) -> None:
    """A row an encoder, PCA beside t-SNE; colour and marker tell the class.

    Args:
      path: of the PNG.
      title: above everything.
      embeddings: (name of the encoder, of ``in_two_dimensions``).
      labels: int [n], the same for all.
      class_names: of all labels.

    Raises:
      UserError: disk full or no permission.
    """
    shown = np.unique(labels)
    lines = -(-len(shown) // 5)
    height = 3.7 * len(embeddings) + 0.22 * lines + 0.5
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(wrapped(title, WIDTH), fontsize=9)
    axes = figure.subplots(len(embeddings), 2, squeeze=False)
    for row, (name, points) in zip(axes, embeddings, strict=True):
        for axis, (kind, places) in zip(row, points.items(), strict=True):
            for number, label in enumerate(shown):
                marker, colour = divmod(number, len(OKABE_ITO))
                axis.scatter(
                    *places[labels == label].T,
                    s=14,
                    color=OKABE_ITO[colour],
                    marker=_MARKERS[marker],
                    edgecolors="0.3",  # yellow would be lost on white
                    linewidths=0.3,
                    label=str(number),
                )
            axis.set_title(f"{kind}, {name}" if len(embeddings) > 1 else kind, fontsize=9)
            axis.set_xticks([])
            axis.set_yticks([])
    handles, numbers = axes[0, 0].get_legend_handles_labels()
    words = {"loc": "outside lower center", "ncols": 5, "fontsize": 8, "frameon": False}
    legend = figure.legend(handles, numbers, **words)
    for text, label in zip(legend.get_texts(), shown, strict=True):
        text.set_text(class_names[label][:22])  # later, for labels with a "_" first are left out
    save(figure, path)

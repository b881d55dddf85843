"""The nearest images of given ones, by cosine similarity of frozen features as in the k-NN."""

import csv
import io
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from repre_jax.data.samples import Sample, centre_views
from repre_jax.data.sources.source import Source
from repre_jax.evaluation.knn import nearest
from repre_jax.evaluation.task import Evaluation


class Neighbour(NamedTuple):
    """An image near another.

    Attributes:
      query: name of the other.
      rank: 1 for the nearest.
      similarity: cosine of the two features.
      name: of this image.
      index: of it in its source.
      label: its class, -1 when unknown.
    """

    query: str
    rank: int
    similarity: float
    name: str
    index: int
    label: int


def nearest_images(
    evaluation: Evaluation, gallery: Source, queries: Sequence[Sample], count: int
) -> list[list[Neighbour]]:
    """For every query its ``count`` nearest images of ``gallery``, nearest first.

    A query that is itself an image of the gallery is not its own neighbour. Where the gallery has
    fewer images there are fewer.

    Args:
      evaluation: whose encoder and ``config.feature`` tell what is near.
      gallery: its features are made once, and kept for every evaluation.
      queries: images.
      count: k.
    """
    features, labels, index = evaluation.features_of(gallery, evaluation.config.feature)
    views = centre_views(queries, evaluation.config.image_size)
    asked = evaluation.encode(views, evaluation.config.feature)
    positions = np.arange(len(index), dtype=np.int32)
    wanted = min(count + 1, len(index))  # one more, for the query may be among them
    similarities, found = nearest(features, positions, asked, wanted, mesh=evaluation.mesh)
    of_all = []
    for query, cosines, rows in zip(queries, similarities, found, strict=True):
        neighbours = []
        for cosine, row in zip(cosines, rows, strict=True):
            name = gallery.name_of(int(index[row]))
            if os.path.realpath(name) == os.path.realpath(os.path.expanduser(query.name)):
                continue
            rank = len(neighbours) + 1
            neighbours.append(
                Neighbour(query.name, rank, float(cosine), name, int(index[row]), int(labels[row]))
            )
        of_all.append(neighbours[:count])
    return of_all


def comma_separated(
    of_all: Sequence[Sequence[Neighbour]], class_names: tuple[str, ...] | None
) -> str:
    """The neighbours as a table for programs, a row a neighbour; names of classes where known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["query", "rank", "similarity", "name", "index", "label", "class"])
    for neighbours in of_all:
        for x in neighbours:
            label = "" if x.label < 0 else x.label
            of_class = class_name(x.label, class_names)
            cosine = f"{x.similarity:.6f}"
            writer.writerow([x.query, x.rank, cosine, x.name, x.index, label, of_class])
    return text.getvalue()


def in_words(of_all: Sequence[Sequence[Neighbour]], class_names: tuple[str, ...] | None) -> str:
    """The same for people: the query, then a line a neighbour."""
    lines = []
    for neighbours in of_all:
        lines.append(f"{neighbours[0].query}:" if neighbours else "no other image")
        for x in neighbours:
            of_class = class_name(x.label, class_names)
            lines.append(
                f"  {x.rank:>3}  {x.similarity:.3f}  {x.name}{f'  ({of_class})' * bool(of_class)}"
            )
    return "\n".join(lines)


def class_name(label: int, class_names: tuple[str, ...] | None) -> str:
    """What to call a class; nothing for an unknown label."""
    if label < 0:
        return ""
    return class_names[label] if class_names else str(label)

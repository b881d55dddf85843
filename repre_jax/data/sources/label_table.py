"""A table of labels: which row is that of which image."""

import collections
import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from repre_jax.data.sources.labels import Named
from repre_jax.errors import UserError

_DELIMITERS = ",;\t"


class Row(NamedTuple):
    """One row of a table: the name of an image and its label, None where the cell is empty."""

    image: str
    label: str | None


class Matched(NamedTuple):
    """What a table says.

    Attributes:
      labels: of each image of each source; None where the table has none.
      remarks: how table and images differ, in plain sentences; none where they do not.
    """

    labels: list[list[str | None]]
    remarks: tuple[str, ...]


def read_table(path: Path) -> list[Row]:
    """Reads a table with commas, semicolons or tabs between its columns.

    Args:
      path: of a file whose first line names the columns image and label, among others perhaps, or
        that has these two alone and no such line.

    Raises:
      UserError: there is no such file, or it is no such table.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(_DELIMITERS, key=first.count)
            lines = [
                [cell.strip() for cell in cells] for cells in csv.reader(file, delimiter=delimiter)
            ]
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"data.labels={path} cannot be read ({reason}).") from None
    return list(_rows(lines, path))


def _rows(lines: list[list[str]], path: Path) -> Iterator[Row]:
    header = [cell.lower() for cell in lines[0]] if lines else []
    if "image" in header and "label" in header:
        image, label, first = header.index("image"), header.index("label"), 1
    elif len(header) == 2:
        image, label, first = 0, 1, 0
    else:
        raise UserError(
            f"data.labels={path} must have the columns image and label, with commas, semicolons or "
            "tabs between them; name them in its first line where there are others."
        )
    for number, cells in enumerate(lines[first:], first + 1):
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise UserError(
                f"Row {number} of data.labels={path} has {len(cells)} cells, not {len(header)}; "
                "put names with the separator in them between quotation marks."
            )
        yield Row(os.path.normpath(cells[image].replace("\\", "/")), cells[label] or None)


def match_rows(rows: list[Row], path: Path, sources: Sequence[Named]) -> Matched:
    """Finds the image of each row.

    A row names an image by its place relative to the table, or else relative to the folder of its
    split, or else by a file name that only one image has.

    Args:
      rows: of the table.
      path: of the table.
      sources: the training images, and the validation images where there are any.

    Raises:
      UserError: no row names an image, or one could be that of several.
    """
    labels: list[list[str | None]] = [[None] * len(source.names) for source in sources]
    said = collections.defaultdict(set)  # (source, image) -> labels
    left = rows
    for of_row, of_image in _keys(path):
        places = collections.defaultdict(list)
        for number, source in enumerate(sources):
            for index in range(len(source.names)):
                places[of_image(source, index)].append((number, index))
        unmatched = []
        for row in left:
            found = places.get(of_row(row.image), ())
            if len(found) > 1:
                one, other = (sources[number].name_of(index) for number, index in found[:2])
                raise UserError(
                    f"{row.image} in data.labels={path} could be {one} or {other}; give the names "
                    "relative to the folder of the table."
                )
            if found:
                said[found[0]].add(row.label)
            else:
                unmatched.append(row)
        left = unmatched
        if not left:
            break
    if not said:
        raise UserError(
            f"data.labels={path} names none of the images of {sources[0].description}: its first "
            f"row is {rows[0].image if rows else 'missing'}, the first image {sources[0].names[0]}."
        )
    for (number, index), texts in said.items():
        labels[number][index] = texts.pop() if len(texts) == 1 else None
    disagree = sum(len(texts) > 1 for texts in said.values())
    images = sum(len(source.names) for source in sources)
    return Matched(labels, tuple(_remarks(path, left, images - len(said), disagree)))


def _keys(path: Path):
    """Pairs of functions: what a row, and what an image, is found by; the most exact one first."""
    folder = os.path.abspath(path.parent)
    return (
        (
            lambda name: os.path.normpath(os.path.join(folder, name)),
            lambda source, index: os.path.abspath(source.name_of(index)),
        ),
        (lambda name: name, lambda source, index: source.names[index]),
        (lambda name: name, lambda source, index: os.path.basename(source.names[index])),
    )


def _remarks(path: Path, left: Iterable[Row], without: int, disagree: int) -> Iterator[str]:
    left = list(left)
    if without:
        yield f"{without:,} images have no row in {path}."
    if left:
        yield f"{len(left):,} rows of {path}, such as {left[0].image}, name no image."
    if disagree:
        yield f"{disagree:,} images have rows in {path} that disagree, and count as unlabelled."

"""From what an image is called, or what a table says of it, to the number of its class."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from repre_jax.data.sources.source import NO_LABEL
from repre_jax.errors import UserError

# Values of ``data.labels`` beside the path of a table.
AUTO, NONE, FOLDERS = "auto", "none", "folders"
TABLE_SUFFIXES = (".csv", ".tsv")


class Labels(NamedTuple):
    """Classes of images.

    Attributes:
      numbers: int32 [n], -1 for an image without one; None where none has one.
      class_names: by number.
      why_not: the reason, where there are none.
    """

    numbers: np.ndarray | None
    class_names: tuple[str, ...] | None
    why_not: str = ""


class Named(Protocol):
    """Images that have names.

    Attributes:
      names: of the images, relative to where they lie, with "/" after each folder.
      description: of where they lie, for messages.
    """

    names: Sequence[str]
    description: str

    def name_of(self, index: int) -> str:
        """Whole name of an image."""


def no_labels(why: str) -> Labels:
    """None at all, for the reason ``why``."""
    return Labels(None, None, why)


def number_classes(
    texts: Sequence[str | None], known: tuple[str, ...] | None, where: str, kind: str
) -> Labels:
    """Numbers the classes in their order: folders by name, labels that are whole numbers by value.

    Beside classes that count from 0, a label -1 says that an image has none, as everywhere here.

    Args:
      texts: class of each image; None where it has none.
      known: the classes of the training images, whose numbers are kept; None to find them.
      where: the images lie, for messages.
      kind: what a class is there, "folder" or "label".

    Raises:
      UserError: ``known`` has some of the classes and lacks others.
    """
    found = sorted({text for text in texts if text is not None})
    if kind == "label" and all(text.removeprefix("-").isdecimal() for text in found):
        found.sort(key=int)
        if found[:1] == [str(NO_LABEL)] and "0" in (known or found):
            del found[0]
    if not found:
        return no_labels("none of its images has one")
    unknown = [name for name in found if known is not None and name not in known]
    if len(unknown) == len(found):
        return no_labels(f"none of its {kind}s, such as {found[0]}, is one of the training images")
    if unknown:
        raise UserError(
            f"{where} has classes that the training split lacks ({', '.join(unknown[:3])}); use "
            f"the same class {kind}s in both splits, or set --config.data.labels=none."
        )
    names = known or tuple(found)
    numbers = {name: number for number, name in enumerate(names)}
    return Labels(np.asarray([numbers.get(text, NO_LABEL) for text in texts], np.int32), names)


def folder_labels(source: "Named", known: tuple[str, ...] | None) -> Labels:
    """Labels images by the first folder of their names, when there are at least two.

    Args:
      source: of the images.
      known: as for ``number_classes``.

    Raises:
      UserError: ``known`` has some of the classes and lacks others.
    """
    folders = [first_folder(name) for name in source.names]
    if None in folders:
        if any(folders):
            beside = source.name_of(folders.index(None))
            return no_labels(f"{beside} lies beside the class folders")
        return no_labels("there are no class folders")
    if known is None and len(set(folders)) < 2:
        return no_labels(f"all images are in one class folder, {folders[0]}")
    return number_classes(folders, known, source.description, "folder")


def first_folder(name: str) -> str | None:
    """The first folder of a name with "/" after each; None without one."""
    return name.split("/", 1)[0] if "/" in name else None

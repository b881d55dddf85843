"""Which folders and files are training images and which validation images, by their names."""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import NamedTuple

from repre_jax.errors import UserError

# The usual names of a split, the more usual ones first.
_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {name: split for split, names in _NAMES.items() for name in names}
# One of them as a word of its own: Train_images, val2017, my-testset.
_WORD = re.compile(
    r"(?<![a-z])(" + "|".join(sorted(_SPLIT_OF, key=len, reverse=True)) + r")(?:set)?(?![a-z])"
)
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Splits(NamedTuple):
    """Names of the two splits among those that there are.

    Attributes:
      train: None where no name is that of a training split.
      val: None where no name is that of a validation or test split.
      remarks: what is surprising about the choice, without a subject.
    """

    train: str | None
    val: str | None
    remarks: tuple[str, ...] = ()


def choose_splits(names: Iterable[str]) -> Splits:
    """Chooses the splits by their usual names, in any case.

    Test images are taken for validation where there are no others and where there is a training
    split: alone, they may be a class.
    """
    found: dict[str, list[str]] = {split: [] for split in _NAMES}
    for name in sorted(names, key=lambda name: (name != name.lower(), name)):
        if split := _SPLIT_OF.get(name.lower()):
            found[split].append(name)
    for split, those in found.items():
        those.sort(key=lambda name: _NAMES[split].index(name.lower()))
    train, val, test = (next(iter(those), None) for those in found.values())
    remarks = tuple(
        f"{', '.join(those[1:])} is not read beside {those[0]}"
        for those in (found["train"], found["val"])
        if len(those) > 1
    )
    if train and test and not val:
        val = test
        remarks += (f"{test} is taken for validation",)
    return Splits(train, val, remarks)


def is_split(name: str) -> bool:
    """Whether a folder of this name is a split."""
    return name.lower() in _SPLIT_OF


def split_named(name: str) -> str | None:
    """The split that a name speaks of, "train", "val" or "test"; None where it is none."""
    found = _WORD.search(_CAMEL_CASE.sub("_", name).lower())
    return _SPLIT_OF[found[1]] if found else None


def held_out(names: Iterable[str]) -> list[str]:
    """Names that speak of validation or test images."""
    return sorted(name for name in names if split_named(name) in ("val", "test"))


class SplitFiles(NamedTuple):
    """Files of each split.

    Attributes:
      train: never empty.
      val: empty where there is no such split.
      remarks: what is surprising about the choice, in plain sentences.
    """

    train: list[str]
    val: list[str]
    remarks: tuple[str, ...] = ()

    def of(self, split: str) -> list[str]:
        """Those of "train" or "val"."""
        return self.train if split == "train" else self.val


def split_files(files: Sequence[str], where: str) -> SplitFiles:
    """Splits files that hold many images by their names, or by the folders that they lie in.

    Args:
      files: names, relative to the source.
      where: they lie, for messages.

    Raises:
      UserError: there are validation and test images but none to train on.
    """
    found: dict[str | None, list[str]] = {"train": [], "val": [], "test": [], None: []}
    for file in files:
        # The file's own name says more than that of its folder.
        parts = reversed(PurePath(file).parts)
        found[next(filter(None, map(split_named, parts)), None)].append(file)
    kinds = [kind for kind, those in found.items() if those]
    if len(kinds) == 1:
        told = f"The files of {where} all speak of {kinds[0]}; all are trained on."
        return SplitFiles(list(files), [], (told,) if kinds[0] in ("val", "test") else ())
    train, val = found["train"] or found[None], found["val"] or found["test"]
    if not train:
        raise UserError(
            f"{where} has files that speak of validation and of test but none for training; name "
            "those train-..."
        )
    remarks = []
    if found["train"] and found[None]:
        remarks.append(
            f"{len(found[None]):,} files of {where}, such as {found[None][0]}, name no split and "
            "are not read."
        )
    if val and not found["val"]:
        remarks.append(f"The test files of {where} are taken for validation.")
    return SplitFiles(train, val, tuple(remarks))

"""Images in folders, of any depth, with or without labels."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from repre_jax.data.sources.decode import BadImage
from repre_jax.data.sources.formats import image_suffixes, skipped_in_words, suffix_of
from repre_jax.data.sources.labels import first_folder
from repre_jax.data.sources.named import NamedSource
from repre_jax.data.sources.names import PackedNames
from repre_jax.data.sources.source import file_size
from repre_jax.data.sources.splits import choose_splits, held_out, is_split
from repre_jax.errors import UserError

_LABEL_MAP_FOLDERS = ("label", "labels", "mask", "masks", "annotation", "annotations", "gt")
_MOST_NAMED = 3


class FolderSource(NamedSource):
    """Every image file under some folders, in the order of its path, one folder after another.

    Of each folder in ``data.path``, ``train`` or another usual name is read where it exists,
    otherwise the folder itself; ``val`` is the validation split where it exists. Images are
    labelled by the first folder below the split when there are at least two such folders and no
    image lies beside them.
    """

    def __init__(self, folders: list[Path], remarks: tuple[str, ...] = ()):
        """Lists folders.

        Args:
          folders: where the images are.
          remarks: on how these were chosen.

        Raises:
          UserError: the folders hold no image, or cannot be listed.
        """
        self.description = f"image folder{'s' * (len(folders) > 1)} {', '.join(map(str, folders))}"
        self._folders = [str(folder) for folder in folders]
        names, sizes, ends, skipped = [], [], [], Counter()
        for folder in folders:
            found = sorted(_images_below(folder, skipped))
            if not found:
                raise UserError(
                    f"No image was found in {folder} or below it; put image files there "
                    f"({', '.join(image_suffixes())}) or point data.path at another folder."
                )
            names += [name for name, _ in found]
            sizes += [size for _, size in found]
            ends.append(len(names))
        self.names = PackedNames(names)
        self.sizes = np.asarray(sizes, np.int64)
        self._folder_ends = np.asarray(ends, np.int64)
        self.remarks = (
            *remarks,
            *skipped_in_words(skipped, self.description),
            *_label_map_remarks(names, self.description),
        )

    @classmethod
    def find(cls, data_config, split: str) -> "FolderSource":
        """The images of a split of ``data_config.path``, without labels."""
        splits = _find_splits(data_config.path)
        if split == "train":
            return cls(splits.train, splits.remarks)
        if not splits.val:
            raise UserError(
                f"{data_config.path} has no {split} split; put its images into "
                f"{os.path.join(_roots(data_config.path)[0], split)}."
            )
        return cls(splits.val)

    @classmethod
    def has_split(cls, data_config, split: str) -> bool:
        """Whether ``data_config.path`` has the split; raises ``UserError`` without a folder."""
        splits = _find_splits(data_config.path)
        return bool(splits.train if split == "train" else splits.val)

    @classmethod
    def short_name(cls, data_config) -> str:
        """Names of the folders, of many the first ones."""
        names = [root.resolve().name for root in _roots(data_config.path)]
        more = [str(len(names) - _MOST_NAMED)] if len(names) > _MOST_NAMED else []
        return "+".join(names[:_MOST_NAMED] + more)

    def encoded(self, index: int) -> bytes:
        path = self.name_of(index)
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise BadImage(path, error.strerror or str(error)) from None

    def name_of(self, index: int) -> str:
        folder = int(np.searchsorted(self._folder_ends, index, side="right"))
        return os.path.join(self._folders[folder], self.names[index])

    def _told_besides(self) -> Iterator[bytes]:
        if len(self._folders) > 1:
            yield self._folder_ends.tobytes()


class _FolderSplits(NamedTuple):
    """The folders of each split, none of validation perhaps, and remarks on their choice."""

    train: list[Path]
    val: list[Path]
    remarks: tuple[str, ...]


def _roots(path: str | None) -> list[Path]:
    """The folders that ``data.path`` names; one that exists as it stands may have commas."""
    if not path:
        raise UserError("data.source is folder but data.path is empty; set --config.data.path.")
    paths = [path]
    if not os.path.exists(os.path.expanduser(path)):
        paths = list(filter(None, map(str.strip, path.split(",")))) or paths
    return [Path(os.path.expanduser(path)) for path in paths]


def _find_splits(path: str | None) -> _FolderSplits:
    roots = _roots(path)
    for root in roots:
        if not root.is_dir():
            state = "is not a folder" if root.exists() else "does not exist"
            raise UserError(f"The image folder {root} {state}; correct --config.data.path.")
    splits = _FolderSplits([], [], ())
    for root in roots:
        train, val, remarks = _splits_of(root)
        splits = _FolderSplits(splits.train + train, splits.val + val, splits.remarks + remarks)
    for folders in splits[:2]:
        _check_apart(folders)
    return splits


def _splits_of(root: Path) -> _FolderSplits:
    try:
        names = sorted(
            path.name for path in root.iterdir() if path.is_dir() and path.name[0] != "."
        )
    except OSError as error:
        raise _unlisted(root, error) from None
    chosen = choose_splits(names)
    if chosen.val and not chosen.train:
        raise UserError(
            f"{root} has a {chosen.val} folder but no train folder; put the training images into "
            f"{root / 'train'}."
        )
    if not chosen.train:
        aside = held_out(names)
        told = (
            f"All of {root} is trained on, {_few(aside)} included; call folders train and val to "
            "keep images apart."
        )
        return _FolderSplits([root], [], (told,) if aside else ())
    remarks = [f"In {root}, {remark}." for remark in chosen.remarks]
    if others := [name for name in names if not is_split(name)]:
        remarks.append(f"In {root}, only the split folders are read, not {_few(others)}.")
    val = [root / chosen.val] if chosen.val else []
    return _FolderSplits([root / chosen.train], val, tuple(remarks))


def _check_apart(folders: list[Path]) -> None:
    """Raises UserError when images would be read twice."""
    real = [folder.resolve() for folder in folders]
    for number, folder in enumerate(real):
        for other in real[:number] + real[number + 1 :]:
            if folder.is_relative_to(other):
                raise UserError(
                    f"data.path names {folder} and {other}, so that images would be read twice; "
                    "leave one of them out."
                )


def _few(names: list[str]) -> str:
    more = [f"{len(names) - _MOST_NAMED} more"] if len(names) > _MOST_NAMED else []
    return ", ".join(names[:_MOST_NAMED] + more)


def _images_below(folder: Path, skipped: Counter[str]) -> Iterator[tuple[str, int]]:
    """(path relative to ``folder``, with "/"; size in bytes) of its images.

    Several links to one folder are all followed, for they may be several classes; one to a folder
    that it lies in is not, for that would never end.

    Args:
      folder: to list.
      skipped: counts the other files by their suffix.
    """
    suffixes = image_suffixes()
    above = frozenset(_identity(parent) for parent in folder.resolve().parents)
    pending = [(str(folder), "", above)]
    while pending:
        path, prefix, above = pending.pop()
        try:
            identity = _identity(path)
            if identity in above:
                continue
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        pending.append((entry.path, prefix + entry.name + "/", above | {identity}))
                    elif entry.name.lower().endswith(suffixes):
                        yield prefix + entry.name, file_size(entry)
                    else:
                        skipped[suffix_of(entry.name)] += 1
        except OSError as error:
            raise _unlisted(path, error) from None


def _identity(path: Path | str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _unlisted(path: Path | str, error: OSError) -> UserError:
    return UserError(
        f"The folder {path} cannot be listed ({error.strerror}); check its permissions."
    )


def _label_map_remarks(names: list[str], description: str) -> Iterator[str]:
    folders = [first_folder(name) for name in names]
    maps = sorted({name for name in folders if name and name.lower() in _LABEL_MAP_FOLDERS})
    maps = maps or _same_names_other_suffix(names, folders)
    if maps:
        yield (
            f"In {description}, {' and '.join(maps)} may hold label maps, which are read as images "
            "like the others; point data.path at the images alone if so."
        )


def _same_names_other_suffix(names: list[str], folders: list[str | None]) -> list[str]:
    """Two folders most of whose files have the same names, but for the suffix."""
    first, pairs = {}, Counter()
    for name, folder in zip(names, folders, strict=True):
        if folder is None:
            continue
        stem, suffix = os.path.splitext(name[len(folder) :])
        before = first.setdefault(stem, (folder, suffix))
        if before[0] != folder and before[1] != suffix:
            pairs[before[0], folder] += 1
    for pair, count in pairs.most_common(1):
        if count > 0.9 * folders.count(pair[1]):
            return list(pair)
    return []

"""Images in a folder, of any depth, with or without labels."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from repre_jax.data.sources.decode import BadImage, decode_image
from repre_jax.data.sources.source import Source, short_hash
from repre_jax.errors import UserError

IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".png",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
)
# Of the training and of the validation images; the first that is there.
_SPLIT_FOLDERS = (("train", "training"), ("val", "validation", "valid"))
_LABEL_MAP_FOLDERS = ("label", "labels", "mask", "masks", "annotation", "annotations", "gt")


class FolderSource(Source):
    """Every image file under a folder, in the order of its path.

    ``root/train`` (or ``training``) is read when it exists, otherwise ``root`` itself; ``root/val``
    (or ``validation``) is the validation split when it exists. Images are labelled by the first
    folder below the split when there are at least two such folders and no image lies beside them.
    """

    def __init__(self, folder: Path, class_names: tuple[str, ...] | None = None):
        """Lists a folder.

        Args:
          folder: where the images are.
          class_names: the classes of the training split, so that a validation split gets the
            same numbers; None to find them in ``folder``.

        Raises:
          UserError: the folder holds no image, cannot be listed, or has classes of which
            ``class_names`` has some and lacks others.
        """
        self.description = f"image folder {folder}"
        self._folder = str(folder)
        names, sizes, skipped = _list_images(folder)
        if not names:
            raise UserError(
                f"No image was found in {folder} or below it; put image files there "
                f"({', '.join(IMAGE_SUFFIXES)}) or point data.path at another folder."
            )
        folders = [name.split("/", 1)[0] if "/" in name else None for name in names]
        # One block of bytes instead of a list: a list of a million strings would be pickled to
        # every worker process and held there as a million objects.
        encoded = [os.fsencode(name) for name in names]
        self._names = b"".join(encoded)
        self._sizes = np.asarray(sizes, np.int64)
        self._name_ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._find_labels(folders, class_names)
        self.remarks = tuple(_remarks(names, folders, skipped, self.description))
        labels = b"" if self.labels is None else self.labels.tobytes()
        self.fingerprint = short_hash(
            self._names, self._name_ends.tobytes(), self._sizes.tobytes(), labels
        )

    @classmethod
    def open(cls, data_config, split: str) -> "FolderSource":
        """Opens a split of ``data_config.path``; raises ``UserError`` when it is not there."""
        folder = _split_folder(data_config.path, split)
        if folder is None:
            raise UserError(
                f"{data_config.path} has no {split} split; put its images into "
                f"{os.path.join(data_config.path, split)}."
            )
        class_names = None
        if split != "train" and data_config.get("labels") != "none":
            class_names = cls.open(data_config, "train").class_names
        return cls(folder, class_names)

    @classmethod
    def has_split(cls, data_config, split: str) -> bool:
        """Whether ``data_config.path`` has the split; raises ``UserError`` without a folder."""
        return _split_folder(data_config.path, split) is not None

    def _find_labels(self, folders: list[str | None], known: tuple[str, ...] | None) -> None:
        """Labels images by their class folders, numbered as in ``known`` where that is given."""
        found = sorted({name for name in folders if name is not None})
        if None in folders:
            beside = self.name_of(folders.index(None))
            self.why_unlabelled = "there are no class folders"
            if found:
                self.why_unlabelled = f"{beside} lies beside the class folders"
            return
        if known is None and len(found) < 2:
            self.why_unlabelled = f"all images are in one class folder, {found[0]}"
            return
        unknown = [name for name in found if known is not None and name not in known]
        if unknown and len(unknown) == len(found):
            self.why_unlabelled = (
                f"none of its folders, such as {found[0]}, is one of the training images"
            )
            return
        if unknown:
            raise UserError(
                f"{self._folder} has classes that the training split lacks "
                f"({', '.join(unknown[:3])}); use the same class folders in both splits, or set "
                "--config.data.labels=none."
            )
        self.class_names = known or tuple(found)
        numbers = {name: number for number, name in enumerate(self.class_names)}
        self.labels = np.asarray([numbers[name] for name in folders], np.int32)

    def __len__(self) -> int:
        return len(self._name_ends)

    def read(self, index: int) -> np.ndarray:
        return decode_image(self.encoded(index), self.name_of(index), self.pixels)

    def encoded(self, index: int) -> bytes:
        path = self.name_of(index)
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise BadImage(path, error.strerror or str(error)) from None

    def name_of(self, index: int) -> str:
        return os.path.join(self._folder, os.fsdecode(self._relative(index)))

    def listing(self) -> Iterator[bytes]:
        for index, size in enumerate(self._sizes):
            yield self._relative(index) + f"\t{size:,} bytes".encode()

    def _relative(self, index: int) -> bytes:
        start = self._name_ends[index - 1] if index else 0
        return self._names[start : self._name_ends[index]]


def _split_folder(path: str | None, split: str) -> Path | None:
    if not path:
        raise UserError("data.source is folder but data.path is empty; set --config.data.path.")
    root = Path(path).expanduser()
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"The image folder {root} {state}; correct --config.data.path.")
    train, val = (
        next((root / name for name in names if (root / name).is_dir()), None)
        for names in _SPLIT_FOLDERS
    )
    if val and not train:
        raise UserError(
            f"{root} has a {val.name} folder but no train folder; put the training images into "
            f"{root / 'train'}."
        )
    return (train or root) if split == "train" else val


def _list_images(folder: Path) -> tuple[list[str], list[int], Counter[str]]:
    """(sorted paths relative to ``folder``, with "/"; sizes in bytes; other files by suffix)."""
    found = []
    skipped = Counter()
    seen = set()  # of real folders: a link to a parent folder must not be followed for ever
    pending = [(str(folder), "")]
    while pending:
        path, prefix = pending.pop()
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        pending.append((entry.path, prefix + entry.name + "/"))
                    elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                        found.append((prefix + entry.name, _size(entry)))
                    else:
                        skipped[os.path.splitext(entry.name)[1].lower() or "without a suffix"] += 1
        except OSError as error:
            raise UserError(
                f"The folder {path} cannot be listed ({error.strerror}); check its permissions."
            ) from None
    found.sort()
    return [name for name, _ in found], [size for _, size in found], skipped


def _size(entry: os.DirEntry) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a broken link: it is listed, and reading it will report it
        return 0


def _remarks(
    names: list[str], folders: list[str | None], skipped: Counter[str], description: str
) -> Iterator[str]:
    if skipped:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(skipped.items())[:5])
        yield f"{skipped.total():,} other files of {description} are skipped ({kinds})."
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

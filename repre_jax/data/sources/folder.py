"""Images in a folder, of any depth, with or without labels."""

import os
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


class FolderSource(Source):
    """Every image file under a folder, in the order of its path.

    ``root/train`` is read when it exists, otherwise ``root`` itself; ``root/val`` is the
    validation split when it exists. Images are labelled by the first folder below the split
    when there are at least two such folders and no image lies beside them.
    """

    def __init__(self, folder: Path, class_names: tuple[str, ...] | None = None):
        """Lists a folder.

        Args:
          folder: where the images are.
          class_names: the classes of the training split, so that a validation split gets the
            same numbers; None to find them in ``folder``.

        Raises:
          UserError: the folder holds no image, cannot be listed, or has a class that
            ``class_names`` lacks.
        """
        self.description = f"image folder {folder}"
        self._folder = str(folder)
        names, sizes = _list_images(folder)
        if not names:
            raise UserError(
                f"No image was found in {folder} or below it; put image files there "
                f"({', '.join(IMAGE_SUFFIXES)}) or point data.path at another folder."
            )
        folders = [name.split("/", 1)[0] if "/" in name else None for name in names]
        if class_names is None:
            class_names = _class_names(folders)
        if class_names is not None:
            self.class_names = class_names
            self.labels = _labels(folders, class_names, folder)
        # One block of bytes instead of a list: a list of a million strings would be pickled to
        # every worker process and held there as a million objects.
        encoded = [os.fsencode(name) for name in names]
        self._names = b"".join(encoded)
        self._name_ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        labels = b"" if self.labels is None else self.labels.tobytes()
        self.fingerprint = short_hash(
            self._names, self._name_ends.tobytes(), np.asarray(sizes, np.int64).tobytes(), labels
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
        if split != "train":
            train = cls.open(data_config, "train")
            if train.class_names is not None:
                class_names = train.class_names
        return cls(folder, class_names)

    @classmethod
    def has_split(cls, data_config, split: str) -> bool:
        """Whether ``data_config.path`` has the split; raises ``UserError`` without a folder."""
        return _split_folder(data_config.path, split) is not None

    def __len__(self) -> int:
        return len(self._name_ends)

    def read(self, index: int) -> np.ndarray:
        return decode_image(self.encoded(index), self.name_of(index))

    def encoded(self, index: int) -> bytes:
        path = self.name_of(index)
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise BadImage(path, error.strerror or str(error)) from None

    def name_of(self, index: int) -> str:
        start = self._name_ends[index - 1] if index else 0
        return os.path.join(self._folder, os.fsdecode(self._names[start : self._name_ends[index]]))


def _split_folder(path: str | None, split: str) -> Path | None:
    if not path:
        raise UserError("data.source is folder but data.path is empty; set --config.data.path.")
    root = Path(path).expanduser()
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"The image folder {root} {state}; correct --config.data.path.")
    if split == "train":
        if (root / "val").is_dir() and not (root / "train").is_dir():
            raise UserError(
                f"{root} has a val folder but no train folder; put the training images into "
                f"{root / 'train'}."
            )
        return root / "train" if (root / "train").is_dir() else root
    return root / split if (root / split).is_dir() else None


def _list_images(folder: Path) -> tuple[list[str], list[int]]:
    """Returns sorted paths relative to ``folder``, with "/", and the sizes in bytes."""
    found = []
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
        except OSError as error:
            raise UserError(
                f"The folder {path} cannot be listed ({error.strerror}); check its permissions."
            ) from None
    found.sort()
    return [name for name, _ in found], [size for _, size in found]


def _size(entry: os.DirEntry) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a broken link: it is listed, and reading it will report it
        return 0


def _class_names(folders: list[str | None]) -> tuple[str, ...] | None:
    unique = set(folders)
    if None in unique or len(unique) < 2:
        return None
    return tuple(sorted(unique))


def _labels(folders: list[str | None], class_names: tuple[str, ...], folder: Path) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(class_names)}
    unknown = sorted({str(name) for name in folders if name not in numbers})
    if unknown:
        raise UserError(
            f"{folder} has classes that the training split lacks ({', '.join(unknown[:3])}); "
            "use the same class folders in both splits."
        )
    return np.asarray([numbers[name] for name in folders], np.int32)

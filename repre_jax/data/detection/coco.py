"""Images with objects, in folders laid out as COCO's or as what exports to its format writes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from repre_jax.data.detection.annotations import (
    Annotations,
    Categories,
    Instances,
    read_annotations,
)
from repre_jax.data.sources.decode import BadImage
from repre_jax.data.sources.source import Source, file_size, short_hash
from repre_jax.errors import UserError

# Of a split, under the folder of the set; the first that is there counts.
ANNOTATIONS = (
    "annotations/instances_{split}2017.json",
    "annotations/instances_{split}.json",
    "annotations/{split}.json",
    "{split}.json",
    "{split}/_annotations.coco.json",
)
IMAGES = ("{split}2017", "images/{split}2017", "images/{split}", "{split}", "images", ".")
# Of mmdetection (datasets/coco.py, min_size; datasets/custom.py), of images to train on.
_SMALLEST_SIDE = 32
_LOOKED_FOR = 8  # images by which a folder is known
_VALIDATION = {"val": ("val", "valid", "validation")}


class CocoSource(Source):
    """The images of a split.

    Attributes:
      annotations: the whole file's.
      numbers: int64 [images], which of its images these are.
      folder: where the images lie.
      usable: bool [n], objects of the file that are trained on.
    """

    reads = ("path",)

    def __init__(self, root: Path, split: str):
        """Opens a split, with images that have nothing to train on left out of the training.

        Raises:
          UserError: no annotations, no images, or none of use.
        """
        self.annotations = read_annotations(_annotation_file(root, split))
        self.folder = _image_folder(root, split, self.annotations)
        self.description = f"{split} images of {self.annotations.path}"
        self.class_names = self.annotations.categories.names
        self.usable, remarks = _usable(self.annotations)
        self.numbers = np.arange(len(self.annotations.image_ids))
        if split == "train":
            self.numbers, more = _to_train_on(self.annotations, self.usable)
            remarks += more
        if not len(self.numbers):
            raise UserError(f"{self.description} have no object with a mask to train on.")
        self.remarks = tuple(remarks)
        names = (self.name_of(index) for index in range(len(self)))
        self._sizes = np.array([file_size(self.folder / name) for name in names], np.int64)
        self.fingerprint = short_hash(
            self.annotations.path.read_bytes(), split.encode(), self._sizes.tobytes()
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def encoded(self, index: int) -> bytes:
        try:
            return (self.folder / self.name_of(index)).read_bytes()
        except OSError as error:
            raise BadImage(self.name_of(index), error.strerror or str(error)) from None

    def read(self, index: int) -> np.ndarray:
        image = super().read(index)
        wanted = tuple(self.annotations.sizes[self.numbers[index]])
        if image.shape[:2] != wanted:
            raise BadImage(
                self.name_of(index),
                f"it is {image.shape[1]} x {image.shape[0]} pixels, and the annotations are of "
                f"{wanted[1]} x {wanted[0]}",
            )
        return image

    def name_of(self, index: int) -> str:
        return self.annotations.image_names[self.numbers[index]]

    def listing(self) -> Iterator[bytes]:
        for index in range(len(self)):
            name = self.name_of(index).encode(errors="surrogateescape")
            yield name + f"\t{self._sizes[index]:,} bytes".encode()

    def image_id(self, index: int) -> int:
        """Of an image, as the annotation file has it."""
        return int(self.annotations.image_ids[self.numbers[index]])

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of an image in pixels."""
        height, width = self.annotations.sizes[self.numbers[index]]
        return int(height), int(width)

    def instances(self, index: int) -> Instances:
        """The objects of an image that are trained on."""
        numbers = self.annotations.numbers_of(int(self.numbers[index]))
        return self.annotations.instances(numbers[self.usable[numbers]])


def open_coco(data, channels: int) -> tuple[CocoSource, CocoSource]:
    """The training and the validation images of ``data.path``.

    Raises:
      UserError: one of them is missing, or their classes differ.
    """
    if not data.path:
        raise UserError("data.path is empty: set --config.data.path=<folder of the images>.")
    if channels != 3:
        raise UserError(f"Images with objects are read in colours; the encoder takes {channels}.")
    root = Path(data.path).expanduser()
    train, val = CocoSource(root, "train"), CocoSource(root, "val")
    if train.annotations.categories != val.annotations.categories:
        told = _difference(train.annotations.categories, val.annotations.categories)
        raise UserError(
            f"{train.annotations.path} and {val.annotations.path} list other categories ({told}): "
            "they must be the same."
        )
    return train, val


def _annotation_file(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise UserError(f"data.path={root} is no folder.")
    tried = [layout.format(split=name) for name in _names(split) for layout in ANNOTATIONS]
    for name in tried:
        if (root / name).is_file():
            return root / name
    raise UserError(f"{root} has no annotations of {split} images: none of {', '.join(tried)}.")


def _image_folder(root: Path, split: str, annotations: Annotations) -> Path:
    """The first usual folder that holds one of a few images; others may be missing."""
    names = annotations.image_names
    some = names[:: max(1, len(names) // _LOOKED_FOR)]
    tried = [layout.format(split=name) for name in _names(split) for layout in IMAGES]
    for folder in tried:
        if any((root / folder / name).is_file() for name in some):
            return root / folder
    raise UserError(
        f"{annotations.path} lists {names[0]}, which is in none of {', '.join(tried)} of {root}."
    )


def _names(split: str) -> tuple[str, ...]:
    return _VALIDATION.get(split, (split,))


def _usable(annotations: Annotations) -> tuple[np.ndarray, list[str]]:
    """Which objects are trained on, and what a person should know of the others."""
    extent = annotations.boxes[:, 2:] - annotations.boxes[:, :2]
    # mmdetection, datasets/coco.py, _parse_ann_info.
    sound = (extent >= 1).all(axis=1) & (annotations.areas > 0)
    polygons = np.diff(annotations.object_ends, prepend=0) > 0
    masked = polygons.copy()
    masked[list(annotations.encodings)] = True
    single = ~annotations.crowd
    without = int((single & sound & ~masked).sum())
    if without and without == int((single & sound).sum()):
        raise UserError(
            f"{annotations.path} has boxes and no masks (segmentation is empty): Mask R-CNN needs "
            "both."
        )
    remarks = []
    if without:
        remarks.append(f"{without:,} objects of {annotations.path} have no mask and are left out.")
    return single & sound & masked, remarks


def _to_train_on(annotations: Annotations, usable: np.ndarray) -> tuple[np.ndarray, list[str]]:
    counts = np.add.reduceat(
        np.append(usable[annotations.order], False), np.append(0, annotations.ends[:-1])
    )
    counts[np.diff(annotations.ends, prepend=0) == 0] = 0  # reduceat sums no empty parts
    enough = annotations.sizes.min(axis=1) >= _SMALLEST_SIDE
    kept = np.flatnonzero((counts > 0) & enough)
    left_out = len(counts) - len(kept)
    told = f"{left_out:,} images of {annotations.path} without objects are not trained on."
    return kept, [told] if left_out else []


def _difference(train: Categories, val: Categories) -> str:
    pairs = set(zip(*train, strict=True)) ^ set(zip(*val, strict=True))
    return ", ".join(f"{name} as {number}" for number, name in sorted(pairs)[:3])

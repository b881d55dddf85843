"""Sets of the Hugging Face library ``datasets``: what its ``save_to_disk`` writes, and Parquet."""

import glob
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from repre_jax.data.sources.cache import DEFAULT_CACHE_PATH
from repre_jax.data.sources.decode import BadImage
from repre_jax.data.sources.source import NO_LABEL, Source, short_hash
from repre_jax.data.sources.splits import SplitFiles, choose_splits, split_files
from repre_jax.errors import UserError

_LABEL_COLUMNS = ("label", "labels")


class HuggingFaceSource(Source):
    """The rows of one split of a set, in its order.

    The encoded bytes go through the same decoder as the files of a folder; of the columns only
    those of the image and of its class are read. Rows lie in memory-mapped Arrow files: those of
    ``save_to_disk`` themselves, or those that the library makes of Parquet once, in the cache.
    """

    def __init__(self, paths: list[str], cache_path: str | None, remarks: tuple[str, ...] = ()):
        """Opens a split.

        Args:
          paths: a folder that ``Dataset.save_to_disk`` wrote, or Parquet files.
          cache_path: folder of all caches; ``~/.cache/repre_jax`` by default.
          remarks: on how these were chosen.

        Raises:
          UserError: they cannot be read, have no rows, or no column is one of images.
        """
        from datasets import Image  # two seconds to import: only who reads such a set pays

        self.description = f"Hugging Face set {paths[0]}"
        if len(paths) > 1:
            self.description += f" and {len(paths) - 1:,} more files"
        self.remarks = remarks
        rows, self._image, label = _open_rows(paths, cache_path, self.description)
        self._read_labels(rows, label)
        # As stored: it may have been saved with a format, tensors say.
        rows = rows.with_format(None).select_columns([self._image])
        self._rows = rows.cast_column(self._image, Image(decode=False))
        names, sizes = self._names_and_sizes()
        self.fingerprint = short_hash(
            "\0".join(names).encode(),
            sizes.tobytes(),
            b"" if self.labels is None else self.labels.tobytes(),
        )

    @classmethod
    def open(cls, data_config, split: str, train: Source | None = None) -> "HuggingFaceSource":
        """Opens a split of ``data_config.path``; raises ``UserError`` when it is not there."""
        splits = _find_splits(data_config.path)
        paths = splits.of(split)
        if not paths:
            raise UserError(f"The Hugging Face set {data_config.path} has no {split} split.")
        remarks = splits.remarks if split == "train" else ()
        return cls(paths, data_config.get("cache_path"), remarks)

    @classmethod
    def has_split(cls, data_config, split: str) -> bool:
        """Whether the set has the split; raises ``UserError`` when there is no set."""
        return bool(_find_splits(data_config.path).of(split))

    def __len__(self) -> int:
        return len(self._rows)

    def encoded(self, index: int) -> bytes:
        image = self._rows[index][self._image]
        if image is None or image["bytes"] is image["path"] is None:
            raise BadImage(self.name_of(index), "the row has no image")
        if image["bytes"] is not None:
            return image["bytes"]
        try:  # of a file beside the set
            return Path(image["path"]).read_bytes()
        except OSError as error:
            raise BadImage(self.name_of(index), f"{image['path']}: {error.strerror}") from None

    def name_of(self, index: int) -> str:
        return f"{self.description} row {index}"

    def listing(self) -> Iterator[bytes]:
        for name, size in zip(*self._names_and_sizes(), strict=True):
            yield f"{name}\t{size:,} bytes".encode()

    def _names_and_sizes(self) -> tuple[list[str], np.ndarray]:
        """(what the rows call their images, int64 [n] bytes of each), without reading pixels."""
        import pyarrow.compute as arrow

        images = self._rows.data.table[self._image]
        paths = arrow.struct_field(images, "path").to_pylist()
        sizes = arrow.binary_length(arrow.struct_field(images, "bytes"))
        names = [path or f"row {index}" for index, path in enumerate(paths)]
        return names, sizes.fill_null(0).to_numpy().astype(np.int64)

    def _read_labels(self, rows: Any, column: str | None) -> None:
        if column is None:
            self.why_unlabelled = "it has no column label of classes or whole numbers"
            return
        # Of whatever type they are: an unsigned one cannot hold the label of an image without one.
        labels = rows.data.table[column].cast("int64").fill_null(NO_LABEL).to_numpy()
        if labels.max() > np.iinfo(np.int32).max:
            raise UserError(
                f"{self.description} has labels up to {labels.max()} in its column {column}, which "
                "are no numbers of classes; set data.labels=none."
            )
        labels = np.maximum(labels, NO_LABEL).astype(np.int32)
        if (labels == NO_LABEL).all():
            self.why_unlabelled = f"its column {column} is empty"
            return
        self.labels = labels
        self.class_names = tuple(getattr(rows.features[column], "names", None) or ()) or None


def _find_splits(path: str | None) -> SplitFiles:
    """What holds each split: a folder that ``save_to_disk`` wrote, or Parquet files."""
    found = importlib.util.find_spec("datasets")
    if found is None or found.origin is None:  # or a mere folder of that name
        raise UserError(
            "data.source=huggingface needs the package datasets, which is not installed: "
            "pip install 'repre_jax[huggingface]' brings it."
        )
    if not path:
        raise UserError("data.source is huggingface but data.path is empty; set data.path.")
    root = Path(path).expanduser()
    if root.is_file():
        return SplitFiles([str(root)], [])
    if (root / "dataset_dict.json").exists():
        return _saved_splits(root)
    if (root / "state.json").exists():
        return SplitFiles([str(root)], [])
    files = sorted(glob.glob("**/*.parquet", root_dir=root, recursive=True))
    if not files:
        raise UserError(
            f"{root} holds neither a set that save_to_disk of the library datasets has written nor "
            "Parquet files; correct --config.data.path."
        )
    train, val, remarks = split_files(files, str(root))
    return SplitFiles(*([str(root / name) for name in names] for names in (train, val)), remarks)


def _saved_splits(root: Path) -> SplitFiles:
    try:
        names = json.loads((root / "dataset_dict.json").read_text())["splits"]
        train, val, remarks = choose_splits(names)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{root}/dataset_dict.json cannot be read ({error}).") from None
    if train is None:
        raise UserError(
            f"{root} has no split called train, only {', '.join(names)}; point data.path at the "
            "folder of one of them."
        )
    told = tuple(f"In {root}, {remark}." for remark in remarks)
    return SplitFiles([str(root / train)], [str(root / val)] if val else [], told)


def _open_rows(
    paths: list[str], cache_path: str | None, description: str
) -> tuple[Any, str, str | None]:
    """(``datasets.Dataset``, its column of images, its column of labels or None)."""
    import datasets
    import pyarrow.parquet

    try:
        if Path(paths[0]).is_dir():
            rows = datasets.load_from_disk(paths[0], keep_in_memory=False)
            return rows, *_columns(rows.features, description)
        schema = pyarrow.parquet.read_schema(paths[0])
        columns = _columns(datasets.Features.from_arrow_schema(schema), description)
        rows = datasets.Dataset.from_parquet(
            paths,
            columns=list(filter(None, columns)),
            cache_dir=str(Path(cache_path or DEFAULT_CACHE_PATH).expanduser() / "huggingface"),
            keep_in_memory=False,
        )
        return rows, *columns
    except UserError:
        raise
    except Exception as error:  # whatever Arrow, Parquet, the disk and the library stumble over
        reason = error.__cause__ or error
        raise UserError(f"{description} cannot be read, or has no rows ({reason}).") from None


def _columns(features: Any, description: str) -> tuple[str, str | None]:
    """(column of images, column of labels or None) of ``datasets.Features``."""
    from datasets import ClassLabel, Image, Value

    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    if "image" in images:
        images = ["image"]
    if len(images) != 1:
        raise UserError(
            f"{description} must have one column of images, or one called image; it has "
            f"{', '.join(images) or 'none'} among {', '.join(features)}."
        )
    classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    numbers = [
        name
        for name, feature in features.items()
        if isinstance(feature, Value) and feature.dtype.startswith(("int", "uint"))
    ]
    labels = [name for name in _LABEL_COLUMNS if name in classes + numbers]
    if not labels and len(classes) == 1:
        labels = classes
    return images[0], next(iter(labels), None)

"""Any image set that TensorFlow Datasets has prepared as array_record, without TensorFlow."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repre_jax.data.sources.decode import BadImage, decode_image
from repre_jax.data.sources.source import NO_LABEL, Source, short_hash
from repre_jax.data.sources.splits import choose_splits
from repre_jax.errors import UserError


class NotPrepared(UserError):
    """The data set is not there."""


class TfdsRecords:
    """Chosen features of the records of one split; images among them stay encoded.

    Attributes:
      description: what and where they are, for messages.
      features: name -> TFDS's description of it.
      fingerprint: short hash of names and sizes of the files.
    """

    def __init__(self, builder, split: str, names: Sequence[str]):
        """Opens a split of a prepared builder.

        Args:
          builder: ``tfds.core.DatasetBuilder`` with array_record files.
          split: the data set's own name of the split.
          names: of the features; no other is ever decoded.

        Raises:
          UserError: files missing or of another format.
        """
        import tensorflow_datasets as tfds  # only who reads such a set pays for the import

        info = builder.info
        self.description = described(builder, split)
        self.features = {name: info.features[name] for name in names}
        self._wanted = tfds.features.FeaturesDict(self.features)
        self._decoders = {
            name: tfds.decode.SkipDecoding()
            for name, feature in self.features.items()
            if isinstance(feature, tfds.features.Image)
        }
        try:
            # Raw records: TFDS would decode every feature of an example, masks and all.
            self._records = builder.as_data_source(
                split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            )
        except NotImplementedError:
            raise UserError(
                f"{self.description} is stored as {info.file_format.value}, which cannot be read "
                "at random; prepare it again with --file_format=array_record."
            ) from None
        self._files = _files(info, split, self.description)
        files, sizes = zip(*self._files, strict=True)
        self.fingerprint = short_hash(
            info.full_name.encode(),
            "\0".join(files).encode(),
            np.asarray(sizes, np.int64).tobytes(),
        )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The features of a record; raises ``BadImage`` for a damaged one."""
        try:
            return self._wanted.deserialize_example_np(
                self._records[index], decoders=self._decoders
            )
        # A damaged record fails wherever array_record, protobuf or TFDS notices it.
        except Exception as error:
            raise BadImage(self.name_of(index), f"damaged record ({error})") from None

    def name_of(self, index: int) -> str:
        return f"{self.description} record {index}"

    def listing(self) -> Iterator[bytes]:
        for name, size in self._files:
            yield f"{name}\t{size:,} bytes".encode()


class TfdsSource(Source):
    """The records of one split of a prepared data set, in the order of its files.

    The encoded bytes go through the same decoder as the files of a folder; features other than
    the image and its class are never decoded.
    """

    reads = ("path", "name", "cache_size", "cache_path")
    labels_at_hand = False

    def __init__(self, builder, split: str):
        """Opens a split of a prepared builder; see ``TfdsRecords``.

        Raises:
          UserError: no image among the features, files missing or of another format.
        """
        self._image = _image_feature(builder.info, described(builder, split))
        self._label = _label_feature(builder.info)
        names = [self._image] + ([self._label] if self._label else [])
        self._records = TfdsRecords(builder, split, names)
        self.description = self._records.description
        self.fingerprint = self._records.fingerprint
        if self._label:
            self.class_names = tuple(self._records.features[self._label].names or ()) or None

    @classmethod
    def open(cls, data_config, split: str, train: Source | None = None) -> "TfdsSource":
        """Opens data set ``data_config.name`` under the data folder ``data_config.path``."""
        builder, name = open_builder(data_config, split)
        source = cls(builder, name)
        if split == "train":
            remarks = choose_splits(builder.info.splits).remarks
            source.remarks = tuple(f"In TFDS {builder.info.full_name}, {x}." for x in remarks)
        return source

    @classmethod
    def has_split(cls, data_config, split: str) -> bool:
        """Whether the data set has the split; raises ``UserError`` when it is not prepared."""
        return _split_name(_builder(data_config), split) is not None

    @classmethod
    def short_name(cls, data_config) -> str:
        """Name of the data set."""
        return data_config.name

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """All labels; the first use reads every record, for labels lie beside the images."""
        if self._label is None:
            return None
        return np.asarray([self._label_of(index) for index in range(len(self))], np.int32)

    def __len__(self) -> int:
        return len(self._records)

    def forget_labels(self, why: str) -> None:
        super().forget_labels(why)
        self._label = None

    def read(self, index: int) -> np.ndarray:
        return self.read_with_label(index)[0]

    def read_with_label(self, index: int) -> tuple[np.ndarray, int]:
        encoded, label = self._example(index)
        return decode_image(encoded, self.name_of(index), self.pixels), label

    def encoded(self, index: int) -> bytes:
        return self._example(index)[0]

    def name_of(self, index: int) -> str:
        return self._records.name_of(index)

    def listing(self) -> Iterator[bytes]:
        return self._records.listing()

    def _label_of(self, index: int) -> int:
        try:
            return self._example(index)[1]
        except BadImage:  # as whoever reads the image will say
            return NO_LABEL

    def _example(self, index: int) -> tuple[bytes, int]:
        example = self._records[index]
        label = NO_LABEL if self._label is None else int(example[self._label])
        return example[self._image], label


def open_builder(data_config, split: str) -> tuple[Any, str]:
    """(builder, the data set's own name of the split "train" or "val").

    Args:
      data_config: "name" of the data set and "path" of the data folder.
      split: of ``SPLITS``.

    Raises:
      UserError: not prepared, or without such a split.
    """
    builder = _builder(data_config)
    name = _split_name(builder, split)
    if name is None:
        raise UserError(
            f"TFDS {builder.info.full_name} has no {split} split, only "
            f"{', '.join(builder.info.splits)}."
        )
    return builder, name


def described(builder, split: str) -> str:
    """What and where a split is, for messages."""
    return f"TFDS {builder.info.full_name} ({split}) in {builder.info.data_dir}"


def _builder(data_config):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    name, folder = data_config.name, data_config.path or None
    if not name:
        raise UserError("data.name is empty: set --config.data.name=<data set of TFDS>.")
    where = folder or "~/tensorflow_datasets"
    try:
        # From the files alone: the code that prepared them may need TensorFlow.
        return tfds.core.read_only_builder.builder_from_files(
            name, data_dir=str(Path(folder).expanduser()) if folder else None
        )
    except DatasetNotFoundError:
        raise NotPrepared(
            f"The TFDS data set {name} is not prepared in {where}; prepare it once with "
            f"`tfds build {name} --data_dir={where} --file_format=array_record` or correct "
            "--config.data.path (pip install 'repre_jax[prepare]' if the builder needs "
            "TensorFlow)."
        ) from None
    except Exception as error:  # damaged dataset_info.json or features.json, no permission, ...
        raise UserError(
            f"The TFDS data set {name} in {where} cannot be read ({error}); prepare it again."
        ) from None


def _split_name(builder, split: str) -> str | None:
    splits = choose_splits(builder.info.splits)
    return splits.train if split == "train" else splits.val


def _image_feature(info, description: str) -> str:
    import tensorflow_datasets as tfds

    # A LabeledImage is a mask, and a subclass of Image.
    images = [
        key
        for key, feature in info.features.items()
        if isinstance(feature, tfds.features.Image)
        and not isinstance(feature, tfds.features.LabeledImage)
    ]
    if "image" in images:
        return "image"
    if len(images) != 1:
        found = ", ".join(images) or "none"
        raise UserError(
            f"{description} must have one image feature, or one called image; it has {found}."
        )
    return images[0]


def _label_feature(info) -> str | None:
    import tensorflow_datasets as tfds

    labels = [
        key
        for key, feature in info.features.items()
        if isinstance(feature, tfds.features.ClassLabel)
    ]
    if "label" in labels:
        return "label"
    return labels[0] if len(labels) == 1 else None


def _files(info, split: str, description: str) -> list[tuple[str, int]]:
    """(name, size in bytes) of the split's files."""
    sizes = []
    for path in info.splits[split].filepaths:
        if not path.exists():
            raise UserError(f"{description} lacks its file {path}; prepare the data set again.")
        sizes.append(path.stat().length)
    return list(zip(sorted(info.splits[split].filenames), sizes, strict=True))

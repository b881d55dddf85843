"""Images and maps that TensorFlow Datasets has prepared as array_record, without TensorFlow."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from repre_jax.data.pixel_format import PixelFormat
from repre_jax.data.segmentation.label_maps import Classes
from repre_jax.data.segmentation.source import SegmentationSource
from repre_jax.data.sources.source import short_hash
from repre_jax.data.sources.tfds import TfdsRecords, described, open_builder
from repre_jax.errors import UserError


class TfdsPairs(SegmentationSource):
    """The records of one split that have an image and a map of its classes.

    Attributes:
      classes: what the ids in the maps mean.
    """

    def __init__(self, data: ConfigDict, split: str, classes: Classes, channels: int):
        """Opens the split of data set ``data.name`` under the data folder ``data.path``.

        Raises:
          UserError: not prepared, or images and maps that cannot be told apart.
        """
        builder, name = open_builder(data, split)
        self._image, self._map = _features(data, builder, described(builder, name))
        self._records = TfdsRecords(builder, name, (self._image, self._map))
        self.classes, self.class_names = classes, classes.names
        self.pixels = PixelFormat(channels)
        self.description = self._records.description
        self.fingerprint = short_hash(
            self._records.fingerprint.encode(),
            f"{self._image}\0{self._map}".encode(),
            classes.table().tobytes(),
        )

    def __len__(self) -> int:
        return len(self._records)

    def name_of(self, index: int) -> str:
        return self._records.name_of(index)

    def label_name_of(self, index: int) -> str:
        return f"{self.name_of(index)}, {self._map}"

    def encoded(self, index: int) -> bytes:
        return self._records[index][self._image]

    def encoded_label(self, index: int) -> bytes:
        return self._records[index][self._map]

    def listing(self) -> Iterator[bytes]:
        return self._records.listing()


def _features(data: ConfigDict, builder, description: str) -> tuple[str, str]:
    """Names of the features with the images and with their maps: as given, or the only ones."""
    import tensorflow_datasets as tfds

    images, maps = [], []
    for name, feature in builder.info.features.items():
        if isinstance(feature, tfds.features.Image):
            (maps if feature.shape[-1] == 1 else images).append(name)
    found = []
    for key, names in (("images", images), ("labels", maps)):
        given = data[key]
        if given in (*images, *maps):
            names = [given]
        if len(names) != 1:
            raise UserError(
                f"{description} has the image features {', '.join(images + maps) or 'none'}: set "
                f"data.{key} to the one with the {'images' if key == 'images' else 'maps'}."
            )
        found += names
    return tuple(found)

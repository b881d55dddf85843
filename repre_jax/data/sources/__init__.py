"""Where images come from; ``SOURCES`` lists the kinds by name."""

from repre_jax.data.sources.cache import cached
from repre_jax.data.sources.digits import DigitsSource
from repre_jax.data.sources.folder import FolderSource
from repre_jax.data.sources.source import SPLITS, Source
from repre_jax.data.sources.tfds import TfdsSource
from repre_jax.errors import UserError

SOURCES = {"digits": DigitsSource, "folder": FolderSource, "tfds": TfdsSource}


def open_source(data_config, split: str) -> Source:
    """Opens the images that a config names.

    Args:
      data_config: ``source`` (a key of ``SOURCES``), ``path`` (folder of images, or of TFDS
        data), ``name`` (of the TFDS set), ``cache_size`` (short side in pixels at which decoded
        images are kept on disk; 0 for no cache), ``cache_path`` (where; None for the default).
      split: "train" or "val".

    Raises:
      UserError: the source is unknown, absent, empty or has no such split.
    """
    source = _opener(data_config).open(data_config, _checked(split))
    cache_size = data_config.get("cache_size", 0)
    if cache_size and not isinstance(source, DigitsSource):  # digits lie in memory anyway
        return cached(source, cache_size, data_config.get("cache_path"))
    return source


def has_split(data_config, split: str) -> bool:
    """Whether ``open_source`` would find the split; raises ``UserError`` as it does."""
    return _opener(data_config).has_split(data_config, _checked(split))


def _opener(data_config) -> type[Source]:
    if data_config.source not in SOURCES:
        raise UserError(
            f"data.source is {data_config.source!r}; choose one of {', '.join(SOURCES)}."
        )
    return SOURCES[data_config.source]


def _checked(split: str) -> str:
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {SPLITS}")
    return split

"""Where images come from; ``SOURCES`` lists the kinds by name."""

from collections.abc import Iterable

from repre_jax.data.pixel_format import pixel_format
from repre_jax.data.sources.cache import cached
from repre_jax.data.sources.digits import DigitsSource
from repre_jax.data.sources.folder import FolderSource
from repre_jax.data.sources.huggingface import HuggingFaceSource
from repre_jax.data.sources.labels import AUTO, NONE, TABLE_SUFFIXES
from repre_jax.data.sources.source import SPLITS, Source
from repre_jax.data.sources.tar import TarSource
from repre_jax.data.sources.tfds import TfdsSource
from repre_jax.errors import UserError

SOURCES = {
    "digits": DigitsSource,
    "folder": FolderSource,
    "huggingface": HuggingFaceSource,
    "tar": TarSource,
    "tfds": TfdsSource,
}
# Keys of ``config.data`` that not every source reads.
_OF_SOME = frozenset(key for kind in SOURCES.values() for key in kind.reads)


def open_source(data_config, split: str, channels: int = 3, train: Source | None = None) -> Source:
    """Opens the images that a config names.

    Args:
      data_config: ``source`` (a key of ``SOURCES``), ``path`` (where the images lie), ``name`` (of
        the TFDS set), ``cache_size`` (short side in pixels at which decoded images are kept on
        disk; 0 for no cache), ``cache_path`` (where; None for the default), ``labels`` (one of the
        source's ``labelled_by``, or a file whose suffix is among them), ``range`` (of
        ``PixelFormat``).
      split: "train" or "val".
      channels: C of the images.
      train: the training images of this config where they are open: their classes give those of
        the validation images the same numbers, and need not be found again.

    Raises:
      UserError: the source is unknown, absent, empty or has no such split.
    """
    source = _opener(data_config).open(data_config, _checked(split), train)
    source.pixels = pixel_format(data_config, channels)
    if data_config.get("labels") == NONE and not (source.labels_at_hand and source.labels is None):
        source.forget_labels("data.labels=none")
    cache_size = data_config.get("cache_size", 0)
    if cache_size and not isinstance(source, DigitsSource):  # digits lie in memory anyway
        return cached(source, cache_size, data_config.get("cache_path"))
    return source


def has_split(data_config, split: str) -> bool:
    """Whether ``open_source`` would find the split; raises ``UserError`` as it does."""
    return _opener(data_config).has_split(data_config, _checked(split))


def short_name(data_config) -> str:
    """What the images are called in the name of a run folder."""
    return _opener(data_config).short_name(data_config)


def check_read(data_config, given: Iterable[str]) -> None:
    """Raises UserError when the source reads one of the ``given`` keys of its config not."""
    reads = _opener(data_config).reads
    for key in given:
        if key in _OF_SOME and key not in reads:
            *others, last = (name for name, kind in SOURCES.items() if key in kind.reads)
            choices = f"{', '.join(others)} or {last}" if others else last
            raise UserError(
                f"data.{key} is given, but data.source={data_config.source} does not read it; "
                f"leave it out, or set data.source to {choices}."
            )


def _opener(data_config) -> type[Source]:
    if data_config.source not in SOURCES:
        raise UserError(
            f"data.source is {data_config.source!r}; choose one of {', '.join(SOURCES)}."
        )
    source = SOURCES[data_config.source]
    _check_labels(data_config.get("labels") or AUTO, data_config.source, source.labelled_by)
    return source


def _check_labels(rule: str, source: str, labelled_by: tuple[str, ...]) -> None:
    suffixes = tuple(choice for choice in labelled_by if choice in TABLE_SUFFIXES)
    if rule in labelled_by or rule.endswith(suffixes):
        return
    choices = ", ".join(choice for choice in labelled_by if choice not in suffixes)
    files = f", or a file *{' or *'.join(suffixes)}" if suffixes else f" for data.source={source}"
    raise UserError(f"data.labels={rule!r} must be one of {choices}{files}.")


def _checked(split: str) -> str:
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {SPLITS}")
    return split

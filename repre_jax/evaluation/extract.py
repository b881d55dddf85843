"""Features for other programs: a row an image, in files; or the nearest images of given ones."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from repre_jax.data.pixel_format import PixelFormat
from repre_jax.data.samples import read_samples
from repre_jax.data.sources.source import SPLITS, Chosen, Source, short_hash
from repre_jax.errors import UserError
from repre_jax.evaluation.features import Features, extract_features
from repre_jax.evaluation.frozen import from_levels, frozen_features
from repre_jax.evaluation.images import open_images
from repre_jax.evaluation.neighbours import comma_separated, in_words, nearest_images
from repre_jax.evaluation.task import SHARED_RANGES, Evaluation, Task
from repre_jax.image_size import height_and_width
from repre_jax.models.taps import apply_with_taps, block_numbers
from repre_jax.ranges import AT_LEAST_ONE
from repre_jax.runs.folder import write_text, written_whole
from repre_jax.sharding import by_row, jitted

FORMATS = ("npz", "parquet")


def measure_features(evaluation: Evaluation) -> dict[str, Any]:
    """Writes the features of ``config.split``, or the neighbours of ``config.neighbours_of``.

    Raises:
      UserError: a split, a format or a block that there is not, or no image that can be read.
    """
    config = evaluation.config
    for key, choices in (("split", SPLITS), ("format", FORMATS)):
        if config[key] not in choices:
            raise UserError(f"{key}={config[key]!r} must be one of {', '.join(choices)}.")
    source = evaluation.train if config.split == "train" else evaluation.val
    if config.split == "val" and source is evaluation.train:
        raise UserError(f"{source.description} has no validation split: set split=train.")
    if config.neighbours_of:
        return _list_neighbours(evaluation, source)
    return _write_features(evaluation, source)


def fingerprint_of_queries(config: ConfigDict, pixels: PixelFormat) -> str:
    """Hash of the images of ``config.neighbours_of``: another picture of that name is another."""
    queries = read_samples(config.neighbours_of, "neighbours_of", pixels)
    return short_hash(*(query.pixels.tobytes() for query in queries))


TASK = Task(
    measure=measure_features,
    ranges={
        **SHARED_RANGES,
        "images_per_file": AT_LEAST_ONE,
        "neighbours": AT_LEAST_ONE,
    },
    open=open_images,
    fingerprint=fingerprint_of_queries,
)


def _list_neighbours(evaluation: Evaluation, gallery: Source) -> dict[str, Any]:
    config, folder = evaluation.config, evaluation.folder.path
    queries = read_samples(config.neighbours_of, "neighbours_of", gallery.pixels)
    of_all = nearest_images(evaluation, gallery, queries, config.neighbours)
    if jax.process_index() == 0:
        write_text(folder / "neighbours.csv", comma_separated(of_all, gallery.class_names))
        print(in_words(of_all, gallery.class_names))
    return {
        "metric": "neighbours",
        "value": max(map(len, of_all)),
        "protocol": "neighbours",
        "formula": (
            f"nearest images of {gallery.description} by cosine of their {config.feature} features"
        ),
        "metrics": {"neighbours": [[x._asdict() for x in neighbours] for neighbours in of_all]},
        "line": evaluation.line(f"neighbours of {len(queries)} image(s): neighbours.csv,"),
    }


def _write_features(evaluation: Evaluation, source: Source) -> dict[str, Any]:
    """Writes file after file, of the images in their order; whole files of before are kept."""
    config, folder = evaluation.config, evaluation.folder
    encoder = evaluation.pretrained.encoder
    blocks = block_numbers(encoder, config.tokens, "tokens")
    write = {"npz": _write_npz, "parquet": _write_parquet}[config.format]
    read_index = {"npz": _index_of_npz, "parquet": _index_of_parquet}[config.format]
    if config.format == "parquet":
        _pyarrow()  # before anything is encoded
    starts = range(0, len(source), config.images_per_file)
    names = [f"features-{k:05d}-of-{len(starts):05d}.{config.format}" for k in range(len(starts))]
    found = [read_index(folder.path / name) for name in names]
    kept = _everywhere([index is not None for index in found])
    primary = jax.process_index() == 0
    if primary:
        folder.write_config()  # so that no other features will be put beside these
        if any(kept):
            print(f"{sum(kept)} of {len(names)} files are there already.")
    extractor = _Extractor(evaluation, source, blocks)
    for k, start in enumerate(starts):
        if kept[k]:
            continue
        numbers = np.arange(start, min(start + config.images_per_file, len(source)))
        columns = extractor.columns(numbers)
        found[k] = columns["index"]
        if primary and len(found[k]):
            write(folder.path / names[k], columns)
            if len(names) > 1:
                print(f"{names[k]}: {len(found[k])} images.")
    names = [name for name, rows in zip(names, found, strict=True) if len(rows)]
    index = np.concatenate(found)
    unknown = np.full(len(index), -1, np.int32)
    evaluation.note_unreadable(source, Features(np.zeros((len(index), 0)), unknown, index))
    described = [f"{config.feature} feature", *(f"map of block {block}" for block in blocks)]
    return {
        "metric": "images",
        "value": len(index),
        "protocol": "features",
        "formula": f"images of {source.description}, each with its {', '.join(described)}",
        "metrics": {"files": names, "class_names": list(source.class_names or ())},
        "line": evaluation.line(f"features of {len(index):,} images in {len(names)} file(s),"),
    }


class _Extractor:
    """Features and maps of an encoder, compiled once for all files."""

    def __init__(self, evaluation: Evaluation, source: Source, blocks: tuple[int, ...]):
        config, encoder = evaluation.config, evaluation.pretrained.encoder
        self._evaluation, self._source, self._blocks = evaluation, source, blocks

        def maps_of(params, inputs):
            return apply_with_taps(encoder, {"params": params}, inputs, blocks)[1]

        def encode(params, images):
            """Feature and maps side by side, as ``extract_features`` takes them: [B, F]."""
            inputs = from_levels(encoder, images)
            feature = frozen_features(encoder, params, inputs, config.feature)
            flat = [x.reshape(len(x), -1) for x in (feature, *maps_of(params, inputs))]
            return jnp.concatenate([x.astype(jnp.float32) for x in flat], axis=1)

        self._encode = jitted(encode, evaluation.mesh)
        shape = (1, *height_and_width(config.image_size), encoder.channels)
        image = jax.ShapeDtypeStruct(shape, jnp.float32)
        shapes = jax.eval_shape(maps_of, evaluation.params, image)
        self._shapes = [x.shape[1:] for x in shapes]

    def columns(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Of those images of these numbers that can be read, a row an image.

        Returns:
          {"name", "index", "label" where there are labels, "feature" [n, D], and for every block
          "block_<k>" [n, gh, gw, D]}.
        """
        source, params = self._source, self._evaluation.params
        with self._evaluation.batches(Chosen(source, numbers), "bicubic") as batches:
            sharding = by_row(self._evaluation.mesh)
            found = extract_features(lambda x: self._encode(params, x), batches, sharding)
        index = numbers[found.index].astype(np.int32)
        names = np.array([source.name_of(int(number)) for number in index], np.str_)
        columns = {"name": names, "index": index}
        if not source.labels_at_hand or source.labels is not None:
            columns["label"] = found.labels
        sizes = [int(np.prod(shape)) for shape in self._shapes]
        ends = np.cumsum([found.features.shape[1] - sum(sizes), *sizes])
        columns["feature"], *maps = np.split(found.features, ends[:-1], axis=1)
        for block, flat, shape in zip(self._blocks, maps, self._shapes, strict=True):
            columns[f"block_{block}"] = flat.reshape(-1, *shape)
        return columns


def _write_npz(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    with written_whole(path) as unfinished, open(unfinished, "wb") as file:
        np.savez(file, **columns)


def _index_of_npz(path: Path) -> np.ndarray | None:
    """Column "index" of a file; None where it is missing or damaged."""
    try:
        with np.load(path) as file:
            return file["index"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write_parquet(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Features and maps become tensors of a fixed shape, fixed-size lists to whom those are new."""
    arrow, parquet = _pyarrow()

    def array(values: np.ndarray):
        if values.dtype.kind == "U":  # names of files need not be text
            return arrow.array([x.encode(errors="backslashreplace").decode() for x in values])
        if values.ndim == 1:
            return arrow.array(values)
        contiguous = np.ascontiguousarray(values)
        return arrow.FixedShapeTensorArray.from_numpy_ndarray(contiguous)

    with written_whole(path) as unfinished:
        table = arrow.table({name: array(values) for name, values in columns.items()})
        parquet.write_table(table, unfinished)


def _index_of_parquet(path: Path) -> np.ndarray | None:
    """As ``_index_of_npz``."""
    arrow, parquet = _pyarrow()
    try:
        return parquet.read_table(path, columns=["index"])["index"].to_numpy()
    except (OSError, arrow.ArrowException):
        return None


def _pyarrow() -> tuple[Any, Any]:
    """(pyarrow, pyarrow.parquet); UserError where they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "format=parquet needs pyarrow: pip install pyarrow, or take format=npz."
        ) from error
    return pyarrow, pyarrow.parquet


def _everywhere(flags: list[bool]) -> list[bool]:
    """What the first process found, in all of them."""
    if jax.process_count() == 1:
        return flags
    return multihost_utils.broadcast_one_to_all(np.array(flags)).tolist()

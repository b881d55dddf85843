"""Images in tar files, as webdataset and others write them, read where they lie."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from repre_jax.data.sources.decode import BadImage
from repre_jax.data.sources.formats import skipped_in_words
from repre_jax.data.sources.named import NamedSource
from repre_jax.data.sources.splits import SplitFiles, split_files
from repre_jax.data.sources.tar_index import index_of
from repre_jax.errors import UserError

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_INNERMOST_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST_KINDS = 4


class TarSource(NamedSource):
    """Every image in some tar files, in the order in which they lie there.

    Images are labelled by what lies beside them under the same name with the suffix ``.cls``, or
    else by the first folder of their names in the archives.
    """

    def __init__(
        self,
        archives: list[str],
        where: str,
        cache_path: str | None = None,
        remarks: tuple[str, ...] = (),
    ):
        """Reads the headers of archives, not the images.

        Args:
          archives: their paths.
          where: they lie, for messages.
          cache_path: folder of all caches; ``~/.cache/repre_jax`` by default.
          remarks: on how these were chosen.

        Raises:
          UserError: an archive cannot be read, is compressed or damaged, or none holds an image.
        """
        self.description = f"tar files of {where}"
        self._archives = archives
        index = index_of(archives, cache_path)
        if not len(index.names):
            raise UserError(f"No image was found in the {self.description}.")
        self.names, self.sizes = index.names, index.sizes
        self._offsets, self._ends = index.offsets, index.ends
        if (index.labels != "").any():
            self.own_labels = [label or None for label in index.labels.tolist()]
        self.remarks = (
            *remarks,
            *skipped_in_words(index.skipped, self.description),
            *_kinds_remarks(index.names, self.description),
        )

    @classmethod
    def find(cls, data_config, split: str) -> "TarSource":
        """The images of a split of ``data_config.path``, without labels."""
        splits = _find_splits(data_config.path)
        archives = splits.of(split)
        if not archives:
            raise UserError(f"The tar files of {data_config.path} have no {split} split.")
        where = f"{data_config.path} ({split})" if splits.val else data_config.path
        remarks = splits.remarks if split == "train" else ()
        return cls(archives, where, data_config.get("cache_path"), remarks)

    @classmethod
    def has_split(cls, data_config, split: str) -> bool:
        """Whether there are files of the split; raises ``UserError`` when there are none at all."""
        return bool(_find_splits(data_config.path).of(split))

    @classmethod
    def short_name(cls, data_config) -> str:
        """Name of the folder, or of the file without its suffix."""
        path = Path(data_config.path)
        if set(data_config.path) & set("{*?["):
            path = path.parent
        return path.resolve().name.removesuffix(".tar")

    def encoded(self, index: int) -> bytes:
        try:
            with open(self._archives[self._archive(index)], "rb") as file:
                file.seek(self._offsets[index])
                encoded = file.read(self.sizes[index])
        except OSError as error:
            raise BadImage(self.name_of(index), error.strerror or str(error)) from None
        if len(encoded) < self.sizes[index]:
            raise BadImage(self.name_of(index), "the archive is cut off")
        return encoded

    def name_of(self, index: int) -> str:
        return f"{self._archives[self._archive(index)]}/{self.names[index]}"

    def _archive(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right"))

    def _told_besides(self) -> Iterator[bytes]:
        yield self._ends.tobytes()


def _find_splits(path: str | None) -> SplitFiles:
    if not path:
        raise UserError("data.source is tar but data.path is empty; set --config.data.path.")
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        files = sorted(glob.glob("**/*.*", root_dir=path, recursive=True))
        _refuse_compressed(files, path)
        archives = [file for file in files if file.endswith(".tar")]
        root = path
    else:
        archives, root = sorted({file for one in _expanded(path) for file in _matching(one)}), ""
        _refuse_compressed(archives, path)
    if not archives:
        raise UserError(f"There is no .tar file in {path} or below it; correct --config.data.path.")
    train, val, remarks = split_files(archives, path)
    whole = ([os.path.join(root, file) for file in files] for files in (train, val))
    return SplitFiles(*whole, remarks)


def _refuse_compressed(files: list[str], path: str) -> None:
    compressed = next((file for file in files if file.endswith(_COMPRESSED)), None)
    if compressed:
        raise UserError(
            f"{os.path.join(path, compressed)} is compressed, so that no image in it can be "
            "reached without unpacking all before: unpack it to a .tar file."
        )


def _expanded(pattern: str) -> list[str]:
    """A pattern with braces as a shell understands them: ``{000..099}`` and ``{train,val}``."""
    braces = _INNERMOST_BRACES.search(pattern)
    if braces is None:
        return [pattern]
    if between := _RANGE.fullmatch(braces[1]):
        first, last = between.groups()
        choices = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    else:
        choices = braces[1].split(",")
    start, end = pattern[: braces.start()], pattern[braces.end() :]
    return [name for choice in choices for name in _expanded(start + choice + end)]


def _matching(pattern: str) -> list[str]:
    if os.path.exists(pattern):
        return [pattern]
    found = [file for file in glob.glob(pattern, recursive=True) if os.path.isfile(file)]
    if not found:
        raise UserError(f"data.path names {pattern}, but there is no such file.")
    return found


def _kinds_remarks(names: Sequence[str], description: str) -> Iterator[str]:
    """Whether there are several images of one name, as there are where label maps lie beside."""
    kinds, named = Counter(), set()
    for name in names:
        key, _, kind = os.path.basename(name).partition(".")
        kinds[kind] += 1
        named.add((os.path.dirname(name), key))
    if len(named) < len(names) and len(kinds) <= _MOST_KINDS:
        told = ", ".join(f"{count:,} .{kind}" for kind, count in sorted(kinds.items()))
        yield (
            f"In the {description}, several images have one name ({told}); all are read, label "
            "maps too if some are."
        )

"""Where the images lie in tar files: found by a pass over the headers, kept where that is slow."""

import contextlib
import dataclasses
import json
import os
import posixpath
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import BinaryIO

import numpy as np
from rich.progress import track

from repre_jax.data.sources.cache import DEFAULT_CACHE_PATH
from repre_jax.data.sources.formats import image_suffixes, suffix_of
from repre_jax.data.sources.names import PackedNames
from repre_jax.data.sources.source import short_hash
from repre_jax.errors import UserError

# Raise it when the index changes, so that none that was kept is mistaken for a new one.
_FORMAT = b"1"
_SLOW_SECONDS = 2.0  # of a pass: then the index is kept
_LABEL_SUFFIX = ".cls"
_LONGEST_LABEL = 1000  # bytes; what is longer is no label
_MOST_PADDING = 1 << 20  # bytes looked at behind the end of an archive
_COMPRESSED_STARTS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")


@dataclasses.dataclass(frozen=True)
class TarIndex:
    """The images of some archives, one archive after another, in the order of each.

    Attributes:
      names: in the archives.
      offsets: int64 [n], first byte of each in its archive.
      sizes: int64 [n], bytes of each.
      ends: int64 [archives], number of images up to the end of each archive.
      labels: str [n], what lies beside each as ``.cls``; "" where nothing does.
      skipped: number of other files by their suffix.
    """

    names: PackedNames
    offsets: np.ndarray
    sizes: np.ndarray
    ends: np.ndarray
    labels: np.ndarray
    skipped: Counter[str]


def index_of(archives: list[str], cache_path: str | None) -> TarIndex:
    """Finds the images in archives.

    Args:
      archives: paths of tar files.
      cache_path: folder of all caches; ``~/.cache/repre_jax`` by default. An index that took
        seconds is kept there, for archives of the same paths, sizes and times.

    Raises:
      UserError: an archive cannot be read, is compressed, damaged or several in one.
    """
    kept = Path(cache_path or DEFAULT_CACHE_PATH).expanduser() / f"tar-{_state(archives)}.npz"
    index = _load(kept)
    if index is not None:
        return index
    started = time.monotonic()
    found, ends, skipped = [], [], Counter()
    for archive in track(archives, "indexing tar files", disable=len(archives) == 1):
        try:
            found += _images(archive, skipped)
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise _unread(archive, error) from None
        ends.append(len(found))
    names, offsets, sizes, labels = zip(*found, strict=True) if found else ((), (), (), ())
    index = TarIndex(
        PackedNames(names),
        *(np.asarray(numbers, np.int64) for numbers in (offsets, sizes, ends)),
        np.asarray(labels, np.str_),
        skipped,
    )
    if time.monotonic() - started > _SLOW_SECONDS:
        _keep(kept, index)
    return index


def _images(archive: str, skipped: Counter[str]) -> list[tuple[str, int, int, str]]:
    """(name, offset, size, label) of the images of an archive; counts the other files."""
    images, labels, suffixes = [], {}, image_suffixes()
    with open(archive, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # it would keep them all
            name = posixpath.normpath(member.name).lstrip("/")
            if member.isdir() or "/." in f"/{name}":  # hidden
                continue
            suffix = suffix_of(name)
            if not member.isreg() or member.issparse():
                skipped["links"] += 1
            elif suffix in suffixes:
                images.append((name, member.offset_data, member.size))
            elif suffix == _LABEL_SUFFIX and member.size <= _LONGEST_LABEL:
                file.seek(member.offset_data)
                labels[_key(name)] = file.read(member.size).decode(errors="replace").strip()
            else:
                skipped[suffix] += 1
        _check_end(file, tar.offset)
    return [(*image, labels.get(_key(image[0]), "")) for image in images]


def _key(name: str) -> str:
    """What the files of one sample share: the name up to the first dot behind the folders."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _check_end(file: BinaryIO, end: int) -> None:
    """Raises ReadError where an archive goes on behind its end, which tarfile takes in silence."""
    file.seek(end)
    if any(file.read(_MOST_PADDING)):
        raise tarfile.ReadError("damaged, or several archives in one file, which tar -A would join")


def _unread(archive: str, error: Exception) -> UserError:
    with contextlib.suppress(OSError), open(archive, "rb") as file:
        if file.read(8).startswith(_COMPRESSED_STARTS):
            return UserError(
                f"{archive} is compressed, so that no image in it can be reached without unpacking "
                "all before: unpack it to an uncompressed .tar file."
            )
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return UserError(f"The tar file {archive} cannot be read ({reason}); bring it anew.")


def _state(archives: list[str]) -> str:
    parts = [_FORMAT, " ".join(sorted(image_suffixes())).encode()]
    for archive in archives:
        try:
            status = os.stat(archive)
        except OSError as error:
            raise _unread(archive, error) from None
        parts += [os.fsencode(archive), b"%d %d" % (status.st_size, status.st_mtime_ns)]
    return short_hash(*parts)


def _keep(path: Path, index: TarIndex) -> None:
    with contextlib.suppress(OSError):  # then it is made again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
            np.savez(
                file,
                block=np.frombuffer(index.names.block, np.uint8),
                name_ends=index.names.ends,
                offsets=index.offsets,
                sizes=index.sizes,
                ends=index.ends,
                labels=index.labels,
                skipped=json.dumps(index.skipped),
            )
        os.replace(file.name, path)


def _load(path: Path) -> TarIndex | None:
    """The index that was kept; None where it is missing or damaged."""
    try:
        with np.load(path) as file:
            names = PackedNames.of(file["block"].tobytes(), file["name_ends"])
            skipped = Counter(json.loads(str(file["skipped"])))
            numbers = (file[key] for key in ("offsets", "sizes", "ends", "labels"))
            return TarIndex(names, *numbers, skipped)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None

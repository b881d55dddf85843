"""Images decoded and shrunk once, kept as raw pixels in one memory-mapped file.

Small sets that are read hundreds of times spend most of the host's time in decoding. The cache
lies in ``<cache_path>/<fingerprint>-<size>/``, whose fingerprint is of names, sizes and labels and
of what some of the files hold: ``pixels.bin`` (images one after another) and ``index.npz``
(offsets, sides, labels, and why an image could not be read). All runs and all worker processes
share it.
"""

import collections
import concurrent.futures
import contextlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock, Timeout
from rich.progress import track

from repre_jax.data.host.cores import usable_cores
from repre_jax.data.host.crops import resize
from repre_jax.data.pixel_format import RGB, PixelFormat
from repre_jax.data.sources.decode import BadImage
from repre_jax.data.sources.source import NO_LABEL, Source, short_hash
from repre_jax.errors import UserError

DEFAULT_CACHE_PATH = "~/.cache/repre_jax"
# Raise it when decoding or resizing changes, so that no old cache is mistaken for a new one.
_FORMAT = 3


class CachedSource(Source):
    """A source whose images are read from the cache, short side at most ``cache_size``."""

    def __init__(self, source: Source, folder: Path, index: dict[str, np.ndarray]):
        self._source = source
        self._folder = folder
        self._offsets, self._sides = index["offsets"], index["sides"]
        self._reasons = json.loads(str(index["reasons"]))
        self._mapped: np.ndarray | None = None
        self.pixels = source.pixels
        labels = source.labels if source.labels_at_hand else index["labels"]
        self.labels = None if labels is None or (labels == NO_LABEL).all() else labels
        self.class_names = None if self.labels is None else source.class_names
        self.why_unlabelled = source.why_unlabelled
        self.description = source.description
        self.remarks = source.remarks
        self.fingerprint = source.fingerprint

    def __len__(self) -> int:
        return len(self._sides)

    def read(self, index: int) -> np.ndarray:
        if str(index) in self._reasons:
            raise BadImage(self.name_of(index), self._reasons[str(index)])
        if self._mapped is None:
            self._mapped = _map_pixels(self._folder, int(self._offsets[-1]), self.pixels.dtype)
        flat = self._mapped[self._offsets[index] : self._offsets[index + 1]]
        return flat.reshape(*self._sides[index], self.pixels.channels)

    def encoded(self, index: int) -> bytes | None:
        return self._source.encoded(index)

    def name_of(self, index: int) -> str:
        return self._source.name_of(index)

    def listing(self) -> Iterator[bytes]:
        return self._source.listing()

    def __getstate__(self) -> dict:
        # Pickling a memory map would send all pixels; each process maps the file itself.
        return self.__dict__ | {"_mapped": None}


def cached(source: Source, cache_size: int, cache_path: str | None = None) -> CachedSource:
    """Returns the source read through its cache, which is built first where it is missing.

    Args:
      source: what to cache.
      cache_size: short side in pixels that larger images are shrunk to.
      cache_path: folder of all caches; ``~/.cache/repre_jax`` by default.

    Raises:
      UserError: the cache cannot be written (no space, no permission).
    """
    folder = Path(cache_path or DEFAULT_CACHE_PATH).expanduser()
    fingerprint = short_hash(source.fingerprint.encode(), source.content().encode())
    folder /= f"{fingerprint}-{cache_size}{_other_than_rgb(source.pixels)}-v{_FORMAT}"
    index = _load_index(folder, source)
    try:
        if index is None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(folder) as alone:
                index = _load_index(folder, source)
                if index is None:
                    if alone:
                        _remove_remains(folder)
                    index = _build(source, cache_size, folder)
    except OSError as error:
        raise UserError(
            f"The image cache {folder} cannot be written ({error.strerror or error}); make room "
            "or set --config.data.cache_path to another folder, or --config.data.cache_size=0."
        ) from None
    return CachedSource(source, folder, index)


@contextlib.contextmanager
def _locked(folder: Path):
    """Lets one process at a time build a cache; yields False where files cannot be locked."""
    lock = FileLock(f"{folder}.lock", fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"Waiting for another process that builds the image cache {folder}.")
        lock.acquire()
    except OSError:  # some network file systems: then two processes may build it twice
        pass
    try:
        yield lock.is_locked
    finally:
        lock.release()


def _remove_remains(folder: Path) -> None:
    """Removes what killed builds of this cache have left."""
    for path in folder.parent.glob(f"{folder.name}-*"):
        shutil.rmtree(path, ignore_errors=True)


def _load_index(folder: Path, source: Source) -> dict[str, np.ndarray] | None:
    """Returns the index, or None when the cache is missing, partial or damaged."""
    try:
        with np.load(folder / "index.npz") as file:
            index = {key: file[key] for key in ("offsets", "sides", "labels", "reasons")}
        size = int(index["offsets"][-1]) * source.pixels.dtype.itemsize
        complete = (folder / "pixels.bin").stat().st_size == size
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return index if complete and len(index["sides"]) == len(source) else None


def _map_pixels(folder: Path, values: int, dtype: np.dtype) -> np.ndarray:
    if values == 0:  # every image was unreadable, and an empty file cannot be mapped
        return np.empty(0, dtype)
    return np.asarray(np.memmap(folder / "pixels.bin", dtype, "r", shape=(values,)))


def _other_than_rgb(pixels: PixelFormat) -> str:
    """Part of a cache's name, for pixels of another format are another cache."""
    if pixels == RGB:
        return ""
    ends = "" if pixels.range is None else "-" + "-".join(map(repr, pixels.range))
    return f"-{pixels.channels}-channels{ends}"


def _build(source: Source, cache_size: int, folder: Path) -> dict[str, np.ndarray]:
    """Writes the cache beside its place, moves it there whole, and returns its index."""
    partial = Path(tempfile.mkdtemp(prefix=folder.name + "-", dir=folder.parent))
    try:
        sizes, sides, labels, reasons = [], [], [], {}
        with open(partial / "pixels.bin", "wb") as file:
            for number, (image, label, reason) in enumerate(_shrunk(source, cache_size)):
                file.write(image.data)
                sizes.append(image.size)
                sides.append(image.shape[:2])
                labels.append(label)
                if reason:
                    reasons[number] = reason
            file.flush()
            os.fsync(file.fileno())
        index = {
            "offsets": np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]),
            "sides": np.asarray(sides, np.int32),
            "labels": np.asarray(labels, np.int32),
            "reasons": np.asarray(json.dumps(reasons)),
        }
        with open(partial / "index.npz", "wb") as file:
            np.savez(file, **index)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        partial.rename(folder)
        return index
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already when all went well


def _shrunk(source: Source, cache_size: int):
    """Yields ([h, w, C], label, reason) of each image in order, made by threads."""
    cv2.setNumThreads(0)  # the threads here are enough

    def shrink(index: int):
        try:
            image, label = source.read_with_label(index)
        except BadImage as error:
            nothing = np.empty((0, 0, source.pixels.channels), source.pixels.dtype)
            return nothing, NO_LABEL, error.reason
        height, width = image.shape[:2]
        factor = min(1.0, cache_size / min(height, width))
        rows, columns = round(height * factor), round(width * factor)
        return resize(image, rows, columns, "bicubic"), label, None

    threads = usable_cores()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        pending = collections.deque()
        for index in track(range(len(source)), description="caching images"):
            while len(pending) < 4 * threads and index + len(pending) < len(source):
                pending.append(pool.submit(shrink, index + len(pending)))
            yield pending.popleft().result()

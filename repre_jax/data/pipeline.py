"""Batches in time: Grain's threads and worker processes, and the copy to the device."""

import shutil
import sys
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags

from repre_jax.data.batches import EvaluationChunks, Rows, TrainingChunks
from repre_jax.data.device.prefetch import prefetch_to_device
from repre_jax.data.host.cores import usable_cores
from repre_jax.data.host.crops import CENTRE_CROP
from repre_jax.data.recipes import ViewRecipe
from repre_jax.data.sources.source import Source
from repre_jax.data.workers import WorkerKilled, next_from_workers, start_worker
from repre_jax.errors import UserError
from repre_jax.image_size import ImageSize

__all__ = ["Batches", "evaluation_batches", "prefetch_to_device", "training_batches"]

# In a worker, one thread reads while the other decodes.
_THREADS_PER_WORKER = 2
_CHUNKS_BUFFERED_PER_WORKER = 2
_SMALLEST_WORTH_SHARING = 64 * 1024  # bytes; opening shared memory costs more than copying less


class Batches(Iterator[dict[str, np.ndarray]]):
    """An iterator over batches that owns threads or processes until it is closed.

    Use it in a ``with`` statement or call ``close``; it closes itself when it is collected.
    """

    def __init__(self, dataset: grain.IterDataset, length: int, workers: int):
        self._iterator = iter(dataset)
        self._remaining = length
        self._next = next_from_workers if workers else next

    def __next__(self) -> dict[str, np.ndarray]:
        if self._remaining <= 0:
            self.close()
            raise StopIteration
        try:
            batch = self._next(self._iterator)
        except WorkerKilled:
            self._iterator, self._remaining = None, 0  # closing it could wait for ever
            raise
        except BaseException:
            self.close()  # one worker has failed; the others need not go on
            raise
        self._remaining -= 1
        return batch

    def __len__(self) -> int:
        """Number of batches still to come."""
        return self._remaining

    def close(self) -> None:
        """Stops the threads and processes."""
        iterator, self._iterator, self._remaining = self._iterator, None, 0
        if iterator is not None:
            iterator.close()
        # With the last reference goes the shared memory of what was made and not asked for.

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *unused) -> None:
        self.close()


def training_batches(
    source: Source,
    recipe: ViewRecipe,
    *,
    image_size: ImageSize,
    batch_size: int,
    seed: int,
    start_step: int,
    total_steps: int,
    workers: int,
    process_index: int | None = None,
    process_count: int | None = None,
) -> Batches:
    """Yields this process's rows of global batches ``start_step`` .. ``total_steps - 1``.

    Batch t is a pure function of (seed, t): with S = len(source) // batch_size steps an epoch,
    epoch t // S visits S * batch_size images in an order of its own and drops the rest. So the
    position in the data is the step, whatever ``workers`` and the number of processes.

    Args:
      source: where the images come from.
      recipe: how views are cut.
      image_size: (H, W) of a global view, or its one side, in pixels.
      batch_size: B of all processes together.
      seed: of the shuffle and of the crops.
      start_step: first step wanted; 0, or where to resume.
      total_steps: one more than the last step wanted.
      workers: worker processes; 0 makes batches in threads of this process.
      process_index: which process this is; ``jax.process_index()`` by default.
      process_count: how many there are; ``jax.process_count()`` by default.

    Returns:
      Iterator of {"global": [b, V, H, W, C], "local": [b, n, s, s, C] (when n > 0), both of
      ``source.pixels.dtype``, "index", "epoch", "label" (-1 unknown), "replaced": int32 [b]}, where
      b = B / process_count. ``replaced`` is -1, or the index of the unreadable image that this row
      stands in for.

    Raises:
      UserError: fewer images than one batch, or (while iterating) no readable image at all.
    """
    if len(source) < batch_size:
        raise UserError(
            f"{source.description} has {len(source)} images, fewer than one batch of "
            f"{batch_size}; lower train.batch_size."
        )
    rows = process_rows(batch_size, process_index, process_count)
    chunks = TrainingChunks(source, recipe, image_size, batch_size, seed, rows)
    return batches_of(chunks, rows, start_step, total_steps, workers)


def evaluation_batches(
    source: Source,
    *,
    image_size: ImageSize,
    batch_size: int,
    interpolation: str = "bicubic",
    crop_ratio: float = CENTRE_CROP,
    workers: int = 0,
    process_index: int | None = None,
    process_count: int | None = None,
) -> Batches:
    """Yields this process's rows of every image in order, resized and centre-cropped.

    Args:
      source: where the images come from.
      image_size: (H, W) of the view, or its one side, in pixels.
      batch_size: B of all processes together.
      interpolation: "bicubic" or "bilinear".
      crop_ratio: share of the short side that is kept.
      workers: worker processes; 0 makes batches in threads of this process.
      process_index: as in ``training_batches``.
      process_count: as in ``training_batches``.

    Returns:
      Iterator of {"image": [b, H, W, C], "label", "index": int32 [b], "mask": bool [b]}.
      ``mask`` is False where there is no image: past the end (index -1) or unreadable (its
      index).
    """
    rows = process_rows(batch_size, process_index, process_count)
    chunks = EvaluationChunks(source, image_size, batch_size, rows, interpolation, crop_ratio)
    return batches_of(chunks, rows, 0, -(-len(source) // batch_size), workers)


def process_rows(
    batch_size: int, process_index: int | None = None, process_count: int | None = None
) -> Rows:
    """The rows of a global batch that this process makes; UserError where none can share it."""
    if process_index is None or process_count is None:
        import jax  # asking starts the backend, which a process that is told need not

        process_index, process_count = jax.process_index(), jax.process_count()
    if batch_size % process_count:
        raise UserError(
            f"train.batch_size is {batch_size}, which {process_count} processes cannot share "
            f"evenly; make it a multiple of {process_count}."
        )
    count = batch_size // process_count
    return Rows(process_index * count, count)


def batches_of(chunks, rows: Rows, start_step: int, total_steps: int, workers: int) -> Batches:
    """Batches ``start_step`` .. ``total_steps - 1`` of what makes chunks.

    Args:
      chunks: number of a chunk -> dictionary of arrays; with ``chunk_bytes``, their size.
      rows: of a batch, which it makes.
      start_step, total_steps, workers: as in ``training_batches``.
    """
    steps = max(0, total_steps - start_step)
    first, last = start_step * rows.chunks, (start_step + steps) * rows.chunks
    threads = _THREADS_PER_WORKER if workers else usable_cores()
    # With workers, what is ready waits in their buffers; without, up to one batch waits here.
    buffered = threads if workers else max(threads, rows.chunks)
    dataset = (
        grain.MapDataset.range(first, last)
        .map(chunks)
        .to_iter_dataset(grain.ReadOptions(threads, buffered))
    )
    if workers:
        # Grain asks absl's flags before it starts a process; a notebook or a test has none.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        options = grain.experimental.DatasetOptions(
            min_shm_size=_smallest_in_shared_memory(chunks.chunk_bytes * workers)
        )
        dataset = grain.experimental.WithOptionsIterDataset(dataset, options).mp_prefetch(
            grain.MultiprocessingOptions(workers, _CHUNKS_BUFFERED_PER_WORKER),
            worker_init_fn=start_worker,
        )
    dataset = dataset.batch(rows.chunks, drop_remainder=True, batch_fn=_join)
    return Batches(dataset, steps, workers)


def _smallest_in_shared_memory(bytes_made_at_once: int) -> int:
    """Returns the size in bytes from which arrays leave a worker through shared memory.

    Containers often come with 64 MB of it, and writing past its end kills the worker; then
    everything goes through pipes, which is slower and always works.
    """
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:  # not Linux: shared memory is not a folder there, nor so small
        return _SMALLEST_WORTH_SHARING
    # A worker's buffer, the reader's buffer, the chunk in the making, the one in use.
    needed = bytes_made_at_once * (2 * _CHUNKS_BUFFERED_PER_WORKER + 2)
    return _SMALLEST_WORTH_SHARING if needed < free else sys.maxsize


def _join(chunks: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    joined = {}
    for key, example in chunks[0].items():
        rows = sum(len(chunk[key]) for chunk in chunks)
        # Not np.concatenate: it would return Grain's shared-memory subclass.
        joined[key] = np.empty((rows, *example.shape[1:]), example.dtype)
        np.concatenate([chunk[key] for chunk in chunks], out=joined[key])
    return joined

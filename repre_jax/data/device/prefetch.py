"""Copies batches to the device in the background, and measures how long the device waited."""

import queue
import signal
import threading
import time
import weakref
from collections.abc import Iterator

import jax
import numpy as np

from repre_jax.stop_signals import STOP_SIGNALS

# Bookkeeping that the host reads after each step and the device never needs.
_HOST_KEYS = ("replaced",)
_POLL_SECONDS = 0.1
_JOIN_SECONDS = 30.0
_END = object()


class DevicePrefetcher(Iterator[dict]):
    """Iterator over batches on the device, filled by a thread.

    Attributes:
      waited_seconds: time that the consumer has spent waiting in ``next`` so far.
    """

    def __init__(self, batches: Iterator[dict], sharding: jax.sharding.Sharding, depth: int):
        self.waited_seconds = 0.0
        self._ready: queue.Queue = queue.Queue(maxsize=depth)
        stop = threading.Event()
        # The thread holds no reference to self, so that an abandoned prefetcher is collected.
        thread = threading.Thread(
            target=_fill,
            args=(batches, sharding, self._ready, stop),
            daemon=True,
            name="prefetch-to-device",
        )
        thread.start()
        # Runs once: on close, on collection, or at the exit of the interpreter.
        self._finalizer = weakref.finalize(self, _stop_thread, thread, self._ready, stop)

    def __next__(self) -> dict:
        if not self._finalizer.alive:
            raise StopIteration
        start = time.perf_counter()
        item = self._ready.get()
        self.waited_seconds += time.perf_counter() - start
        if item is _END:
            self.close()
            raise StopIteration
        if isinstance(item, BaseException):
            self.close()
            raise item
        return item

    def close(self) -> None:
        """Stops the thread and closes the batches; safe to call twice."""
        self._finalizer()

    def __enter__(self) -> "DevicePrefetcher":
        return self

    def __exit__(self, *unused) -> None:
        self.close()


def prefetch_to_device(
    batches: Iterator[dict[str, np.ndarray]], sharding: jax.sharding.Sharding, depth: int = 2
) -> DevicePrefetcher:
    """Copies the next batches to the devices while the present step runs.

    Args:
      batches: this process's rows of each global batch; closed at the end if it has ``close``.
      sharding: of the leading axis, for every array of the batch.
      depth: batches held ready on the device.

    Returns:
      Iterator of the same dictionaries with global ``jax.Array`` leaves; ``replaced`` stays a
      numpy array with this process's rows. What ``batches`` raises is raised by ``next``.
    """
    return DevicePrefetcher(batches, sharding, depth)


def _fill(batches, sharding, ready: queue.Queue, stop: threading.Event) -> None:
    # Worker processes that this thread starts inherit it, before they can see to it themselves.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        for batch in batches:
            on_device = {
                key: value
                if key in _HOST_KEYS
                else jax.make_array_from_process_local_data(sharding, value)
                for key, value in batch.items()
            }
            if not _put(ready, on_device, stop):
                break
        else:
            _put(ready, _END, stop)
    except BaseException as error:
        _put(ready, error, stop)
    finally:
        if hasattr(batches, "close"):
            batches.close()


def _put(ready: queue.Queue, item, stop: threading.Event) -> bool:
    """Waits for room; returns False when asked to stop instead."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=_POLL_SECONDS)
            return True
        except queue.Full:
            continue
    return False


def _stop_thread(thread: threading.Thread, ready: queue.Queue, stop: threading.Event) -> None:
    stop.set()
    while True:  # what waits in the queue holds device memory
        try:
            ready.get_nowait()
        except queue.Empty:
            break
    if thread is not threading.current_thread():  # the collector may run in it
        thread.join(_JOIN_SECONDS)

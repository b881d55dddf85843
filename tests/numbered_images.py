"""A source whose image i shows only the number i, and short ways to run through it."""

import numpy as np

from repre_jax.data.pipeline import training_batches
from repre_jax.data.recipes import ViewRecipe
from repre_jax.data.sources.decode import BadImage
from repre_jax.data.sources.source import Source

RECIPE = ViewRecipe(crop_scale=(0.3, 1.0), local_crops=2, local_size=8)
KEYS = {"global", "local", "index", "epoch", "label", "replaced"}


class Numbers(Source):
    """Image i shows only the number i, so that a row tells which image it came from."""

    description = "numbers"
    fingerprint = "0"

    def __init__(self, size, bad=(), labelled=True):
        self.size, self.bad = size, frozenset(bad)
        if labelled:
            self.labels = np.arange(size, dtype=np.int32) % 3

    def __len__(self):
        return self.size

    def name_of(self, index):
        return f"image {index}"

    def read(self, index):
        if index in self.bad:
            raise BadImage(self.name_of(index), "made so")
        return np.full((9, 12, 3), index, np.uint8)


def run(source, start=0, stop=6, *, batch_size=8, seed=3, workers=0, process=(0, 1), recipe=RECIPE):
    with training_batches(
        source,
        recipe,
        image_size=16,
        batch_size=batch_size,
        seed=seed,
        start_step=start,
        total_steps=stop,
        workers=workers,
        process_index=process[0],
        process_count=process[1],
    ) as batches:
        return list(batches)


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])

"""How many images a second one processor core prepares: read, decode, crop, resize.

    python -m benchmarks.input_pipeline --data=/data/imagenette160

Runs the pipeline of training (Grain, one thread) pinned to one core, for the two global views of
MoCo v3 and for DINO's 2 + 8 views, and writes ``results/input_pipeline.json``. The photometric
work is the device's. ``peers`` sets it against the authors' loaders.
"""

import os
import statistics
import time

from absl import flags
from ml_collections import ConfigDict

from benchmarks.options import start
from benchmarks.provenance import provenance, save_result
from repre_jax.data.pipeline import training_batches
from repre_jax.data.recipes import ViewRecipe
from repre_jax.data.sources import open_source
from repre_jax.data.sources.source import Source

OPTIONS = flags.FlagValues()
_DATA = flags.DEFINE_string("data", None, "folder of images", required=True, flag_values=OPTIONS)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 224, "side of a global view in pixels", flag_values=OPTIONS
)
_IMAGES = flags.DEFINE_integer(
    "images", 2048, "images per measurement", lower_bound=128, flag_values=OPTIONS
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 5, "measurements; the median is reported", lower_bound=1, flag_values=OPTIONS
)
_CORE = flags.DEFINE_integer(
    "core", None, "core to pin to; by default the last usable one", flag_values=OPTIONS
)

_BATCH_SIZE = 64
_RECIPES = {
    "2": ViewRecipe(crop_scale=(0.08, 1.0), interpolation="bilinear"),
    "2+8": ViewRecipe(crop_scale=(0.4, 1.0), local_crops=8, local_crop_scale=(0.05, 0.4)),
}


def rates(source: Source, recipe: ViewRecipe, image_size: int, images: int) -> tuple[float, float]:
    """Returns images per second and per second of processor time, after a batch of warming up.

    The two differ by what other programs took of the core meanwhile.
    """
    steps = images // _BATCH_SIZE
    with training_batches(
        source,
        recipe,
        image_size=image_size,
        batch_size=_BATCH_SIZE,
        seed=0,
        start_step=0,
        total_steps=steps + 1,
        workers=0,
        process_index=0,
        process_count=1,
    ) as batches:
        next(batches)
        wall, processor = time.perf_counter(), time.process_time()
        for _ in batches:
            pass
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return steps * _BATCH_SIZE / wall, steps * _BATCH_SIZE / processor


def measure_host(source: Source, image_size: int, images: int, repeats: int) -> list[dict]:
    """Returns one row for each kind of views."""
    rows = []
    for views, recipe in _RECIPES.items():
        measured = [rates(source, recipe, image_size, images) for _ in range(repeats)]
        by_wall, by_processor = zip(*measured, strict=True)
        rows.append(
            {
                "views": views,
                "image_size": image_size,
                "local_size": recipe.local_size if recipe.local_crops else None,
                "interpolation": recipe.interpolation,
                "images_per_second_per_core": round(statistics.median(by_wall), 1),
                "all_measurements": [round(value, 1) for value in by_wall],
                "images_per_processor_second": round(statistics.median(by_processor), 1),
            }
        )
    return rows


def _pin_to_one_core() -> int:
    core = max(os.sched_getaffinity(0)) if _CORE.value is None else _CORE.value
    os.sched_setaffinity(0, {core})
    return core


def main(_) -> None:
    source = open_source(ConfigDict({"source": "folder", "path": _DATA.value}), "train")
    result = provenance(device=False)
    result["pinned_to_core"] = _pin_to_one_core()
    result["data"] = {"images": len(source), "fingerprint": source.fingerprint}
    result["host"] = measure_host(source, _IMAGE_SIZE.value, _IMAGES.value, _REPEATS.value)
    for row in result["host"]:
        print(
            f"{row['views']:>4} views: {row['images_per_second_per_core']:7.1f} images/s per core "
            f"({row['images_per_processor_second']:.1f} per second of processor time)"
        )
    print(f"Written to {save_result('input_pipeline', result)}")


if __name__ == "__main__":
    start(main, OPTIONS)

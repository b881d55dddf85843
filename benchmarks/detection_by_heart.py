"""Whether a detector learns real images: twenty of COCO's by heart, and 200 steps on all there are.

    python -m benchmarks.detection_by_heart --data=/data/coco
    python -m benchmarks.detection_by_heart --data=/data/coco --only=all

"twenty" are the first training images with an object that is at least 16 pixels wide and high
where the image is 256 long; smaller objects are neither learnt nor looked for. A small ViT that
nobody has trained, thin heads, no mirroring and no jitter: an hour of two cores. Box AP of 0.50,
0.85 at half overlap, and mask AP of 0.40 are asked for. "all" trains a small Swin on upright and
flat canvases: losses that fall and stay finite, and one program for each canvas, are asked for. The
command ends with an error below; one that is stopped goes on where it was.
"""

import collections
import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import cv2
import jax
from absl import flags
from ml_collections import ConfigDict

from benchmarks.detection_shapes import RECIPE
from benchmarks.encoders import untrained_encoder
from benchmarks.options import start
from benchmarks.provenance import RESULTS, provenance, write_result
from repre_jax.config_files import read_config
from repre_jax.data.detection.coco import CocoSource
from repre_jax.errors import UserError
from repre_jax.evaluate import evaluate
from repre_jax.evaluation.detection.step import detection_step
from repre_jax.runs.destinations import read_rows

OPTIONS = flags.FlagValues()
_DATA = flags.DEFINE_string(
    "data",
    None,
    "folder of COCO, with annotations/ and train2017/",
    required=True,
    flag_values=OPTIONS,
)
_ONLY = flags.DEFINE_enum("only", None, ["twenty", "all"], "the one to run", flag_values=OPTIONS)
_RUNS = flags.DEFINE_string(
    "runs", "runs/detection_by_heart", "where the run folders are", flag_values=OPTIONS
)
IMAGES, SIDE, SMALLEST = 20, 256, 16
STEPS = {"twenty": 800, "all": 200}
ENCODERS = {
    "twenty": {"patch_size": 16, "image_size": SIDE},
    "all": {"name": "swin_nano", "patch_size": 4, "image_size": SIDE},
}
THIN = {
    "objects": 20,
    "pyramid_width": 64,
    "box_units": 256,
    "mask_convolutions": 2,
    "before_suppression": (500, 250),
    "proposals": 200,
    "regions_sampled": 128,
}
CHANGES = {
    "twenty": {"batch_size": 10, "scales": (1.0, 1.0), "flip_probability": 0.0},
    "all": {
        "batch_size": 4,
        "short_edges": (128, 160, 192),
        "longest": SIDE,
        "crop": True,
        "window": None,  # a ViT's
        "buckets": (192,),
        "padding_multiple": 32,
    },
}
ENOUGH = {("box", "AP"): 0.5, ("box", "AP50"): 0.85, ("mask", "AP"): 0.4}
_COMPILED = "/jax/core/compile/backend_compile_duration"


def twenty_images(data: Path, folder: Path) -> Path:
    """They and their large objects, as both training and validation set."""
    content = json.loads((data / "annotations" / "instances_train2017.json").read_text())
    scales = {x["id"]: SIDE / max(x["width"], x["height"]) for x in content["images"]}
    large = [
        thing
        for thing in content["annotations"]
        if not thing["iscrowd"] and min(thing["bbox"][2:]) * scales[thing["image_id"]] >= SMALLEST
    ]
    with_some = {thing["image_id"] for thing in large}
    images = [x for x in content["images"] if x["id"] in with_some][:IMAGES]
    chosen = {x["id"] for x in images}
    content["images"] = images
    content["annotations"] = [thing for thing in large if thing["image_id"] in chosen]
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    for image in images:
        shutil.copy2(data / "train2017" / image["file_name"], folder / "images")
    for split in ("train", "val"):
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content))
    return folder


def config_of(name: str, data: Path, run: Path) -> ConfigDict:
    """The config of "twenty" or "all"."""
    config = read_config("detect/folder")
    config.checkpoint = str(untrained_encoder(run / "encoder", **ENCODERS[name]))
    config.weights = "random"
    images = twenty_images(data, run / "coco") if name == "twenty" else data
    config.data.update({"path": str(images), "workers": 0})
    config.update({"image_size": SIDE, "batch_size": 10, "validate_every_epochs": 0.0})
    config.log_every_steps = 10
    config.recipe.update(RECIPE | THIN | CHANGES[name])
    steps_per_epoch = len(CocoSource(images, "train")) // config.recipe.batch_size
    config.recipe.epochs = STEPS[name] / steps_per_epoch
    return config


def check_precision(results: dict[str, Any]) -> None:
    """Raises UserError for a detector that does not know its images by heart."""
    found = {f"{kind} {name}": results["metrics"][kind][name] for kind, name in ENOUGH}
    if any(results["metrics"][kind][name] < asked for (kind, name), asked in ENOUGH.items()):
        raise UserError(f"{found} are below {tuple(ENOUGH.values())}.")


def check_training(losses: list[float], programs: int) -> None:
    """Raises UserError for losses that do not fall, or for more than a program a canvas."""
    quarter = len(losses) // 4
    first, last = statistics.fmean(losses[:quarter]), statistics.fmean(losses[-quarter:])
    if not all(map(math.isfinite, losses)) or last >= first:
        raise UserError(f"The loss does not fall: {losses}.")
    canvases = 2 * len(CHANGES["all"]["buckets"])
    if programs > canvases:
        raise UserError(f"{programs} programs were compiled for {canvases} canvases.")


def main(argv: list[str]) -> None:
    del argv
    compiled = collections.Counter()
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **about: compiled.update(
            [about.get("fun_name")] if event == _COMPILED else []
        )
    )
    for name in [_ONLY.value] if _ONLY.value else list(STEPS):
        run = Path(_RUNS.value) / name
        compiled.clear()
        results = evaluate(config_of(name, Path(_DATA.value), run), run / "out")
        programs = sum(
            times for of, times in compiled.items() if detection_step.__name__ in str(of)
        )
        rows = read_rows(run / "out" / "metrics.jsonl")
        out = RESULTS / f"detection_{name}_cpu.json"
        kept = {key: results[key] for key in ("formula", "metrics", "seed", "wall_seconds")}
        losses = {row["step"]: row["loss"] for row in rows}
        write_result(out, provenance() | kept | {"losses": losses, "programs": programs})
        print(f"Written to {out}")
        if name == "twenty":
            figure = cv2.imread(str(run / "out" / "figures" / "detections.png"))
            figure = cv2.resize(figure, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(out.with_suffix(".jpg")), figure)
            check_precision(results)
        else:
            check_training(list(losses.values()), programs)


if __name__ == "__main__":
    start(main, OPTIONS)

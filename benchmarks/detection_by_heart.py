"""Whether a detector learns real images by heart: twenty of COCO's, found again.

    python -m benchmarks.detection_by_heart --data=/data/coco

The first twenty training images with an object that is at least 16 pixels wide and high where the
image is 256 long; smaller objects are neither learnt nor looked for. A small ViT that nobody has
trained, thin heads, no mirroring and no jitter: half an hour of a core. Box AP of 0.50, 0.85 at
half overlap, and mask AP of 0.40 are asked for, or the command ends with an error. One that is
stopped goes on where it was.
"""

import json
import shutil
from pathlib import Path

import cv2
from absl import flags

from benchmarks.detection_shapes import RECIPE
from benchmarks.encoders import untrained_encoder
from benchmarks.options import start
from benchmarks.provenance import RESULTS, provenance, write_result
from repre_jax.config_files import read_config
from repre_jax.errors import UserError
from repre_jax.evaluate import evaluate

OPTIONS = flags.FlagValues()
_DATA = flags.DEFINE_string(
    "data",
    None,
    "folder of COCO, with annotations/ and train2017/",
    required=True,
    flag_values=OPTIONS,
)
_RUN = flags.DEFINE_string(
    "run", "runs/detection_by_heart", "folder of the run", flag_values=OPTIONS
)
_STEPS = flags.DEFINE_integer("steps", 800, "of the training", flag_values=OPTIONS)
IMAGES, SIDE, SMALLEST = 20, 256, 16
ENOUGH = {("box", "AP"): 0.5, ("box", "AP50"): 0.85, ("mask", "AP"): 0.4}
CHANGES = {
    "batch_size": 10,
    "layer_decay": 1.0,
    "scales": (1.0, 1.0),
    "flip_probability": 0.0,
    "objects": 20,
    "pyramid_width": 64,
    "box_units": 256,
    "mask_convolutions": 2,
    "before_suppression": (500, 250),
    "proposals": 200,
    "regions_sampled": 128,
}


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


def main(argv: list[str]) -> None:
    del argv
    run = Path(_RUN.value)
    encoder = untrained_encoder(run / "vit", patch_size=16, image_size=SIDE)
    config = read_config("detect/folder")
    config.checkpoint, config.weights = str(encoder), "random"
    config.data.path = str(twenty_images(Path(_DATA.value), run / "coco"))
    config.data.workers = 0
    config.update({"image_size": SIDE, "batch_size": 10, "validate_every_epochs": 0.0})
    config.recipe.update(RECIPE | CHANGES)
    config.recipe.epochs = _STEPS.value * CHANGES["batch_size"] / IMAGES
    results = evaluate(config, run / "out")
    figure = cv2.imread(str(run / "out" / "figures" / "detections.png"))
    out = RESULTS / "detection_by_heart_cpu.json"
    kept = {key: results[key] for key in ("formula", "metrics", "seed", "wall_seconds")}
    write_result(out, provenance() | kept)
    figure = cv2.resize(figure, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(out.with_suffix(".jpg")), figure)
    found = {f"{kind} {name}": results["metrics"][kind][name] for kind, name in ENOUGH}
    print(f"Written to {out}: {found}")
    if any(results["metrics"][kind][name] < asked for (kind, name), asked in ENOUGH.items()):
        raise UserError(f"{found} are below {tuple(ENOUGH.values())}.")


if __name__ == "__main__":
    start(main, OPTIONS)

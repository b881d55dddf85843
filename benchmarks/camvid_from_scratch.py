"""Whether SETR learns: eight images of CamVid by heart, and CamVid from scratch.

    python -m benchmarks.camvid_from_scratch --data=/data/camvid
    python -m benchmarks.camvid_from_scratch --data=/data/camvid --only=eight

A nano ViT that nobody has trained, under SETR-Naive, with AdamW. The eight images, whose mean IoU
is to be 0.80, are seen whole, on patches of 8 pixels: three quarters of an hour of two cores. The
set, of which 0.30 is asked, and 0.75 of the pixels, is seen in crops, on patches of 16: a quarter.
Beside it stands what a table of colours and rows knows of the classes. The command ends with
an error below; one that is stopped goes on where it was.
"""

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import flags

from benchmarks.encoders import untrained_encoder
from benchmarks.options import start
from benchmarks.provenance import RESULTS, provenance, write_result
from repre_jax.config_files import read_config
from repre_jax.data.segmentation.label_maps import VOID
from repre_jax.data.segmentation.layouts import open_segmentation
from repre_jax.errors import UserError
from repre_jax.evaluate import evaluate
from repre_jax.evaluation.segmentation.confusion import confusion_on_host, scores

OPTIONS = flags.FlagValues()
_DATA = flags.DEFINE_string("data", None, "folder of CamVid", required=True, flag_values=OPTIONS)
_RUNS = flags.DEFINE_string(
    "runs", "runs/camvid_from_scratch", "where the run folders are", flag_values=OPTIONS
)
_ONLY = flags.DEFINE_enum("only", None, ["eight", "whole"], "the one to run", flag_values=OPTIONS)
# Asked for: mean IoU, and the share of the pixels.
ENOUGH = {"eight": (0.8, 0.0), "whole": (0.3, 0.75)}
PATCH = {"eight": 8, "whole": 16}
CHANGES = {
    "eight": {
        "image_size": (360, 480),
        "stride": (360, 480),
        "train_batch_size": 2,
        "steps": 1000,
        "auxiliary_weight": 0.0,
        "scale": (1.0, 1.0),
        "max_share": 1.0,
    },
    "whole": {
        "image_size": 240,
        "stride": 120,
        "steps": 2400,
        "scale": (0.75, 1.5),
    },
}
COMMON = {"optimizer": "adamw", "learning_rate": 1e-3, "head_rate": 1.0, "photometric": False}


def eight_images(data: Path, folder: Path) -> Path:
    """Eight of the training images, far from each other, as both training and validation set."""
    for kind in ("images", "labels"):
        paths = sorted((data / kind / "train").iterdir())
        for split in ("train", "val"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
            for path in paths[:: len(paths) // 8][:8]:
                shutil.copy2(path, folder / kind / split)
    return folder


def colours_and_rows(data: Path) -> dict[str, Any]:
    """``scores`` of the class that pixels of a colour in a twelfth of the rows mostly have.

    Args:
      data: folder of CamVid; colours have 8 levels a channel.
    """
    config = read_config("segment/camvid_setr_vits:cpu")
    config.data.path = str(data)
    train, val = open_segmentation(config.data, 3)
    classes = len(train.class_names)

    def cells(image: np.ndarray) -> np.ndarray:
        red, green, blue = np.moveaxis(image.astype(np.int64) // 32, -1, 0)
        rows = np.arange(len(image))[:, None] * 12 // len(image)
        return ((rows * 8 + red) * 8 + green) * 8 + blue

    counts = np.zeros((12 * 8**3, classes), np.int64)
    for index in range(len(train)):
        image, labels = train.read_pair(index)
        known = labels != VOID
        places = cells(image)[known] * classes + labels[known]
        counts += np.bincount(places, minlength=counts.size).reshape(counts.shape)
    mostly, confusion = counts.argmax(axis=1), 0
    for index in range(len(val)):
        image, labels = val.read_pair(index)
        confusion += confusion_on_host(labels, mostly[cells(image)], classes)
    return scores(confusion, val.class_names)


def measure(name: str, data: Path) -> tuple[dict[str, Any], Any]:
    """(row of the result, picture) of "eight" or "whole"."""
    run = Path(_RUNS.value) / name
    config = read_config("segment/camvid_setr_vits:cpu")
    encoder = untrained_encoder(run / "vit", patch_size=PATCH[name], image_size=128)
    config.update({"checkpoint": str(encoder), "weights": "random"})
    config.data.path = str(eight_images(data, run / "images") if name == "eight" else data)
    config.update(COMMON | CHANGES[name])
    results = evaluate(config, run / "out")
    pictures = sorted((run / "out" / "figures").glob("*.png"))
    picture = cv2.imread(str(pictures[0]))
    kept = {key: results[key] for key in ("formula", "metrics", "seed", "wall_seconds")}
    if name == "whole":
        kept["colours_and_rows"] = colours_and_rows(data)
    return kept, picture


def main(argv: list[str]) -> None:
    del argv
    for name in [_ONLY.value] if _ONLY.value else list(ENOUGH):
        row, picture = measure(name, Path(_DATA.value))
        out = RESULTS / f"camvid_{name}_from_scratch_cpu.json"
        write_result(out, provenance() | row)
        cv2.imwrite(str(out.with_suffix(".jpg")), picture)
        print(f"Written to {out}")
        found = tuple(row["metrics"]["last"][key] for key in ("mean_iou", "accuracy"))
        if any(value < asked for value, asked in zip(found, ENOUGH[name], strict=True)):
            raise UserError(f"{name}: {found}, and {ENOUGH[name]} are asked for.")


if __name__ == "__main__":
    start(main, OPTIONS)

"""Whether a detector learns: generated shapes, held-out AP of boxes and masks, from scratch.

    python -m benchmarks.detection_shapes

400 images of 128 pixels to learn from and 100 others to find 3 kinds of objects in, a micro ViT
that nobody has trained, thin heads: three quarters of an hour on two cores. At least 0.60 of both
is asked for, or the command ends with an error.
"""

import json
import tempfile
from pathlib import Path

import cv2
from absl import flags

from benchmarks.encoders import untrained_encoder
from benchmarks.options import start
from benchmarks.provenance import RESULTS, provenance, write_result
from benchmarks.shapes import write_shapes
from repre_jax.config_files import read_config
from repre_jax.errors import UserError
from repre_jax.evaluate import evaluate

OPTIONS = flags.FlagValues()
_SEED = flags.DEFINE_integer("seed", 0, "of the training", flag_values=OPTIONS)
_EPOCHS = flags.DEFINE_integer("epochs", 16, "of the training", flag_values=OPTIONS)
_OUT = flags.DEFINE_string(
    "out", str(RESULTS / "detection_shapes_cpu.json"), "where it goes", flag_values=OPTIONS
)
SIDE, ENOUGH = 128, 0.6
RECIPE = {
    "batch_size": 16,
    "learning_rate": 1e-3,
    "warmup_steps": 50,
    "drops": (0.8, 0.95),
    "weight_decay": 0.05,
    "layer_decay": 1.0,
    "drop_path": 0.0,
    "window": 8,
    "remat": "none",
    "scales": (0.8, 1.25),
    "objects": 8,
    "pyramid_width": 32,
    "proposal_convolutions": 1,
    "box_convolutions": 1,
    "box_units": 128,
    "mask_convolutions": 1,
    "before_suppression": (200, 100),
    "proposals": 100,
    "regions_sampled": 64,
}


def main(argv: list[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_shapes(root / "shapes", train=400, val=100, side=SIDE)
        # 4 blocks of 64 channels.
        encoder = untrained_encoder(root / "vit", width=64, patch_size=16, image_size=SIDE)
        config = read_config("detect/folder")
        config.checkpoint, config.weights = str(encoder), "random"
        config.data.update({"path": str(root / "shapes"), "workers": 0})
        config.update({"image_size": SIDE, "seed": _SEED.value, "batch_size": 20})
        config.recipe.update(RECIPE | {"epochs": float(_EPOCHS.value)})
        results = evaluate(config, root / "out")
        rows = [json.loads(x) for x in (root / "out" / "metrics.jsonl").read_text().splitlines()]
        figure = cv2.imread(str(root / "out" / "figures" / "detections.png"))
    kept = {key: results[key] for key in ("formula", "metrics", "seed", "wall_seconds")}
    curve = [
        {k: v for k, v in r.items() if k.startswith("val/")} | {"step": r["step"]} for r in rows
    ]
    curve = [row for row in curve if len(row) > 1]
    out = Path(_OUT.value)
    write_result(out, provenance() | kept | {"validation": curve})
    figure = cv2.resize(figure[: len(figure) // 2], None, fx=0.5, fy=0.5)
    cv2.imwrite(str(out.with_suffix(".jpg")), figure)
    found = {kind: results["metrics"][kind]["AP"] for kind in ("box", "mask")}
    print(f"Written to {out}")
    if min(found.values()) < ENOUGH:
        raise UserError(f"AP {found} is below {ENOUGH}.")


if __name__ == "__main__":
    start(main, OPTIONS)

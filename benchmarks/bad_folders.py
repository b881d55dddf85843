"""Folders with everything that can be wrong with them."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np

from benchmarks.shapes import write_shapes
from repre_jax import command_line
from repre_jax.config_files import read_config
from repre_jax.runs.folder import write_json

SMOKE = "--config=quickstart:smoke"
# Files that are no configs, by name.
CONFIGS = {
    "syntax.py": "def get_config(:\n",
    "raises.py": "def get_config(variants=''):\n    return 1 / 0\n",
    "fails.py": "import nothing_of_that_name\n",
    "no_function.py": "config = 1\n",
    "dictionary.py": "def get_config(variants=''):\n    return {'task': 'pretrain'}\n",
    "no_task.py": (
        "from ml_collections import ConfigDict\n\n\n"
        "def get_config(variants=''):\n    return ConfigDict({'seed': 1})\n"
    ),
    "orphan.py": (
        "from repre_jax.config_files import beside\n\n"
        "get_config = beside(__file__, 'nobody').get_config\n"
    ),
    "text.txt": "def get_config(variants=''):\n    return None\n",
    "plain.py": (
        "from repre_jax.training import defaults\n\n\n"
        "def get_config():\n    return defaults.get_config('dino')\n"
    ),
}
# What a config.json cannot say of a run, by the name of a copy of the run.
_WRONG_CONFIGS = {
    "evaluation": lambda config: {"task": "knn"},
    "no_method": lambda config: {"task": "pretrain"},
    "unknown_method": lambda config: config | {"method": {"name": "swav"}},
    "unknown_model": lambda config: config | {"model": config["model"] | {"name": "resnet50"}},
    "wrong_type": lambda config: config | {"model": config["model"] | {"patch_size": "eight"}},
    "wrong_size": lambda config: config | {"model": config["model"] | {"image_size": 33}},
    "wider": lambda config: config | {"model": config["model"] | {"width": 64}},
    "no_model": lambda config: config | {"model": None},
    "list": lambda config: [config],
    "no_target": lambda config: read_config("simclr_vits:smoke").to_dict(),
}


def prepare(root: Path, run: Path | None = None) -> None:
    """Makes the folders that ``bad_commands.table`` and ``bad_values.generated`` name.

    Args:
      root: where.
      run: a pre-training run to copy; None to train one for a step.
    """
    if run:
        shutil.copytree(run, root / "run")
    else:
        one_step = ("--config.train.steps=1", f"--workdir={root / 'run'}")
        if command_line.main(["main.py", SMOKE, *one_step]):
            raise RuntimeError("the run whose copies are to be spoilt could not be trained")
    (root / "file").write_text("no folder")
    (root / "empty").mkdir()
    (root / "configs").mkdir()
    for name, text in CONFIGS.items():
        (root / "configs" / name).write_text(text)
    _make_images(root)
    _make_sets(root)
    _make_tokens(root)
    _spoil_runs(root)
    _make_weights(root)


def _make_images(root: Path) -> None:
    """Folders with a split and a class too few or too many, or images that are none."""
    rng = np.random.default_rng(0)

    def write(folder: Path, count: int) -> None:
        folder.mkdir(parents=True)
        for number in range(count):
            cv2.imwrite(str(folder / f"{number}.png"), rng.integers(0, 256, (20, 20, 3), np.uint8))

    whole = root / "images"
    for split, count in (("train", 16), ("val", 4)):
        for name in ("bright", "dark"):
            write(whole / split / name, count)
    copies = ("no_val", "val_lacks", "train_lacks", "one_class", "val_has_more", "broken")
    for name in copies:
        shutil.copytree(whole, root / name)
    shutil.rmtree(root / "no_val" / "val")
    shutil.rmtree(root / "val_lacks" / "val" / "dark")
    shutil.rmtree(root / "train_lacks" / "train" / "dark")
    for split in ("train", "val"):
        shutil.rmtree(root / "one_class" / split / "dark")
    write(root / "val_has_more" / "val" / "grey", 2)
    for path in (root / "broken").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:40])
    for split in ("train", "val"):
        write(root / "flat" / split, 16)
    write(root / "seven", 7)


def _make_sets(root: Path) -> None:
    """A sound set of maps and one of objects, and copies of each with one thing wrong."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for kind, depth in (("images", 256), ("labels", 3)):
            (root / "pairs" / kind / split).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, depth, (24, 32), np.uint8)
                cv2.imwrite(str(root / "pairs" / kind / split / f"{number}.png"), pixels)
    for name in ("lonely", "other_sizes", "one_split", "empty_maps"):
        shutil.copytree(root / "pairs", root / name)
    (root / "lonely" / "labels" / "val" / "3.png").unlink()
    for path in (root / "other_sizes" / "labels").rglob("*.png"):
        cv2.imwrite(str(path), np.zeros((20, 20), np.uint8))
    shutil.rmtree(root / "one_split" / "labels" / "val")
    for path in (root / "empty_maps" / "labels").rglob("*.png"):
        path.write_bytes(b"")

    write_shapes(root / "objects", train=8, val=4, side=64)
    for name in ("no_file", "cut_file", "no_objects", "gone"):
        shutil.copytree(root / "objects", root / name)
    shutil.rmtree(root / "no_file" / "annotations")
    for path in (root / "cut_file" / "annotations").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    for path in (root / "no_objects" / "annotations").iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    shutil.rmtree(root / "gone" / "train")


def _make_weights(root: Path) -> None:
    """The encoder of the run as timm has it, spoilt files, and steps to replay that are none."""
    given = (f"--config.checkpoint={root / 'run'}", f"--workdir={root / 'weights'}")
    with contextlib.redirect_stdout(None):
        if command_line.main(["main.py", "--config=export", *given]):
            raise RuntimeError("the encoder of the run could not be exported")
    (root / "text.pth").write_text("weights")
    whole = next((root / "weights").glob("*.safetensors")).read_bytes()
    (root / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    steps = root / "run" / "nonfinite"
    steps.mkdir()
    for name, content in (("1", '{"step": 1}'), ("text", "step"), ("list", "[1]")):
        (steps / f"{name}.json").write_text(content)


def _make_tokens(root: Path) -> None:
    """Files of centroids and ids that do not fit ``lomar_tokens_vitb:smoke`` on digits."""
    centroids = np.zeros((32, 3 * 8 * 8), np.float32)
    (root / "empty.npz").write_bytes(b"")
    (root / "text.npz").write_text("centroids")
    np.save(root / "array.npy", centroids)
    np.savez(root / "other.npz", codes=centroids)
    np.savez(root / "cut.npz", centroids=centroids)
    os.truncate(root / "cut.npz", 1000)
    np.savez(root / "narrow.npz", centroids=centroids[:, :10])
    ids = np.zeros((1442, 4, 4), np.int64)
    np.savez(root / "grid.npz", ids=ids[:, :3])
    np.savez(root / "vocabulary.npz", ids=ids + 32)
    np.savez(root / "few.npz", ids=ids[:7])
    np.savez(root / "none.npz", ids=ids[:0])


def _spoil_runs(root: Path) -> None:
    """Copies of the run with one thing wrong in each."""
    config = json.loads((root / "run" / "config.json").read_text())

    def copy(name: str) -> Path:
        shutil.copytree(root / "run", root / "spoilt" / name)
        return root / "spoilt" / name

    def newest(run: Path) -> Path:
        numbers = [int(path.name) for path in (run / "checkpoints").glob("[0-9]*")]
        return run / "checkpoints" / str(max(numbers))

    for name, change in _WRONG_CONFIGS.items():
        write_json(copy(name) / "config.json", change(config))
    (copy("no_config") / "config.json").unlink()
    (copy("unreadable") / "config.json").write_text('{"task": "pretrain", ')
    (copy("config_list") / "config.json").write_text("[]")
    shutil.rmtree(copy("no_checkpoints") / "checkpoints")
    shutil.rmtree(newest(copy("no_state")) / "state")
    (newest(copy("no_metadata")) / "about" / "metadata").unlink()
    (newest(copy("bad_metadata")) / "about" / "metadata").write_text("{}")
    for path in (newest(copy("bad_bytes")) / "state").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[::-1])

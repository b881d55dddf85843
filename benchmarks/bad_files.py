"""Folders with everything that can be wrong with them, and the commands that are given these."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.bad_values import Case
from repre_jax import command_line
from repre_jax.config_files import read_config
from repre_jax.evaluation import TASKS
from repre_jax.evaluation.images import open_labelled
from repre_jax.runs.folder import write_json

_SMOKE = "--config=quickstart:smoke"
_TOKENS = "--config=lomar_tokens_vitb:k_means,smoke"
_LONG = "x" * 300
# Files that are no configs, by name.
_CONFIGS = {
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
    """Makes the folders that ``table`` and ``bad_values.generated`` name.

    Args:
      root: where.
      run: a pre-training run to copy; None to train one for a step.
    """
    if run:
        shutil.copytree(run, root / "run")
    else:
        one_step = ("--config.train.steps=1", f"--workdir={root / 'run'}")
        if command_line.main(["main.py", _SMOKE, *one_step]):
            raise RuntimeError("the run whose copies are to be spoilt could not be trained")
    (root / "file").write_text("no folder")
    (root / "empty").mkdir()
    (root / "configs").mkdir()
    for name, text in _CONFIGS.items():
        (root / "configs" / name).write_text(text)
    _make_images(root)
    _make_tokens(root)
    _spoil_runs(root)


def table(root: Path) -> list[Case]:
    """The mistakes, after ``prepare``."""
    kinds = {
        "command": _commands(root),
        "config file": _config_files(root),
        "path": _paths(root),
        "labels": _labels(root),
        "images": _images(root),
        "checkpoint": _checkpoints(root),
        "numbers that do not fit": _numbers(root),
    }
    return [Case(kind, tuple(map(str, given))) for kind, cases in kinds.items() for given in cases]


def _commands(root: Path) -> Iterable[tuple]:
    new = f"--workdir={root / 'new' / 'run'}"
    yield ()
    for wrong in ("train", "--verbos=1", "--explain=maybe", "--config.train=3", "--distributed"):
        yield _SMOKE, new, wrong
    for wrong in ("--config.train.batch_size", "--config.train.batch_size=", "--noconfig.seed"):
        yield _SMOKE, new, wrong
    yield "--config", "--explain"
    yield "--config=quickstart:smoke,", "--config=", new
    yield f"--config.checkpoint={root / 'run'}", "--config=eval/knn", "--explain"
    for task in ("knn", "table", "patch_clusters"):
        yield _SMOKE, new, f"--config.task={task}"
    for method in ("mae", "byol"):
        yield _SMOKE, new, f"--config.method.name={method}"


def _config_files(root: Path) -> Iterable[tuple]:
    new = f"--workdir={root / 'new' / 'run'}"
    for name in _CONFIGS:
        yield f"--config={root / 'configs' / name}:smoke", new
    for name in ("nothing", "dino_vit", "configs/dino_vit.py", root, root / "nothing.py", _LONG):
        yield f"--config={name}", new
    for variants in ("smok", "layers", "layers=0", "layers=²", "epochs=-1", "size=1.5", "single=2"):
        yield f"--config=dino_vits:{variants}", new
    for task in [*TASKS, "table"]:
        yield f"--config=eval/{task}:smok", new


def _paths(root: Path) -> Iterable[tuple]:
    new = f"--workdir={root / 'new' / 'run'}"
    run = f"--config.checkpoint={root / 'run'}"
    for wrong in (root / "file", root / "file" / "run", "/dev/null/run", root / _LONG, "gs://b/x"):
        yield _SMOKE, f"--workdir={wrong}"
        yield "--config=eval/knn", run, f"--workdir={wrong}"
    wrong_folders = ("", root / "file", root / "empty", root / "nothing", root / _LONG)
    wrong_folders += ("s3://bucket/x", "~nobody_of_that_name/x", root / "configs")
    for wrong in wrong_folders:
        data = ("--config.data.source=folder", f"--config.data.path={wrong}")
        yield _SMOKE, new, *data
        yield "--config=eval/knn", run, *data
        yield "--config=patch_clusters:smoke", new, *data
        if wrong != root / "configs":
            yield "--config=eval/knn", f"--config.checkpoint={wrong}"
    for name in ("", "nothing_of_that_name", "../configs"):
        tfds = ("--config.data.source=tfds", f"--config.data.name={name}")
        yield _SMOKE, new, *tfds, f"--config.data.path={root}"
    for name in ("", "nothing.npz", "empty.npz", "text.npz", "array.npy", "other.npz", "cut.npz"):
        yield _TOKENS, new, f"--config.method.tokens_path={root / name if name else ''}"
    yield _TOKENS, new, f"--config.method.tokens_path={root / 'narrow.npz'}"
    for name in ("grid.npz", "vocabulary.npz", "few.npz", "none.npz"):
        ids = "--config=lomar_tokens_vitb:ids,smoke"
        yield ids, new, f"--config.method.tokens_path={root / name}"
    for runs in ("", root / "nothing*", root / "images"):
        yield "--config=eval/table:smoke", f"--config.runs={runs}", new


def _labels(root: Path) -> Iterable[tuple]:
    for name in ("flat", "no_val", "val_lacks", "train_lacks", "one_class", "val_has_more"):
        for task in TASKS:
            if TASKS[task].open is open_labelled:
                yield _evaluation(root, task, root / name)


def _images(root: Path) -> Iterable[tuple]:
    new = f"--workdir={root / 'new' / 'run'}"
    for name, batch in (("seven", 8), ("images", 64)):
        data = ("--config.data.source=folder", f"--config.data.path={root / name}")
        yield _SMOKE, new, *data, f"--config.train.batch_size={batch}"
    for task in ("linear", "finetune"):
        key = "recipe.batch_size" if task == "finetune" else "train_batch_size"
        yield (*_evaluation(root, task, root / "images"), f"--config.{key}=64")
    for task in ("knn", "few_label", "health", "linear"):
        yield _evaluation(root, task, root / "broken")


def _checkpoints(root: Path) -> Iterable[tuple]:
    for path in sorted((root / "spoilt").iterdir()):
        weights = ("--config.weights=target",) if path.name == "no_target" else ()
        yield (*_evaluation(root, "knn", root / "images", path), *weights)
        if path.name not in ("no_target", "wider"):
            yield _evaluation(root, "linear", root / "images", path)
    for key in ("step=7", "weights=teacher", "weights=", "feature=last", "compute_dtype=float16"):
        yield (*_evaluation(root, "knn", root / "images"), f"--config.{key}")
    yield _evaluation(root, "knn", root / "images", root / "run" / "checkpoints" / "7")
    yield _SMOKE, f"--workdir={root / 'spoilt' / 'unreadable'}"
    yield _SMOKE, f"--workdir={root / 'run'}", "--config.train.steps=2"


def _numbers(root: Path) -> Iterable[tuple]:
    """Each number is one that the key may be, and together they cannot be."""
    new = f"--workdir={root / 'new' / 'run'}"
    for given in (
        "train.batch_size=10 train.accumulate=4",
        "train.epochs=0",
        "train.steps=0",
        "train.steps=3000000000",
        "train.devices=1000",
        "model.image_size=36",
        "model.width=130",
        "model.depth=2",
        "model.depth=2 repre.taps=0,2",
        "model.name=swin_nano",
        "views.local_size=20 views.local_crops=2",
        "views.crop_scale=(0.5,0.1)",
        "views.blur_sigma=(2.0,0.1)",
        "views.jitter=(0.4,0.4)",
        "repre.taps=3,1",
        "repre.taps=²",
        "repre.fixed_weights=(1.0,)",
        "repre.branch=windows repre.windows.side=9",
        "seed=3000000000",
    ):
        yield _SMOKE, new, *(f"--config.{key}" for key in given.split())
    for task, given in (
        ("knn", "neighbours=()"),
        ("knn", "neighbours=(5,) reported_neighbours=3"),
        ("knn", "image_size=20"),
        ("knn", "devices=1000"),
        ("few_label", "budgets=()"),
        ("few_label", "budgets=('nan%',)"),
        ("few_label", "budgets=('101%',)"),
        ("linear", "rate_factors=()"),
        ("linear", "protocol=mae epochs=3"),
        ("linear", "train_batch_size=8 epochs=1000000000"),
        ("finetune", "recipe.crop_scale=(0.5,)"),
        ("finetune", "recipe.crop_scale=(1.0,0.5)"),
        ("finetune", "recipe.warmup_epochs=2.0 recipe.epochs=1.0"),
        ("finetune", "recipe.epochs=1e30"),
    ):
        given = (f"--config.{key}" for key in given.split())
        yield (*_evaluation(root, task, root / "images"), *given)
    for given in ("cells=()", "weights=()", "cells=('pixels',)", "weights=('both',)"):
        yield "--config=eval/table:smoke", f"--config.runs={root / 'run'}", f"--config.{given}", new
    for given in ("image_size=33", "vocabulary=1", "vocabulary=100000"):
        yield "--config=patch_clusters:smoke", f"--config.{given}", new


def _evaluation(root: Path, task: str, images: Path, run: Path | None = None) -> tuple[str, ...]:
    batch = {"linear": ("--config.train_batch_size=8",)}.get(task, ())
    return (
        f"--config=eval/{task}:smoke",
        f"--config.checkpoint={run or root / 'run'}",
        "--config.data.source=folder",
        f"--config.data.path={images}",
        *batch,
    )


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

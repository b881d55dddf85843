"""Commands with a mistake: files, folders and numbers that are not what they should be."""

from collections.abc import Iterable
from pathlib import Path

from benchmarks.bad_folders import CONFIGS, SMOKE
from benchmarks.bad_values import Case, of_its_own_set
from repre_jax.evaluation import TASKS
from repre_jax.evaluation.images import open_labelled

_TOKENS = "--config=lomar_tokens_vitb:k_means,smoke"
_LONG = "x" * 300


def table(root: Path) -> list[Case]:
    """The mistakes, after ``bad_folders.prepare``."""
    kinds = {
        "command": _commands(root),
        "config file": _config_files(root),
        "path": _paths(root),
        "labels": _labels(root),
        "images": _images(root),
        "unreadable": _unreadable(root),
        "pixels and objects": _sets(root),
        "weights": _weights(root),
        "checkpoint": _checkpoints(root),
        "numbers that do not fit": _numbers(root),
    }
    return [Case(kind, tuple(map(str, given))) for kind, cases in kinds.items() for given in cases]


def _commands(root: Path) -> Iterable[tuple]:
    new = f"--workdir={root / 'new' / 'run'}"
    yield ()
    for wrong in ("train", "--verbos=1", "--explain=maybe", "--config.train=3", "--distributed"):
        yield SMOKE, new, wrong
    for wrong in ("--config.train.batch_size", "--config.train.batch_size=", "--noconfig.seed"):
        yield SMOKE, new, wrong
    yield "--config", "--explain"
    yield "--config=quickstart:smoke,", "--config=", new
    yield f"--config.checkpoint={root / 'run'}", "--config=eval/knn", "--explain"
    for task in ("knn", "table", "patch_clusters"):
        yield SMOKE, new, f"--config.task={task}"
    for method in ("mae", "byol"):
        yield SMOKE, new, f"--config.method.name={method}"


def _config_files(root: Path) -> Iterable[tuple]:
    new = f"--workdir={root / 'new' / 'run'}"
    for name in CONFIGS:
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
        yield SMOKE, f"--workdir={wrong}"
        yield "--config=eval/knn", run, f"--workdir={wrong}"
    wrong_folders = ("", root / "file", root / "empty", root / "nothing", root / _LONG)
    wrong_folders += ("s3://bucket/x", "~nobody_of_that_name/x", root / "configs")
    for wrong in wrong_folders:
        data = ("--config.data.source=folder", f"--config.data.path={wrong}")
        yield SMOKE, new, *data
        yield "--config=eval/knn", run, *data
        yield "--config=patch_clusters:smoke", new, *data
        if wrong != root / "configs":
            yield "--config=eval/knn", f"--config.checkpoint={wrong}"
    for name in ("", "nothing_of_that_name", "../configs"):
        tfds = ("--config.data.source=tfds", f"--config.data.name={name}")
        yield SMOKE, new, *tfds, f"--config.data.path={root}"
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
        yield SMOKE, new, *data, f"--config.train.batch_size={batch}"
    for task in ("linear", "finetune"):
        key = "recipe.batch_size" if task == "finetune" else "train_batch_size"
        yield (*_evaluation(root, task, root / "images"), f"--config.{key}=64")


def _unreadable(root: Path) -> Iterable[tuple]:
    """Found when every image or map has been read; what reads them is compiled by then."""
    for task in ("knn", "few_label", "health", "linear"):
        yield _evaluation(root, task, root / "broken")
    for task in ("propagation", "dense_knn", "linear_segmentation", "setr"):
        config, *given = of_its_own_set(root, task)
        for folder in ("other_sizes", "empty_maps"):
            yield f"--config={config}", *given, f"--config.data.path={root / folder}"
        yield f"--config={config}", *given, "--config.data.classes=2"


def _sets(root: Path) -> Iterable[tuple]:
    """Sets with a class for every pixel, or with objects."""
    objects, pairs = ("no_file", "cut_file", "no_objects", "gone"), ("lonely", "one_split")
    for task in (name for name in TASKS if TASKS[name].own_data):
        config, *given = of_its_own_set(root, task)
        spoilt = objects if task == "detection" else pairs
        for folder in (*spoilt, "images", "empty", "file", "nothing"):
            yield f"--config={config}", *given, f"--config.data.path={root / folder}"
        if task != "detection":
            for wrong in ("classes=0", "classes=300", "ignore=(1,)", "labels=maps"):
                yield f"--config={config}", *given, f"--config.data.{wrong}"
            for wrong in ("layout=voc", "layout=camvid", "layout=tfds", "name=cityscapes"):
                yield f"--config={config}", *given, f"--config.data.{wrong}"
    for task, wrong in (
        ("propagation", "blocks=(9,)"),
        ("propagation", "image_size=(96,100)"),
        ("dense_knn", "memory=3"),
        ("dense_knn", "image_size=70"),
        ("linear_segmentation", "learning_rates=()"),
        ("setr", "blocks=(0,9)"),
        ("setr", "stride=100"),
        ("setr", "scales=()"),
        ("detection", "image_size=100"),
        ("detection", "recipe.epochs=0.0"),
        ("detection", "recipe.proposals=0"),
    ):
        config, *given = of_its_own_set(root, task)
        yield f"--config={config}", *given, f"--config.{wrong}"


def _weights(root: Path) -> Iterable[tuple]:
    """Weights of other libraries, exports, reports and replays."""
    new = f"--workdir={root / 'new' / 'run'}"
    run, weights = f"--config.checkpoint={root / 'run'}", f"--config.source={root / 'weights'}"
    for name in ("", "nothing.pth", "empty.npz", "text.npz", "array.npy", "other.npz", "cut.npz",
                 "empty", "run", "cut.safetensors", "text.pth", "file"):  # fmt: skip
        yield "--config=import", f"--config.source={root / name if name else ''}", new
    for given in ("method=swav", "heads=7", "pixels=zero", "image_size=33", "weights=both"):
        yield "--config=import", weights, new, f"--config.{given}"
    yield "--config=import", weights, f"--workdir={root / 'run'}"
    for given in ("format=keras", "format=", "weights=teacher", "step=7"):
        yield "--config=export", run, new, f"--config.{given}"
    for place in ("run", "images"):
        yield "--config=export", run, f"--workdir={root / place}"
    for name in ("nothing", "empty", "file", "images"):
        yield "--config=export", f"--config.checkpoint={root / name}", new
        yield "--config=report", f"--config.runs={root / name}", new
        yield "--config=replay", f"--config.step_file={root / name}"
    yield "--config=report", f"--config.runs={root / 'run'}", "--config.reference=imagenette", new
    for name in ("text", "list"):
        yield "--config=replay", f"--config.step_file={root / 'run' / 'nonfinite' / name}.json"


def _checkpoints(root: Path) -> Iterable[tuple]:
    for path in sorted((root / "spoilt").iterdir()):
        weights = ("--config.weights=target",) if path.name == "no_target" else ()
        yield (*_evaluation(root, "knn", root / "images", path), *weights)
        if path.name not in ("no_target", "wider"):
            yield _evaluation(root, "linear", root / "images", path)
    for key in ("step=7", "weights=teacher", "weights=", "feature=last", "compute_dtype=float16"):
        yield (*_evaluation(root, "knn", root / "images"), f"--config.{key}")
    yield _evaluation(root, "knn", root / "images", root / "run" / "checkpoints" / "7")
    yield SMOKE, f"--workdir={root / 'spoilt' / 'unreadable'}"
    yield SMOKE, f"--workdir={root / 'run'}", "--config.train.steps=2"


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
        yield SMOKE, new, *(f"--config.{key}" for key in given.split())
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

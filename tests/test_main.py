"""The command line: a mistake is one sentence and exit code 2; configs, --explain, small runs."""

import functools
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from ml_collections import FrozenConfigDict
from tiny import CONTRASTIVE
from whole_runs import ROOT, command, image_folder, summary

from repre_jax import command_line, pretrain
from repre_jax.config_files import locate, read_config
from repre_jax.errors import UserError
from repre_jax.methods import METHODS
from repre_jax.sharding import make_mesh
from repre_jax.training import ahead_of_time, defaults, explain
from repre_jax.training.accelerators import Accelerator, Topology
from repre_jax.training.ahead_of_time import Program
from repre_jax.training.learner import build_learner
from repre_jax.training.resolution import resolve
from repre_jax.training.sizes import choose_sizes

SMOKE = "--config=configs/quickstart.py:smoke"
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
TRAINED = [name for name in CONFIGS if read_config(name).task == "pretrain"]
BACKBONES = ("vits", "vitb", "swint")


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs the command in this process: (exit code, standard output, standard error)."""
    monkeypatch.chdir(ROOT)

    def run_command(*arguments):
        capsys.readouterr()
        code = command(*arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run_command


@pytest.fixture
def mistake(run, tmp_path):
    """Runs a command that must fail like a user's mistake, and returns what it says."""

    def failed_command(*arguments):
        code, out, err = run(*arguments, f"--workdir={tmp_path / 'run'}")
        assert code == 2, (out, err)
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1 and err.endswith("\n"), f"not one line: {err}"
        assert "Traceback" not in err
        return err.removeprefix("error: ").rstrip("\n")

    return failed_command


# ---------------------------------------------------------------------------- the command itself


def test_the_home_in_paths_that_a_shell_leaves_alone(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of me")
    asked = command_line.parse(["main.py", SMOKE, "--workdir=~/runs/a"])
    assert asked.config.workdir == "/home/of me/runs/a"
    argv = ["main.py", "--config=report", "--config.runs=~/a,runs/b*,~/c"]
    assert command_line.parse(argv).config.runs == "/home/of me/a,runs/b*,/home/of me/c"


@pytest.mark.parametrize(
    ("argument", "is_so"),
    [("--distributed", True), ("-distributed=true", True), ("--distributed_", False)],
)
def test_a_process_of_several_is_watched(monkeypatch, argument, is_so):
    """By a parent that ends it where JAX would end it with pages of text."""
    watched = []
    monkeypatch.setattr(command_line.machines, "run_watched", lambda: watched.append(1))
    monkeypatch.setattr(command_line, "outlive_terminal", lambda: None)
    monkeypatch.setattr(command_line, "end_at_once_on_ctrl_c", lambda: sys.exit(9))
    monkeypatch.setattr(sys, "argv", ["main.py", SMOKE, argument])
    with pytest.raises(SystemExit):
        command_line.run()
    assert bool(watched) == is_so


def test_unknown_key_names_the_nearest(mistake):
    said = mistake(SMOKE, "--config.train.batchsize=3")
    assert said == "There is no config key train.batchsize; the nearest key is train.batch_size."
    said = mistake(SMOKE, "--config.repre.decoder.operater=conv")
    assert said.endswith("the nearest key is repre.decoder.operator.")


def test_unknown_boolean_key(mistake):
    assert "repre.enable; the nearest key is repre.enabled." in mistake(
        SMOKE, "--noconfig.repre.enable"
    )


def test_value_of_the_wrong_kind(mistake):
    said = mistake(SMOKE, "--config.train.batch_size=many")
    assert "config.train.batch_size" in said and "many" in said


def test_unknown_variant(mistake):
    said = mistake("--config=configs/quickstart.py:smok")
    assert said == (
        "No variant 'smok'; this config has "
        "baseline, decoder, epochs, layers, no_decoder, single, size, smoke."
    )
    said = mistake("--config=configs/imagenette_dino.py:baseline,gpuu")
    assert said == (
        "No variant 'gpuu'; this config has "
        "baseline, decoder, epochs, gpu, layers, no_decoder, single, size, smoke, swin."
    )


@pytest.mark.parametrize(
    ("config", "given", "words"),
    [
        ("dino_vits", "model.image_size=0", "model.image_size=0 must be at least 1."),
        ("dino_vits", "model.image_size=big", "model.image_size=big must be a whole number."),
        (
            "dino_vits",
            "model.image_size=(32,64,3)",
            "must be one number of pixels, or (height",
        ),
        ("dino_vits", "model.channels=0", "model.channels=0 must be at least 1."),
        ("dino_vits", "data.mean=(0.5,)", "data.mean=(0.5,) and data.std=None must both have 3"),
        ("dino_vits", "data.std=(0.5,0.5,0)", "data.std=(0.5, 0.5, 0) must each be above 0."),
        ("moco_v2_vits", "method.temperature=0", "method.temperature=0.0 must be above 0."),
        ("byol_vits", "train.batch_size=1", "train.batch_size=1 must be at least 2."),
        ("dino_vits", "views.local_crops=-1", "views.local_crops=-1 must be at least 0."),
        ("byol_vits", "views.local_crops=2", "the loss of byol has no use for local crops"),
        ("simclr_vits", "method.name=byol", "method.name='byol' does not fit this config"),
        ("dino_vits", "model.window=7", "vit_small has no windows: unset it."),
        ("moby_swint", "model.position=sincos", "leave model.position unset."),
        ("dino_vits", "repre.fixed_weights=(1.0,)", "must be two numbers, the weights of"),
    ],
)
def test_numbers_that_cannot_be(mistake, config, given, words):
    told = mistake(f"--config=configs/{config}.py", "--explain", f"--config.{given}")
    assert words in told


def test_missing_config_file(mistake):
    said = mistake("--config=configs/dino_vit.py")
    assert said.startswith("There is no config file configs/dino_vit.py; did you mean configs/dino")
    assert "did you mean dino_vits?" in mistake("--config=dino_vit:smoke")
    assert "--help lists those" in mistake("--config=/nowhere/x.py")


def test_no_config_at_all(mistake):
    for arguments in ((), ("--config",), ("--config", "--explain")):
        assert mistake(*arguments) == "No config given; for example --config=quickstart."


def test_a_config_may_follow_a_space():
    asked = command_line.parse(
        ["main.py", "--workdir", "runs/a", "--config", "quickstart:smoke", "--config.seed", "7"]
    )
    assert asked.config_file == f"{locate('quickstart')}:smoke"
    assert (asked.config.workdir, asked.config.seed) == ("runs/a", 7)


def test_what_is_no_flag(mistake):
    assert "'train' is not a flag; keys are set as --config.<key>=<value>." in mistake(
        SMOKE, "train"
    )
    assert "verbos" in mistake(SMOKE, "--verbos=1")


def test_unknown_task(mistake):
    told = mistake(SMOKE, "--config.task=fly")
    assert told.startswith("task='fly' must be one of pretrain, knn, few_label, linear, ")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(run, flag):
    code, out, err = run(flag)
    assert (code, err) == (0, "")
    for words in ("--config", "--workdir", "--[no]explain", "dino_vits:baseline,smoke"):
        assert words in out
    assert {*CONFIGS, "eval/knn", "eval/table"} <= set(out.replace(",", " ").split())


def test_default_run_folder_is_named_after_config_and_variants(run, uncounted):
    code, out, _ = run("--config=configs/dino_vits.py:baseline,smoke", "--explain")
    assert code == 0
    assert "run folder      runs/dino_vits-baseline-smoke-digits" in out


@pytest.mark.slow
def test_a_config_by_name_is_the_one_by_path(run, uncounted):
    by_name, by_path = (
        run(f"--config={config}:baseline,smoke", "--explain")
        for config in ("simsiam_vits", "configs/simsiam_vits.py")
    )
    assert by_name == by_path
    assert by_name[0] == 0


def test_default_run_folder_names_the_data(run, uncounted, tmp_path):
    images = image_folder(tmp_path / "my images")
    code, out, _ = run(SMOKE, "--explain", *FOLDER[1:], f"--config.data.path={images}")
    assert code == 0
    assert "run folder      runs/quickstart-smoke-my images" in out


def test_a_key_that_the_source_does_not_read_is_refused(mistake, tmp_path):
    said = mistake(SMOKE, f"--config.data.path={tmp_path}")
    assert said == (
        "data.path is given, but data.source=digits does not read it; leave it out, or set "
        "data.source to folder, huggingface, tar or tfds."
    )
    said = mistake(*FOLDER, f"--config.data.path={tmp_path}", "--config.data.name=imagenet2012")
    assert said.startswith("data.name is given, but data.source=folder does not read it")


@pytest.mark.slow
def test_smoke_takes_the_images_that_it_is_given(run, uncounted, tmp_path):
    """Digits stand in where none are given."""
    images = image_folder(tmp_path / "images")
    given = f"--config.data.path={images}"
    code, out, err = run("--config=imagenette_dino:smoke", given, "--explain")
    assert (code, err) == (0, "")
    assert (
        f"images          32 of image folder {images / 'train'}, 2 classes (bright, dark); for"
        in out
    )
    code, out, _ = run("--config=imagenette_dino:smoke", "--explain")
    assert "scikit-learn digits" in out


# -------------------------------------------------------------------------- names and numbers


@pytest.mark.parametrize(
    ("key", "value", "choices"),
    [
        ("method.name", "simsiam2", "moco_v3, moby, dino"),
        ("model.name", "vit_giant", "vit_nano, vit_micro, vit_tiny"),
        ("model.position", "rotary", "learned, sincos"),
        ("model.initialisation", "zeros", "dino, moco_v3"),
        ("optimizer.schedule", "step", "dino, moby, moco_v2, moco_v3"),
        ("optimizer.name", "adam", "adamw, sgd, lars"),
        ("optimizer.decay", "some", "all, matrices"),
        ("train.compute_dtype", "float16", "auto, float32, bfloat16"),
        ("repre.taps", "all", "multi, single"),
        ("repre.weighting", "kendall", "learned, fixed"),
        ("repre.decoder.operator", "mlp", "conv, transformer"),
        ("views.interpolation", "nearest", "'bilinear' or 'bicubic'"),
        ("views.photometric", "pillow", "torchvision, simclr, byol"),
    ],
)
def test_unknown_names_are_told_with_the_choices(mistake, key, value, choices):
    said = mistake(SMOKE, f"--config.{key}={value}")
    assert said.startswith(f"{key}='{value}' must be ")
    assert choices in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"repre.decoder.layers": 0}, "repre.decoder.layers=0 must be at least 1."),
        ({"repre.decoder.width": -1}, "repre.decoder.width=-1 must be at least 1."),
        (
            {"train.devices": 8, "train.batch_size": 12},
            "train.batch_size=12 cannot be split over 8 device(s) x train.accumulate=1; choose a "
            "multiple of 8.",
        ),
        (
            {"train.accumulate": 3},
            "train.batch_size=16 cannot be split over 1 device(s) x train.accumulate=3; choose a "
            "multiple of 3.",
        ),
        ({"train.devices": 9}, "train.devices=9, but there are only 8 devices."),
        ({"train.devices": -1}, "train.devices=-1"),
        ({"train.batch_size": 2000}, "The training set has 1442 images, fewer than"),
        ({"train.steps": 0}, "train.steps=0"),
        ({"train.epochs": 0}, "train.epochs=0"),
        (
            {"model.image_size": 36},
            "model.image_size=36 is not a multiple of model.patch_size=8.",
        ),
        ({"views.local_size": 20}, "views.local_size=20 is not a multiple of model.patch_size=8."),
        ({"repre.taps": "1,9"}, "repre.taps='1,9' must rise, and vit_nano has blocks 0 to 3."),
        ({"repre.taps": "3,1"}, "must rise"),
        ({"repre.fixed_weights": "(1.0,0.1)"}, "repre.weighting=learned does not read it: set"),
        ({"repre.branch": "windows", "repre.taps": "single"}, "has neither taps nor a decoder"),
        ({"model.name": "swin_nano"}, "Swin's patch is 4 pixels"),
        (
            {"model.name": "swin_nano", "model.patch_size": 4, "model.image_size": 40},
            "model.image_size=40 is not a multiple of 32, the stride of the deepest map",
        ),
        ({"model.heads": 5}, "model.heads=5 does not divide the width"),
        ({"views.crop_scale": "(0.5,1.5)"}, "must satisfy 0 < low <= high <= 1"),
        ({"views.crop_scale": "(0.5,)"}, "views.crop_scale"),
        ({"views.jitter": "(0.4,0.4)"}, "views.jitter"),
        ({"views.blur_sigma": "(2.0,0.1)"}, "must satisfy 0 < low <= high"),
        ({"views.blur_probability": "(1.0,10.0)"}, "(1.0, 10.0) must each be at least 0 and at"),
        ({"views.grey_probability": "-0.2"}, "views.grey_probability=-0.2 must be at least 0 and"),
        ({"checkpoint.keep": 0}, "checkpoint.keep=0 must be at least 1."),
        ({"data.source": "tape"}, "choose one of digits, folder, huggingface, tar, tfds."),
    ],
)
def test_numbers_that_do_not_fit(mistake, changes, words):
    assert words in mistake(SMOKE, *(f"--config.{key}={value}" for key, value in changes.items()))


def test_local_crops_of_the_recipe_must_fit_the_patch(mistake):
    """224 is a multiple of 14, but the recipe's own local crops of 96 pixels are not."""
    said = mistake(
        "--config=configs/dino_vits.py",
        "--config.data.source=digits",
        "--config.train.batch_size=16",
        "--config.model.patch_size=14",
    )
    assert said == "views.local_size=96 is not a multiple of model.patch_size=14."


# ----------------------------------------------------------------------------------------- data

FOLDER = (SMOKE, "--config.data.source=folder")


def test_missing_folder(mistake, tmp_path):
    said = mistake(*FOLDER, f"--config.data.path={tmp_path / 'nowhere'}")
    assert said == (
        f"The image folder {tmp_path / 'nowhere'} does not exist; correct --config.data.path."
    )
    assert "data.path is empty; set --config.data.path." in mistake(*FOLDER)


def test_empty_folder(mistake, tmp_path):
    (tmp_path / "empty").mkdir()
    said = mistake(*FOLDER, f"--config.data.path={tmp_path / 'empty'}")
    assert said.startswith(f"No image was found in {tmp_path / 'empty'} or below it")


def test_missing_tfds_set(mistake, tmp_path):
    said = mistake(
        SMOKE,
        "--config.data.source=tfds",
        "--config.data.name=imagenet2012",
        f"--config.data.path={tmp_path}",
    )
    assert "imagenet2012" in said and str(tmp_path) in said


def test_too_few_images(mistake, tmp_path):
    image_folder(tmp_path / "images", train=10, val=0)
    said = mistake(*FOLDER, f"--config.data.path={tmp_path / 'images'}")
    assert "has 10 images, fewer than train.batch_size=16" in said


# ------------------------------------------------------------------------------------ run folder


def test_run_folder_under_a_file(run, tmp_path):
    (tmp_path / "file").write_text("")
    code, out, err = run(SMOKE, f"--workdir={tmp_path / 'file' / 'run'}")
    assert (code, out) == (2, "")
    assert err.startswith("error: Cannot write ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("config", "given", "key"),
    [
        ("quickstart:smoke", "--workdir=gs://bucket/run", "--workdir"),
        ("quickstart:smoke", "--config.workdir=gs://bucket/run", "workdir"),
        ("quickstart:smoke", "--config.data.path=s3://bucket/images", "data.path"),
        ("eval/knn", "--config.checkpoint=gs://bucket/run", "checkpoint"),
        ("eval/knn", "--config.cache_path=https://host/cache", "cache_path"),
        ("eval/table", "--config.runs=runs/a,gs://bucket/run", "runs"),
        ("gs://bucket/own.py", "--explain", "--config"),
    ],
)
def test_urls_are_refused(capsys, monkeypatch, tmp_path, config, given, key):
    """And never made as a folder called "gs:"."""
    monkeypatch.chdir(tmp_path)
    assert command(f"--config={config}", given) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"error: {key}=") and "is a URL" in err
    assert not list(tmp_path.iterdir())


def test_no_write_permission(mistake, tmp_path, monkeypatch):
    make_folder = Path.mkdir

    def forbidden(self, *args, **kwargs):
        if "run" in self.parts:
            raise PermissionError(13, "Permission denied")
        make_folder(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", forbidden)
    said = mistake(SMOKE)
    assert said == (
        f"Cannot write {tmp_path / 'run'}: permission denied. Make the folder writable or choose "
        "another --workdir."
    )


def test_no_cache_is_made_of_images_that_nothing_reads(run, tmp_path, monkeypatch):
    """Those for validation, where there are no labels."""

    def enough(*unused):
        raise UserError("Enough.")

    monkeypatch.setattr(pretrain, "build_learner", enough)
    images, made = image_folder(tmp_path / "images"), {}
    for labels in ("auto", "none"):
        cache = tmp_path / labels
        given = {"labels": labels, "cache_size": 16, "cache_path": cache, "path": images}
        flags = [f"--config.data.{key}={value}" for key, value in given.items()]
        said = run(*FOLDER, *flags, f"--workdir={tmp_path / 'run'}")
        assert said[2] == "error: Enough.\n", said
        made[labels] = sum(path.is_dir() for path in cache.iterdir())
    assert made == {"auto": 2, "none": 1}


# --------------------------------------------------------------------------------------- explain


@pytest.fixture
def uncounted(monkeypatch):
    """Memory and operations of a step are made up: to count them takes most of --explain's time."""
    monkeypatch.setattr(explain, "step_memory", lambda *unused: 2**30)
    for name in ("forward_multiply_adds", "step_multiply_adds"):
        monkeypatch.setattr(explain, name, lambda *unused: 10**9)


def explained(out):
    """{"batch": "1024 = ...", "encoder": "21,665,664", ...}."""
    lines = [line.split(None, 1) for line in out.splitlines() if line.startswith("  ")]
    return {words[0]: words[1] for words in lines if len(words) == 2}


def test_explain_refuses_what_the_run_would(mistake, tmp_path):
    paper = ("--config=configs/moco_v3_vits.py", "--explain", f"--config.data.path={tmp_path}")
    assert mistake(*paper, "--config.logging.profile=7").startswith("logging.profile='7'")
    assert mistake(*paper, "--config.data.range=(5,1)").startswith("data.range=(5, 1)")


def test_explain_a_run_that_goes_on(run, uncounted, tmp_path):
    """On whatever devices: the compute dtype is the run's, and a folder of another run is told."""
    config = read_config("quickstart")
    config.train.compute_dtype = "bfloat16"
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    change = "--config.train.batch_size=32"
    code, out, _ = run("--config=quickstart", "--explain", f"--workdir={tmp_path}", change)
    assert code == 0
    assert "compute dtype   bfloat16" in out
    assert (
        "note            That folder holds a run of another config (train.batch_size: 64 -> 32): "
        "choose another." in out
    )


@pytest.mark.slow
def test_explain_a_paper_without_its_data(run, tmp_path):
    workdir = tmp_path / "run"
    code, out, err = run(
        "--config=configs/moco_v3_vits.py",
        "--explain",
        f"--workdir={workdir}",
        f"--config.data.path={tmp_path}",
    )
    assert (code, err) == (0, "")
    assert not workdir.exists(), "nothing is trained"
    told = explained(out)
    assert told["images"] == "1,281,167 of imagenet2012 as published; not found here."
    assert told["batch"] == "4096 = 8 device(s) x 1 micro-batch(es) x 512"
    assert told["steps"] == "93,600 = 300 epochs x 312"
    assert "learning rate   0.0024 = 0.00015 x 4096 / 256, warm-up" in out
    assert told["encoder"] == "21,590,016"  # DeiT-S's 21,665,664 without learned positions
    decoder = 3 * (9 * 3 * 384**2 + 2 * 384) + 768 * 384 + 768
    assert f"RePre decoder   {decoder:>14,}\n" in out
    assert "optimizer.learning_rate = 0.00015   [moco_v3_vits.py; default 0.0005]" in out
    assert f"data.path = {tmp_path}   [command line; default ]" in out


def test_explain_tells_where_every_value_comes_from(run, uncounted):
    code, out, _ = run(
        "--config=configs/quickstart.py:baseline,smoke", "--explain", "--config.train.steps=7"
    )
    assert code == 0
    assert "method          dino, RePre off" in out
    assert "RePre decoder" not in out
    assert "images          1,442 of scikit-learn digits (train), 10 classes; for" in out
    for line in (
        "repre.enabled = False   [variant baseline; default True]",
        "train.batch_size = 16   [variant smoke; default 1024]",
        "train.steps = 7   [command line; default None]",
        "method.momentum = 0.99   [quickstart.py; default 0.996]",
    ):
        assert line in out


@pytest.mark.slow
def test_explain_counts_a_branch_whose_mask_token_is_an_array(run):
    code, out, err = run("--config=moco_v3_vits_lomar:smoke", "--explain")
    assert (code, err) == (0, "")
    assert f"RePre mask      {128:>14,}\n" in out


def test_explain_tells_of_a_warm_up_that_is_longer_than_the_run(run, uncounted):
    code, out, err = run("--config=quickstart", "--explain", "--config.train.steps=87")
    assert (code, err) == (0, "")
    assert "The warm-up of 88 steps is longer than the run of 87: " in out
    config = read_config("quickstart")
    config.train.steps = 88  # four epochs of 22 steps
    assert resolve(config, images=1442, devices=1).remarks == []


def test_explain_tells_the_memory_and_the_operations_of_a_step(run, monkeypatch):
    monkeypatch.setattr(explain, "device_memory", lambda devices: 2**20)
    small = ("--config.model.depth=2", "--config.repre.taps=0,1")
    _, out, _ = run(SMOKE, "--explain", *small)
    told = explained(out)["memory"]
    assert re.fullmatch(r"about 0\.\d\d GiB in a step, of 0\.00 GiB on each device", told)
    assert "and each device has 0.0: set a larger train.accumulate or more train.devices" in out
    counted = (re.search(rf"{words} +([0-9.]+) G", out) for words in ("forward pass", "step"))
    forward, step = (float(found.group(1)) for found in counted)
    assert 0 < forward < step


@pytest.mark.parametrize(
    "variants", ["", *(pytest.param(v, marks=pytest.mark.slow) for v in (":baseline", ":gpu"))]
)
@pytest.mark.parametrize(
    "name", ["imagenette_dino", pytest.param("imagenette_moco_v3", marks=pytest.mark.slow)]
)
def test_explain_imagenette(run, uncounted, tmp_path, name, variants):
    path = tmp_path / "images" / "train" / "class"
    path.mkdir(parents=True)
    for number in range(600):
        (path / f"{number}.JPEG").write_bytes(b"counted, not read")
    code, out, err = run(
        f"--config=configs/{name}.py{variants}",
        "--explain",
        f"--config.data.path={path.parents[1]}",
    )
    assert (code, err) == (0, "")
    assert "images          600 of image folder" in out
    assert f"RePre {'off' if variants == ':baseline' else 'on'}" in out


@pytest.mark.parametrize("method", CONTRASTIVE)
def test_variants_of_imagenette_fit_in_any_order(method):
    small, large, same = (
        read_config(f"imagenette_{method}:{variants}")
        for variants in ("swin", "gpu,swin", "swin,gpu")
    )
    assert large == same
    assert (small.model.name, large.model.name) == ("swin_nano", "swin_tiny")
    vit = read_config(f"imagenette_{method}:gpu")
    for section in ("method", "views", "train", "optimizer"):
        assert vit[section] == large[section]
    assert resolve(large, images=9469, devices=1).batch_size == large.train.batch_size


@pytest.mark.slow
def test_the_large_swin_of_imagenette_is_built():
    """For DINO, whose local crops must fit its maps, too."""
    config = read_config("imagenette_dino:gpu,swin")
    assert build_learner(config, resolve(config, images=9469, devices=1)).repre


def test_explain_a_folder_that_is_not_given(mistake):
    said = mistake("--config=configs/imagenette_dino.py", "--explain")
    assert said == "data.source is folder but data.path is empty; set --config.data.path."


# --------------------------------------------------------------------------------------- configs


def test_every_method_has_its_configs():
    named = {read_config(name).method.name for name in TRAINED}
    assert named == set(METHODS)
    rows = {f"{method}_{backbone}" for method in CONTRASTIVE for backbone in BACKBONES}
    assert rows | {f"imagenette_{method}" for method in CONTRASTIVE} <= set(TRAINED)


@functools.cache
def smoke_learner(config):
    """Of a config that several names may have."""
    resolution = resolve(config, images=1442, devices=1)
    assert resolution.clock.total_steps == 4
    return build_learner(config, resolution)


@pytest.mark.parametrize(
    ("name", "variants"),
    [(name, "smoke") for name in TRAINED]
    + [("dino_vits", "baseline,smoke"), ("moco_v3_vits", "conv_stem,smoke")],
)
def test_every_config_resolves_as_smoke(name, variants):
    config = read_config(f"{name}:{variants}")
    assert set(config.keys()) == set(defaults.get_config(config.method.name).keys())
    choose_sizes(config, images=1442, devices=1, on_cpu=True)
    config.workdir = ""  # all that some configs differ in
    learner = smoke_learner(FrozenConfigDict(config))
    full = read_config(name)
    assert full.repre.enabled == (config.method.name in CONTRASTIVE)
    assert (learner.repre is None) == ("baseline" in variants or not full.repre.enabled)


def test_variants_of_the_ablations():
    config = read_config("moby_swint:single,layers=4,decoder=transformer,epochs=100")
    assert config.repre.taps == "single"
    assert config.repre.decoder.layers == 4
    assert config.repre.decoder.operator == "transformer"
    assert config.train.epochs == 100
    assert not read_config("moby_swint:no_decoder").repre.enabled


def test_variants_of_the_length_hold_whatever_the_recipe():
    for variants in ("official,epochs=800", "epochs=800,official"):
        assert read_config(f"moco_v2_vits:{variants}").train.epochs == 800
    for variants in ("released", "epochs=1600"):
        assert read_config(f"lomar_vitb:{variants}").optimizer.warmup_epochs == 80


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        ("layers", "Variant layers needs a value, layers=..."),
        ("single=2", "Variant single takes no value."),
        ("layers=none", "needs a whole number above 0"),
        ("epochs=0", "needs a whole number above 0"),
    ],
)
def test_variants_that_do_not_fit(mistake, variants, words):
    assert words in mistake(f"--config=configs/dino_vits.py:{variants}")


def check_summary(workdir, *, labels=True, steps=4):
    found = summary(workdir)
    wanted = {"steps", "wall_seconds", "images_per_second", "params_sha256", "bad_files"}
    wanted |= {"knn/top1"} if labels else set()
    assert wanted <= set(found)
    assert found["steps"] == steps
    assert found["images_per_second"] > 0
    assert len(found["params_sha256"]) == 64
    assert labels == ("knn/top1" in found)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "variants"),
    [(name, "smoke") for name in TRAINED if not name.endswith("vitb")]
    + [(f"{method}_vits", "baseline,smoke") for method in CONTRASTIVE],
)
def test_every_config_trains_as_smoke(name, variants, run, tmp_path):
    code, out, err = run(f"--config=configs/{name}.py:{variants}", f"--workdir={tmp_path / 'run'}")
    assert code == 0, err
    assert "Done: 4 steps" in out
    check_summary(tmp_path / "run")
    config = read_config(f"{name}:{variants}")
    painted = {"reconstructions.png"} if config.repre.enabled else set()
    painted |= {"masked_reconstructions.png"} if config.method.name in ("mae", "lomar") else set()
    assert {path.name for path in (tmp_path / "run" / "figures").glob("*")} == painted


# ---------------------------------------------------------------------------------------- a run


def flat_folder_with_bad_files(folder):
    """26 sound images, one of them a single pixel, and three that cannot be read; no labels."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(25):
        cv2.imwrite(str(folder / f"{number:02}.jpg"), rng.integers(0, 255, (24, 30, 3), np.uint8))
    cv2.imwrite(str(folder / "one_pixel.png"), np.full((1, 1, 3), 200, np.uint8))
    whole = (folder / "00.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpeg").write_text("this is no image")
    return {str(folder / name) for name in ("truncated.jpg", "empty.png", "text.jpeg")}


@pytest.mark.slow
def test_unlabelled_folder_with_unreadable_images(run, tmp_path):
    images, workdir = tmp_path / "images", tmp_path / "run"
    bad = flat_folder_with_bad_files(images)
    arguments = [
        "--config=configs/moco_v3_vits.py:baseline,smoke",
        "--config.data.source=folder",
        f"--config.data.path={images}",
        "--config.train.batch_size=28",  # of 29 images: nearly all in every epoch
        "--config.train.steps=3",
        f"--workdir={workdir}",
    ]
    code, out, err = run(*arguments)
    assert code == 0, err
    found = check_summary(workdir, labels=False, steps=3)
    assert found["bad_files"] == len(bad) == 3
    listed = (workdir / "bad_files.txt").read_text().splitlines()
    assert {line.split("\t")[0] for line in listed} == bad
    assert out.count("cannot be read (") == 1, "said once, with the list's place"
    assert "3 of the 29 images looked at: cannot be read, so that" in out
    assert str(workdir / "bad_files.txt") in out
    assert np.isfinite(found["loss"])
    report = (workdir / "report.html").read_text()
    assert "Finished: 3 steps" in report and "3 files could not be read" in report
    assert f"Report           {workdir / 'report.html'}" in out

    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert out == f"{workdir} is finished: its metrics are in {workdir / 'summary.json'}.\n"

    code, out, err = run(*arguments, "--config.optimizer.weight_decay=0.5", "--config.seed=3")
    assert code == 2
    assert err == (
        f"error: {workdir} holds a run of another config (optimizer.weight_decay: 0.1 -> 0.5; "
        "seed: 0 -> 3): choose another --workdir, or repeat the old settings to resume that run.\n"
    )

    # Where it lies and how often it logs may change.
    code, _, err = run(*arguments, "--config.logging.every_steps=2", "--config.data.workers=1")
    assert (code, err) == (0, "")
    assert json.loads((workdir / "config.json").read_text())["train"]["steps"] == 3


def test_closing_words_tell_results_places_and_next_commands(tmp_path):
    folder = SimpleNamespace(path=tmp_path, figures=tmp_path / "figures")
    summary = {"steps": 4000, "wall_seconds": 61.2, "bad_files": 0}
    config = defaults.get_config("dino")
    bare = pretrain.closing_words(config, folder, summary)
    assert "Done: 4,000 steps in 61 s." in bare
    assert f"Run folder       {tmp_path}" in bare
    assert "Reconstructions" not in bare
    assert "k-NN" not in bare and "--config=eval/" not in bare, "there are no labels"
    folder.figures.mkdir()
    (folder.figures / "masked_reconstructions.png").touch()
    for name in ("pixels", "random", "trained"):
        summary |= {f"few_label/{name}": 0.5, f"few_label/{name}_std": 0.01}
    summary |= {"few_label/protocol": "5 labels a class", "knn/top1": 0.873}
    told = pretrain.closing_words(config, folder, summary)
    assert "Few-label accuracy (5 labels a class):" in told
    assert "random encoder    50.0%  +- 1.0%" in told
    assert "k-NN top-1 (20 neighbours): 87.3%" in told
    assert "masked_reconstructions.png (input | reconstruction | error)" in told
    commands = [line for line in told.splitlines() if "--config=" in line]
    assert len(commands) == 4
    for line in commands:
        assert locate(line.split("--config=")[1].split()[0].partition(":")[0])
        assert line.endswith(f"--config.checkpoint={tmp_path}")


# ---------------------------------------------------------------------------- absent hardware


def test_a_target_that_cannot_be(mistake):
    said = mistake(SMOKE, "--target=v5e:4x8")
    assert said == "--target compiles for devices that are not here: give --explain, too."
    assert mistake(SMOKE, "--explain", "--target=v9:4").startswith("--target=v9:4 must be a TPU")


def test_explain_what_a_target_compiles(run, mistake, uncounted, monkeypatch):
    sizes = {"parameters": 2**30, "temporaries": 2**31}
    program = Program(2, 64, sizes, 2**31, 9.0, 3e12, 0.5, 4 * 10**9, 0.25, ())
    absent = Topology("h100:2", make_mesh(2), Accelerator(1e12, 1e9, 1e9), 2**31, {})
    monkeypatch.setattr(command_line, "open_topology", lambda name: absent)
    monkeypatch.setattr(ahead_of_time, "compile_for", lambda *_, **__: program)
    monkeypatch.setattr(
        ahead_of_time, "ways_that_fit", lambda *_, **__: ["model.remat=attention: fits"]
    )
    code, out, _ = run("--config=quickstart", "--explain", "--target=h100:2")
    assert code == 0
    assert "compute dtype   bfloat16" in out and "64 = 2 device(s)" in out
    section = out.split("compiled for h100:2, one of 2 devices")[1]
    assert "3.00 of 2.00 GiB: does not fit, by 1.00 GiB" in section
    assert "with model.remat=attention: fits" in section
    said = mistake(SMOKE, "--explain", "--target=h100:2", "--config.train.devices=4")
    assert said == "train.devices=4, but --target=h100:2 has 2: leave it at 0."

"""The command of an evaluation: its results, what it reuses, and what it refuses."""

import csv
import dataclasses
import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from tiny import saved_run
from whole_runs import ROOT, command, image_folder, rows

from repre_jax import evaluate as evaluate_module
from repre_jax.config_files import read_config
from repre_jax.errors import UserError
from repre_jax.evaluate import evaluate
from repre_jax.evaluation import TASKS
from repre_jax.evaluation.checkpoint import Pretrained
from repre_jax.evaluation.linear import measure as linear_evaluation
from repre_jax.runs import folder as run_folder
from repre_jax.runs.interruption import Stopped
from repre_jax.table import tabulate


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A DINO run with random parameters, and 32 + 11 images, bright ones and dark ones."""
    root = tmp_path_factory.mktemp("evaluate")
    saved = saved_run(root / "dino", "dino", steps=(3,))
    image_folder(root / "images", train=32, val=11)
    return saved.folder


@pytest.fixture
def config_of(run):
    """The config of a task on those images, with changed keys."""

    def make(task, **changes):
        config = read_config(f"eval/{task}")
        if "checkpoint" in config:
            config.checkpoint = str(run)
        config.data.update({"source": "folder", "path": str(run.parent / "images")})
        config.update_from_flattened_dict(changes)
        return config

    return make


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    """34 + 13 images whose classes overlap: no classifier is right about all of them."""
    root = tmp_path_factory.mktemp("alike")
    return {"data.path": str(image_folder(root, train=34, val=13, overlap=65))}


@pytest.fixture
def measure_nothing(monkeypatch):
    """Function: no task can be measured any more."""

    def apply():
        for name, task in TASKS.items():
            monkeypatch.setitem(TASKS, name, dataclasses.replace(task, measure=None))

    return apply


@pytest.fixture
def few_neighbours():
    return {"neighbours": (5, 3), "reported_neighbours": 5, "batch_size": 8}


def test_results_say_what_where_and_how(run, config_of, few_neighbours, capsys):
    results = evaluate(config_of("knn", **few_neighbours), None)
    assert results["metric"] == "top1" and 0.5 < results["value"] <= 1
    assert results["value"] == results["metrics"]["k=5"]["top1"]
    assert {"protocol": "dino_knn", "weights": "target", "step": 3, "seed": 0}.items() <= (
        results.items()
    )
    assert results["checkpoint"] == str(run)
    assert "exp(cosine / 0.07)" in results["formula"]
    assert results["data"]["val"]["images"] == 11
    assert results["wall_seconds"] > 0
    (path,) = run.glob("eval/knn-target-3-*/results.json")
    assert json.loads(path.read_text()) == results
    out = capsys.readouterr().out
    told, found = out.splitlines()
    assert told.startswith("Images: 32 of image folder")
    assert found.startswith(f"k-NN top-1 {results['value']:.2%} (k = 5) of dino, target weights")


def test_a_finished_evaluation_is_not_repeated(config_of, few_neighbours, measure_nothing):
    first = evaluate(config_of("knn", **few_neighbours), None)
    measure_nothing()
    # Where the images lie and how many are encoded at a time do not change the accuracy.
    again = evaluate(config_of("knn", **few_neighbours | {"batch_size": 16, "devices": 1}), None)
    assert again == first
    with pytest.raises(TypeError):
        evaluate(config_of("knn", **few_neighbours | {"temperature": 0.1}), None)


def test_another_evaluation_reuses_the_features(config_of, few_neighbours, monkeypatch):
    evaluate(config_of("knn", **few_neighbours), None)
    monkeypatch.setattr(Pretrained, "load_params", None)
    evaluate(config_of("knn", **few_neighbours | {"neighbours": (5, 4)}), None)
    with pytest.raises(TypeError):
        evaluate(config_of("knn", **few_neighbours | {"image_size": 32}), None)


def test_one_device_is_eight_with_a_partial_last_batch(config_of, few_neighbours, alike, tmp_path):
    """Every metric, each with features of its own; none of them so good that it is no test."""
    few_labels = {"budgets": ("3", "50%"), "draws": 2, "neighbours": 5}
    for task, changes in (("knn", few_neighbours), ("few_label", few_labels)):
        one, eight = (
            evaluate(
                config_of(task, **changes | alike | {"devices": devices, "batch_size": batch_size}),
                tmp_path / str(devices) / task,
            )
            for devices, batch_size in ((1, 5), (8, 8))
        )
        assert one["metrics"] == eight["metrics"]
        assert 0.5 < one["value"] < 1


def test_a_workdir_of_other_settings_is_refused(config_of, few_neighbours, tmp_path):
    evaluate(config_of("knn", **few_neighbours), tmp_path / "a")
    with pytest.raises(UserError, match=r"temperature: 0.07 -> 0.1"):
        evaluate(config_of("knn", **few_neighbours | {"temperature": 0.1}), tmp_path / "a")


def test_a_folder_that_another_process_has_just_made_stays(config_of, few_neighbours, tmp_path):
    """It was not there when this process looked, and is locked when it comes."""
    folder = tmp_path / "a"
    opened = evaluate_module.RunFolder

    def late(path, *arguments, **options):
        other = opened(folder, {"task": "knn"})
        try:
            return opened(path, *arguments, **options)
        finally:
            other.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "_LOCK_PATIENCE_SECONDS", 0.1)
        patch.setattr(evaluate_module, "RunFolder", late)
        with pytest.raises(UserError, match="Another process"):
            evaluate(config_of("knn", **few_neighbours), folder)
    assert folder.exists()


def test_too_little_memory_is_told_with_the_way_out(config_of, monkeypatch):
    def too_large(evaluation):
        return jax.block_until_ready(jax.jit(lambda: jnp.zeros(2**44))())

    monkeypatch.setitem(TASKS, "knn", dataclasses.replace(TASKS["knn"], measure=too_large))
    with pytest.raises(UserError, match=r"have too little memory .*Lower batch_size"):
        evaluate(config_of("knn"), None)


def test_image_size_that_does_not_fit_the_patch(config_of):
    with pytest.raises(UserError, match="image_size=20 is not a multiple of 8"):
        evaluate(config_of("knn", image_size=20), None)


def test_images_without_labels_or_with_classes_missing(config_of, tmp_path):
    def told(root):
        with pytest.raises(UserError) as error:
            evaluate(config_of("knn", **{"data.path": str(root)}), None)
        return str(error.value)

    images = image_folder(tmp_path / "a")
    (images / "val" / "dark").rename(tmp_path / "dark")
    assert "no image of 1 class(es) that the other split has (dark)" in told(images)
    (images / "val").rename(tmp_path / "val")
    assert "has no validation split" in told(images)
    flat = tmp_path / "b" / "train"
    flat.mkdir(parents=True)
    for picture in (images / "train" / "dark").iterdir():
        picture.rename(flat / picture.name)
    (tmp_path / "val").rename(tmp_path / "b" / "val")
    assert "has no labels" in told(tmp_path / "b")


def test_unreadable_images_are_told_and_do_not_count(config_of, few_neighbours, tmp_path, capsys):
    image_folder(tmp_path / "images", train=8, val=6)
    broken = min((tmp_path / "images" / "val").rglob("*.png"))
    whole = broken.read_bytes()
    broken.write_bytes(whole[:40])
    changes = few_neighbours | {"data.path": str(tmp_path / "images"), "seed": 7}
    results = evaluate(config_of("knn", **changes), tmp_path / "knn")
    (reasons,) = results["unreadable"].values()
    ((name, reason),) = reasons.items()
    assert name.endswith(broken.name) and "cannot identify image file" in reason
    assert "1 of the 6 images of" in capsys.readouterr().out
    # Not kept: the file is whole the next time.
    broken.write_bytes(whole)
    again = evaluate(config_of("knn", **changes | {"seed": 8}), tmp_path / "again")
    assert "unreadable" not in again


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("knn", {"neighbours": (2,), "reported_neighbours": 2}),
        ("linear", {"train_batch_size": 8}),
        ("finetune", {"recipe.batch_size": 8, "recipe.epochs": 10.0, "recipe.warmup_epochs": 1.0}),
    ],
)
def test_a_class_that_cannot_be_read_is_missing(config_of, tmp_path, task, changes):
    """Names and folders are there; only reading the images tells. Nothing is trained before."""
    images = image_folder(tmp_path / "images", train=8, val=6)
    for picture in (images / "val" / "dark").iterdir():
        picture.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"no image of 1 class\(es\) .* \(dark\)"):
        evaluate(config_of(task, **changes | {"data.path": str(images)}), tmp_path / "it")
    assert not list((tmp_path / "it").glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("task", "key", "value", "words"),
    [
        ("knn", "batch_size", 0, "batch_size=0 must be at least 1."),
        ("knn", "temperature", 0.0, "temperature=0.0 must be above 0."),
        ("few_label", "draws", 0, "draws=0 must be at least 1."),
        ("few_label", "budgets", (), "budgets is empty"),
        ("linear", "rate_factors", (1.0, float("nan")), "must each be above 0."),
        ("linear", "rate_factors", (), "rate_factors is empty"),
        ("health", "images", 1, "images=1 must be at least 2."),
    ],
)
def test_numbers_that_cannot_be(config_of, task, key, value, words):
    changes = {"train_batch_size": 16} if task == "linear" else {}
    with pytest.raises(UserError) as error:
        evaluate(config_of(task, **changes | {key: value}), None)
    assert words in str(error.value)


def test_few_labels(config_of):
    for wrong in ("many", 0):
        with pytest.raises(UserError, match="must be a share such as 1% or a number"):
            evaluate(config_of("few_label", budgets=(wrong,)), None)
    results = evaluate(config_of("few_label", budgets=("50%", "3"), draws=2), None)
    assert set(results["metrics"]) == {"50%", "3"}
    assert results["value"] == results["metrics"]["50%"]["logistic"]["mean"] > 0.5
    assert results["metrics"]["50%"]["labels"] == 16


@pytest.fixture
def short_probe():
    return {"epochs": 4, "train_batch_size": 16, "rate_factors": (1.0, 100.0), "seeds": 2}


def test_linear_probe_resumes_exactly(config_of, short_probe, alike, tmp_path, monkeypatch, capsys):
    """SIGTERM in the fifth step of eight, the first of the third epoch."""
    short_probe = short_probe | alike
    whole = evaluate(config_of("linear", **short_probe), tmp_path / "whole")
    assert whole["protocol"] == "linear_dino" and "last_4" in whole["formula"]
    assert "best of 2 learning rates" in whole["formula"]
    assert len(whole["metrics"]["top1_by_epoch"]) == 4
    to_host = linear_evaluation._to_host

    def to_host_and_stop(images, step, metrics):
        if step == 4:
            signal.raise_signal(signal.SIGTERM)
        return to_host(images, step, metrics)

    every_step = config_of("linear", **short_probe | {"log_every_steps": 1})
    with monkeypatch.context() as patch:
        patch.setattr(linear_evaluation, "_to_host", to_host_and_stop)
        with pytest.raises(Stopped):
            evaluate(every_step, tmp_path / "stopped")
    assert "Stopped and saved at step 5" in capsys.readouterr().out
    resumed = evaluate(every_step, tmp_path / "stopped")
    assert "Resumed at step 5." in capsys.readouterr().out
    assert resumed["metrics"] == whole["metrics"]
    # Heads and moments to the bit: accuracies of a few images could agree by chance.
    assert final_state(tmp_path / "stopped") == final_state(tmp_path / "whole")
    shown = [row["val/top1"] for row in rows(tmp_path / "stopped")]
    assert shown[0] == 0 and shown[-1] >= whole["metrics"]["last"]["top1"]  # that of the best head


def final_state(folder):
    """Fingerprint of what the eighth step of a probe left."""
    return json.loads((folder / "checkpoints/8/about/metadata").read_text())["sha256"]


@pytest.mark.slow
def test_linear_probe_on_one_device_is_that_on_eight(config_of, short_probe, tmp_path):
    """Kernels and biases of the heads, and what they get right."""
    numbers, heads = [], []
    for devices in (1, 8):
        changes = short_probe | {"devices": devices, "protocol": "mae", "epochs": 10}
        folder = tmp_path / str(devices) / "linear"  # and features of its own beside it
        numbers.append(evaluate(config_of("linear", **changes), folder)["metrics"])
        heads.append(saved_heads(folder))
    for one, eight in zip(*map(jax.tree.leaves, heads), strict=True):
        np.testing.assert_allclose(one, eight, rtol=1e-4, atol=1e-5 * np.abs(one).max())
    one_image = 1.01 / 11
    assert numbers[0]["top1_by_epoch"] == pytest.approx(numbers[1]["top1_by_epoch"], abs=one_image)


def saved_heads(folder):
    """{"kernel", "bias"} of the newest checkpoint of a probe."""
    newest = max(folder.glob("checkpoints/*"), key=lambda path: int(path.name))
    restored = ocp.PyTreeCheckpointer().restore(newest / "state")
    return restored["heads"]


def test_linear_probe_mistakes(config_of):
    def told(**changes):
        with pytest.raises(UserError) as error:
            evaluate(config_of("linear", **changes), None)
        return str(error.value)

    assert "batches of 1024 and there are 32 images" in told()
    assert "cannot be split over 8 devices" in told(train_batch_size=12)
    assert "protocol='dinov2' must be one of dino, moco_v3" in told(protocol="dinov2")
    assert "seeds=0 must be at least 1" in told(train_batch_size=16, seeds=0)
    assert "warms up for 10 epochs and epochs=5" in told(
        protocol="mae", train_batch_size=16, epochs=5
    )


# Eleven of thirteen images, in batches and on devices that do not divide them.
HEALTH = {"images": 11, "batch_size": 8, "spectrum_values": 5}


def test_health(config_of, alike):
    results = evaluate(config_of("health", **HEALTH | alike), None)
    numbers = results["metrics"]
    assert numbers["images"] == 11 and numbers["width"] == 128
    assert results["value"] == numbers["effective_rank"] > 1
    assert set(numbers["retrieval"]) >= {"recall@1", "mean_average_precision"}
    assert numbers["alignment"] > 0 > numbers["uniformity"]
    assert len(numbers["blocks"]) == 4
    for block in numbers["blocks"]:
        assert len(block["spectrum"]) == 5
        assert 0.5 < sum(block["spectrum"]) <= 1.0001


@pytest.mark.slow
def test_health_on_one_device_is_that_on_eight(config_of, alike, tmp_path):
    """The other one is that of ``test_health``, and where that has run it is not made again."""
    eight = evaluate(config_of("health", **HEALTH | alike), None)["metrics"]
    changes = HEALTH | alike | {"devices": 1, "batch_size": 5}
    one = evaluate(config_of("health", **changes), tmp_path / "health")["metrics"]
    for name in ("feature_std", "effective_rank", "alignment", "uniformity"):
        assert one[name] == pytest.approx(eight[name], rel=1e-3), name
    assert one["alignment"] == pytest.approx(eight["alignment"], rel=1e-5)
    assert one["retrieval"] == pytest.approx(eight["retrieval"], rel=1e-6)
    assert 0.5 < one["retrieval"]["mean_average_precision"] < 1
    for block, other in zip(one["blocks"], eight["blocks"], strict=True):
        assert block["spectrum"] == pytest.approx(other["spectrum"], rel=1e-3)


def test_health_needs_no_labels(config_of, tmp_path):
    pictures = image_folder(tmp_path / "a") / "train" / "dark"
    results = evaluate(config_of("health", **{"data.path": str(pictures), "batch_size": 8}), None)
    assert "retrieval" not in results["metrics"]
    assert results["data"]["val"] == results["data"]["train"]


def test_table(run, config_of, tmp_path, capsys, measure_nothing):
    shutil.copytree(run, tmp_path / "second", ignore=shutil.ignore_patterns("eval"))
    config = config_of("table")
    config.runs = f"{run},{tmp_path}/*"
    config.cells, config.weights = ("knn", "few_label"), ("auto", "random")
    config.knn.update({"neighbours": (5,), "reported_neighbours": 5})
    config.few_label.update({"budgets": ("50%",), "draws": 2})
    tabulate(config, tmp_path / "table")
    lines = (tmp_path / "table" / "table.md").read_text().splitlines()
    assert lines[0] == "| run | method | weights | step | knn | few_label |"
    names = [line.split(" | ")[:4] for line in lines[2:6]]
    assert names == [
        [f"| {name}", "dino", weights, step]
        for name in ("dino", "second")
        for weights, step in (("target", "3"), ("random", "0"))
    ]
    assert lines[2].count("+-") == 1
    assert any(line.startswith("knn, dino_knn: argmax over classes") for line in lines)
    with open(tmp_path / "table" / "table.csv") as file:
        rows = list(csv.DictReader(file))
    (path,) = run.glob("eval/few_label-random-0-*/results.json")
    assert float(rows[1]["few_label/value"]) == json.loads(path.read_text())["value"]
    assert rows[0]["knn/protocol"] == "dino_knn" and rows[0]["knn/spread"] == ""
    measure_nothing()
    tabulate(config, tmp_path / "table")
    capsys.readouterr()


def test_a_table_goes_on_past_cells_that_cannot_be_made(run, config_of, tmp_path, capsys):
    config = config_of("table")
    config.runs, config.cells, config.weights = str(run), ("linear", "knn"), ("auto",)
    config.knn.update({"neighbours": (5,), "reported_neighbours": 5})
    told = r"1 cells could not be made. dino \(auto\), linear: Protocol dino"
    with pytest.raises(UserError, match=told):
        tabulate(config, tmp_path)
    (row,) = (tmp_path / "table.md").read_text().splitlines()[2:3]
    linear, knn = row.split(" | ")[4:]
    assert linear == "" and float(knn.strip("| ")) > 50
    assert not {"checkpoint", "weights", "workdir", "task"} & set(config.linear)


def test_table_mistakes(run, config_of, tmp_path):
    config = config_of("table")
    config.runs = str(tmp_path / "*")
    with pytest.raises(UserError, match="matches no folder with checkpoints"):
        tabulate(config, tmp_path)
    config.runs, config.cells = str(run), ("knn", "colour")
    with pytest.raises(UserError, match="'colour' must be one of knn, few_label, linear, fine"):
        tabulate(config, tmp_path)


def test_the_command(run, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    knn = "--config=configs/eval/knn.py"
    assert command(knn) == 2
    assert "set --config.checkpoint=" in capsys.readouterr().err
    assert command(knn, f"--config.checkpoint={run}", "--explain") == 2
    assert "--explain is for training" in capsys.readouterr().err
    data = [f"--config.data.path={run.parent / 'images'}", "--config.data.source=folder"]
    arguments = [knn, f"--config.checkpoint={run}", *data, "--config.neighbours=(5,3)"]
    assert command(*arguments) == 2
    assert "reported_neighbours=20 must be one of" in capsys.readouterr().err
    arguments += ["--config.reported_neighbours=3", f"--workdir={tmp_path / 'there'}"]
    assert command(*arguments) == 0
    assert np.isfinite(json.loads((tmp_path / "there" / "results.json").read_text())["value"])

"""That an evaluation measures with the numbers of its config: what it hands to its parts.

A number that is lost on the way still gives an accuracy, and a good one. Nothing is trained or
encoded here: whatever an evaluation calls last is replaced by something that notes its arguments.
"""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from evaluation_configs import config_name
from tiny import saved_run
from whole_runs import image_folder

from repre_jax import evaluate as story
from repre_jax.config_files import read_config
from repre_jax.errors import UserError
from repre_jax.evaluate import evaluate
from repre_jax.evaluation import TASKS, few_label, health, knn, online
from repre_jax.evaluation import task as task_module
from repre_jax.evaluation.checkpoint import open_pretrained
from repre_jax.evaluation.features import Features
from repre_jax.evaluation.finetune import measure as finetune
from repre_jax.evaluation.images import fill_in_data
from repre_jax.evaluation.linear import measure as linear_evaluation
from repre_jax.evaluation.linear.protocols import LINEAR_PROTOCOLS
from repre_jax.evaluation.online import OnlineEvaluation
from repre_jax.evaluation.task import Evaluation
from repre_jax.methods.method import EvaluationDefaults
from repre_jax.schedules import Clock
from repre_jax.sharding import make_mesh

IMAGES, BATCH = 32, 16


class Enough(Exception):
    """What a test wanted to see has been seen."""


class Noted:
    """Stands in for a function; notes the arguments of its one call, which goes no further."""

    def __call__(self, *arguments, **options):
        self.arguments, self.options = arguments, options
        raise Enough


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A DINO run with random parameters, whose protocol is DINO's, and images of two classes."""
    root = tmp_path_factory.mktemp("settings")
    saved_run(root / "run", "dino", steps=(3,))
    image_folder(root / "images", train=IMAGES, val=11)
    return root


@pytest.fixture
def noted(root, tmp_path, monkeypatch):
    """Function: what a function of a module is called with in an evaluation with these changes."""

    def run(module, name, task, **changes):
        folder = tmp_path / name / task / "-".join(map(str, changes.values()))
        with monkeypatch.context() as patch:
            spy = Noted()
            patch.setattr(module, name, spy)
            with pytest.raises(Enough):
                evaluate(config_of(root, task, **changes), folder)
        return spy

    return run


def config_of(root, task, **changes):
    """The config of a task on the run and the images in ``root``, with changed keys."""
    config = read_config(f"eval/{task}")
    config.checkpoint = str(root / "run")
    config.data.update({"source": "folder", "path": str(root / "images")})
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture
def made_features(monkeypatch):
    """Features of training and validation images that no encoder has made."""
    rng = np.random.default_rng(0)
    made = [
        Features(
            rng.normal(size=(count, 128)).astype(np.float32),
            (np.arange(count) % 2).astype(np.int32),
            np.arange(count, dtype=np.int32),
        )
        for count in (IMAGES, 11)
    ]

    def features_of(evaluation, source, *_):
        return made[source.description == evaluation.val.description]

    monkeypatch.setattr(Evaluation, "features_of", features_of)
    return made


def assert_given(spy, made):
    """That the function was called with features and labels of both sets."""
    for given, expected in zip(spy.arguments, (*made[0][:2], *made[1][:2]), strict=True):
        np.testing.assert_array_equal(given, expected)


def test_knn(noted, made_features):
    asked = {"neighbours": (7, 3), "reported_neighbours": 3, "temperature": 0.2}
    spy = noted(knn, "knn_accuracies", "knn", devices=2, **asked)
    assert_given(spy, made_features)
    assert spy.options.pop("mesh").size == 2
    assert spy.options == {"neighbours": (7, 3), "temperature": 0.2, "num_classes": 2}


def test_few_label(noted, made_features):
    asked = {"draws": 2, "seed": 5, "neighbours": 7, "temperature": 0.2, "strength": 0.5}
    spy = noted(few_label, "few_label_scores", "few_label", devices=2, budgets=(4,), **asked)
    assert_given(spy, made_features)
    assert spy.options.pop("mesh").size == 2
    assert spy.options == asked | {"budget": "4"}


@pytest.mark.parametrize("name", LINEAR_PROTOCOLS)
def test_linear_probe(noted, name):
    """Rates are those at a batch of 256, scaled to the batch and times the factors."""
    asked = {"epochs": 12, "rate_factors": (1.0, 10.0), "seeds": 2, "seed": 5}
    asked |= {"protocol": name, "train_batch_size": BATCH}
    probe = noted(linear_evaluation, "LinearProbe", "linear", **asked).options
    peak = LINEAR_PROTOCOLS[name].learning_rate * BATCH / 256
    assert probe["learning_rates"] == pytest.approx((peak, 10 * peak))
    assert probe["protocol"] is LINEAR_PROTOCOLS[name]
    assert probe["clock"] == Clock(IMAGES // BATCH, 12 * (IMAGES // BATCH))
    assert (probe["classes"], probe["seeds"], probe["seed"]) == (2, 2, 5)


def test_linear_probe_with_the_numbers_of_its_protocol(noted):
    probe = noted(linear_evaluation, "LinearProbe", "linear", train_batch_size=BATCH).options
    assert probe["clock"].total_steps == LINEAR_PROTOCOLS["dino"].epochs * (IMAGES // BATCH)
    assert probe["learning_rates"] == (LINEAR_PROTOCOLS["dino"].learning_rate * BATCH / 256,)


def test_training_crops_of_a_linear_probe(noted, made_features):
    """BYOL's, which differ from the usual ones most."""
    del made_features
    asked = {"protocol": "byol", "train_batch_size": BATCH, "epochs": 3, "seed": 5}
    spy = noted(linear_evaluation, "training_batches", "linear", **asked)
    _, views = spy.arguments
    assert views == LINEAR_PROTOCOLS["byol"].views
    assert (
        spy.options.items()
        >= {
            "image_size": 16,
            "batch_size": BATCH,
            "seed": 5,
            "start_step": 0,
            "total_steps": 3 * (IMAGES // BATCH),
        }.items()
    )


@pytest.mark.parametrize(
    ("task", "protocol", "interpolation"),
    [
        ("knn", None, "bicubic"),
        ("few_label", None, "bicubic"),
        ("health", None, "bicubic"),
        *(("linear", name, LINEAR_PROTOCOLS[name].interpolation) for name in LINEAR_PROTOCOLS),
    ],
)
def test_images_of_a_frozen_encoder(noted, task, protocol, interpolation):
    """Centre crops of 7 / 8, as many at a time as the devices share evenly."""
    changes = {"batch_size": 11, "devices": 4}
    if protocol:
        changes |= {"protocol": protocol, "train_batch_size": BATCH, "epochs": 12}
    options = noted(task_module, "evaluation_batches", task, **changes).options
    assert options["interpolation"] == interpolation
    assert (options["crop_ratio"], options["batch_size"], options["image_size"]) == (7 / 8, 12, 16)


def test_feature_of_a_linear_probe(noted):
    for name, feature in (("dino", "last_4"), ("moco_v3", "pooled")):
        changes = {"protocol": name, "train_batch_size": BATCH}
        spy = noted(task_module, "encode_pixels", "linear", **changes)
        encoder, asked, _ = spy.arguments
        assert (encoder.width, asked) == (128, feature)


@pytest.fixture
def method_of_mean_tokens(monkeypatch):
    """DINO as a method whose encoders are evaluated by MAE's protocols and the mean of tokens."""
    defaults = EvaluationDefaults(feature="mean", linear="mae", finetune="mae")

    def opened(*arguments, **options):
        return dataclasses.replace(open_pretrained(*arguments, **options), defaults=defaults)

    monkeypatch.setattr(story, "open_pretrained", opened)


@pytest.mark.parametrize("task", ["knn", "few_label", "health"])
def test_feature_is_the_methods_or_the_one_asked_for(noted, task, method_of_mean_tokens):
    del method_of_mean_tokens
    for changes, feature in (({}, "mean"), ({"feature": "pooled"}, "pooled")):
        _, asked, _ = noted(task_module, "encode_pixels", task, **changes).arguments
        assert asked == feature


def test_feature_of_a_probe_where_the_method_has_another_than_what_is_pooled(
    noted, method_of_mean_tokens
):
    del method_of_mean_tokens
    for protocol, feature in (("mae", "mean"), ("dino", "last_4")):
        changes = {"protocol": protocol, "train_batch_size": BATCH, "epochs": 12}
        _, asked, _ = noted(task_module, "encode_pixels", "linear", **changes).arguments
        assert asked == feature


def test_health_is_all_of_one_feature(noted, made_features):
    """Views and blocks, which are not encoded with the images that the other metrics are of."""
    del made_features
    asked = {"feature": "mean", "images": 11, "devices": 1, "batch_size": 11}
    assert noted(health, "frozen_features", "health", **asked).arguments[-1] == "mean"
    assert noted(health, "block_features", "health", **asked).arguments[-1] == "mean"


def test_a_feature_that_there_is_not(root, tmp_path):
    with pytest.raises(UserError, match="feature='last' must be one of pooled, mean, last_4"):
        evaluate(config_of(root, "knn", feature="last"), tmp_path)


def test_feature_while_training(root, monkeypatch):
    """The online evaluation's is pooled unless it is told otherwise."""
    pretrained = open_pretrained(root / "run")
    source = SimpleNamespace(class_count=2)
    for options, feature in (({}, "pooled"), ({"feature": "mean"}, "mean")):
        spy = Noted()
        monkeypatch.setattr(online, "encode_pixels", spy)
        with pytest.raises(Enough):
            OnlineEvaluation(
                pretrained.encoder, source, source, pretrained.config, make_mesh(1), **options
            )
        assert spy.arguments == (pretrained.encoder, feature, make_mesh(1))


def test_protocol_is_the_methods_or_the_one_asked_for(noted, method_of_mean_tokens):
    del method_of_mean_tokens
    changes = {"train_batch_size": BATCH, "epochs": 12}
    for asked, expected in (("", "mae"), ("byol", "byol")):
        spy = noted(linear_evaluation, "LinearProbe", "linear", protocol=asked, **changes)
        protocol = dataclasses.replace(LINEAR_PROTOCOLS[expected], feature="mean")
        assert spy.options["protocol"] == protocol
    changes = {"recipe.batch_size": BATCH}
    for asked, expected in (("", "mae"), ("simmim", "simmim")):
        spy = noted(finetune, "published_recipe", "finetune", protocol=asked, **changes)
        assert spy.arguments == (expected, "vit_nano")


def test_images_of_another_source_take_no_path_and_no_labels_of_the_run():
    of_the_run = read_config("my_images").data
    of_the_run.update({"path": "/images", "labels": "labels.csv", "workers": 3})
    data = read_config("eval/knn").data
    data.source = "tar"
    fill_in_data(data, of_the_run)
    assert (data.path, data.labels, data.workers) == ("", "auto", 3)


@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if task.own_data])
def test_values_with_a_range_are_not_read_as_pictures(root, tmp_path, task):
    """Their black and white are not those of pictures of 8 bits."""
    run = shutil.copytree(root / "run", tmp_path / "run")
    saved = json.loads((run / "config.json").read_text())
    saved["data"]["range"] = (0, 4095)
    (run / "config.json").write_text(json.dumps(saved))
    config = read_config(config_name(task))
    config.checkpoint = str(run)
    with pytest.raises(UserError, match=r"trained on values from 0 to 4095 \(data.range\)"):
        evaluate(config, None)

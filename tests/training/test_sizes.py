"""Sizes by rule: where they come from a measured recipe, what bounds them, what the user sets."""

import pytest

from repre_jax.config_files import carried, read_config
from repre_jax.training.explain import flat_keys
from repre_jax.training.learner import build_learner
from repre_jax.training.resolution import resolve
from repre_jax.training.sizes import choose_compute_dtype, choose_sizes, settle


def chosen(images, devices=1, on_cpu=False, before=None, **given):
    """(config, {key: why}) of my_images."""
    config = read_config("my_images")
    config.update_from_flattened_dict(given)
    choices = choose_sizes(config, images=images, devices=devices, on_cpu=on_cpu, before=before)
    return config, {choice.key: choice.why for choice in choices}


def test_on_a_cpu_imagenette_gets_the_recipe_that_was_measured_on_it():
    config, why = chosen(9469, on_cpu=True)
    measured = flat_keys(read_config("imagenette_dino"))
    found = flat_keys(config)
    assert {key for key in found if found[key] != measured[key]} == {"data.cache_size"}
    assert {"train.batch_size", "train.epochs", "method.prototypes", "method.momentum"} < why.keys()


def test_many_images_on_eight_accelerators_get_the_paper():
    config, _ = chosen(1_281_167, devices=8)
    assert (config.train.batch_size, config.train.epochs) == (512, 100)
    assert config.method.prototypes == 65_536
    assert config.method.momentum == 0.998  # 0.996 at 1,024 images a step
    assert config.method.teacher_temperature_start == 0.04
    assert config.method.teacher_temperature == 0.07
    assert config.method.teacher_temperature_warmup_epochs == 30


@pytest.mark.parametrize("devices", [1, 3, 8])
@pytest.mark.parametrize("images", [40, 700, 20_000])
@pytest.mark.parametrize("on_cpu", [True, False])
def test_sizes_fit_few_images_and_any_devices(images, devices, on_cpu):
    config, _ = chosen(images, devices, on_cpu)
    run = resolve(config, images=images, devices=devices)
    assert run.clock.total_steps >= 100 and run.remarks == []
    assert config.method.prototypes <= max(256, 4 * images)
    assert 0.5 <= config.method.momentum < 1


def test_what_the_user_sets_stays_and_the_rest_follows():
    config, why = chosen(9469, **{"train.batch_size": 32, "train.steps": 10_000})
    assert "train.batch_size" not in why
    assert config.train.batch_size == 32
    assert config.method.momentum == pytest.approx(1 - 37 / 10_000, abs=1e-4)


def test_a_run_that_goes_on_keeps_its_sizes_on_other_devices():
    began, _ = chosen(9469, devices=1)
    went_on, why = chosen(9469, devices=8, before=began.to_dict())
    assert went_on.to_dict() == began.to_dict()
    assert set(why.values()) == {"as the run began"}


def test_other_configs_leave_nothing_open():
    for name in carried():
        config = read_config(name)
        if config.task == "pretrain" and name != "my_images":
            before = config.to_dict()
            assert not choose_sizes(config, images=1000, devices=1, on_cpu=True), name
            assert config.to_dict() == before


@pytest.mark.parametrize("method", ["simclr", "moco_v2", "simsiam"])
def test_recipes_as_published_leave_nothing_open_and_start(method):
    """A head as wide as the encoder, which is None, is a size of theirs."""
    config = read_config(f"{method}_vits:official")
    settle(config, images=20_000, devices=1, on_cpu=False, before=None)
    assert config.method.hidden is None
    resolution, choices = settle(config, images=20_000, devices=1, on_cpu=False, before=None)
    assert not choices and all(value is None for value in config.views.values())
    build_learner(config, resolution)


@pytest.mark.parametrize(("images", "devices", "accumulate"), [(128, 1, 16), (9469, 48, 3)])
def test_a_batch_by_rule_can_be_split(images, devices, accumulate):
    config, _ = chosen(images, devices, **{"train.accumulate": accumulate})
    assert config.train.batch_size % (devices * accumulate) == 0
    assert config.train.batch_size <= 1024


def test_a_run_keeps_its_compute_dtype_on_other_devices():
    for before, on_cpu, dtype in [
        (None, True, "float32"),
        (None, False, "bfloat16"),
        ({"train": {"compute_dtype": "float32"}}, False, "float32"),
        ({"train": {"compute_dtype": "bfloat16"}}, True, "bfloat16"),
        ({"task": "of something else"}, True, "float32"),
    ]:
        config = read_config("dino_vits")
        choose_compute_dtype(config, on_cpu=on_cpu, before=before)
        assert config.train.compute_dtype == dtype
    config.train.compute_dtype = "bfloat16"
    assert not choose_compute_dtype(config, on_cpu=True)
    assert config.train.compute_dtype == "bfloat16", "given"

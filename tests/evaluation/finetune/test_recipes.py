"""The published numbers of fine-tuning once more, and how a changed recipe is told."""

import dataclasses

import pytest

from repre_jax.errors import UserError
from repre_jax.evaluation.finetune.recipes import (
    RANGES,
    RECIPES,
    FinetuneRecipe,
    described,
    protocol_of_backbone,
    published_recipe,
    with_changes,
)
from repre_jax.models import BACKBONES

# (protocol, encoder) -> pooling, deviation of the head, epochs, batch, peak rate at that batch,
# warm-up, weight decay, layer decay, clipping, drop path, moving average.
PUBLISHED = {
    ("mae", "vit_base"): ("tokens", 2e-5, 100, 1024, 2e-3, 5, 0.05, 0.65, 0, 0.1, 0),
    ("mae", "vit_large"): ("tokens", 2e-5, 50, 1024, 4e-3, 5, 0.05, 0.75, 0, 0.2, 0),
    ("moco_v3", "vit_base"): ("pooled", 0.02, 150, 1024, 1e-3, 5, 0.05, 1, 0, 0.1, 0.99996),
    ("simmim", "swin_base"): ("pooled", 0.02, 100, 2048, 5e-3, 20, 0.05, 0.9, 5, 0.1, 0),
    ("simmim", "vit_base"): ("tokens", 2e-5, 100, 2048, 5e-3, 20, 0.05, 0.65, 5, 0.1, 0),
}


@pytest.mark.parametrize(("protocol", "model"), PUBLISHED)
def test_published_numbers(protocol, model):
    r = published_recipe(protocol, model)
    peak = pytest.approx(r.learning_rate * r.batch_size / 256)
    found = (r.pooling, r.head_deviation, r.epochs, r.batch_size, peak, r.warmup_epochs)
    found += (r.weight_decay, r.layer_decay, r.clip_global, r.drop_path, r.average_decay)
    assert found == PUBLISHED[protocol, model]
    # timm's augmentation in all of them: RandAugment m9 mstd0.5, erasing, mixup, CutMix.
    assert (r.rand_augment, r.rand_augment_magnitude, r.rand_augment_deviation) == (2, 9, 0.5)
    assert (r.erasing_probability, r.mixup, r.cutmix, r.label_smoothing) == (0.25, 0.8, 1.0, 0.1)
    assert (r.mix_probability, r.mix_switch, r.crop_scale) == (1.0, 0.5, (0.08, 1.0))


def test_ends_of_the_learning_rate():
    ends = {
        name: (r.start_learning_rate, r.end_learning_rate, r.scale_ends, r.schedule)
        for name, r in RECIPES.items()
    }
    assert ends["mae"] == (0, 1e-6, False, "moco_v3")
    assert ends["moco_v3"] == (1e-6, 1e-5, False, "deit")
    assert ends["simmim"] == (1.25e-7, 1.25e-7, True, "moby")  # 2.5e-7 at a batch of 512


@pytest.mark.parametrize("model", BACKBONES)
def test_every_encoder_has_a_recipe_of_every_protocol(model):
    assert protocol_of_backbone(model) in RECIPES
    for protocol in RECIPES:
        assert with_changes(published_recipe(protocol, model), {}) == published_recipe(
            protocol, model
        )


def test_recipe_of_contrastive_pre_training():
    found = {model: protocol_of_backbone(model) for model in ("vit_base", "swin_tiny")}
    assert found == {"vit_base": "moco_v3", "swin_tiny": "simmim"}


def test_every_number_of_a_recipe_has_a_range():
    numbers = {
        f"recipe.{field.name}"
        for field in dataclasses.fields(FinetuneRecipe)
        if not isinstance(field.default, (str, bool))
    }
    assert set(RANGES) == numbers


def test_what_was_changed_is_told():
    mae = RECIPES["mae"]
    assert "changed from" not in described(mae, mae)
    told = described(with_changes(mae, {"mix_probability": 0.5, "epochs": 30.0}), mae)
    assert told.endswith(
        "; changed from the published recipe: epochs=30.0 for 100.0, mix_probability=0.5 for 1.0"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pooling": "max"}, "recipe.pooling='max' must be one of tokens, pooled."),
        ({"schedule": "step"}, "recipe.schedule='step' must be one of"),
        ({"drop_path": 1.0}, "recipe.drop_path=1.0 must be at least 0 and below 1."),
        ({"epochs": 0.0}, "recipe.epochs=0.0 must be above 0."),
        ({"crop_scale": (0.5, 0.1)}, "must rise"),
        ({"crop_scale": (2.0, 3.0)}, "must each be above 0 and at most 1."),
        ({"mixup": -1.0}, "recipe.mixup=-1.0 must be at least 0."),
        ({"epochs": 2.0}, "the learning rate would never reach its peak"),
    ],
)
def test_wrong_numbers(changes, words):
    with pytest.raises(UserError) as error:
        with_changes(RECIPES["mae"], changes)
    assert words in str(error.value)


def test_what_is_not_given_stays():
    recipe = with_changes(RECIPES["mae"], {"drop_path": 0.3, "mixup": None})
    assert (recipe.drop_path, recipe.mixup) == (0.3, 0.8)

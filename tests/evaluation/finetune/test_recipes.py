"""Which recipe an encoder gets, which numbers it may have, and how a changed one is told."""

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
        ({"crop_scale": (0.5, 0.1)}, "numbers that rise"),
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

"""The numbers of fine-tuning as the papers do it, by name.

mae      facebookresearch/mae, main_finetune.py and FINETUNE.md (ViT-B, and ViT-L and ViT-H in their
         own numbers): mean of the patch tokens, its own norm, layer-wise decay. LoMaR's is the same
         (junchen14/LoMaR, main_finetune_lomar.py), its relative positions at attention over the
         whole image.
moco_v3  facebookresearch/moco-v3, README ("all the default DeiT configs", ViT-B for 150 epochs), so
         facebookresearch/deit, main.py: class token, one learning rate for all layers, a moving
         average besides. DeiT's repeated augmentation is left out.
simmim   microsoft/SimMIM, main_finetune.py, config.py, simmim_finetune__swin_base__*.yaml and, for
         ViT, simmim_finetune__vit_base__*.yaml and models/vision_transformer.py.

All of them use timm's augmentation: crop, flip, RandAugment, random erasing, mixup or CutMix.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from repre_jax.data.device.mixing import MixRecipe
from repre_jax.data.host.crops import CENTRE_CROP
from repre_jax.data.recipes import RandAugment, ViewRecipe
from repre_jax.errors import UserError
from repre_jax.evaluation.recipes import departures, for_model, replaced
from repre_jax.models import VIT_SIZES
from repre_jax.ranges import (
    AT_LEAST_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_SHARE,
    SHARE,
    SHARE_BELOW_ONE,
    Range,
)
from repre_jax.schedules import LEARNING_RATE_SCHEDULES

POOLINGS = ("tokens", "pooled")


@dataclasses.dataclass(frozen=True)
class FinetuneRecipe:
    """Numbers of one fine-tuning.

    Attributes:
      pooling: "tokens", the mean of the last block's patch tokens under a new norm, or "pooled",
        what the encoder returns: ViT's class token or Swin's mean, after the final norm.
      head_deviation: of the classifier's initial weights.
      epochs: length; may be a fraction.
      batch_size: images a step, over all devices.
      learning_rate: of the last layer, at a batch of 256, scaled linearly.
      start_learning_rate: of the warm-up.
      end_learning_rate: at the end.
      scale_ends: start and end, too, are at a batch of 256, and scaled.
      schedule: of ``schedules.LEARNING_RATE_SCHEDULES``.
      warmup_epochs: length of the warm-up.
      weight_decay: of AdamW, on kernels.
      layer_decay: factor from a layer's learning rate to that of the layer below; 1 for none.
      clip_global: largest norm of the gradient; 0 for none.
      drop_path: of the last block.
      average_decay: of the moving average of all parameters, which is evaluated, too; 0 for none.
      crop_scale: area of a crop as a share of the image, (lowest, highest).
      interpolation: of the crop and of the validation images, "bicubic" or "bilinear".
      crop_ratio_above_224: share of the short side that validation keeps at larger images; 7/8 at
        224 pixels and below.
      flip_probability: horizontal flip.
      rand_augment: operators an image (each left out half of the time); 0 for no RandAugment.
      rand_augment_magnitude: their mean strength, of 10.
      rand_augment_deviation: standard deviation of that.
      erasing_probability: random erasing.
      mixup: alpha; 0 for none.
      cutmix: alpha; 0 for none.
      mix_probability: that a batch is mixed.
      mix_switch: probability of CutMix where both are on.
      label_smoothing: share of the target that all classes have together.
    """

    pooling: str = "tokens"
    head_deviation: float = 2e-5
    epochs: float = 100.0
    batch_size: int = 1024
    learning_rate: float = 5e-4
    start_learning_rate: float = 0.0
    end_learning_rate: float = 1e-6
    scale_ends: bool = False
    schedule: str = "moco_v3"  # MAE's util/lr_sched.py is the same
    warmup_epochs: float = 5.0
    weight_decay: float = 0.05
    layer_decay: float = 0.65
    clip_global: float = 0.0
    drop_path: float = 0.1
    average_decay: float = 0.0
    crop_scale: tuple[float, float] = (0.08, 1.0)
    interpolation: str = "bicubic"
    crop_ratio_above_224: float = 1.0  # util/datasets.py, build_transform
    flip_probability: float = 0.5
    rand_augment: int = 2
    rand_augment_magnitude: float = 9.0
    rand_augment_deviation: float = 0.5
    erasing_probability: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    mix_probability: float = 1.0
    mix_switch: float = 0.5
    label_smoothing: float = 0.1


def views_of(recipe: FinetuneRecipe) -> ViewRecipe:
    """One view: what happens to an image before it is erased and mixed."""
    operators = RandAugment(
        recipe.rand_augment, recipe.rand_augment_magnitude, recipe.rand_augment_deviation
    )
    return ViewRecipe(
        global_crops=1,
        crop_scale=recipe.crop_scale,
        interpolation=recipe.interpolation,
        rand_augment=operators if recipe.rand_augment else None,
        flip_probability=recipe.flip_probability,
        jitter_probability=0.0,
        grey_probability=0.0,
        blur_probability=(0.0,),
        solarise_probability=(0.0,),
    )


def mixing_of(recipe: FinetuneRecipe) -> MixRecipe:
    """What happens to a batch."""
    return MixRecipe(
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
        probability=recipe.mix_probability,
        switch=recipe.mix_switch,
        smoothing=recipe.label_smoothing,
    )


def described(recipe: FinetuneRecipe, published: FinetuneRecipe) -> str:
    """The recipe in a sentence, for the results, and what differs from the published one."""
    average = f", moving average {recipe.average_decay:g}" if recipe.average_decay else ""
    clip = f", clipped at {recipe.clip_global:g}" if recipe.clip_global else ""
    return (
        f"{recipe.epochs:g} epochs of AdamW at batch {recipe.batch_size}, learning rate "
        f"{recipe.learning_rate:g} x batch / 256 with {recipe.warmup_epochs:g} epochs of warm-up "
        f"and a cosine ({recipe.schedule}), layer decay {recipe.layer_decay:g}, weight decay "
        f"{recipe.weight_decay:g}{clip}; pooling {recipe.pooling}, drop path {recipe.drop_path:g}, "
        f"label smoothing {recipe.label_smoothing:g}, mixup {recipe.mixup:g}, CutMix "
        f"{recipe.cutmix:g}, RandAugment {recipe.rand_augment} x "
        f"{recipe.rand_augment_magnitude:g}, erasing {recipe.erasing_probability:g}{average}"
        f"{departures(recipe, published)}"
    )


RECIPES = {
    "mae": FinetuneRecipe(),
    "moco_v3": FinetuneRecipe(
        pooling="pooled",
        head_deviation=0.02,
        epochs=150.0,
        crop_ratio_above_224=CENTRE_CROP,
        learning_rate=2.5e-4,  # 5e-4 at 512
        start_learning_rate=1e-6,
        end_learning_rate=1e-5,
        schedule="deit",
        layer_decay=1.0,
        average_decay=0.99996,
    ),
    "simmim": FinetuneRecipe(
        pooling="pooled",
        head_deviation=0.02,
        batch_size=2048,
        crop_ratio_above_224=CENTRE_CROP,
        learning_rate=6.25e-4,  # 1.25e-3 at 512, as are the two ends
        start_learning_rate=1.25e-7,
        end_learning_rate=1.25e-7,
        scale_ends=True,
        schedule="moby",  # timm's CosineLRScheduler moved on behind the step, as there
        warmup_epochs=20.0,
        layer_decay=0.9,
        clip_global=5.0,
    ),
}


# What a recipe has for other encoders than the one of its numbers: ViT-B, and Swin in SimMIM.
_LARGE = {"epochs": 50.0, "learning_rate": 1e-3, "layer_decay": 0.75}
FOR_MODEL = {
    ("mae", "vit_large"): _LARGE | {"drop_path": 0.2},
    ("mae", "vit_huge"): _LARGE | {"drop_path": 0.3},
} | {
    # The head begins at 0.02 times 0.001.
    ("simmim", name): {"pooling": "tokens", "layer_decay": 0.65, "head_deviation": 2e-5}
    for name in VIT_SIZES
}


def protocol_of_backbone(model_name: str) -> str:
    """SimMIM's recipe for Swin, MoCo v3's for ViT: the one of contrastive pre-training."""
    return "simmim" if model_name.startswith("swin") else "moco_v3"


def published_recipe(protocol: str, model_name: str) -> FinetuneRecipe:
    """The protocol's recipe for an encoder; what has none of its own gets that of ViT-B or Swin.

    Args:
      protocol: a key of ``RECIPES``.
      model_name: a key of ``models.BACKBONES``.
    """
    return for_model(RECIPES, FOR_MODEL, protocol, model_name)


def with_changes(recipe: FinetuneRecipe, changes: Mapping[str, Any]) -> FinetuneRecipe:
    """The recipe with those fields replaced that ``changes`` sets.

    Args:
      recipe: of ``published_recipe``.
      changes: field -> value, None for the recipe's.

    Raises:
      UserError: a value that cannot be trained with.
    """
    recipe = replaced(recipe, changes, RANGES)
    choices = {
        "pooling": POOLINGS,
        "schedule": tuple(LEARNING_RATE_SCHEDULES),
        "interpolation": ("bicubic", "bilinear"),
    }
    for name, allowed in choices.items():
        if getattr(recipe, name) not in allowed:
            value = getattr(recipe, name)
            raise UserError(f"recipe.{name}={value!r} must be one of {', '.join(allowed)}.")
    if len(recipe.crop_scale) != 2 or recipe.crop_scale[0] > recipe.crop_scale[1]:
        raise UserError(f"recipe.crop_scale={recipe.crop_scale} must be two numbers that rise.")
    if recipe.warmup_epochs > recipe.epochs:
        raise UserError(
            f"recipe.warmup_epochs={recipe.warmup_epochs:g} is more than "
            f"recipe.epochs={recipe.epochs:g}: the learning rate would never reach its peak."
        )
    return recipe


RANGES = {
    f"recipe.{name}": allowed
    for name, allowed in {
        "head_deviation": NOT_NEGATIVE,
        "epochs": POSITIVE,
        "batch_size": AT_LEAST_ONE,
        "learning_rate": POSITIVE,
        "start_learning_rate": NOT_NEGATIVE,
        "end_learning_rate": NOT_NEGATIVE,
        "warmup_epochs": NOT_NEGATIVE,
        "weight_decay": NOT_NEGATIVE,
        "layer_decay": POSITIVE_SHARE,
        "clip_global": NOT_NEGATIVE,
        "drop_path": SHARE_BELOW_ONE,
        "average_decay": SHARE_BELOW_ONE,
        "crop_scale": POSITIVE_SHARE,
        "crop_ratio_above_224": POSITIVE_SHARE,
        "flip_probability": SHARE,
        "rand_augment": NOT_NEGATIVE,
        "rand_augment_magnitude": Range(0, 10),
        "rand_augment_deviation": NOT_NEGATIVE,
        "erasing_probability": SHARE,
        "mixup": NOT_NEGATIVE,
        "cutmix": NOT_NEGATIVE,
        "mix_probability": SHARE,
        "mix_switch": SHARE,
        "label_smoothing": SHARE_BELOW_ONE,
    }.items()
}

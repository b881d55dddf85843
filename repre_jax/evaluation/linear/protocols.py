"""Linear probes as the papers train them: feature, optimizer, schedule, augmentation.

A protocol is what a paper's own script does to a frozen encoder. Learning rates are at a batch of
256 and scale linearly, as in all of these scripts but MoCo v2's, which takes 30 as it is. Most
scripts report the best epoch on the validation set; here the last epoch is reported as well.
"""

import dataclasses

import jax.numpy as jnp

from repre_jax.data.recipes import ViewRecipe
from repre_jax.models import Swin
from repre_jax.models.layers import Initializer, haiku_default_kernel, nn
from repre_jax.schedules import (
    Clock,
    Schedule,
    WarmUp,
    warmup_cosine_moby,
    warmup_cosine_moco_v2,
    warmup_cosine_moco_v3,
)

_NORMAL_001 = nn.initializers.normal(0.01)


@dataclasses.dataclass(frozen=True)
class LinearProtocol:
    """How one paper trains a linear classifier on frozen features.

    Attributes:
      source: where the numbers stand.
      feature: of ``frozen.FEATURES``; "dino" for the one that DINO uses for the encoder at hand.
      optimizer: "sgd", "nesterov", "lars" (trust ratio of the matrix) or "larc" (of the bias, too).
      learning_rate: at a batch of 256.
      batch_size: of the script.
      epochs: of training.
      schedule: "cosine_by_epoch", "cosine_by_step", "steps" (x 0.1 at 60 % and 80 %) or "moby".
      warmup_epochs: linear, by step.
      weight_decay: added to the gradient.
      clip: largest norm of the head's gradient, 0 for none.
      label_smoothing: share of the target spread over all classes.
      batch_norm: features pass through BatchNorm without affine parameters first.
      initialiser: of the kernel; biases start at zero.
      drop_path: the frozen encoder runs in training mode with this rate while the head is trained.
      crop_interpolation: of the training crops.
      interpolation: of the validation images' resizing.
      clamp_crop: crops larger than the image are clamped, not drawn again.
    """

    source: str
    feature: str = "pooled"
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    batch_size: int = 1024
    epochs: int = 90
    schedule: str = "cosine_by_epoch"
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    clip: float = 0.0
    label_smoothing: float = 0.0
    batch_norm: bool = False
    initialiser: Initializer = _NORMAL_001
    drop_path: float = 0.0
    crop_interpolation: str = "bilinear"
    interpolation: str = "bilinear"
    clamp_crop: bool = False

    @property
    def views(self) -> ViewRecipe:
        """One random crop of 8 % to 100 % of the image, flipped half the time; nothing else."""
        return ViewRecipe(
            global_crops=1,
            crop_scale=(0.08, 1.0),
            interpolation=self.crop_interpolation,
            clamp_crop=self.clamp_crop,
            jitter_probability=0.0,
            grey_probability=0.0,
            blur_probability=(0.0,),
            solarise_probability=(0.0,),
        )

    def schedule_of(self, clock: Clock) -> Schedule:
        """Share of the peak learning rate at each step of a run of this length."""
        warm_up = WarmUp(steps=clock.steps(self.warmup_epochs))
        if self.schedule == "cosine_by_epoch":
            return warmup_cosine_moco_v2(1.0, clock, warm_up)
        if self.schedule == "cosine_by_step":
            return warmup_cosine_moco_v3(1.0, clock, warm_up)
        if self.schedule == "moby":
            # config.py: WARMUP_LR 5e-7, MIN_LR 5e-6, at a base rate of 1 and scaled with it.
            warm_up = dataclasses.replace(warm_up, start=5e-7, end=5e-6)
            return warmup_cosine_moby(1.0, clock, warm_up)

        def steps(step):
            # Fifths of the run, in integers: XLA's quotients may fall below 0.6 at 60 %.
            fifths = clock.epoch(step) * clock.steps_per_epoch * 5 // clock.total_steps
            return jnp.where(fifths < 3, 1.0, jnp.where(fifths < 4, 0.1, 0.01))

        return steps

    def feature_of(self, encoder: nn.Module) -> str:
        """The feature for an encoder.

        DINO's eval_linear.py: four class tokens for small ViTs, class token and mean patch for
        ViT-B. EsViT evaluates Swin as DINO the small ViTs.
        """
        if self.feature != "dino":
            return self.feature
        large = encoder.width >= 768 and not isinstance(encoder, Swin)
        return "class_and_mean" if large else "last_4"

    def in_words(self, feature: str, batch_size: int, epochs: int) -> str:
        """One line for ``results.json``."""
        parts = [
            f"linear layer on {feature}" + (" after BatchNorm without affine" * self.batch_norm),
            f"{self.optimizer}, momentum 0.9, weight decay {self.weight_decay:g}",
            f"learning rate {self.learning_rate:g} x {batch_size} / 256, {self.schedule}, "
            f"warm-up {self.warmup_epochs:g} epochs",
            f"{epochs} epochs, random-resized-crop 0.08-1 ({self.crop_interpolation}) and flip",
        ]
        if self.label_smoothing:
            parts.append(f"label smoothing {self.label_smoothing:g}")
        if self.clip:
            parts.append(f"gradient norm at most {self.clip:g}")
        if self.drop_path:
            parts.append(f"encoder in training mode, drop path {self.drop_path:g}")
        return "; ".join([*parts, f"source: {self.source}"])


LINEAR_PROTOCOLS = {
    "dino": LinearProtocol(
        source="facebookresearch/dino, eval_linear.py",
        feature="dino",
        learning_rate=0.001,
        epochs=100,
        interpolation="bicubic",
    ),
    "moco_v3": LinearProtocol(
        source="facebookresearch/moco-v3, main_lincls.py and CONFIG.md", learning_rate=3.0
    ),
    "moby": LinearProtocol(
        source="SwinTransformer/Transformer-SSL, moby_linear.py",
        optimizer="nesterov",
        learning_rate=0.5,  # 1.0 at 512
        batch_size=512,
        epochs=100,
        schedule="moby",
        warmup_epochs=5,
        clip=5.0,
        label_smoothing=0.1,
        # timm's trunc_normal_ cuts at 2 in absolute terms, a hundred deviations away.
        initialiser=nn.initializers.normal(0.02),
        drop_path=0.2,
    ),
    "simsiam": LinearProtocol(
        source="facebookresearch/simsiam, main_lincls.py --lars",
        optimizer="larc",
        learning_rate=0.1,
        batch_size=4096,
    ),
    "mocov2": LinearProtocol(
        source="facebookresearch/moco, main_lincls.py",
        learning_rate=30.0,
        batch_size=256,
        epochs=100,
        schedule="steps",
    ),
    "byol": LinearProtocol(
        source="google-deepmind/deepmind-research, byol/configs/eval.py",
        optimizer="nesterov",
        learning_rate=0.2,
        batch_size=4096,
        epochs=80,
        schedule="cosine_by_step",
        initialiser=haiku_default_kernel,
        crop_interpolation="bicubic",
        interpolation="bicubic",
        clamp_crop=True,  # byol/utils/dataset.py
    ),
    "simclr": LinearProtocol(
        source="google-research/simclr, README: linear head on ImageNet",
        optimizer="nesterov",
        learning_rate=0.1,
        batch_size=4096,
        schedule="cosine_by_step",
        weight_decay=1e-6,
        initialiser=nn.initializers.zeros,
        crop_interpolation="bicubic",
        interpolation="bicubic",
    ),
    "mae": LinearProtocol(
        source="facebookresearch/mae, main_linprobe.py",
        optimizer="lars",
        learning_rate=0.1,
        batch_size=16384,
        schedule="cosine_by_step",
        warmup_epochs=10,
        batch_norm=True,
        crop_interpolation="bicubic",
        interpolation="bicubic",
        clamp_crop=True,
    ),
}

"""Records finetune.npz: mixtures, boxes, RandAugment, learning rates, three steps of fine-tuning.

Command (from the repository's root, with both official repositories checked out):
    PYTHONPATH=tests python -m golden.record_finetune MAE_CHECKOUT SIMMIM_CHECKOUT

Sources: timm (timm/data/mixup.py, random_erasing.py, auto_augment.py) from the package index;
facebookresearch/mae efb2a8062c206524e35e47d04501ed4f544c0ae8 (models_vit.py, util/lr_decay.py,
util/lr_sched.py, util/pos_embed.py);
microsoft/SimMIM d3e29bcac950b83edc34ca33fe4404f38309052c (optimizer.py,
models/swin_transformer.py).
Versions: Python 3.11, torch 2.13.0 (CPU), timm 1.0.29, Pillow 12.3.0, numpy 2.4.6; float32.
Shims: golden/official.py says which and why. MAE's model is built on timm 1.0 instead of 0.4.5, so
its head is called on what its ``forward_features`` returns.

Keys:
``mix/<seed>/{cut,share,centre}`` what timm drew for a batch, ``mix/<seed>/{images,targets}`` what
it made of it. ``erase/<h>x<w>/draws`` uniform [10, 4] and ``.../box`` (top, left, rows, columns).
``rand_augment/image`` and ``rand_augment/<operator>/<level>`` with levels in [-1, 1].
``layers/<model>/{names,scales,decays}`` of every parameter. ``mae/...``: see ``three_steps``.
``positions/<side>`` [1, 1 + side * side, D]. ``deit/rates`` [epochs].
"""

import contextlib
import sys
from argparse import Namespace
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from golden import official
from golden.finetune_cases import (
    DEIT_TABLE,
    ERASED_SIZES,
    LEVELS,
    MAE_RUN,
    MAE_VIT,
    MIX_SEEDS,
    POSITION_SIDES,
    finetune_batch,
    mae_weights,
    mix_batch,
    rand_augment_image,
)
from golden.swin_weights import DEPTHS, HEADS, WIDTH
from golden.weights import ViTShape, vit_shapes, weight
from PIL import Image

# Ours -> timm's.
OPERATORS = {
    "auto_contrast": "AutoContrast",
    "equalise": "Equalize",
    "invert": "Invert",
    "rotate": "Rotate",
    "posterise": "PosterizeIncreasing",
    "solarise": "SolarizeIncreasing",
    "solarise_add": "SolarizeAdd",
    "colour": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}


@contextlib.contextmanager
def spied(module, **replacements):
    """Replaces functions of a module for a while."""
    before = {name: getattr(module, name) for name in replacements}
    for name, function in replacements.items():
        setattr(module, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(module, name, function)


def timm_mix(images: np.ndarray, labels: np.ndarray, classes: int, seed: int):
    """(mixed images, targets, {"cut", "share", "centre"}) of timm's Mixup with MAE's numbers."""
    from timm.data.mixup import Mixup

    mixup = Mixup(
        mixup_alpha=0.8,
        cutmix_alpha=1.0,
        prob=1.0,
        switch_prob=0.5,
        label_smoothing=0.1,
        num_classes=classes,
    )
    np.random.seed(seed)
    shares, centres = [], []
    beta, randint = np.random.beta, np.random.randint

    def spied_beta(*arguments):
        shares.append(beta(*arguments))
        return shares[-1]

    def spied_randint(*arguments, **options):
        centres.append(randint(*arguments, **options))
        return centres[-1]

    with spied(np.random, beta=spied_beta, randint=spied_randint):
        mixed, targets = mixup(official.image_tensor(images), torch.tensor(labels))
    drawn = {
        "cut": np.bool_(bool(centres)),
        "share": np.float32(shares[0]),
        "centre": np.int32(centres or (0, 0)),
    }
    return mixed, targets, drawn


def mixtures() -> dict[str, np.ndarray]:
    """A batch mixed with several seeds, in both ways."""
    arrays = {}
    images, labels, classes = mix_batch()
    for k in MIX_SEEDS:
        mixed, targets, drawn = timm_mix(images, labels, classes, seed=k)
        drawn["images"] = official.numpy(mixed.permute(0, 2, 3, 1))
        drawn["targets"] = official.numpy(targets)
        arrays |= {f"mix/{k}/{name}": value for name, value in drawn.items()}
    assert {bool(arrays[f"mix/{k}/cut"]) for k in MIX_SEEDS} == {True, False}
    return arrays


class ErasingDraws:
    """Stands in for the module ``random`` in timm's RandomErasing: four draws for each attempt."""

    def __init__(self, draws: np.ndarray):
        self.draws, self.attempt, self.column = draws, -1, 0

    def random(self) -> float:
        """Whether to erase: yes."""
        return 0.0

    def uniform(self, low: float, high: float) -> float:
        """Area, which begins an attempt, then aspect ratio."""
        if low > 0:
            self.attempt, self.column = self.attempt + 1, 0
        return low + (high - low) * self._next()

    def randint(self, low: int, high: int) -> int:
        """Top, then left; both ends included."""
        return low + int(self._next() * (high - low + 1))

    def _next(self) -> float:
        value = self.draws[self.attempt, self.column]
        self.column += 1
        return value


def erased_boxes() -> dict[str, np.ndarray]:
    """The box that timm erases, given its uniform draws."""
    from timm.data import random_erasing

    arrays = {}
    for number, (height, width) in enumerate(ERASED_SIZES):
        draws = np.random.default_rng(number).random((10, 4)).astype(np.float32)
        erasing = random_erasing.RandomErasing(probability=1.0, mode="pixel", device="cpu")
        with spied(random_erasing, random=ErasingDraws(draws.astype(np.float64))):
            erased = erasing(torch.zeros(3, height, width))
        inside = official.numpy(erased).any(axis=0)
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        box = (rows[0], columns[0], len(rows), len(columns)) if len(rows) else (0, 0, 0, 0)
        assert inside.sum() == box[2] * box[3]
        arrays[f"erase/{height}x{width}/draws"] = draws
        arrays[f"erase/{height}x{width}/box"] = np.int32(box)
    return arrays


def rand_augment() -> dict[str, np.ndarray]:
    """Every operator at every level, with bicubic warps and ImageNet's mean colour around."""
    from timm.data import auto_augment

    image = rand_augment_image()
    arrays = {"rand_augment/image": image}
    hparams = {"img_mean": (124, 116, 104), "interpolation": Image.BICUBIC}
    for ours, theirs in OPERATORS.items():
        for level in LEVELS:
            sign = 1 if level > 0 else -1
            with spied(auto_augment, _randomly_negate=lambda value, sign=sign: sign * value):
                operator = auto_augment.AugmentOp(theirs, 1.0, 10 * abs(level), hparams)
                result = operator(Image.fromarray(image))
            arrays[f"rand_augment/{ours}/{level}"] = np.asarray(result)
    return arrays


def finetuned_vit(
    checkout_models, vit: ViTShape, state: Mapping[str, np.ndarray], *, global_pool: bool = True
) -> torch.nn.Module:
    """The ViT of a checkout's fine-tuning with these weights."""
    model = checkout_models.VisionTransformer(
        img_size=vit.image_size,
        patch_size=vit.patch_size,
        embed_dim=vit.width,
        depth=vit.depth,
        num_heads=vit.heads,
        mlp_ratio=4,
        qkv_bias=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        global_pool=global_pool,
        num_classes=MAE_RUN.classes,
    )
    official.load(model, state)
    return model


def groups(name: str, model: torch.nn.Module, parameter_groups: list) -> dict[str, np.ndarray]:
    """Learning-rate factor and weight decay of every parameter of an optimizer's groups."""
    names = {id(parameter): n for n, parameter in model.named_parameters()}
    rows = [
        (names[id(parameter)], group["lr_scale"], group["weight_decay"])
        for group in parameter_groups
        for parameter in group["params"]
    ]
    assert len(rows) == len(names)
    found = dict(zip(("names", "scales", "decays"), zip(*rows, strict=True), strict=True))
    return {f"layers/{name}/{key}": np.array(value) for key, value in found.items()}


def swin_groups(checkout: str) -> dict[str, np.ndarray]:
    """SimMIM's groups of a small Swin."""
    official.use_checkout(checkout)
    import optimizer as simmim_optimizer
    from models.swin_transformer import SwinTransformer

    model = SwinTransformer(
        img_size=96, window_size=3, embed_dim=WIDTH, depths=DEPTHS, num_heads=HEADS, num_classes=5
    )
    last = sum(DEPTHS) + 1
    parameter_groups = simmim_optimizer.get_finetune_param_groups(
        model,
        Namespace(info=lambda text: None),
        1.0,
        0.05,
        partial(simmim_optimizer.get_swin_layer, num_layers=last + 1, depths=DEPTHS),
        [0.9**i for i in reversed(range(last + 1))],
        model.no_weight_decay(),
        model.no_weight_decay_keywords(),
    )
    return groups("swin", model, parameter_groups)


def three_steps(name: str, model: torch.nn.Module, size: int) -> dict[str, np.ndarray]:
    """Three steps of MAE's fine-tuning (engine_finetune.py), without drop path, on given pixels.

    ``<name>/<step>/{cut,share,centre}`` are timm's draws, ``<name>/losses`` [3], ``<name>/rates``
    [3] the undecayed learning rates, ``<name>/logits`` [B, C] the first step's logits on unmixed
    images, ``<name>/params/<torch name>`` the parameters after the steps; groups as ``layers``.
    """
    import util.lr_decay
    import util.lr_sched
    from timm.loss import SoftTargetCrossEntropy

    run = MAE_RUN
    parameter_groups = util.lr_decay.param_groups_lrd(
        model, 0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=run.layer_decay
    )
    arrays = groups(name, model, parameter_groups)
    optimizer = torch.optim.AdamW(parameter_groups, lr=run.learning_rate)
    schedule = Namespace(
        lr=run.learning_rate, min_lr=1e-6, warmup_epochs=run.warmup_epochs, epochs=run.epochs
    )
    criterion, losses, rates = SoftTargetCrossEntropy(), [], []
    model.train()
    for step in range(3):
        rates.append(
            util.lr_sched.adjust_learning_rate(optimizer, step / run.steps_per_epoch, schedule)
        )
        images, labels = finetune_batch(step, size)
        if step == 0:
            logits = model.head(model.forward_features(official.image_tensor(images)))
            arrays[f"{name}/logits"] = official.numpy(logits)
        mixed, targets, drawn = timm_mix(images, labels, run.classes, seed=100 + step)
        arrays |= {f"{name}/{step}/{key}": value for key, value in drawn.items()}
        loss = criterion(model.head(model.forward_features(mixed)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    arrays[f"{name}/losses"], arrays[f"{name}/rates"] = np.float32(losses), np.float32(rates)
    state = {key: official.numpy(value) for key, value in model.named_parameters()}
    return arrays | {f"{name}/params/{key}": value for key, value in state.items()}


def deit_table() -> dict[str, np.ndarray]:
    """DeiT's learning rate of every epoch (its main.py steps timm's scheduler behind the epoch)."""
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=DEIT_TABLE.peak)
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=DEIT_TABLE.epochs,
        lr_min=DEIT_TABLE.end,
        warmup_t=DEIT_TABLE.warmup_epochs,
        warmup_lr_init=DEIT_TABLE.start,
    )
    rates = []
    for epoch in range(DEIT_TABLE.epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(epoch)
    return {"deit/rates": np.float32(rates)}


def positions() -> dict[str, np.ndarray]:
    """MAE's learned positions of a 4 x 4 grid, resized to others at the start of fine-tuning."""
    from util.pos_embed import interpolate_pos_embed

    shape = vit_shapes(MAE_VIT, learned_positions=True)["pos_embed"]
    arrays = {}
    for side in POSITION_SIDES:
        state = {"pos_embed": official.tensor(weight("pos_embed", shape))}
        model = Namespace(
            patch_embed=Namespace(num_patches=side**2), pos_embed=torch.zeros(1, 1 + side**2, 1)
        )
        interpolate_pos_embed(model, state)
        arrays[f"positions/{side}"] = official.numpy(state["pos_embed"])
    return arrays


def main(mae_checkout: str, simmim_checkout: str) -> None:
    """Records everything."""
    arrays = mixtures() | erased_boxes() | rand_augment()
    official.use_checkout(mae_checkout)
    official.import_timm()
    import models_vit

    model = finetuned_vit(models_vit, MAE_VIT, mae_weights())
    arrays |= three_steps("mae", model, MAE_VIT.image_size) | positions() | deit_table()
    arrays |= swin_groups(simmim_checkout)
    official.save("finetune.npz", arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])

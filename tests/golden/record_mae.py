"""Records mae.npz: forward pass, gradients and three steps of MAE's pre-training.

Command (from the repository's root, with the official repository checked out):
    PYTHONPATH=tests python -m golden.record_mae MAE_CHECKOUT

Source: facebookresearch/mae efb2a8062c206524e35e47d04501ed4f544c0ae8 (models_mae.py,
engine_pretrain.py, main_pretrain.py's optimizer, util/lr_sched.py, util/pos_embed.py).
Versions: Python 3.11, torch 2.13.0 (CPU, one thread), torchvision 0.29.1, timm 1.0.29 instead of
0.3.2, numpy 2.4.6; float32 (autocast and the gradient scaler act on CUDA only).
Shims: golden/official.py says which and why; besides, ``np.float`` is Python's, ``torch._six`` has
infinity, and timm's Block is called without the ``qk_scale`` that it no longer knows. timm 0.3.2's
``add_weight_decay`` is now ``param_groups_weight_decay``; the groups are the same by name.
``torch.rand`` gives the noise of ``masked_cases``.

Keys, on the images and noise of step 0 and the initial weights, with normalised targets:
``sincos`` [1 + 9, 16]: positions of a 3 x 3 grid. ``forward/...``: ``latent`` [B, 1 + K, D] behind
the encoder's norm, class token first; ``mask`` uint8 [B, N], 1 is removed; ``ids_restore`` int16
[B, N]; ``prediction`` and ``target`` [B, N, 3 P P], pixels in the order (row, column, channel);
``loss``, and ``loss_plain`` with plain targets. ``gradient/<name>`` of the loss.
``steps/...``, one row for each of three steps: ``loss``, ``learning_rate``, ``gradient_norm`` of
every trained parameter in the order of ``parameter_names``; and ``weight_decay`` of each.
``params/<name>`` after them. ``table/learning_rate`` of every step of TABLE_RUN.
"""

import contextlib
import sys
import types
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module

import numpy as np
import torch
from golden import official
from golden.masked_cases import (
    MAE_DECODER,
    MAE_MASK_RATIO,
    MAE_RUN,
    MAE_VIT,
    SINCOS,
    STEPS,
    TABLE_RUN,
    MaskedRun,
    mae_images,
    mae_noise,
    mae_weights,
)
from golden.official_runs import Notes, flattened
from golden.record_finetune import spied
from golden.weights import normalised

GRADIENTS = (
    "cls_token",
    "mask_token",
    "patch_embed.proj.weight",
    "blocks.0.attn.qkv.weight",
    "decoder_embed.weight",
    "decoder_blocks.1.attn.qkv.weight",
    "decoder_pred.weight",
)


class Loader:
    """Says the length of a whole epoch, yields only the batches that are recorded."""

    def __init__(self, images: Callable, steps: range, steps_per_epoch: int):
        self.images, self.steps, self.steps_per_epoch = images, steps, steps_per_epoch

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self):
        for step in self.steps:
            yield official.image_tensor(normalised(self.images(step))), None


class SeenTarget:
    """Stands in for a prediction in the official loss and keeps what is taken from it."""

    def __init__(self, prediction: torch.Tensor):
        self.prediction, self.target = prediction, None

    def __sub__(self, target: torch.Tensor) -> torch.Tensor:
        self.target = target
        return self.prediction - target


def given(arrays: Iterable[np.ndarray]) -> Callable[..., torch.Tensor]:
    """Stands in for a random function of torch: gives the arrays, one a call."""
    remaining = iter(arrays)

    def draw(*shape, **_) -> torch.Tensor:
        values = torch.from_numpy(next(remaining))
        # The argument of randperm, whose values are a permutation, is its length.
        assert tuple(values.shape) == shape
        return values

    return draw


def load_mae(checkout: str):
    """MAE's module of models, on timm 1.0."""
    np.float = float
    official.stub_module("torch._six", inf=float("inf"))
    official.use_checkout(checkout)
    vision_transformer = official.import_timm().models.vision_transformer
    timms_block = vision_transformer.Block

    def block(*args, qk_scale: None, **options) -> torch.nn.Module:
        return timms_block(*args, **options)

    with spied(vision_transformer, Block=block):
        return import_module("models_mae")


def build_model(models_mae) -> torch.nn.Module:
    """The tiny MAE with the shared weights."""
    vit, decoder = MAE_VIT, MAE_DECODER
    model = models_mae.MaskedAutoencoderViT(
        img_size=vit.image_size,
        patch_size=vit.patch_size,
        embed_dim=vit.width,
        depth=vit.depth,
        num_heads=vit.heads,
        decoder_embed_dim=decoder.width,
        decoder_depth=decoder.depth,
        decoder_num_heads=decoder.heads,
        mlp_ratio=4,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        norm_pix_loss=True,
    )
    fixed = {"decoder_pos_embed": official.numpy(model.decoder_pos_embed)}
    official.load(model, mae_weights() | fixed)
    return model


def forward(models_mae) -> dict[str, dict[str, np.ndarray]]:
    """{"forward", "gradient"} of the first step."""
    model = build_model(models_mae)
    images = official.image_tensor(normalised(mae_images(0)))
    with spied(torch, rand=given([mae_noise(0)])):
        latent, mask, ids_restore = model.forward_encoder(images, MAE_MASK_RATIO)
    prediction = model.forward_decoder(latent, ids_restore)
    seen = SeenTarget(prediction)
    loss = model.forward_loss(images, seen, mask)
    loss.backward()
    model.norm_pix_loss = False
    arrays = {
        "latent": official.numpy(latent),
        "mask": official.numpy(mask).astype(np.uint8),
        "ids_restore": official.numpy(ids_restore).astype(np.int16),
        "prediction": official.numpy(prediction),
        "target": official.numpy(seen.target),
        "loss": official.numpy(loss),
        "loss_plain": official.numpy(model.forward_loss(images, prediction, mask)),
    }
    return {"forward": arrays, "gradient": gradients(model, GRADIENTS)}


def gradients(model: torch.nn.Module, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Gradients of these parameters."""
    return {name: official.numpy(model.get_parameter(name).grad) for name in names}


def three_steps(
    model: torch.nn.Module, run: MaskedRun, images: Callable, **options
) -> dict[str, dict[str, np.ndarray]]:
    """{"steps", "params"} of three steps of the official loop, whose ``args`` have ``options``."""
    import engine_pretrain
    from timm.optim import param_groups_weight_decay
    from util.misc import NativeScalerWithGradNormCount

    groups = param_groups_weight_decay(model, run.decay)
    optimizer = torch.optim.AdamW(groups, lr=run.peak, betas=run.betas)
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    notes = Notes(model, optimizer)
    model.register_forward_hook(lambda *call: notes.rows["loss"].append(call[-1][0].item()))
    scaler, arguments = NativeScalerWithGradNormCount(), schedule_arguments(run, **options)
    for first in range(0, STEPS, run.steps_per_epoch):
        steps = range(first, min(first + run.steps_per_epoch, STEPS))
        loader, epoch = Loader(images, steps, run.steps_per_epoch), first // run.steps_per_epoch
        device = torch.device("cpu")
        with contextlib.redirect_stdout(sys.stderr):
            engine_pretrain.train_one_epoch(
                model, loader, optimizer, device, epoch, scaler, args=arguments
            )
    rows = notes.arrays()
    rows["learning_rate"] = rows["learning_rate"][:, 0]
    rows["weight_decay"] = np.array([decays[id(p)] for p in notes.trained.values()])
    return {
        "steps": {name: as_float32(values) for name, values in rows.items()},
        "params": {name: official.numpy(value) for name, value in notes.trained.items()},
    }


def as_float32(values: np.ndarray) -> np.ndarray:
    """float32; text is left alone."""
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def schedule_arguments(run: MaskedRun, **options) -> types.SimpleNamespace:
    """What the official loop and its schedule read of the command line."""
    return types.SimpleNamespace(
        lr=run.peak,
        min_lr=run.end,
        warmup_epochs=run.warmup_epochs,
        epochs=run.epochs,
        accum_iter=1,
        **options,
    )


def learning_rates(run: MaskedRun) -> np.ndarray:
    """Of every step."""
    from util.lr_sched import adjust_learning_rate

    no_optimizer = types.SimpleNamespace(param_groups=[])
    rates = [
        adjust_learning_rate(no_optimizer, i / run.steps_per_epoch + epoch, schedule_arguments(run))
        for epoch in range(run.epochs)
        for i in range(run.steps_per_epoch)
    ]
    return np.float32(rates)


def main(checkout: str) -> None:
    """Records everything."""
    torch.set_num_threads(1)
    models_mae = load_mae(checkout)
    positions = models_mae.get_2d_sincos_pos_embed(SINCOS["width"], SINCOS["side"], cls_token=True)
    groups = forward(models_mae)
    with spied(torch, rand=given(mae_noise(step) for step in range(STEPS))):
        model = build_model(models_mae)
        groups |= three_steps(model, MAE_RUN, mae_images, mask_ratio=MAE_MASK_RATIO)
    assert groups["forward"]["loss"] == groups["steps"]["loss"][0]
    groups["table"] = {"learning_rate": learning_rates(TABLE_RUN)}
    official.save("mae.npz", {"sincos": np.float32(positions)} | flattened(groups))


if __name__ == "__main__":
    main(*sys.argv[1:])

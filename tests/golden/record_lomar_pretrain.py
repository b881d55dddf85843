"""Records lomar_pretrain.npz: forward pass, gradients and three steps of LoMaR's pre-training.

Command (from the repository's root, with the official repository checked out):
    PYTHONPATH=tests python -m golden.record_lomar_pretrain LOMAR_CHECKOUT

Source: junchen14/LoMaR d9ca9c8ee8ac0d012128149ed10165ab947ecdaf (models_lomar.py, irpe.py,
vision_transformer_irpe.py, engine_pretrain.py, main_pretrain_lomar.py's optimizer,
util/lr_sched.py).
Versions: Python 3.11, torch 2.13.0 (CPU, one thread), torchvision 0.29.1, timm 1.0.29 instead of
0.3.2, numpy 2.4.6; float32 (autocast and the gradient scaler act on CUDA only).
Shims: those of golden/record_lomar.py and golden/record_mae.py; ``torch.rand`` and
``torch.randperm`` give the noise and the corners of ``masked_cases``.

Keys, on the images, corners and noise of step 0 and the initial weights, with normalised targets.
The official rows are R = B M for a batch of B images and M windows: ``forward/image_of_row`` and
``forward/window_of_row`` int16 [R] say which image and which window row r has in the released code
(r mod B and r mod M; not every image meets every window unless B and M have no common factor), and
``forward/corner_of_row`` int16 [R, 2] the window's (top, left). ``forward/mask`` uint8 [R, 49], 1
is masked; ``forward/latent`` [R, 1 + 49, D] behind the encoder's norm, class token first;
``forward/prediction`` and ``forward/target`` [R, 49, 3 P P], pixels in the order (row, column,
channel); ``forward/loss`` and ``forward/loss_plain``, with plain targets. ``gradient/<name>``,
``steps/...`` and ``params/<name>``: see golden/record_mae.py.
"""

import sys
import types
from collections.abc import Iterable
from functools import partial
from importlib import import_module

import numpy as np
import torch
from golden import official
from golden.masked_cases import (
    LOMAR_MASK_RATIO,
    LOMAR_RUN,
    LOMAR_VIT,
    LOMAR_WINDOW,
    LOMAR_WINDOWS,
    STEPS,
    lomar_corners,
    lomar_images,
    lomar_noise,
    lomar_weights,
)
from golden.official_runs import flattened
from golden.record_finetune import spied
from golden.record_mae import SeenTarget, given, gradients, three_steps
from golden.weights import normalised

GRADIENTS = (
    "cls_token",
    "mask_token",
    "patch_embed.proj.weight",
    "blocks.0.attn.qkv.weight",
    "blocks.0.attn.rpe_k.lookup_table_weight",
    "blocks.1.attn.rpe_k.lookup_table_weight",
    "encoder_pred.weight",
)
SETTINGS = {
    "window_size": LOMAR_WINDOW,
    "num_window": LOMAR_WINDOWS,
    "mask_ratio": LOMAR_MASK_RATIO,
}
SIDE = LOMAR_VIT.image_size // LOMAR_VIT.patch_size


def build_model(models_lomar) -> torch.nn.Module:
    """The tiny LoMaR with the shared weights."""
    vit = LOMAR_VIT
    model = models_lomar.MaskedAutoencoderViT(
        img_size=vit.image_size,
        patch_size=vit.patch_size,
        embed_dim=vit.width,
        depth=vit.depth,
        num_heads=vit.heads,
        mlp_ratio=4,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        norm_pix_loss=True,
    )
    official.load(model, lomar_weights())
    return model


def draws(steps: Iterable[int]):
    """While it lasts, torch draws the noise and, tops before lefts, the corners of the steps."""
    steps = list(steps)
    corners = [places for step in steps for places in lomar_corners(step)]
    randperm = given(corners)
    return spied(torch, rand=given(map(lomar_noise, steps)), randperm=randperm)


def rows(model: torch.nn.Module, patches: torch.Tensor, mask: torch.Tensor) -> dict:
    """Image and window of every row: what its unmasked tokens and its patch numbers say."""
    count = LOMAR_RUN.batch
    tops, lefts = lomar_corners(0)
    numbers = torch.arange(count, dtype=torch.float32).view(count, 1, 1, 1)
    maps = numbers.expand(count, SIDE, SIDE, LOMAR_VIT.width).contiguous()
    with draws([0]), torch.no_grad():
        tokens, again, same_mask = model.generate_window_patches(
            maps, torch.tensor(lefts), torch.tensor(tops), LOMAR_WINDOW, LOMAR_MASK_RATIO
        )
    assert torch.equal(again, patches) and torch.equal(same_mask, mask)
    images = [row[~masked].unique().tolist() for row, masked in zip(tokens, mask, strict=True)]
    assert all(len(found) == 1 for found in images)
    corners = np.stack(np.divmod(patches[:, 0].numpy(), SIDE), axis=1)
    offsets = np.arange(LOMAR_WINDOW)
    window = (SIDE * offsets[:, None] + offsets).ravel()
    assert (patches.numpy() == patches[:, :1].numpy() + window).all()
    windows = [list(zip(tops, lefts, strict=True)).index(tuple(corner)) for corner in corners]
    noise = lomar_noise(0).reshape(len(windows), -1)
    assert ((noise.argsort().argsort() < mask[0].sum().item()) == mask.numpy()).all()
    return {
        "image_of_row": np.int16(images)[:, 0],
        "window_of_row": np.int16(windows),
        "corner_of_row": np.int16(corners),
    }


def forward(models_lomar) -> dict[str, dict[str, np.ndarray]]:
    """{"forward", "gradient"} of the first step."""
    model = build_model(models_lomar)
    images = official.image_tensor(normalised(lomar_images(0)))
    latents = []
    model.norm.register_forward_hook(lambda *call: latents.append(official.numpy(call[-1])))
    with draws([0]):
        prediction, mask, patches = model.forward_encoder(images, *SETTINGS.values())

    def loss_and_target():
        seen = SeenTarget(prediction)
        return model.forward_loss(images, seen, mask, LOMAR_WINDOWS, patches), seen.target

    loss, target = loss_and_target()
    loss.backward()
    model.norm_pix_loss = False
    loss_plain, target_plain = loss_and_target()
    of_row = rows(model, patches, mask)
    # The targets are of the same images as the tokens.
    pixels = model.patchify(images)[torch.tensor(of_row["image_of_row"], dtype=torch.long)]
    assert torch.equal(target_plain, pixels[torch.arange(len(pixels))[:, None], patches])
    arrays = of_row | {
        "mask": official.numpy(mask).astype(np.uint8),
        "latent": latents[0],
        "prediction": official.numpy(prediction),
        "target": official.numpy(target),
        "loss": official.numpy(loss),
        "loss_plain": official.numpy(loss_plain),
    }
    return {"forward": arrays, "gradient": gradients(model, GRADIENTS)}


def main(checkout: str) -> None:
    """Records everything."""
    torch.set_num_threads(1)
    import_module("profile")
    np.float = float
    official.stub_module("torch._six", inf=float("inf"))
    official.use_checkout(checkout)
    official.stub_module("easydict", EasyDict=types.SimpleNamespace)
    official.import_timm()
    import models_lomar

    groups = forward(models_lomar)
    with draws(range(STEPS)):
        groups |= three_steps(build_model(models_lomar), LOMAR_RUN, lomar_images, **SETTINGS)
    assert groups["forward"]["loss"] == groups["steps"]["loss"][0]
    official.save("lomar_pretrain.npz", flattened(groups))


if __name__ == "__main__":
    main(*sys.argv[1:])

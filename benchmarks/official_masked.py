"""The train steps of MAE and LoMaR as their authors wrote them, on a CPU with today's libraries.

PyTorch and timm are needed, beside JAX; they are imported when a step is made, not before. The
official files are used as they are checked out: facebookresearch/mae and junchen14/LoMaR. Shims at
run time, all of them for names that have moved or gone since:
- timm's ``Block`` is called without the ``qk_scale`` that it no longer knows. It is the block of
  the timm that is installed, whose attention is torch's fused one, not of the authors' timm.
- ``easydict`` and ``np.float`` are given.
- torchvision's two operators are declared where its compiled part does not load.

LoMaR's relative positions use iRPE's compiled ``rpe_ops`` where that has been built, else torch.
"""

import importlib
import sys
import time
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import official

PACKAGES = ("torch", "timm")
REPOSITORIES = {"mae": "facebookresearch/mae", "lomar": "junchen14/LoMaR"}
_MODULES = {"mae": "models_mae", "lomar": "models_lomar"}
_MODELS = {"mae": "mae_vit_base_patch16", "lomar": "mae_vit_base_patch16_dec512d8b"}
# Of the published commands (PRETRAIN.md, README.md), as is the optimizer below.
_FORWARD = {
    "mae": {"mask_ratio": 0.75},
    "lomar": {"window_size": 7, "num_window": 4, "mask_ratio": 0.8},
}


def check(checkouts: Mapping[str, str | None]) -> None:
    """Raises UserError when the official code of a method cannot be run, without running it."""
    files = {method: f"{module}.py" for method, module in _MODULES.items()}
    official.check(checkouts, files, REPOSITORIES, PACKAGES, "measure --ours_only")


def make_step(
    method: str, checkout: str, *, image_size: int, batch_size: int
) -> Callable[[int], float]:
    """The official train step of ViT-B/16 in float32, taken once.

    Forward, backward and AdamW on one batch of noise, already normalised, as in the official
    main_pretrain*.py: decay 0.05 of matrices, betas (0.9, 0.95), targets normalised by patch.
    Autocast and the gradient scaler act on CUDA only and are left out.

    Args:
      method: "mae" or "lomar".
      checkout: folder of the official repository.
      image_size: side in pixels.
      batch_size: images.

    Returns:
      A function that takes so many steps and returns the seconds of one.
    """
    torch = official.torch_on_all_cores()
    torch.manual_seed(0)
    model = _build_model(method, checkout, image_size).train()
    from timm.optim import param_groups_weight_decay

    groups = param_groups_weight_decay(model, 0.05)
    optimizer = torch.optim.AdamW(groups, lr=1.5e-4, betas=(0.9, 0.95))
    images = torch.randn(batch_size, 3, image_size, image_size)

    def run(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss, *_ = model(images, **_FORWARD[method])
            loss.backward()
            optimizer.step()
        return (time.perf_counter() - start) / steps

    run(1)
    return run


def make_products(rows: int, width: int, hidden: int) -> Callable[[int], float]:
    """The three products of one linear layer: outputs, gradients of inputs and of the kernel.

    Args:
      rows, width, hidden: the layer takes [rows, width] to [rows, hidden].

    Returns:
      A function that computes them so many times and returns the seconds of one time.
    """
    torch = official.torch_on_all_cores()
    inputs, gradient = torch.randn(rows, width), torch.randn(rows, hidden)
    weight = torch.randn(hidden, width)

    def run(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            torch.nn.functional.linear(inputs, weight)
            gradient @ weight
            gradient.T @ inputs
        return (time.perf_counter() - start) / times

    run(1)
    return run


def _build_model(method: str, checkout: str, image_size: int) -> Any:
    """ViT-B/16 of a checkout, as a torch module."""
    importlib.import_module("profile")  # Python's own, before LoMaR's file of that name could be
    official.declare_torchvision_operators()
    from timm.models import vision_transformer

    timms_block = vision_transformer.Block

    def block(*args: Any, qk_scale: None, **options: Any) -> Any:
        return timms_block(*args, **options)

    sys.modules.setdefault("easydict", types.SimpleNamespace(EasyDict=types.SimpleNamespace))
    with (
        mock.patch.object(vision_transformer, "Block", block),
        mock.patch.object(np, "float", float, create=True),
        warnings.catch_warnings(action="ignore"),  # of timm's moved names
        official.modules_of(checkout),
    ):
        models = importlib.import_module(_MODULES[method])
        return getattr(models, _MODELS[method])(img_size=image_size, norm_pix_loss=True)

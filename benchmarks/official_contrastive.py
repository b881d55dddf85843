"""Step and input of DINO and MoCo v3 as their authors wrote them, with today's libraries.

PyTorch, torchvision and timm are needed, beside JAX; they are imported when a step is made. The
official files are used as they are checked out: facebookresearch/dino and facebookresearch/moco-v3.
Shims at run time:
- without a GPU, ``.cuda()`` returns what it is called of;
- one process stands for the process group, as the code asks it for sums and gathers;
- timm's ``to_2tuple`` and ``num_tokens`` are given under the names of timm 0.4.9, whose block MoCo
  v3 would have; today's has torch's fused attention in place of an explicit softmax;
- torchvision's two operators are declared where its compiled part does not load.
On a GPU the forward pass is in bfloat16 by autocast in place of float16 with a scaler.
"""

import contextlib
import functools
import importlib
import math
import multiprocessing
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import official
from repre_jax.data.host.cores import usable_cores

PACKAGES = ("torch", "torchvision", "timm")
REPOSITORIES = {"dino": "facebookresearch/dino", "moco_v3": "facebookresearch/moco-v3"}
FILES = {"dino": "main_dino.py", "moco_v3": "main_moco.py"}
LOCAL_CROPS = 8  # of DINO: two global crops of 224 pixels and these of 96
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def check(checkouts: Mapping[str, str | None], otherwise: str) -> None:
    """``official.check`` of methods that are here."""
    official.check(checkouts, FILES, REPOSITORIES, PACKAGES, otherwise)


def make_step(
    method: str, checkout: str, *, batch_size: int, compiled: bool = False
) -> Callable[[int], float]:
    """The official train step of ViT-S/16, taken once.

    Forward, backward, optimizer, moving average, and for DINO the clipping of gradients, the centre
    and the frozen last layer, on one batch of noise that is augmented and normalised already and
    stays on the device. Numbers are those of the published ViT-S commands (README.md, CONFIG.md).

    Args:
      method: "dino" or "moco_v3".
      checkout: folder of the official repository.
      batch_size: images.
      compiled: the networks by ``torch.compile``.

    Returns:
      A function that takes so many steps and returns the seconds of one.
    """
    torch = official.torch_on_all_cores()
    torch.manual_seed(0)
    _prepare(torch)
    with official.modules_of(checkout):
        made = {"dino": _dino, "moco_v3": _moco_v3}[method](torch, batch_size, compiled)
    finish = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)

    def run(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            made()
        finish()
        return (time.perf_counter() - start) / steps

    run(1)
    return run


def moco_v3_gradients(
    checkout: str, views: np.ndarray, *, width: int, heads: int, seed: int
) -> dict[str, np.ndarray]:
    """Gradient of the official MoCo v3's loss at initial weights, in float32 and under autocast.

    Of a ViT of 12 blocks with the heads of the published commands, on the CPU.

    Args:
      checkout: folder of the official repository.
      views: normalised float32 [B, 2, H, W, 3].
      width, heads: of the ViT.
      seed: of the weights.

    Returns:
      {"float32", "autocast"}: all that is trained, one after the other [N].
    """
    torch = official.torch_on_all_cores()
    _prepare(torch)
    pair = [torch.from_numpy(views[:, v].transpose(0, 3, 1, 2).copy()) for v in (0, 1)]
    found = {}
    with official.modules_of(checkout):
        vits, builder = _moco_v3_modules()
        encoder = functools.partial(
            vits.VisionTransformerMoCo,
            stop_grad_conv1=True,
            embed_dim=width,
            num_heads=heads,
            norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
        )
        for name, enabled in (("float32", False), ("autocast", True)):
            torch.manual_seed(seed)
            model = builder.MoCo_ViT(encoder, 256, 4096, 0.2).train()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss = model(*pair, 0.99)
            loss.backward()
            gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
            found[name] = torch.cat(gradients).numpy()
    return found


def input_rate(method: str, checkout: str, data: str, batch_size: int, batches: int) -> float:
    """Images a second of the official augmentation in torch's loader, a worker on every core.

    In a process of its own, for the loader forks, and JAX's threads would not survive that.

    Args:
      method: "dino" or "moco_v3".
      checkout: folder of the official repository.
      data: folder of class folders.
      batch_size: images of a batch.
      batches: that are timed, after one of each worker.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
        return child.submit(_input_rate, method, checkout, data, batch_size, batches).result()


def _input_rate(method: str, checkout: str, data: str, batch_size: int, batches: int) -> float:
    import torch
    from torchvision import datasets

    official.declare_torchvision_operators()
    _prepare(torch)
    with official.modules_of(checkout):
        transform = {"dino": _dino_augmentation, "moco_v3": _moco_v3_augmentation}[method]()
        workers = usable_cores()
        loader = torch.utils.data.DataLoader(
            datasets.ImageFolder(str(Path(data) / "train"), transform),
            batch_size,
            shuffle=True,
            num_workers=workers,
            drop_last=True,
        )
        stream = _endless(loader)
        for _ in range(workers):
            next(stream)
        start = time.perf_counter()
        for _ in range(batches):
            next(stream)
        return batches * batch_size / (time.perf_counter() - start)


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def _dino(torch: types.ModuleType, batch_size: int, compiled: bool) -> Callable[[], None]:
    """One step of main_dino.py, ``train_one_epoch``, in its first epoch."""
    main, vits, utils = (
        importlib.import_module(x) for x in ("main_dino", "vision_transformer", "utils")
    )
    student, teacher = (
        utils.MultiCropWrapper(
            vits.vit_small(patch_size=16, drop_path_rate=rate),
            vits.DINOHead(384, 65536, use_bn=False, norm_last_layer=False),
        ).cuda()
        for rate in (0.1, 0.0)
    )
    teacher.load_state_dict(student.state_dict())
    for parameter in teacher.parameters():
        parameter.requires_grad = False
    loss_of = main.DINOLoss(65536, 2 + LOCAL_CROPS, 0.04, 0.07, 30, 800).cuda()
    optimizer = torch.optim.AdamW(utils.get_params_groups(student), lr=1e-5, weight_decay=0.04)
    sizes = [224] * 2 + [96] * LOCAL_CROPS
    images = [_noise(torch, batch_size, size) for size in sizes]
    seen_by = _compiled_or_not(torch, compiled)
    of_teacher, of_student = seen_by(teacher), seen_by(student)

    def step() -> None:
        with _autocast(torch):
            loss = loss_of(of_student(images), of_teacher(images[:2]), 0)
        if not math.isfinite(loss.item()):
            raise FloatingPointError("the official DINO's loss is not finite")
        optimizer.zero_grad()
        loss.backward()
        utils.clip_gradients(student, 3.0)
        utils.cancel_gradients_last_layer(0, student, 1)
        optimizer.step()
        with torch.no_grad():
            for online, target in zip(student.parameters(), teacher.parameters(), strict=True):
                target.data.mul_(0.996).add_((1 - 0.996) * online.detach().data)

    return step


def _moco_v3(torch: types.ModuleType, batch_size: int, compiled: bool) -> Callable[[], None]:
    """One step of main_moco.py, ``train``."""
    vits, builder = _moco_v3_modules()
    encoder = functools.partial(vits.vit_small, stop_grad_conv1=True)
    model = builder.MoCo_ViT(encoder, 256, 4096, 0.2).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.1)
    views = [_noise(torch, batch_size, 224) for _ in range(2)]
    loss_of = _compiled_or_not(torch, compiled)(model)

    def step() -> None:
        with _autocast(torch):
            loss = loss_of(*views, 0.99)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _moco_v3_modules() -> tuple[types.ModuleType, types.ModuleType]:
    """vits.py and moco/builder.py, with the shims for today's timm."""
    import timm.layers
    from timm.models import vision_transformer

    helpers = types.ModuleType("timm.models.layers.helpers")
    helpers.to_2tuple = timm.layers.to_2tuple
    sys.modules.setdefault(helpers.__name__, helpers)
    vision_transformer.VisionTransformer.num_tokens = 1
    return importlib.import_module("vits"), importlib.import_module("moco.builder")


def _dino_augmentation() -> Callable[[Any], Any]:
    """Of the published ViT-S command."""
    main = importlib.import_module("main_dino")
    return main.DataAugmentationDINO((0.4, 1.0), (0.05, 0.4), LOCAL_CROPS)


def _moco_v3_augmentation() -> Callable[[Any], Any]:
    """As main_moco.py composes it in ``main_worker``, which cannot be called for it alone."""
    from torchvision import transforms

    loader = importlib.import_module("moco.loader")

    def view(blur: float, solarise: float) -> transforms.Compose:
        jitter = transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)
        return transforms.Compose(
            [
                transforms.RandomResizedCrop(224, scale=(0.08, 1.0)),
                transforms.RandomApply([jitter], p=0.8),
                transforms.RandomGrayscale(p=0.2),
                transforms.RandomApply([loader.GaussianBlur([0.1, 2.0])], p=blur),
                transforms.RandomApply([loader.Solarize()], p=solarise),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    return loader.TwoCropsTransform(view(1.0, 0.0), view(0.1, 0.2))


def _prepare(torch: types.ModuleType) -> None:
    """The shims of a process; calling this again changes nothing."""
    official.declare_torchvision_operators()
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self, *args, **options: self
        torch.nn.Module.cuda = lambda self, *args, **options: self
    if not torch.distributed.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)


def _noise(torch: types.ModuleType, batch_size: int, size: int) -> Any:
    return torch.randn(batch_size, 3, size, size).cuda()


def _autocast(torch: types.ModuleType) -> contextlib.AbstractContextManager:
    if not torch.cuda.is_available():
        return contextlib.nullcontext()
    return torch.autocast("cuda", dtype=torch.bfloat16)


def _compiled_or_not(torch: types.ModuleType, compiled: bool) -> Callable[[Any], Any]:
    return torch.compile if compiled else lambda network: network

"""Records linear.npz: heads of the papers' linear probes after every step on given features.

Command (from the repository's root, with the official repositories checked out):
    PYTHONPATH=tests python -m golden.record_linear MAE_CHECKOUT APEX_CHECKOUT

Sources: facebookresearch/mae efb2a8062c206524e35e47d04501ed4f544c0ae8 (util/lars.py,
util/lr_sched.py, the head of main_linprobe.py); NVIDIA/apex
e13873debc4699d39c6861074b9a3b2a02327f92 (apex/parallel/LARC.py, later removed), which
facebookresearch/simsiam (main_lincls.py --lars) wraps around torch's SGD; torch's SGD,
CosineAnnealingLR, CrossEntropyLoss and clip_grad_norm_ as facebookresearch/dino (eval_linear.py),
facebookresearch/moco-v3 and facebookresearch/moco (main_lincls.py) and
SwinTransformer/Transformer-SSL (moby_linear.py) call them; timm 1.0.29 for the last one's
scheduler. BYOL and SimCLR, which are JAX and TensorFlow, are torch's Nesterov SGD with their
schedule.
Versions: Python 3.11, torch 2.13.0 (CPU), numpy 2.4.6; float32.

Keys: ``<protocol>/kernel`` [steps, F, C], ``<protocol>/bias`` [steps, C], ``<protocol>/losses``
[steps]; of mae ``mean``, ``variance`` [F], the running statistics after the last step.
"""

import importlib.util
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from golden import official
from golden.cases_probe import (
    BATCH_SIZE_OF_RATE,
    CLASSES,
    EPOCHS,
    PROTOCOLS,
    STEPS_PER_EPOCH,
    WIDTH,
    probe_features,
    probe_kernel,
)

TOTAL = EPOCHS * STEPS_PER_EPOCH
SCALE = BATCH_SIZE_OF_RATE / 256
# Peak rates, as the scripts' arguments and their rules of the batch give them.
PEAK = {
    "dino": 0.001 * SCALE,
    "moco_v3": 3 * SCALE,
    "mocov2": 30 * SCALE,
    "simsiam": 0.1 * SCALE,
    "moby": 1.0 * BATCH_SIZE_OF_RATE / 512,
    "byol": 0.2 * SCALE,
    "simclr": 0.1 * SCALE,
    "mae": 0.1 * SCALE,
}
MAE_WARMUP = 10
MOBY_WARMUP = 5


def load_larc(apex: str) -> type:
    """The class of one file: the package would want a GPU."""
    spec = importlib.util.spec_from_file_location("larc", Path(apex) / "apex/parallel/LARC.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LARC


def build_optimizer(name: str, head: torch.nn.Module, lars) -> torch.optim.Optimizer:
    """The optimizer that the script builds, of SimSiam the one inside LARC."""
    if name == "mae":
        return lars.LARS(head.parameters(), lr=PEAK[name], weight_decay=0)
    return torch.optim.SGD(
        head.parameters(),
        PEAK[name],
        momentum=0.9,
        nesterov=name in ("moby", "byol", "simclr"),
        weight_decay=1e-6 if name == "simclr" else 0.0,
    )


def moby_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """The rate of every step: the scheduler moves on after the optimizer."""
    from timm.scheduler.cosine_lr import CosineLRScheduler

    scale = BATCH_SIZE_OF_RATE / 512
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=TOTAL,
        lr_min=5e-6 * scale,
        warmup_lr_init=5e-7 * scale,
        warmup_t=MOBY_WARMUP * STEPS_PER_EPOCH,
        cycle_limit=1,
        t_in_epochs=False,
    )
    rates = []
    for step in range(TOTAL):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step_update(step)
    return rates


def rates(name: str, optimizer: torch.optim.Optimizer, lr_sched) -> list[float]:
    """Learning rate of every step."""
    peak = PEAK[name]
    if name == "moby":
        return moby_rates(optimizer)
    if name == "mae":
        args = SimpleNamespace(lr=peak, min_lr=0.0, warmup_epochs=MAE_WARMUP, epochs=EPOCHS)
        return [
            lr_sched.adjust_learning_rate(optimizer, step / STEPS_PER_EPOCH, args)
            for step in range(TOTAL)
        ]
    if name in ("byol", "simclr"):
        return [peak * 0.5 * (1 + math.cos(math.pi * step / TOTAL)) for step in range(TOTAL)]
    if name == "mocov2":
        milestones = [0.6 * EPOCHS, 0.8 * EPOCHS]
        by_epoch = [peak * 0.1 ** sum(e >= m for m in milestones) for e in range(EPOCHS)]
    else:
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS, eta_min=0)
        by_epoch = []
        for _ in range(EPOCHS):
            by_epoch.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return [rate for rate in by_epoch for _ in range(STEPS_PER_EPOCH)]


def record(name: str, lars, lr_sched, larc: type) -> dict[str, np.ndarray]:
    """Every step of one protocol."""
    linear = torch.nn.Linear(WIDTH, CLASSES)
    linear.weight.data = torch.tensor(probe_kernel().T.copy())
    linear.bias.data.zero_()
    norm = torch.nn.BatchNorm1d(WIDTH, affine=False, eps=1e-6)
    head = torch.nn.Sequential(norm, linear) if name == "mae" else linear
    optimizer = build_optimizer(name, head, lars)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1 if name == "moby" else 0.0)
    steps = {"kernel": [], "bias": [], "losses": []}
    every_rate = rates(name, optimizer, lr_sched)
    if name == "simsiam":
        optimizer = larc(optimizer=optimizer, trust_coefficient=0.001, clip=False)
    for step, rate in enumerate(every_rate):
        features, labels = map(torch.tensor, probe_features(step))
        loss = criterion(head(features), labels)
        optimizer.zero_grad()
        loss.backward()
        if name == "moby":
            torch.nn.utils.clip_grad_norm_(head.parameters(), 5.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        steps["kernel"].append(official.numpy(linear.weight).T)
        steps["bias"].append(official.numpy(linear.bias))
        steps["losses"].append(official.numpy(loss))
    arrays = {f"{name}/{key}": np.stack(values) for key, values in steps.items()}
    if name == "mae":
        arrays["mae/mean"] = official.numpy(norm.running_mean)
        arrays["mae/variance"] = official.numpy(norm.running_var)
    return arrays


def main() -> None:
    official.use_checkout(sys.argv[1])
    from util import lars, lr_sched

    larc = load_larc(sys.argv[2])
    arrays = {}
    for name in PROTOCOLS:
        arrays |= record(name, lars, lr_sched, larc)
    official.save("linear.npz", arrays)


if __name__ == "__main__":
    main()

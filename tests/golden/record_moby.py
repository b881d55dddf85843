"""Records moby.npz and moby_swin.npz: three optimiser steps of MoBY, its loss, its schedules.

Command (from the repository's root, with the official repositories checked out):
    PYTHONPATH=tests python -m golden.record_moby TRANSFORMER_SSL_CHECKOUT TIMM_CHECKOUT

Source: SwinTransformer/Transformer-SSL 4510de1f21ee6f9810a74494c254081dd8f2c383: models/moby.py
(MoBY, MoBYMLP), moby_main.py (train_one_epoch), optimizer.py, lr_scheduler.py; the scheduler that
the last one builds is timm v0.4.9's (rwightman/pytorch-image-models e7f0db8; timm/scheduler has not
changed since v0.3.3, and 0.3.2 is officially asked for).
Versions: Python 3.11, torch 2.13.0 (CPU), torchvision 0.29.2, timm 1.0.31 (the encoder), numpy
2.4.6; float32 (AMP_OPT_LEVEL O0).
Shims: golden/official.py says which and why; besides, the data pipeline, the logger and the
command line are stubs; SyncBatchNorm, which wants CUDA tensors, stays BatchNorm (one process);
diffdist's all_gather returns its input (one process); MoBYMLP's default sizes, which MoBY does not
pass on, are small, and the queues (256 wide in the official code) replaced by ones of that size.
The encoder is a tiny ViT without drop path, in moby_swin.npz a tiny Swin (models/
swin_transformer.py, with timm 1.0.29). Biases that a BatchNorm or a softmax takes away again get a
gradient of exactly zero, as in exact arithmetic, in place of rounding errors that Adam would scale
up to whole steps.

Runs (golden/cases_contrastive.py): keys ``<case>/...`` with one row for each of the three steps of
``loss``, ``learning_rate`` (of both groups), ``momentum``, ``gradient_norm`` (of each trained
parameter in the order of ``parameter_names``, before clipping) and ``total_norm`` (before
clipping). ``<case>/final/<name>`` is the state after the three steps, queues and running statistics
included (torch averages the unbiased variance there). The second case leaves out the target's
encoder. ``<case>/first_step/<name>``: the same after one step, heads' statistics and queues only.
moby_swin.npz has the second case's numbers on Swin, ``swin/...``.

Loss: ``loss/value`` and ``loss/query_gradient`` of one direction on random features. Schedules:
``table/...`` for every step.
"""

import importlib
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import torch
from golden import official, official_runs
from golden.cases import BATCH, TABLE_EPOCHS, TABLE_STEPS_PER_EPOCH
from golden.cases_contrastive import (
    HIDDEN,
    MOBY_CASES,
    MOBY_SWIN,
    MOBY_SWIN_CASE,
    MOBY_SWIN_DEPTHS,
    MOBY_SWIN_HEADS,
    MOBY_TABLE,
    MOBY_TEMPERATURE,
    MOBY_UNDETERMINED,
    OUTPUT,
    QUEUE,
    Case,
    features,
    moby_swin_weights,
    moby_weights,
    queue,
)
from golden.swin_weights import WIDTH


def settings(case: Case) -> types.SimpleNamespace:
    """What the official functions read of the config; learning rates are scaled already."""
    space = types.SimpleNamespace
    return space(
        AMP_OPT_LEVEL="O0",
        PRINT_FREQ=1,
        DATA=space(TRAINING_IMAGES=case.steps_per_epoch * BATCH, BATCH_SIZE=BATCH),
        MODEL=space(SWIN=space(NORM_BEFORE_MLP="ln")),
        TRAIN=space(
            EPOCHS=case.epochs,
            START_EPOCH=0,
            WARMUP_EPOCHS=case.warmup_epochs,
            WEIGHT_DECAY=case.decay,
            BASE_LR=case.peak,
            WARMUP_LR=case.start,
            MIN_LR=case.end,
            CLIP_GRAD=case.clip,
            LR_SCHEDULER=space(NAME="cosine", DECAY_EPOCHS=30),
            OPTIMIZER=space(NAME="adamw", EPS=1e-8, BETAS=(0.9, 0.999)),
        ),
    )


def tiny_vit(timm) -> torch.nn.Module:
    """The encoder of most runs."""
    return timm.models.vision_transformer.VisionTransformer(**official_runs.vit_arguments())


def tiny_swin(models) -> torch.nn.Module:
    """The official Swin, smaller."""
    return models.swin_transformer.SwinTransformer(
        img_size=MOBY_SWIN.built,
        window_size=MOBY_SWIN.window,
        embed_dim=WIDTH,
        depths=MOBY_SWIN_DEPTHS,
        num_heads=MOBY_SWIN_HEADS,
        num_classes=0,
        drop_path_rate=0.0,
    )


def build_model(encoder, initial, moby, case: Case) -> torch.nn.Module:
    """MoBY around two encoders; the constructor copies online weights to the target.

    Args:
      encoder: () -> one of them.
      initial: weights of encoder and heads.
      moby: the official module.
      case: numbers.
    """
    encoders = [encoder() for _ in range(2)]
    values, projector = official_runs.split_by_prefix(initial, "projector.")
    values, predictor = official_runs.split_by_prefix(values, "predictor.")
    model = moby.MoBY(
        settings(case),
        *encoders,
        contrast_momentum=case.momentum,
        contrast_temperature=MOBY_TEMPERATURE,
        contrast_num_negative=QUEUE,
    )
    for encoder in encoders:
        official.load(encoder, values)
    official.load(model.projector, projector)
    official.load(model.projector_k, projector)
    official.load(model.predictor, predictor)
    for name in ("queue1", "queue2"):
        setattr(model, name, official.tensor(queue(f"moby/{name}").T))
    return model


def silence_undetermined(model: torch.nn.Module) -> None:
    """Zero for the gradient of biases that change nothing; of the fused ones, the keys'."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith("attn.qkv.bias"):
            kept = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(len(parameter) // 3)
            parameter.register_hook(kept.mul)
        elif name in MOBY_UNDETERMINED:
            parameter.register_hook(torch.zeros_like)


def momentum_at(moby, case: Case, step: int) -> float:
    """Momentum that the official update uses: a target of 0 moves 1 - m towards 1."""
    one, zero = (torch.nn.ParameterList([torch.full((), x)]) for x in (1.0, 0.0))
    holder = types.SimpleNamespace(
        contrast_momentum=case.momentum,
        k=step,
        K=case.steps_per_epoch * case.epochs,
        encoder=one.double(),
        encoder_k=zero.double(),
        projector=torch.nn.ParameterList(),
        projector_k=torch.nn.ParameterList(),
    )
    moby.MoBY._momentum_update_key_encoder(holder)
    return 1 - holder.encoder_k[0].item()


def run(
    model: torch.nn.Module, moby, moby_main, case: Case, leave_out: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Three steps through the official train_one_epoch."""
    config = settings(case)
    silence_undetermined(model)
    optimizer = moby_main.build_optimizer(config, model)
    notes = official_runs.Notes(model, optimizer)
    first_step = {}

    def after_forward(module, inputs, output):
        if not notes.rows["loss"]:
            changed = official_runs.state(model, ("encoder",))
            first_step.update(
                (n, x) for n, x in changed.items() if "running" in n or n.startswith("queue")
            )
        notes.rows["loss"].append(output.item())
        # The forward pass has moved the counter on.
        notes.rows["momentum"].append(momentum_at(moby, case, model.k - 1))

    model.register_forward_hook(after_forward)

    def clip(parameters, limit):
        notes.note_gradients()
        total = clip_grad_norm(parameters, limit)
        notes.rows["total_norm"].append(total.item())
        return total

    clip_grad_norm = torch.nn.utils.clip_grad_norm_
    torch.nn.utils.clip_grad_norm_ = clip
    scheduler = moby_main.build_scheduler(config, optimizer, case.steps_per_epoch)
    for epoch, loader in official_runs.epochs("moby", case, official_runs.views_and_labels):
        moby_main.train_one_epoch(config, model, loader, optimizer, epoch, scheduler)
    torch.nn.utils.clip_grad_norm_ = clip_grad_norm
    return (
        notes.arrays()
        | {f"first_step/{n}": x for n, x in first_step.items()}
        | {f"final/{n}": x for n, x in official_runs.state(model, leave_out).items()}
    )


def loss_on_random_features(moby) -> dict[str, np.ndarray]:
    """One direction; features are normalised outside the official loss function."""
    normalise = partial(torch.nn.functional.normalize, dim=1)
    queries = official.tensor(features("moby/queries")).requires_grad_()
    keys = normalise(official.tensor(features("moby/keys")))
    holder = types.SimpleNamespace(contrast_temperature=MOBY_TEMPERATURE)
    negatives = official.tensor(queue("moby/queue1").T)
    value = moby.MoBY.contrastive_loss(holder, normalise(queries), keys, negatives)
    value.backward()
    return {"value": official.numpy(value), "query_gradient": official.numpy(queries.grad)}


def tables(moby, moby_main) -> dict[str, np.ndarray]:
    """Learning rate that every step's update has, and momentum at its start."""
    steps = TABLE_EPOCHS * TABLE_STEPS_PER_EPOCH
    config = settings(MOBY_TABLE)
    optimizer = moby_main.build_optimizer(config, torch.nn.Linear(1, 1))
    scheduler = moby_main.build_scheduler(config, optimizer, TABLE_STEPS_PER_EPOCH)
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step_update(step)
    momenta = [momentum_at(moby, MOBY_TABLE, step) for step in range(steps)]
    return {"learning_rate": np.array(rates), "momentum": np.array(momenta)}


def old_scheduler(folder: str) -> None:
    """timm.scheduler of the checkout in place of the installed one, which has other arguments."""
    package = types.ModuleType("old_timm_scheduler")
    package.__path__ = [str(Path(folder) / "timm" / "scheduler")]
    sys.modules["old_timm_scheduler"] = package
    for name in ("scheduler", "cosine_lr", "step_lr"):
        module = importlib.import_module(f"old_timm_scheduler.{name}")
        sys.modules[f"timm.scheduler.{name}"] = module


def main() -> None:
    official.use_checkout(sys.argv[1])
    timm = official.import_timm()
    timm.models.vit_deit_small_patch16_224 = None  # imported by name, of timm 0.3, not used
    old_scheduler(sys.argv[2])
    official.one_process()
    torch.nn.SyncBatchNorm.convert_sync_batchnorm = lambda module: module
    functional = types.SimpleNamespace(all_gather=lambda out, x: [x])
    official.stub_module("diffdist", functional=functional)
    official.stub_module("data", build_loader=None)
    official.stub_module("config", get_config=None)
    official.stub_module("logger", create_logger=None)
    import moby_main
    import models.swin_transformer
    from models import moby

    moby_main.logger = types.SimpleNamespace(info=print)
    moby.MoBYMLP.__init__.__defaults__ = (OUTPUT, HIDDEN, OUTPUT, 2)
    groups = {}
    for leave_out, (name, case) in zip(((), ("encoder_k.",)), MOBY_CASES.items(), strict=True):
        model = build_model(partial(tiny_vit, timm), moby_weights(), moby, case)
        groups[name] = run(model, moby, moby_main, case, leave_out)
    groups |= {"loss": loss_on_random_features(moby), "table": tables(moby, moby_main)}
    official.save("moby.npz", official_runs.flattened(groups))
    model = build_model(partial(tiny_swin, models), moby_swin_weights(), moby, MOBY_SWIN_CASE)
    swin = {"swin": run(model, moby, moby_main, MOBY_SWIN_CASE)}
    official.save("moby_swin.npz", official_runs.flattened(swin))


if __name__ == "__main__":
    main()

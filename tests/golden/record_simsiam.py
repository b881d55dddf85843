"""Records simsiam.npz: three optimiser steps of SimSiam, its loss, and its schedules.

Command (from the repository's root, with the official repository checked out):
    PYTHONPATH=tests python -m golden.record_simsiam SIMSIAM_CHECKOUT

Source: facebookresearch/simsiam a7bc1772896d0dad0806c51f0bb6f3b16d290468: main_simsiam.py (train,
adjust_learning_rate; the optimizer's two groups as main_worker makes them), simsiam/builder.py
(SimSiam).
Versions: Python 3.11, torch 2.13.0 (CPU), torchvision 0.29.2, timm 1.0.31 (the encoder), numpy
2.4.6; float32.
Shims: golden/official.py says which and why; besides, the encoder is a tiny ViT whose last layer is
called ``fc``, as torchvision's ResNets have it; the frozen bias before the last BatchNorm is zero.
BatchNorm is not converted to SyncBatchNorm, which wants CUDA tensors (one process).

Runs (golden/cases_contrastive.py): keys ``<case>/...`` with one row for each of the three steps of
``loss``, ``learning_rate`` (of both groups) and ``gradient_norm`` (of each trained parameter in the
order of ``parameter_names``). ``<case>/final/<name>`` is the state after the three steps, running
statistics included (torch averages the unbiased variance); ``<case>/first_step/<name>`` are those
statistics after the first.

Loss: ``loss/value`` and the gradients of the four random features. Schedule: ``table/...`` for
every epoch.
"""

import inspect
import sys
import types

import numpy as np
import torch
from golden import official, official_runs
from golden.cases import TABLE_EPOCHS
from golden.cases_contrastive import (
    OUTPUT,
    PREDICTOR_HIDDEN,
    SIMSIAM_CASES,
    Case,
    features,
    simsiam_weights,
)

FROZEN_BIAS = "fc.6.bias"


def build_model(timm, builder) -> torch.nn.Module:
    """SimSiam around the tiny encoder, with the shared weights."""
    model = builder.SimSiam(official_runs.vit_with_fc(timm), OUTPUT, PREDICTOR_HIDDEN)
    encoder, predictor = official_runs.split_by_prefix(simsiam_weights(), "predictor.")
    zero = np.zeros(OUTPUT, np.float32)
    official.load(model.encoder, encoder | {FROZEN_BIAS: zero})
    official.load(model.predictor, predictor)
    return model


def build_optimizer(model: torch.nn.Module, case: Case) -> torch.optim.Optimizer:
    """SGD with the groups of main_worker."""
    groups = model.parameters()
    if case.constant_predictor_rate:
        groups = [
            {"params": model.encoder.parameters(), "fix_lr": False},
            {"params": model.predictor.parameters(), "fix_lr": True},
        ]
    return torch.optim.SGD(groups, case.peak, momentum=0.9, weight_decay=case.decay)


def run(timm, main_simsiam, case: Case) -> dict[str, np.ndarray]:
    """Three steps through the official train."""
    model = build_model(timm, main_simsiam.simsiam.builder)
    optimizer = build_optimizer(model, case)
    notes = official_runs.Notes(model, optimizer)
    first_step = {}

    def after_forward(module, inputs, output):
        if not first_step:
            statistics = official_runs.state(model).items()
            first_step.update((n, x) for n, x in statistics if "running" in n)

    model.register_forward_hook(after_forward)
    arguments = types.SimpleNamespace(epochs=case.epochs, gpu=None, print_freq=1)
    criterion = torch.nn.CosineSimilarity(dim=1)
    with notes.losses_of(main_simsiam):
        for epoch, loader in official_runs.epochs("simsiam", case, official_runs.pair_and_label):
            main_simsiam.adjust_learning_rate(optimizer, case.peak, epoch, arguments)
            main_simsiam.train(loader, model, criterion, optimizer, epoch, arguments)
    return (
        notes.arrays()
        | {f"first_step/{n}": x for n, x in first_step.items()}
        | {f"final/{n}": x for n, x in official_runs.state(model).items()}
    )


def loss_on_random_features(main_simsiam) -> dict[str, np.ndarray]:
    """The line of train that computes the loss, on random features."""
    lines = [x for x in inspect.getsource(main_simsiam.train).splitlines() if " loss = " in x]
    if len(lines) != 1:
        raise SystemExit("train has no single line that computes the loss")
    values = {
        name: official.tensor(features(f"simsiam/{name}")).requires_grad_()
        for name in ("p1", "p2", "z1", "z2")
    }
    scope = values | {n: x.detach() for n, x in values.items() if n.startswith("z")}
    scope["criterion"] = torch.nn.CosineSimilarity(dim=1)
    exec(lines[0].strip(), scope)
    scope["loss"].backward()
    gradients = {f"gradient_{n}": official.numpy(values[n].grad) for n in ("p1", "p2")}
    return {"value": official.numpy(scope["loss"])} | gradients


def tables(main_simsiam) -> dict[str, np.ndarray]:
    """Learning rates (encoder, predictor) of every epoch."""
    groups = [{"fix_lr": False}, {"fix_lr": True}]
    optimizer = types.SimpleNamespace(param_groups=groups)
    arguments = types.SimpleNamespace(epochs=TABLE_EPOCHS)
    rates = []
    for epoch in range(TABLE_EPOCHS):
        main_simsiam.adjust_learning_rate(
            optimizer, SIMSIAM_CASES["constant"].peak, epoch, arguments
        )
        rates.append([group["lr"] for group in groups])
    return {"learning_rate": np.array(rates)}


def main() -> None:
    official.use_checkout(sys.argv[1])
    timm = official.import_timm()
    import main_simsiam

    groups = {name: run(timm, main_simsiam, case) for name, case in SIMSIAM_CASES.items()}
    groups |= {"loss": loss_on_random_features(main_simsiam), "table": tables(main_simsiam)}
    official.save("simsiam.npz", official_runs.flattened(groups))


if __name__ == "__main__":
    main()

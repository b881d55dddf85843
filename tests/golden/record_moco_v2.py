"""Records moco_v2.npz: three optimiser steps of MoCo v2, its loss, and its schedule.

Command (from the repository's root, with the official repository checked out at that commit):
    PYTHONPATH=tests python -m golden.record_moco_v2 MOCO_CHECKOUT

Source: facebookresearch/moco 56700212990d83b3292bbaa6207c96f1ae4c90f8 (branch KaimingHe-patch-2;
the default branch no longer has the code): main_moco.py (train, adjust_learning_rate; --mlp --cos),
moco/builder.py (MoCo, its shuffling over one process included).
Versions: Python 3.11, torch 2.13.0 (CPU), torchvision 0.29.2, timm 1.0.31 (the encoder), numpy
2.4.6; float32.
Shims: golden/official.py says which and why; besides, the encoder is a tiny ViT whose last layer is
called ``fc``, as torchvision's ResNets have it; main_moco's accuracy, which only fills meters and
which this torch refuses (a view of a transposed tensor), returns zeros.

Runs (golden/cases_contrastive.py): keys ``<case>/...`` with one row for each of the three steps of
``loss``, ``learning_rate`` and ``gradient_norm`` (of each trained parameter in the order of
``parameter_names``). ``<case>/final/<name>`` is the state after the three steps, the queue and its
pointer included; of the second case, the key encoder is left out. ``<case>/first_step/<name>`` are
queue and pointer after the first.

Loss: ``loss/value`` and ``loss/query_gradient`` on random features, through MoCo.forward with
encoders that return them. Schedule: ``table/learning_rate`` for every epoch.
"""

import sys
import types

import numpy as np
import torch
from golden import official, official_runs
from golden.cases import TABLE_EPOCHS
from golden.cases_contrastive import (
    MOCO_V2_CASES,
    MOCO_V2_TEMPERATURE,
    OUTPUT,
    QUEUE,
    Case,
    features,
    moco_v2_weights,
    queue,
)


def build_model(encoder, builder, case: Case, weights=None) -> torch.nn.Module:
    """MoCo around two encoders; both get the shared weights, if there are any."""
    model = builder.MoCo(
        encoder, OUTPUT, QUEUE, case.momentum, MOCO_V2_TEMPERATURE, mlp=weights is not None
    )
    if weights:
        official.load(model.encoder_q, weights)
        official.load(model.encoder_k, weights)
    model.queue = official.tensor(queue("moco_v2/queue").T)
    return model


def run(timm, main_moco, case: Case, leave_out: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Three steps through the official train."""
    encoder = official_runs.vit_with_fc(timm)
    model = build_model(encoder, main_moco.moco.builder, case, moco_v2_weights())
    optimizer = torch.optim.SGD(
        model.parameters(), case.peak, momentum=0.9, weight_decay=case.decay
    )
    notes = official_runs.Notes(model, optimizer)
    first_step = {}

    def after_forward(module, inputs, output):
        if not first_step:
            first_step.update(official_runs.state(model, ("encoder",)))

    model.register_forward_hook(after_forward)
    arguments = types.SimpleNamespace(
        lr=case.peak, cos=True, epochs=case.epochs, gpu=None, print_freq=1
    )
    criterion = torch.nn.CrossEntropyLoss()
    with notes.losses_of(main_moco):
        for epoch, loader in official_runs.epochs("moco_v2", case, official_runs.pair_and_label):
            main_moco.adjust_learning_rate(optimizer, epoch, arguments)
            main_moco.train(loader, model, criterion, optimizer, epoch, arguments)
    return (
        notes.arrays()
        | {f"first_step/{n}": x for n, x in first_step.items()}
        | {f"final/{n}": x for n, x in official_runs.state(model, leave_out).items()}
    )


def loss_on_random_features(builder) -> dict[str, np.ndarray]:
    """forward and criterion; the "images" are the features already."""

    class Features(torch.nn.Module):
        def __init__(self, num_classes: int):
            super().__init__()

        def forward(self, images):
            return images

    model = build_model(Features, builder, MOCO_V2_CASES["one"])
    queries = official.tensor(features("moco_v2/queries", QUEUE)).requires_grad_()
    keys = official.tensor(features("moco_v2/keys", QUEUE))
    value = torch.nn.functional.cross_entropy(*model(im_q=queries, im_k=keys))
    value.backward()
    return {"value": official.numpy(value), "query_gradient": official.numpy(queries.grad)}


def tables(main_moco) -> dict[str, np.ndarray]:
    """Learning rate of every epoch."""
    optimizer = types.SimpleNamespace(param_groups=[{}])
    arguments = types.SimpleNamespace(lr=MOCO_V2_CASES["one"].peak, cos=True, epochs=TABLE_EPOCHS)
    rates = []
    for epoch in range(TABLE_EPOCHS):
        main_moco.adjust_learning_rate(optimizer, epoch, arguments)
        rates.append(optimizer.param_groups[0]["lr"])
    return {"learning_rate": np.array(rates)}


def main() -> None:
    official.use_checkout(sys.argv[1])
    timm = official.import_timm()
    official.one_process()
    import main_moco

    main_moco.accuracy = lambda output, target, topk: [torch.zeros(1) for _ in topk]
    groups = {}
    for leave_out, (name, case) in zip(((), ("encoder_k.",)), MOCO_V2_CASES.items(), strict=True):
        groups[name] = run(timm, main_moco, case, leave_out)
    groups |= {
        "loss": loss_on_random_features(main_moco.moco.builder),
        "table": tables(main_moco),
    }
    official.save("moco_v2.npz", official_runs.flattened(groups))


if __name__ == "__main__":
    main()

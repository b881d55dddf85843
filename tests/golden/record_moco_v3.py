"""Records three optimiser steps of MoCo v3, its loss, and its schedules.

Command (from the repository's root, with the official repository checked out), of both files or of
those that are named, moco_v3.npz and moco_v3_options.npz:
    PYTHONPATH=tests python -m golden.record_moco_v3 MOCO_V3_CHECKOUT [FILE ...]

Source: facebookresearch/moco-v3 c349e6e24f40d3fedb22d973f92defa4cedf37a7: main_moco.py (train,
adjust_learning_rate, adjust_moco_momentum), moco/builder.py (MoCo_ViT), vits.py
(VisionTransformerMoCo with --stop-grad-conv1).
Versions: Python 3.11, torch 2.13.0 (CPU), torchvision 0.29.2 (0.28.0 for the options), timm 1.0.31,
numpy 2.4.6; float32 (autocast and the gradient scaler act on CUDA only).
Shims: golden/official.py says which and why; besides, TensorBoard's writer, imported but not used,
is an empty stub, one run's second epoch ends after its first step, and ConvStem does not
get the arguments that timm has added since.

Runs (golden/cases.py): keys ``<case>/...`` with one row for each of the three steps of ``loss``,
``learning_rate``, ``momentum`` and ``gradient_norm`` (of each trainable parameter in the order of
``parameter_names``). After the three steps, ``<case>/base/<name>``, ``<case>/momentum_encoder/
<name>`` and ``<case>/predictor/<name>`` are the trainable parameters (of the momentum encoder:
their counterparts) and BatchNorm's running statistics; ``<case>/first_step/...`` are those
statistics after the first step. torch averages the unbiased variance there.

moco_v3.npz holds the cases of the recipes, moco_v3_options.npz those of a constant momentum and of
the convolutional stem. Of the latter, ``conv_stem/first_gradient/<name>`` are the stem's gradients
in the first step, ``conv_stem/evaluated_tokens`` [B, 1+N, D] what the base encoder says in
evaluation mode, after the three steps, about the first views of the first one;
``parameters/<arch>`` are numbers of parameters of official base encoders with projector.

Loss: ``loss/value`` and ``loss/query_gradient`` of one contrastive term on the random features of
``cases.moco_v3_features``. Schedules: ``table/...`` for every step.
"""

import sys
import types
from collections import defaultdict
from functools import partial

import numpy as np
import torch
from golden import official
from golden.cases import (
    MOCO_V3_CASES,
    MOCO_V3_HIDDEN,
    MOCO_V3_OPTION_CASES,
    MOCO_V3_OUTPUT,
    MOCO_V3_TEMPERATURE,
    STEPS,
    TABLE_EPOCHS,
    TABLE_STEPS_PER_EPOCH,
    MoCoV3Case,
    moco_v3_features,
    moco_v3_views,
    moco_v3_weights,
)
from golden.weights import normalised


class Loader:
    """Says the length of a whole epoch, yields only the batches that are recorded."""

    def __init__(self, steps: range, steps_per_epoch: int):
        self.steps, self.steps_per_epoch = steps, steps_per_epoch

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self):
        for step in self.steps:
            views = normalised(moco_v3_views(step)["global"]).swapaxes(0, 1)
            yield [official.image_tensor(view) for view in views], None


def deafen_stem(vits) -> None:
    """The official ConvStem no longer gets the arguments that later versions of timm add."""

    class Stem(vits.ConvStem):
        def __init__(self, img_size, patch_size, in_chans, embed_dim, **later):
            super().__init__(img_size, patch_size, in_chans, embed_dim)

    vits.ConvStem = Stem


def build_model(vits, builder, case: MoCoV3Case) -> torch.nn.Module:
    """MoCo_ViT around the tiny encoder, both encoders with the shared weights."""
    vit = case.vit
    stem = {"embed_layer": vits.ConvStem} if case.conv_stem else {}
    encoder = partial(
        vits.VisionTransformerMoCo,
        stop_grad_conv1=True,
        img_size=vit.image_size,
        patch_size=vit.patch_size,
        embed_dim=vit.width,
        depth=vit.depth,
        num_heads=vit.heads,
        mlp_ratio=4,
        qkv_bias=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        **stem,
    )
    model = builder.MoCo_ViT(encoder, MOCO_V3_OUTPUT, MOCO_V3_HIDDEN, MOCO_V3_TEMPERATURE)
    values = moco_v3_weights(case)
    encoder_values = {n: v for n, v in values.items() if not n.startswith("predictor.")}
    official.load(model.base_encoder, encoder_values)
    official.load(model.momentum_encoder, encoder_values)
    official.load(
        model.predictor,
        {n.removeprefix("predictor."): v for n, v in values.items() if n.startswith("predictor.")},
    )
    return model


def run(main_moco, case: MoCoV3Case) -> dict[str, np.ndarray]:
    """Three steps through the official train."""
    model = build_model(main_moco.vits, main_moco.moco.builder, case)
    optimizer = torch.optim.AdamW(model.parameters(), case.peak, weight_decay=case.decay)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    rows, in_first_step = defaultdict(list), {}
    model.register_forward_hook(
        lambda module, inputs, output: (
            rows["loss"].append(output.item()) or rows["momentum"].append(inputs[2])
        )
    )

    def before_update(optimizer, *_):
        rows["learning_rate"].append(optimizer.param_groups[0]["lr"])
        rows["gradient_norm"].append([p.grad.norm().item() for p in trained.values()])
        if len(rows["loss"]) == 1:
            statistics = running_statistics(model)
            in_first_step.update({f"first_step/{name}": x for name, x in statistics.items()})
            if case.conv_stem:
                in_first_step.update(stem_gradients(model))

    optimizer.register_step_pre_hook(before_update)
    arguments = official_arguments(case, case.epochs)
    writer = types.SimpleNamespace(add_scalar=lambda *args: None)
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    for first in range(0, STEPS, case.steps_per_epoch):
        steps = range(first, min(first + case.steps_per_epoch, STEPS))
        loader = Loader(steps, case.steps_per_epoch)
        epoch = first // case.steps_per_epoch
        main_moco.train(loader, model, optimizer, scaler, writer, epoch, arguments)

    arrays = {name: np.array(values) for name, values in rows.items()}
    arrays["parameter_names"] = np.array(list(trained))
    arrays |= in_first_step | state(model)
    if case.conv_stem:
        views = official.image_tensor(normalised(moco_v3_views(0)["global"][:, 0]))
        encoder = model.base_encoder.eval()
        arrays["evaluated_tokens"] = official.numpy(encoder.forward_features(views))
    return arrays


def stem_gradients(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Of the base encoder's patch embedding."""
    return {
        f"first_gradient/{name}": official.numpy(parameter.grad)
        for name, parameter in model.base_encoder.named_parameters()
        if name.startswith("patch_embed.")
    }


def parameter_counts(vits, builder) -> dict[str, np.ndarray]:
    """Of the official encoders with a convolutional stem, and their projectors."""
    counts = {}
    for arch in ("vit_conv_small", "vit_conv_base"):
        model = builder.MoCo_ViT(vars(vits)[arch], 256, 4096, MOCO_V3_TEMPERATURE)
        counts[arch] = np.array(sum(p.numel() for p in model.base_encoder.parameters()))
    return counts


def state(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Parameters and running statistics of the three networks; sin-cos positions are left out."""
    parts = {
        "base": model.base_encoder,
        "momentum_encoder": model.momentum_encoder,
        "predictor": model.predictor,
    }
    return {
        f"{part}/{name}": official.numpy(value)
        for part, module in parts.items()
        for name, value in module.state_dict().items()
        if not name.endswith(("pos_embed", "num_batches_tracked"))
    }


def running_statistics(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """BatchNorm's part of the state."""
    return {name: value for name, value in state(model).items() if ".running_" in name}


def official_arguments(case: MoCoV3Case, epochs: int) -> types.SimpleNamespace:
    """What main_moco's functions read of its command line."""
    return types.SimpleNamespace(
        lr=case.peak,
        epochs=epochs,
        warmup_epochs=case.warmup_epochs,
        moco_m=case.momentum,
        moco_m_cos=case.cosine_momentum,
        gpu=None,
        rank=0,
        print_freq=1,
    )


def loss_on_random_features(builder) -> dict[str, np.ndarray]:
    """One term of the loss, with its factor 2 tau."""
    features = {name: official.tensor(value) for name, value in moco_v3_features().items()}
    queries = features["queries"].requires_grad_()
    holder = types.SimpleNamespace(T=MOCO_V3_TEMPERATURE)
    value = builder.MoCo.contrastive_loss(holder, queries, features["keys"])
    value.backward()
    return {"value": official.numpy(value), "query_gradient": official.numpy(queries.grad)}


def tables(main_moco) -> dict[str, np.ndarray]:
    """Whole schedules of the case with warm-up."""
    arguments = official_arguments(MOCO_V3_CASES["warmup"], TABLE_EPOCHS)
    optimizer = types.SimpleNamespace(param_groups=[])
    clock = [
        epoch + i / TABLE_STEPS_PER_EPOCH
        for epoch in range(TABLE_EPOCHS)
        for i in range(TABLE_STEPS_PER_EPOCH)
    ]
    return {
        "learning_rate": np.array(
            [main_moco.adjust_learning_rate(optimizer, epoch, arguments) for epoch in clock]
        ),
        "momentum": np.array([main_moco.adjust_moco_momentum(epoch, arguments) for epoch in clock]),
    }


def main() -> None:
    official.use_checkout(sys.argv[1])
    official.import_timm()
    official.stub_module("torch.utils.tensorboard", SummaryWriter=None)
    official.one_process()
    import main_moco

    deafen_stem(main_moco.vits)
    files = sys.argv[2:] or ["moco_v3.npz", "moco_v3_options.npz"]
    for file in files:
        cases = MOCO_V3_CASES if file == "moco_v3.npz" else MOCO_V3_OPTION_CASES
        groups = {name: run(main_moco, case) for name, case in cases.items()}
        if file == "moco_v3.npz":
            groups |= {
                "loss": loss_on_random_features(main_moco.moco.builder),
                "table": tables(main_moco),
            }
        else:
            groups["parameters"] = parameter_counts(main_moco.vits, main_moco.moco.builder)
        official.save(
            file, {f"{g}/{n}": value for g, arrays in groups.items() for n, value in arrays.items()}
        )


if __name__ == "__main__":
    main()

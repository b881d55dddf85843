"""Records three optimiser steps of DINO, its loss, and its schedules.

Command (from the repository's root, with the official repository checked out), of both files or of
those that are named, dino.npz and dino_options.npz:
    PYTHONPATH=tests python -m golden.record_dino DINO_CHECKOUT [FILE ...]

Source: facebookresearch/dino 7c446df5b9f45747937fb0d72314eb9f7b66930a: main_dino.py
(train_one_epoch, DINOLoss), utils.py (MultiCropWrapper, get_params_groups, clip_gradients,
cancel_gradients_last_layer, cosine_scheduler), vision_transformer.py (VisionTransformer, DINOHead).
Versions: Python 3.11, torch 2.13.0 (CPU), torchvision 0.29.2 (0.28.0 for the options),
numpy 2.4.6; float32.
Shims: golden/official.py says which and why; besides, the logger's reduction over processes, which
wants CUDA tensors, is left out, and one run's second epoch ends after its first step.

Runs (golden/cases.py): keys ``<case>/...`` with one row for each of the three steps of ``loss``,
``learning_rate``, ``decay``, ``momentum``, ``teacher_temperature``, ``centre`` (after the step),
``gradient_norm`` (of each parameter in the order of ``parameter_names``, before clipping) and
``clipped_gradient_norm`` (after); NaN for a parameter that is not trained.
``<case>/student/<name>`` and ``<case>/teacher/<name>`` are the parameters after the three steps.
dino.npz holds the cases of the recipes, dino_options.npz the head with BatchNorm, whose running
statistics are among the student's and the teacher's names; its ``first_gradient/<name>`` are the
head's gradients in the first step, before clipping.

Loss: ``loss/...`` for random logits of 2 + 8 crops (``cases.dino_logits``), two calls in a row so
that the second uses the updated centre. Schedules: ``table/...`` for every step.
"""

import sys
import types
from collections import defaultdict

import numpy as np
import torch
from golden import official
from golden.cases import (
    DINO_CASES,
    DINO_HEAD,
    DINO_LOSS_CROPS,
    DINO_LOSS_TEMPERATURES,
    DINO_OPTION_CASES,
    LOCAL_CROPS,
    STEPS,
    TABLE_EPOCHS,
    TABLE_STEPS_PER_EPOCH,
    TABLE_WARMUP_EPOCHS,
    TRAINED_VIT,
    DINOCase,
    dino_logits,
    dino_views,
    dino_weights,
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
            views = [
                normalised(v) for views in dino_views(step).values() for v in views.swapaxes(0, 1)
            ]
            yield [official.image_tensor(view) for view in views], None


class Student(torch.nn.Module):
    """Stands in for DistributedDataParallel: the model under the name ``module``."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module

    def forward(self, crops):
        return self.module(crops)


def wrapped_model(main_dino, *, norm_last_layer: bool, use_bn: bool) -> torch.nn.Module:
    """Encoder and head as train_dino builds them, with the shared weights."""
    vit = TRAINED_VIT
    encoder = main_dino.vits.VisionTransformer(
        img_size=[vit.image_size],
        patch_size=vit.patch_size,
        embed_dim=vit.width,
        depth=vit.depth,
        num_heads=vit.heads,
        qkv_bias=True,
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
    )
    head = main_dino.DINOHead(
        vit.width,
        DINO_HEAD["prototypes"],
        use_bn=use_bn,
        norm_last_layer=norm_last_layer,
        hidden_dim=DINO_HEAD["hidden"],
        bottleneck_dim=DINO_HEAD["bottleneck"],
    )
    return main_dino.utils.MultiCropWrapper(encoder, head)


def load(model: torch.nn.Module, values: dict[str, np.ndarray]) -> None:
    """Loads weights whose encoder names lack the wrapper's ``backbone.``."""
    official.load(
        model, {n if n.startswith("head.") else f"backbone.{n}": v for n, v in values.items()}
    )


def plain_name(name: str) -> str:
    """Parameter name without the wrappers' prefixes."""
    return name.removeprefix("module.").removeprefix("backbone.")


def gradient_norms(model: torch.nn.Module) -> list[float]:
    """Norm of each parameter's gradient; NaN where there is none."""
    return [float("nan") if p.grad is None else p.grad.norm().item() for p in model.parameters()]


def run(main_dino, case: DINOCase) -> dict[str, np.ndarray]:
    """Three steps through the official train_one_epoch."""
    utils = main_dino.utils
    use_bn = case.batch_norm
    student = Student(wrapped_model(main_dino, norm_last_layer=case.norm_last_layer, use_bn=use_bn))
    teacher = wrapped_model(main_dino, norm_last_layer=True, use_bn=use_bn)
    load(student.module, dino_weights(case))
    teacher.load_state_dict(student.module.state_dict())
    teacher.requires_grad_(False)
    loss = main_dino.DINOLoss(
        DINO_HEAD["prototypes"],
        2 + LOCAL_CROPS,
        case.teacher_temperature_start,
        case.teacher_temperature,
        case.teacher_temperature_epochs,
        case.epochs,
    )
    optimizer = torch.optim.AdamW(utils.get_params_groups(student))
    clock = (case.epochs, case.steps_per_epoch)
    learning_rate = utils.cosine_scheduler(
        case.peak, case.end, *clock, warmup_epochs=case.warmup_epochs
    )
    decay = utils.cosine_scheduler(case.decay, case.decay_end, *clock)
    momentum = utils.cosine_scheduler(case.momentum, 1, *clock)

    rows = defaultdict(list)
    loss.register_forward_hook(
        lambda module, inputs, output: (
            rows["loss"].append(output.item())
            or rows["centre"].append(official.numpy(module.center))
        )
    )
    optimizer.register_step_pre_hook(
        lambda optimizer, *_: (
            rows["learning_rate"].append(optimizer.param_groups[0]["lr"])
            or rows["decay"].append(optimizer.param_groups[0]["weight_decay"])
        )
    )
    watch = GradientWatch(utils, rows)
    arguments = types.SimpleNamespace(
        epochs=case.epochs, clip_grad=case.clip, freeze_last_layer=case.freeze_last_layer
    )
    for first in range(0, STEPS, case.steps_per_epoch):
        steps = range(first, min(first + case.steps_per_epoch, STEPS))
        epoch = first // case.steps_per_epoch
        main_dino.train_one_epoch(
            student,
            teacher,
            teacher,
            loss,
            Loader(steps, case.steps_per_epoch),
            optimizer,
            learning_rate,
            decay,
            momentum,
            epoch,
            None,
            arguments,
        )
        for step in steps:
            rows["momentum"].append(momentum[step])
            rows["teacher_temperature"].append(loss.teacher_temp_schedule[epoch])
    watch.stop()

    arrays = {name: np.array(values) for name, values in rows.items()}
    names = [plain_name(n) for n, _ in student.named_parameters()]
    arrays["parameter_names"] = np.array(names)
    for part, model in {"student": student, "teacher": teacher}.items():
        arrays |= {f"{part}/{name}": value for name, value in state(model).items()}
    if use_bn:
        arrays |= {f"first_gradient/{name}": x for name, x in watch.first_of_head.items()}
    return arrays


def state(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Parameters and BatchNorm's running statistics, if any."""
    return {
        plain_name(name): official.numpy(value)
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


class GradientWatch:
    """Notes the gradient norms around the official clipping.

    cancel_gradients_last_layer is called after the clipping, whether or not there is any.
    """

    def __init__(self, utils, rows: dict[str, list]):
        self.utils = utils
        self.first_of_head: dict[str, np.ndarray] = {}
        self.originals = (utils.clip_gradients, utils.cancel_gradients_last_layer)
        clip_gradients, cancel_gradients = self.originals

        def clip(model, limit):
            rows["gradient_norm"].append(gradient_norms(model))
            self.first_of_head = self.first_of_head or {
                plain_name(name): official.numpy(parameter.grad)
                for name, parameter in model.named_parameters()
                if "head." in name and parameter.grad is not None
            }
            return clip_gradients(model, limit)

        def cancel(epoch, model, freeze_last_layer):
            rows["clipped_gradient_norm"].append(gradient_norms(model))
            cancel_gradients(epoch, model, freeze_last_layer)

        utils.clip_gradients, utils.cancel_gradients_last_layer = clip, cancel

    def stop(self) -> None:
        """Puts the official functions back."""
        self.utils.clip_gradients, self.utils.cancel_gradients_last_layer = self.originals


def loss_on_random_logits(main_dino) -> dict[str, np.ndarray]:
    """Two calls of DINOLoss; the centre starts at zero."""
    first = dino_logits(0)
    prototypes = first["student"].shape[-1]
    loss = main_dino.DINOLoss(prototypes, DINO_LOSS_CROPS, *DINO_LOSS_TEMPERATURES, 2, 2)
    rows = defaultdict(list)
    for call in range(2):
        logits = {name: official.tensor(value) for name, value in dino_logits(call).items()}
        student = logits["student"].flatten(0, 1).requires_grad_()
        value = loss(student, logits["teacher"].flatten(0, 1), call)
        value.backward()
        rows["value"].append(value.item())
        rows["student_gradient"].append(official.numpy(student.grad.view_as(logits["student"])))
        rows["centre"].append(official.numpy(loss.center))
    return {name: np.array(values) for name, values in rows.items()}


def tables(main_dino) -> dict[str, np.ndarray]:
    """Whole schedules of the first case's settings."""
    case = DINO_CASES["clip_0.3"]
    scheduler = main_dino.utils.cosine_scheduler
    clock = (TABLE_EPOCHS, TABLE_STEPS_PER_EPOCH)
    loss = main_dino.DINOLoss(
        1,
        2,
        case.teacher_temperature_start,
        case.teacher_temperature,
        case.teacher_temperature_epochs,
        TABLE_EPOCHS,
    )
    return {
        "learning_rate": scheduler(case.peak, case.end, *clock, warmup_epochs=TABLE_WARMUP_EPOCHS),
        "decay": scheduler(case.decay, case.decay_end, *clock),
        "momentum": scheduler(case.momentum, 1, *clock),
        "teacher_temperature": np.repeat(loss.teacher_temp_schedule, TABLE_STEPS_PER_EPOCH),
    }


def main() -> None:
    official.use_checkout(sys.argv[1])
    official.one_process()
    import main_dino

    main_dino.utils.SmoothedValue.synchronize_between_processes = lambda self: None
    files = sys.argv[2:] or ["dino.npz", "dino_options.npz"]
    for file in files:
        cases = DINO_CASES if file == "dino.npz" else DINO_OPTION_CASES
        groups = {name: run(main_dino, case) for name, case in cases.items()}
        if file == "dino.npz":
            groups |= {"loss": loss_on_random_logits(main_dino), "table": tables(main_dino)}
        official.save(
            file, {f"{g}/{n}": value for g, arrays in groups.items() for n, value in arrays.items()}
        )


if __name__ == "__main__":
    main()

"""What the recordings of official torch training loops share: data, encoders and notes.

The official functions get their batches from a ``Loader``, their encoder from ``tiny_vit``; a
``Notes`` hooks into model and optimizer and so sees every step without changing any.
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from golden import official
from golden.cases import BATCH, STEPS, TRAINED_VIT
from golden.cases_contrastive import Case, global_views
from golden.weights import normalised


class Loader:
    """Says the length of a whole epoch, yields only the batches that are recorded.

    ``batch`` makes what the official loop expects of two views [B, 3, S, S].
    """

    def __init__(self, method: str, steps: range, steps_per_epoch: int, batch: Callable):
        self.method, self.steps = method, steps
        self.steps_per_epoch, self.batch = steps_per_epoch, batch

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self):
        for step in self.steps:
            crops = normalised(global_views(self.method, step)["global"]).swapaxes(0, 1)
            yield self.batch(*(official.image_tensor(view) for view in crops))


def epochs(method: str, case: Case, batch: Callable):
    """(epoch, loader of its recorded steps) until STEPS have been taken."""
    for first in range(0, STEPS, case.steps_per_epoch):
        steps = range(first, min(first + case.steps_per_epoch, STEPS))
        yield first // case.steps_per_epoch, Loader(method, steps, case.steps_per_epoch, batch)


def pair_and_label(first: torch.Tensor, second: torch.Tensor):
    """The batches of facebookresearch's loops: ([view 1, view 2], labels that nobody reads)."""
    return [first, second], None


def views_and_labels(first: torch.Tensor, second: torch.Tensor):
    """MoBY's batches."""
    return first, second, torch.zeros(BATCH)


def vit_arguments() -> dict:
    """Arguments of timm's VisionTransformer for the tiny encoder, without a classifier."""
    vit = TRAINED_VIT
    return {
        "img_size": vit.image_size,
        "patch_size": vit.patch_size,
        "embed_dim": vit.width,
        "depth": vit.depth,
        "num_heads": vit.heads,
        "mlp_ratio": 4,
        "qkv_bias": True,
        "num_classes": 0,
        "norm_layer": partial(torch.nn.LayerNorm, eps=1e-6),
    }


def vit_with_fc(timm) -> Callable[..., torch.nn.Module]:
    """A stand-in for torchvision's ResNets: a builder of tiny ViTs whose last layer is ``fc``."""

    class ViTWithFC(timm.models.vision_transformer.VisionTransformer):
        def __init__(self, num_classes: int, **_):
            super().__init__(**vit_arguments())
            self.fc = torch.nn.Linear(TRAINED_VIT.width, num_classes)

        def forward(self, images):
            return self.fc(super().forward(images))

    return ViTWithFC


def split_by_prefix(values: Mapping[str, np.ndarray], prefix: str) -> tuple[dict, dict]:
    """(arrays without the prefix in their names, arrays under it, named without it)."""
    under = {n.removeprefix(prefix): x for n, x in values.items() if n.startswith(prefix)}
    return {n: x for n, x in values.items() if not n.startswith(prefix)}, under


class Notes:
    """Rows of numbers, one a step, and the state after the first forward pass."""

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer):
        self.rows = defaultdict(list)
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.model = model
        optimizer.register_step_pre_hook(lambda optimizer, *_: self.before_update(optimizer))

    def before_update(self, optimizer: torch.optim.Optimizer) -> None:
        """Called by the optimizer, between backward pass and update."""
        self.rows["learning_rate"].append([group["lr"] for group in optimizer.param_groups])
        if len(self.rows["gradient_norm"]) < len(self.rows["learning_rate"]):
            self.note_gradients()

    def note_gradients(self) -> None:
        """Norm of each trained parameter's gradient."""
        self.rows["gradient_norm"].append([p.grad.norm().item() for p in self.trained.values()])

    @contextlib.contextmanager
    def losses_of(self, script):
        """While it lasts, notes the losses that facebookresearch's ``train`` gives its meter."""
        rows, meter_class = self.rows, script.AverageMeter

        class Meter(meter_class):
            def update(self, value, n=1):
                if self.name == "Loss":
                    rows["loss"].append(value)
                super().update(value, n)

        script.AverageMeter = Meter
        yield
        script.AverageMeter = meter_class

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything noted."""
        names = {"parameter_names": np.array(list(self.trained))}
        return {name: np.array(values) for name, values in self.rows.items()} | names


def state(model: torch.nn.Module, leave_out: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Parameters, running statistics and buffers; names that begin with ``leave_out`` are not."""
    return {
        name: official.numpy(value)
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked") and not name.startswith(leave_out)
    }


def flattened(groups: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """{"group/name": array}."""
    return {f"{g}/{n}": value for g, arrays in groups.items() for n, value in arrays.items()}

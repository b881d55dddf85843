"""What the recording scripts need to run the official code on a CPU with today's libraries.

The shims are patches at run time; the official files are used as they are checked out.
- torchvision's compiled operators do not load beside a CPU build of torch from another source, and
  its Python part registers meta kernels for two of them: their signatures are declared.
- ``.cuda()`` returns the tensor itself, ``torch.cuda.synchronize`` does nothing.
- timm: ``import_timm``.
- A process group of one process (gloo) serves ``all_reduce`` and ``all_gather``.
"""

import sys
import types
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

GOLDEN = Path(__file__).parent

_torchvision = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _torchvision.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
torch.Tensor.cuda = lambda self, *args, **kwargs: self
torch.nn.Module.cuda = lambda self, *args, **kwargs: self
torch.cuda.synchronize = lambda *args: None


def use_checkout(folder: str) -> None:
    """Puts an official checkout on the import path."""
    if not Path(folder).is_dir():
        raise SystemExit(f"{folder} is not a folder; give the checkout of the official repository")
    sys.path.insert(0, folder)


def stub_module(name: str, **attributes) -> None:
    """Registers an empty module for an import that the recorded code never uses."""
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module


def import_timm() -> types.ModuleType:
    """timm 1.0 with the names that MoCo v3's vits.py, written for timm 0.4.9, expects.

    ``timm.models.layers.helpers`` has moved, and ``VisionTransformer.num_tokens`` is now called
    ``num_prefix_tokens``.
    """
    import timm.layers

    stub_module("timm.models.layers.helpers", to_2tuple=timm.layers.to_2tuple)
    timm.models.vision_transformer.VisionTransformer.num_tokens = 1
    return timm


def one_process() -> None:
    """Starts the process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def tensor(array: np.ndarray) -> torch.Tensor:
    """A float tensor of torch's default type."""
    return torch.tensor(array, dtype=torch.get_default_dtype())


def image_tensor(images: np.ndarray) -> torch.Tensor:
    """[B, H, W, 3] -> [B, 3, H, W]."""
    return tensor(images).permute(0, 3, 1, 2).contiguous()


def load(module: torch.nn.Module, values: Mapping[str, np.ndarray]) -> None:
    """Copies ``values`` into a module, whose names and shapes must be theirs.

    Only fixed (sin-cos) positions may be left out.
    """
    shapes = {
        name: tuple(parameter.shape)
        for name, parameter in module.named_parameters()
        if name in values or name != "pos_embed" or parameter.requires_grad
    }
    expected = {name: value.shape for name, value in values.items()}
    if shapes != expected:
        raise SystemExit(
            f"parameters differ: {sorted(set(shapes.items()) ^ set(expected.items()))}"
        )
    module.load_state_dict({name: tensor(value) for name, value in values.items()}, strict=False)


def numpy(value: torch.Tensor) -> np.ndarray:
    """Detached copy."""
    return value.detach().cpu().numpy().copy()


def save(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes tests/golden/<name> and says its size."""
    path = GOLDEN / name
    np.savez_compressed(path, **arrays)
    print(f"{path}: {len(arrays)} arrays, {path.stat().st_size / 1e3:.0f} kB")

"""Records setr.npz: the heads of SETR by the authors' modules, in training and in evaluation.

Command (from the repository's root, with the official repository checked out):
    PYTHONPATH=tests python -m golden.record_setr SETR_CHECKOUT

Source: fudan-zvg/SETR 1361561ffde90e07ed1b4f9cdbc10b88ce27e2f3,
 mmseg/models/decode_heads/{vit_up_head,vit_mla_head,
vit_mla_auxi_head}.py and Conv_MLA of mmseg/models/backbones/vit_mla.py.
Versions: Python 3.11, torch 2.14.1 (CPU), numpy 2.4.6; float32.
Shims: mmcv's build_norm_layer makes a BatchNorm2d, which is SyncBN on one process; registries
register nothing; BaseDecodeHead keeps its arguments; Conv_MLA stands alone, its file's imports are
not needed. The weights are functions of their paths here (golden/cases_dense.py).

Keys: ``<variant>/<mode>/main`` and ``.../auxiliary_<k>`` [B, h, w, C], every fourth pixel, mode
"train" or "eval"; ``<variant>/loss``, main + 0.4 x auxiliary, void in the mean;
``<variant>/gradient/<k>`` of it by the maps; ``<variant>/mean``: of the running means, summed.
"""

import ast
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import torch
from golden import official
from golden.cases_dense import SETR, SETR_BLOCKS, setr_labels, setr_maps, setr_values
from torch import nn
from torch.nn import functional


class Base(nn.Module):
    """mmseg's BaseDecodeHead, as far as these heads use it."""

    def __init__(self, num_classes=None, in_channels=None, align_corners=False, **unused):
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.align_corners = align_corners

    def _transform_inputs(self, inputs):
        return inputs


class Registry:
    """Registers nothing."""

    def register_module(self):
        return lambda module: module


def modules(checkout: Path) -> types.SimpleNamespace:
    """The authors' classes."""

    def norm(config, channels):
        return "bn", nn.BatchNorm2d(channels)

    official.stub_module("mmcv")
    official.stub_module("mmcv.cnn", build_norm_layer=norm)
    for name in ("mmseg", "mmseg.models", "mmseg.models.decode_heads"):
        official.stub_module(name, __path__=[])
    official.stub_module("mmseg.models.builder", HEADS=Registry())
    official.stub_module("mmseg.models.decode_heads.decode_head", BaseDecodeHead=Base)
    loaded = {}
    for name in ("vit_up_head", "vit_mla_head", "vit_mla_auxi_head"):
        full = f"mmseg.models.decode_heads.{name}"
        path = checkout / "mmseg/models/decode_heads" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(full, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
        loaded |= vars(module)
    source = (checkout / "mmseg/models/backbones/vit_mla.py").read_text()
    (wanted,) = (x for x in ast.parse(source).body if getattr(x, "name", "") == "Conv_MLA")
    exec(ast.unparse(wanted), loaded)
    return types.SimpleNamespace(**loaded)


def fill(module: nn.Module, prefix: str) -> None:
    """Gives a convolution, a norm or a BatchNorm the values of its path in our tree."""
    with torch.no_grad():
        if isinstance(module, nn.Conv2d):
            out, inputs, *kernel = module.weight.shape
            value = setr_values(f"params/{prefix}/kernel", (*kernel, inputs, out))
            module.weight.copy_(torch.tensor(value).permute(3, 2, 0, 1))
            if module.bias is not None:
                module.bias.copy_(torch.tensor(setr_values(f"params/{prefix}/bias", (out,))))
            return
        shape = tuple(module.weight.shape)
        module.weight.copy_(torch.tensor(setr_values(f"params/{prefix}/scale", shape)))
        module.bias.copy_(torch.tensor(setr_values(f"params/{prefix}/bias", shape)))
        if isinstance(module, nn.BatchNorm2d):
            stats = f"batch_stats/{prefix}"
            module.running_mean.copy_(torch.tensor(setr_values(f"{stats}/mean", shape)))
            module.running_var.copy_(torch.tensor(setr_values(f"{stats}/var", shape)))


def up_head(code, variant: str, main: bool, name: str) -> nn.Module:
    """VisionTransformerUpHead with our values."""
    pup = variant == "pup"
    convolutions = 4 if pup and main else 2
    head = code.VisionTransformerUpHead(
        img_size=SETR["size"],
        embed_dim=SETR["width"],
        num_classes=SETR["classes"],
        num_conv=convolutions,
        num_upsampe_layer=(4 if main else 2) if pup else 1,
        conv3x3_conv1x1=pup,
    )
    fill(head.norm, f"{name}/norm")
    last = 4 if convolutions == 4 else 1
    for k in range(last):
        fill(getattr(head, f"conv_{k}"), f"{name}/conv_{k}")
        fill(getattr(head, f"syncbn_fc_{k}"), f"{name}/conv_{k}_norm")
    fill(getattr(head, f"conv_{last}"), f"{name}/classes")
    return head


class Up(nn.Module):
    """A head of Naive or PUP with its auxiliary heads."""

    def __init__(self, code, variant: str):
        super().__init__()
        blocks, auxiliary = SETR_BLOCKS[variant]
        taps = sorted({*blocks, *auxiliary})
        self.places = [taps.index(blocks[0]), *(taps.index(block) for block in auxiliary)]
        names = ["main", *(f"auxiliary_{k}" for k in range(len(auxiliary)))]
        heads = [up_head(code, variant, name == "main", name) for name in names]
        self.heads = nn.ModuleList(heads)

    def forward(self, maps):
        tokens = [x.reshape(len(x), -1, x.shape[-1]) for x in maps]
        # The heads drop a class token.
        tokens = [torch.cat([torch.zeros_like(x[:, :1]), x], dim=1) for x in tokens]
        return [head(tokens[k]) for head, k in zip(self.heads, self.places, strict=True)]


class MLA(nn.Module):
    """Norms and pyramid of the backbone, head, auxiliary heads."""

    def __init__(self, code):
        super().__init__()
        width, classes = SETR["width"], SETR["classes"]
        self.norms = nn.ModuleList([nn.LayerNorm(width, eps=1e-6) for _ in range(4)])
        self.pyramid = code.Conv_MLA(in_channels=width)
        self.head = code.VIT_MLAHead(img_size=SETR["size"], num_classes=classes)
        self.auxiliary = nn.ModuleList(
            [
                code.VIT_MLA_AUXIHead(img_size=SETR["size"], in_channels=256, num_classes=classes)
                for _ in range(4)
            ]
        )
        for k, p in enumerate(range(2, 6)):
            fill(self.norms[k], f"norm_{k}")
            for part, name in ((f"mla_p{p}_1x1", "lateral"), (f"mla_p{p}", "sum")):
                conv, norm, _ = getattr(self.pyramid, part)
                fill(conv, f"{name}_{k}")
                fill(norm, f"{name}_{k}_norm")
            branch = getattr(self.head.mlahead, f"head{p}")
            for layer in range(2):
                fill(branch[3 * layer], f"branch_{k}_{layer}")
                fill(branch[3 * layer + 1], f"branch_{k}_{layer}_norm")
            fill(self.auxiliary[k].aux, f"auxiliary_{k}")
        fill(self.head.cls, "classes")

    def forward(self, maps):
        tokens = [
            norm(x.reshape(len(x), -1, x.shape[-1]))
            for norm, x in zip(self.norms, maps, strict=True)
        ]
        pyramid = self.pyramid(*tokens)
        return [
            self.head(pyramid),
            *(head(x) for head, x in zip(self.auxiliary, pyramid, strict=True)),
        ]


def record(code, variant: str) -> dict[str, np.ndarray]:
    """Logits, loss, gradients and running means of a variant."""
    head = MLA(code) if variant == "mla" else Up(code, variant)
    maps = [torch.tensor(x, requires_grad=True) for x in setr_maps(variant)]
    shown = SETR["shown"]
    arrays = {}
    for mode in ("eval", "train"):
        head.train(mode == "train")
        for k, logits in enumerate(head(maps)):
            name = f"auxiliary_{k - 1}" if k else "main"
            sampled = logits.permute(0, 2, 3, 1)[:, ::shown, ::shown]
            arrays[f"{variant}/{mode}/{name}"] = official.numpy(sampled)
    for module in head.modules():  # the statistics of one training step, no more
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    labels = torch.tensor(setr_labels()).long()
    losses = [
        functional.cross_entropy(x, labels, ignore_index=255, reduction="none").mean()
        for x in head(maps)
    ]
    loss = losses[0] + 0.4 * sum(losses[1:])
    loss.backward()
    arrays[f"{variant}/loss"] = official.numpy(loss)
    for k, x in enumerate(maps):
        arrays[f"{variant}/gradient/{k}"] = official.numpy(x.grad)
    means = [x.running_mean for x in head.modules() if isinstance(x, nn.BatchNorm2d)]
    arrays[f"{variant}/mean"] = official.numpy(sum(x.abs().sum() for x in means))
    return arrays


def main() -> None:
    code = modules(Path(sys.argv[1]))
    arrays = {}
    for variant in SETR_BLOCKS:
        arrays |= record(code, variant)
    official.save("setr.npz", arrays)


if __name__ == "__main__":
    main()

"""Records swin.npz: pooled features and tapped maps of four implementations of Swin, and counts.

Command (from the repository's root, with both official repositories checked out):
    PYTHONPATH=tests python -m golden.record_swin TRANSFORMER_SSL_CHECKOUT ESVIT_CHECKOUT

Sources: SwinTransformer/Transformer-SSL 4510de1f21ee6f9810a74494c254081dd8f2c383 and
microsoft/esvit 2d6becd92be61860697faabf35f88e0698e24379 (models/swin_transformer.py of both),
timm 1.0.31 (timm/models/swin_transformer.py) and transformers 5.23.0
(transformers/models/swin/modeling_swin.py) from the package index.
Versions: Python 3.11, torch 2.13.0 (CPU), torchvision 0.28.0, numpy 2.4.6; float32.
Shims: golden/official.py says which and why; besides, the two official files, whose packages are
both called ``models``, are imported without the rest of these.

Keys: for every case of golden/swin_weights.py ``<case>/pooled`` [B, 8C], and ``<case>/stage_<s>``
[B, gh, gw, C * 2**s], the output of the last block of each stage before the merging;
``gradient/<name>`` of the official state dict, of the pooled features times a direction;
``parameters/<size>`` counts without classifier, by timm.
"""

import importlib
import sys
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from golden import official
from golden.swin_weights import (
    CASES,
    DEPTHS,
    GRADIENT_CASE,
    GRADIENT_PREFIXES,
    HEADS,
    WIDTH,
    SwinCase,
    gradient_direction,
    state_of,
    stored_stages,
    view,
)


def official_swin(checkout: str, package: str):
    """The class SwinTransformer of a checkout, under a package name of its own."""
    official.stub_module(package, __path__=[f"{checkout}/models"])
    return importlib.import_module(f"{package}.swin_transformer").SwinTransformer


def build_official(swin, case: SwinCase) -> torch.nn.Module:
    """Transformer-SSL's, EsViT's or timm's network, which take the same arguments."""
    return swin(
        img_size=case.built,
        window_size=case.window,
        embed_dim=WIDTH,
        depths=DEPTHS,
        num_heads=HEADS,
        num_classes=0,
        norm_layer=partial(torch.nn.LayerNorm, eps=case.norm_epsilon),
    )


def build_hugging_face(case: SwinCase) -> torch.nn.Module:
    """Hugging Face's network; it takes the epsilon of some norms only, so the default is asked."""
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(
        image_size=case.built,
        window_size=case.window,
        embed_dim=WIDTH,
        depths=DEPTHS,
        num_heads=HEADS,
        layer_norm_eps=case.norm_epsilon,
    )
    return SwinModel(config)


def timm_names(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """timm counts a merging to the stage after it."""
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) + 1)
        renamed[".".join(parts)] = value
    return renamed


def hugging_face_names(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Hugging Face has three kernels for query, key and value, and names of its own."""
    parts = {
        "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
        "patch_embed.norm.": "embeddings.norm.",
        "layers.": "encoder.layers.",
        ".norm1.": ".layernorm_before.",
        ".norm2.": ".layernorm_after.",
        ".attn.proj.": ".attention.o_proj.",
        ".attn.relative": ".attention.relative_position_bias.relative",
    }
    renamed = {}
    for name, value in state.items():
        new = name if not name.startswith("norm.") else f"layer{name}"
        for theirs, ours in parts.items():
            new = new.replace(theirs, ours)
        if ".attn.qkv." in new:
            for letter, third in zip("qkv", np.split(value, 3), strict=True):
                renamed[new.replace(".attn.qkv.", f".attention.{letter}_proj.")] = third
        else:
            renamed[new] = value
    return renamed


def run(model: torch.nn.Module, stages, case: SwinCase) -> dict[str, np.ndarray]:
    """{"pooled", "stage_0", ...}."""
    maps = []

    def keep(module, inputs, output):
        maps.append(output[0] if isinstance(output, tuple) else output)

    hooks = [stage.blocks[-1].register_forward_hook(keep) for stage in stages]
    output = model.eval()(official.image_tensor(view(case)))
    for hook in hooks:
        hook.remove()
    pooled = output if isinstance(output, torch.Tensor) else output.pooler_output
    arrays = {"pooled": official.numpy(pooled)}
    if case is CASES[GRADIENT_CASE]:
        (pooled * torch.tensor(gradient_direction())).sum().backward()
        for name, parameter in model.named_parameters():
            if name.startswith(GRADIENT_PREFIXES):
                arrays[f"gradient/{name}"] = official.numpy(parameter.grad)
    grid = [-(-side // 4) for side in case.image]
    for stage, x in enumerate(maps):
        if stage in stored_stages(case):
            arrays[f"stage_{stage}"] = official.numpy(x).reshape(len(x), *grid, -1)
        grid = [-(-side // 2) for side in grid]
    return arrays


def main() -> None:
    transformer_ssl = official_swin(sys.argv[1], "transformer_ssl")
    esvit = official_swin(sys.argv[2], "esvit")
    import timm

    builders = {
        "transformer_ssl": partial(build_official, transformer_ssl),
        "esvit": partial(build_official, esvit),
        "timm": partial(build_official, timm.models.swin_transformer.SwinTransformer),
        "hugging_face": build_hugging_face,
    }
    arrays = {}
    for name, case in CASES.items():
        model = builders[case.source](case)
        state = state_of(case)
        if case.source == "timm":
            state = timm_names(state)
        if case.source == "hugging_face":
            state = hugging_face_names(state)
        official.load(model, state)
        stages = (model.encoder if case.source == "hugging_face" else model).layers
        arrays |= {f"{name}/{key}": value for key, value in run(model, stages, case).items()}
    for size in ("tiny", "small", "base"):
        model = timm.create_model(f"swin_{size}_patch4_window7_224", num_classes=0)
        arrays[f"parameters/swin_{size}"] = np.int64(sum(p.numel() for p in model.parameters()))
    official.save("swin.npz", arrays)


if __name__ == "__main__":
    main()

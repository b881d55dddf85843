"""Folders of an encoder as other libraries open them, one function a format.

Positions that are fixed here are tensors there. Nothing is compared here: see ``compare``.
"""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from repre_jax.convert.exportable import Exportable, names_for
from repre_jax.convert.names import Names, to_theirs
from repre_jax.data.host.crops import CENTRE_CROP
from repre_jax.errors import UserError
from repre_jax.image_size import height_and_width
from repre_jax.models.pixels import encoder_input
from repre_jax.models.positions import sincos_2d

# (width, depth, heads) or (width, depths) -> what timm calls it; other sizes are told beside it.
_TIMM_VITS = {
    (192, 12, 3): "vit_tiny_patch16_224",
    (384, 12, 6): "vit_small_patch16_224",
    (768, 12, 12): "vit_base_patch16_224",
    (1024, 24, 16): "vit_large_patch16_224",
    (1280, 32, 16): "vit_huge_patch14_224",
}
_TIMM_SWINS = {
    (96, (2, 2, 6, 2)): "swin_tiny_patch4_window7_224",
    (96, (2, 2, 18, 2)): "swin_small_patch4_window7_224",
    (128, (2, 2, 18, 2)): "swin_base_patch4_window7_224",
}
# How the official checkpoints of a method wrap an encoder; the others' are not wrapped.
_OFFICIAL_WRAPPINGS = {
    "mae": ("model", ""),
    "lomar": ("model", ""),
    "moby": ("model", "encoder."),
    "moco_v3": ("state_dict", "module.base_encoder."),
}
_AVERAGES = {"moby": "encoder_k.", "moco_v3": "module.momentum_encoder."}


def write_timm(exportable: Exportable, folder: Path) -> None:
    """``timm.create_model("local-dir:<folder>", pretrained=True)``."""
    names = names_for(exportable, "timm")
    encoder, kind = exportable.encoder, exportable.kind
    height, width = height_and_width(encoder.image_size)
    arguments = {"img_size": height if height == width else [height, width]}
    arguments |= {"patch_size": encoder.patch_size, "num_classes": 0}
    if encoder.channels != 3:
        arguments["in_chans"] = encoder.channels
    if kind == "swin":
        size, known = (encoder.embed_width, tuple(encoder.depths)), _TIMM_SWINS
        arguments |= {"embed_dim": encoder.embed_width, "depths": list(encoder.depths)}
        arguments |= {"num_heads": list(encoder.heads), "window_size": encoder.window}
    else:
        size, known = (encoder.width, encoder.depth, encoder.heads), _TIMM_VITS
        arguments |= {"embed_dim": encoder.width, "depth": encoder.depth}
        arguments |= {"num_heads": encoder.heads}
    mean, std = _pixels(encoder)
    about = {
        "architecture": known.get(size, next(iter(known.values()))),
        "num_classes": 0,
        "num_features": encoder.width,
        "global_pool": "avg" if kind == "swin" else "token",
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": exportable.config.method.name,
            "custom_load": False,
            "input_size": [encoder.channels, height, width],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": CENTRE_CROP,
            "crop_mode": "center",
            "mean": mean,
            "std": std,
            "num_classes": 0,
        },
    }
    _write_json(folder / "config.json", about)
    _write_safetensors(folder, their_tensors(exportable, names))


def write_huggingface(exportable: Exportable, folder: Path) -> None:
    """``ViTModel.from_pretrained(folder, add_pooling_layer=False)``, or SwinModel."""
    names = names_for(exportable, "huggingface")
    encoder = exportable.encoder
    side, _ = height_and_width(encoder.image_size)
    about = {
        "hidden_act": "gelu",
        "layer_norm_eps": encoder.norm_epsilon,
        "image_size": side,
        "patch_size": encoder.patch_size,
        "num_channels": 3,
        "qkv_bias": True,
        "dtype": "float32",
    }
    if exportable.kind == "swin":
        about |= {"model_type": "swin", "architectures": ["SwinModel"], "mlp_ratio": 4.0}
        about |= {"embed_dim": encoder.embed_width, "depths": list(encoder.depths)}
        about |= {"num_heads": list(encoder.heads), "window_size": encoder.window}
        about |= {"hidden_size": encoder.width, "use_absolute_embeddings": False}
    else:
        about |= {"model_type": "vit", "architectures": ["ViTModel"]}
        about |= {"hidden_size": encoder.width, "num_hidden_layers": encoder.depth}
        about |= {"num_attention_heads": encoder.heads, "intermediate_size": 4 * encoder.width}
        about |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    mean, std = _pixels(encoder)
    pixels = {
        # Resizes the short side and crops the centre, as the evaluations here do.
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": round(side / CENTRE_CROP)},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }
    _write_json(folder / "config.json", about)
    _write_json(folder / "preprocessor_config.json", pixels)
    _write_safetensors(folder, their_tensors(exportable, names))


def write_official(exportable: Exportable, folder: Path) -> None:
    """``encoder.pth``: names and wrapping of the method's own repository."""
    torch = imported("torch", "format=official writes a file of PyTorch", "torch")
    method = exportable.config.method.name
    tensors = their_tensors(exportable, names_for(exportable, "official"))
    outer, prefix = _OFFICIAL_WRAPPINGS.get(method, ("", ""))
    if exportable.weights == "target":
        prefix = _AVERAGES.get(method, prefix)
    state = {prefix + name: torch.from_numpy(np.array(x)) for name, x in tensors.items()}
    torch.save({outer: state} if outer else state, folder / "encoder.pth")


def write_safetensors(exportable: Exportable, folder: Path) -> None:
    """The tree of parameters as it is here, "block_0/mlp/up/kernel" say, for other JAX code."""
    flat = {n: np.asarray(x) for n, x in flatten_dict(exportable.params, sep="/").items()}
    mean, std = _pixels(exportable.encoder)
    about = {"model": exportable.config.model.to_dict(), "pixels": {"mean": mean, "std": std}}
    _write_json(folder / "config.json", about)
    _write_safetensors(folder, flat)


def write_stablehlo(exportable: Exportable, folder: Path) -> None:
    """``encoder.stablehlo``: the function itself, for batches of any size, on CPU, GPU and TPU."""
    imported("flatbuffers", "format=stablehlo is written by flatbuffers", "stablehlo")
    encoder = exportable.encoder

    def features(images):
        params = jax.tree.map(jnp.asarray, exportable.params)
        return encoder.apply({"params": params}, encoder_input(encoder, images))._asdict()

    (batch,) = jax.export.symbolic_shape("batch")
    shape = (batch, *height_and_width(encoder.image_size), encoder.channels)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    written = jax.export.export(jax.jit(features), platforms=("cpu", "cuda", "tpu"))(images)
    (folder / "encoder.stablehlo").write_bytes(written.serialize())


def their_tensors(exportable: Exportable, names: Names) -> dict[str, np.ndarray]:
    """The encoder's tensors in another format, which has a place for them (``names_for``)."""
    encoder = exportable.encoder
    heads = encoder.heads if exportable.kind == "vit" else 1
    theirs = to_theirs(names, exportable.params, exportable.depths, heads)
    if getattr(encoder, "position", "").startswith("sincos"):
        columns_first = encoder.position == "sincos_columns_first"
        (name,) = names.of("position_embedding", exportable.depths)
        theirs[name] = sincos_2d(encoder.grid, encoder.width, columns_first=columns_first)
    return theirs


def imported(module: str, what: str, extra: str) -> Any:
    """A module of an optional extra; UserError that names the extra when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{what}, which is not installed: pip install 'repre_jax[{extra}]'."
        ) from error


def _pixels(encoder: nn.Module) -> tuple[list[float], list[float]]:
    if encoder.normalisation:
        return list(encoder.normalisation.mean), list(encoder.normalisation.std)
    return [0.0] * encoder.channels, [1.0] * encoder.channels


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _write_safetensors(folder: Path, tensors: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})

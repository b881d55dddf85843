"""An exported encoder against ours, on random images, in the library that it is exported for."""

import contextlib
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from repre_jax.convert.architecture import Told
from repre_jax.convert.exportable import Exportable
from repre_jax.convert.foreign import read_foreign
from repre_jax.errors import UserError
from repre_jax.image_size import height_and_width
from repre_jax.models.pixels import encoder_input

IMAGES = 2


def compare(exportable: Exportable, folder: Path, format: str) -> float | None:
    """Largest difference of any token after the last norm; None without the library to ask.

    Args:
      exportable: what was exported.
      folder: where to.
      format: of ``export.WRITERS``.

    Raises:
      UserError: the library cannot open it.
    """
    encoder = exportable.encoder
    shape = (IMAGES, *height_and_width(encoder.image_size), encoder.channels)
    pixels = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    # On an accelerator products of float32 are rounded far above what is asked for here, and as
    # much in what was exported to run there.
    precision = None if format == "stablehlo" else "highest"
    with _on_a_cpu(), jax.default_matmul_precision(precision):
        ours = jax.jit(functools.partial(our_tokens, exportable))
        try:
            theirs = _COMPARED[format](exportable, folder, pixels, ours)
        except UserError:
            raise
        except Exception as error:  # every library has its own types
            told = f"{type(error).__name__}: {error}"[:200]
            raise UserError(f"The library cannot open what was written for it ({told}).") from error
        if theirs is None:
            return None
        return float(np.abs(np.asarray(theirs) - ours(exportable.params, pixels)).max())


def _on_a_cpu() -> contextlib.AbstractContextManager:
    """Where JAX has one: not with JAX_PLATFORMS=cuda."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return contextlib.nullcontext()


def our_tokens(exportable: Exportable, params: Any, pixels: jax.Array) -> jax.Array:
    """Tokens after the last norm, float32 [B, N, D], a ViT's class token before them.

    Args:
      exportable: whose encoder it is.
      params: of such an encoder.
      pixels: float32 [B, H, W, C] in [0, 1].
    """
    encoder = exportable.encoder
    encoded = encoder.apply({"params": params}, encoder_input(encoder, pixels))
    return _joined(exportable, encoded.pooled, encoded.tokens)


def _joined(exportable: Exportable, pooled: Any, tokens: Any) -> Any:
    if exportable.kind == "swin":
        return tokens
    return jnp.concatenate([pooled[:, None], tokens], axis=1)


def _by_timm(exportable, folder, pixels, ours):
    try:
        import timm
        import torch
    except ImportError:
        return None
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        tokens = model.forward_features(_torch_images(torch, exportable, pixels))
    return tokens.numpy().reshape(len(pixels), -1, exportable.encoder.width)


def _by_transformers(exportable, folder, pixels, ours):
    try:
        import torch
        import transformers
    except ImportError:
        return None
    kind = transformers.SwinModel if exportable.kind == "swin" else transformers.ViTModel
    model = kind.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.inference_mode():
        return model(_torch_images(torch, exportable, pixels)).last_hidden_state.numpy()


def _by_reading_it_again(exportable, folder, pixels, ours):
    """Of the official names, for which no library is installed: what is read back is run."""
    encoder, config = exportable.encoder, exportable.config
    told = Told(
        method=config.method.name,
        heads=encoder.heads if exportable.kind == "vit" else None,
        image_size=height_and_width(encoder.image_size)[0] if exportable.kind == "swin" else None,
        norm_epsilon=encoder.norm_epsilon,
        pixels="unit",  # which leaves the patches as they are
    )
    found = read_foreign(folder / "encoder.pth", told=told)
    return ours(found.params, pixels)


def _by_safetensors(exportable, folder, pixels, ours):
    from safetensors.numpy import load_file

    params = unflatten_dict(load_file(folder / "model.safetensors"), sep="/")
    return ours(params, pixels)


def _by_stablehlo(exportable, folder, pixels, ours):
    written = bytearray((folder / "encoder.stablehlo").read_bytes())
    found = jax.export.deserialize(written).call(pixels)
    return _joined(exportable, found["pooled"], found["tokens"])


def _by_onnxruntime(exportable, folder, pixels, ours):
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(folder / "encoder.onnx")
    (tokens,) = session.run(["tokens"], {"images": pixels.transpose(0, 3, 1, 2)})
    return tokens


def _torch_images(torch: Any, exportable: Exportable, pixels: np.ndarray) -> Any:
    images = np.asarray(encoder_input(exportable.encoder, pixels))
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


_COMPARED = {
    "timm": _by_timm,
    "huggingface": _by_transformers,
    "official": _by_reading_it_again,
    "safetensors": _by_safetensors,
    "stablehlo": _by_stablehlo,
    "onnx": _by_onnxruntime,
}

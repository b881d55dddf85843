"""How far bfloat16 is from float32, here and under PyTorch's autocast.

    python -m benchmarks.bfloat16                    # with torch and timm installed, beside theirs

A ViT of 12 blocks of 192 at its initial weights sees eight images of noise. An error is the norm of
the difference to float32 over the norm of that: of the tokens behind the last norm, and of the
gradient of a smooth function of them. Ours with sums in bfloat16 and in float32
(``model.float32_residual``), theirs under ``torch.autocast`` on a CPU, whose norms and sums are
float32. Takes a minute.
"""

import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.options import start
from benchmarks.provenance import provenance, save_result
from repre_jax.models.vit import ViT

OPTIONS = flags.FlagValues()
IMAGES, SIDE = 8, 224


def images() -> np.ndarray:
    """float32 [IMAGES, SIDE, SIDE, 3]."""
    return np.random.default_rng(0).standard_normal((IMAGES, SIDE, SIDE, 3), np.float32)


def error(found: np.ndarray, exact: np.ndarray) -> float:
    """Norm of the difference over the norm."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def ours() -> dict[str, dict[str, float]]:
    """{"bfloat16", "float32_residual"} -> errors of "tokens" and "gradient"."""
    encoder = ViT(patch_size=16, width=192, depth=12, heads=3, image_size=SIDE)
    params = encoder.init(jax.random.key(0), images())["params"]

    def results(encoder: ViT) -> tuple[np.ndarray, np.ndarray]:
        def objective(params):
            tokens = encoder.apply({"params": params}, images()).tokens.astype(jnp.float32)
            return jnp.mean(jnp.sin(tokens)), tokens

        (_, tokens), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
        leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(gradient)]
        return np.asarray(tokens), np.concatenate(leaves)

    exact = results(encoder)
    rows = {}
    for name, sums in (("bfloat16", False), ("float32_residual", True)):
        found = results(encoder.clone(dtype=jnp.bfloat16, float32_residual=sums))
        rows[name] = _row(found, exact)
    return rows


def theirs() -> dict[str, float]:
    """Errors of timm's ViT of the same size under autocast."""
    import timm
    import torch

    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    pixels = torch.from_numpy(images().transpose(0, 3, 1, 2).copy())

    def results(enabled: bool) -> tuple[np.ndarray, np.ndarray]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            tokens = model.forward_features(pixels)[:, 1:].float()
        torch.sin(tokens).mean().backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return tokens.detach().numpy(), torch.cat(gradients).numpy()

    return _row(results(True), results(False))


def _row(found: tuple[np.ndarray, ...], exact: tuple[np.ndarray, ...]) -> dict[str, float]:
    pairs = zip(("tokens", "gradient"), found, exact, strict=True)
    return {name: round(error(*pair), 5) for name, *pair in pairs}


def main(argv: list[str]) -> None:
    del argv
    rows: dict[str, Any] = {"ours": ours()}
    if all(map(importlib.util.find_spec, ("torch", "timm"))):
        rows["autocast"] = theirs()
    for name, row in {**rows["ours"], **{k: v for k, v in rows.items() if k != "ours"}}.items():
        print(f"{name:<18}tokens {row['tokens']:.4f}, gradient {row['gradient']:.4f}")
    print(f"Written to {save_result('bfloat16', provenance() | rows)}")


if __name__ == "__main__":
    start(main, OPTIONS)

"""How far bfloat16 is from float32, here and under PyTorch's autocast.

    python -m benchmarks.bfloat16                       # beside timm's, where it is installed
    python -m benchmarks.bfloat16 --moco_v3=CHECKOUT    # MoCo v3's gradient beside the official one

A ViT of 12 blocks of 192 at its initial weights. An error is the norm of the difference to float32
over the norm of that: of the tokens behind the last norm for eight images of noise, of the gradient
of a smooth function of them, and of the gradient of MoCo v3's loss for 32 pairs of noise. Ours with
sums in bfloat16 and in float32 (``model.float32_residual``), theirs under ``torch.autocast`` on a
CPU, whose norms and sums are float32. Takes minutes.
"""

import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import official, official_contrastive
from benchmarks.options import start
from benchmarks.programs import TRAINING_IMAGES
from benchmarks.provenance import provenance, save_result
from repre_jax.config_files import read_config
from repre_jax.models.vit import ViT
from repre_jax.training.learner import build_learner
from repre_jax.training.resolution import resolve
from repre_jax.training.step import loss_and_gradients

OPTIONS = flags.FlagValues()
_MOCO_V3 = flags.DEFINE_string(
    "moco_v3", None, "checkout of facebookresearch/moco-v3", flag_values=OPTIONS
)
IMAGES, SIDE, WIDTH, HEADS = 8, 224, 192, 3
PAIRS, DRAWS = 32, 3  # of MoCo v3's loss: images, and weights and images that are drawn
SUMS = {"bfloat16": False, "float32_residual": True}


def images() -> np.ndarray:
    """float32 [IMAGES, SIDE, SIDE, 3]."""
    return np.random.default_rng(0).standard_normal((IMAGES, SIDE, SIDE, 3), np.float32)


def error(found: np.ndarray, exact: np.ndarray) -> float:
    """Norm of the difference over the norm."""
    return round(float(np.linalg.norm(found - exact) / np.linalg.norm(exact)), 5)


def ours() -> dict[str, dict[str, float]]:
    """{"bfloat16", "float32_residual"} -> errors of "tokens" and "gradient"."""
    encoder = ViT(patch_size=16, width=WIDTH, depth=12, heads=HEADS, image_size=SIDE)
    params = encoder.init(jax.random.key(0), images())["params"]

    def results(encoder: ViT) -> tuple[np.ndarray, np.ndarray]:
        def objective(params):
            tokens = encoder.apply({"params": params}, images()).tokens.astype(jnp.float32)
            return jnp.mean(jnp.sin(tokens)), tokens

        (_, tokens), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
        return np.asarray(tokens), _flat(gradient)

    exact = results(encoder)
    return {
        name: _row(results(encoder.clone(dtype=jnp.bfloat16, float32_residual=sums)), exact)
        for name, sums in SUMS.items()
    }


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


def of_moco_v3(checkout: str) -> dict[str, list[float]]:
    """Errors of the gradient of MoCo v3's loss, draw by draw: ours, and "autocast" of theirs."""
    rows: dict[str, list[float]] = {name: [] for name in (*SUMS, "autocast")}
    for seed in range(DRAWS):
        shape = (PAIRS, 2, SIDE, SIDE, 3)
        views = np.random.default_rng(seed).random(shape, np.float32)
        exact = our_moco_v3_gradient(views, "float32", False, seed)
        for name, sums in SUMS.items():
            rows[name].append(error(our_moco_v3_gradient(views, "bfloat16", sums, seed), exact))
        mean, std = official_contrastive.MEAN, official_contrastive.STD
        normalised = (views - np.float32(mean)) / np.float32(std)
        gradients = official_contrastive.moco_v3_gradients(
            checkout, normalised, width=WIDTH, heads=HEADS, seed=seed
        )
        rows["autocast"].append(error(gradients["autocast"], gradients["float32"]))
    return rows


def our_moco_v3_gradient(views: np.ndarray, dtype: str, sums: bool, seed: int) -> np.ndarray:
    """Of all parameters of ``configs/moco_v3_vits.py``, narrowed, for views [B, 2, H, W, 3]."""
    config = read_config("moco_v3_vits:baseline")
    config.seed = seed
    config.model.update({"width": WIDTH, "heads": HEADS, "float32_residual": sums})
    config.train.update({"batch_size": len(views), "compute_dtype": dtype})
    learner = build_learner(config, resolve(config, images=TRAINING_IMAGES, devices=1))
    state = jax.jit(learner.init)()
    index = jnp.arange(len(views))
    keys = learner.keys({"epoch": jnp.zeros_like(index), "index": index}, state.step)
    gradient = jax.jit(functools.partial(loss_and_gradients, learner))
    return _flat(gradient(state, {"global": views, "index": index}, keys)[0])


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _row(found: tuple[np.ndarray, ...], exact: tuple[np.ndarray, ...]) -> dict[str, float]:
    pairs = zip(("tokens", "gradient"), found, exact, strict=True)
    return {name: error(*pair) for name, *pair in pairs}


def main(argv: list[str]) -> None:
    del argv
    checkouts = {"moco_v3": _MOCO_V3.value} if _MOCO_V3.value else {}
    if checkouts:
        official_contrastive.check(checkouts, "leave it out")
    rows: dict[str, Any] = {"ours": ours()}
    if all(map(importlib.util.find_spec, ("torch", "timm"))):
        rows["autocast"] = theirs()
    for name, row in {**rows["ours"], **{k: v for k, v in rows.items() if k != "ours"}}.items():
        print(f"{name:<18}tokens {row['tokens']:.4f}, gradient {row['gradient']:.4f}")
    if checkouts:
        versions = official.provenance(checkouts, official_contrastive.PACKAGES)
        rows["moco_v3"] = {"pairs": PAIRS, "official": versions}
        rows["moco_v3"]["gradient"] = of_moco_v3(_MOCO_V3.value)
        for name, errors in rows["moco_v3"]["gradient"].items():
            print(f"{name:<18}gradient of MoCo v3 {', '.join(f'{x:.3f}' for x in errors)}")
    print(f"Written to {save_result('bfloat16', provenance() | rows)}")


if __name__ == "__main__":
    start(main, OPTIONS)

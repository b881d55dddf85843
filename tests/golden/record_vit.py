"""Records vit.npz: encoder outputs, position embeddings and parameter counts of three ViTs.

Command (from the repository's root, with both official repositories checked out):
    PYTHONPATH=tests python -m golden.record_vit DINO_CHECKOUT MOCO_V3_CHECKOUT

Sources: facebookresearch/dino 7c446df5b9f45747937fb0d72314eb9f7b66930a (vision_transformer.py),
facebookresearch/moco-v3 c349e6e24f40d3fedb22d973f92defa4cedf37a7 (vits.py, moco/builder.py),
timm 1.0.31 from the package index (timm/models/vision_transformer.py).
Versions: Python 3.11, torch 2.13.0 (CPU), torchvision 0.29.2, numpy 2.4.6; float32.
Shims: golden/official.py says which and why.

Keys: ``dino/<pixels>/layers`` [3, B, 1+N, D] is get_intermediate_layers(n=3), every one after the
final norm, so that the last one is the output; ``dino/<pixels>/attention`` [B, H, 1+N] the class
token's row of get_last_selfattention; ``<model>/pooled`` [B, D] is what forward returns;
``<model>/tokens`` [B, 1+N, D] the output after the norm; ``positions/...`` [1, 1+N, D], some of
them rows of it; ``parameters/...`` counts.
"""

import sys
from functools import partial

import numpy as np
import torch
from golden import official
from golden.cases import FORWARD_VIT, SINCOS_ROWS
from golden.weights import ViTShape, faint, images, normalised, vit_shapes, weights

norm_layer = partial(torch.nn.LayerNorm, eps=1e-6)


def official_arguments(vit: ViTShape) -> dict:
    """The arguments that every ViT of this family shares."""
    return {
        "patch_size": vit.patch_size,
        "embed_dim": vit.width,
        "depth": vit.depth,
        "num_heads": vit.heads,
        "mlp_ratio": 4,
        "qkv_bias": True,
        "norm_layer": norm_layer,
    }


def view(size: int) -> torch.Tensor:
    """Two normalised images [2, 3, size, size]."""
    return official.image_tensor(normalised(images(f"forward/{size}", 2, size)))


def dino_outputs(vits) -> dict[str, np.ndarray]:
    """Forward at the trained, a smaller and a larger size, and with weak activations."""
    model = vits.VisionTransformer(
        img_size=[FORWARD_VIT.image_size], **official_arguments(FORWARD_VIT)
    ).eval()
    official.load(model, weights(vit_shapes(FORWARD_VIT, learned_positions=True)))
    arrays = {}
    for size in (32, 16, 48):
        layers = model.get_intermediate_layers(view(size), n=3)
        arrays[f"dino/{size}/layers"] = np.stack([official.numpy(x) for x in layers])
        arrays[f"dino/{size}/pooled"] = official.numpy(model(view(size)))
        attention = model.get_last_selfattention(view(size))
        arrays[f"dino/{size}/attention"] = official.numpy(attention[:, :, 0])
    official.load(model, faint(weights(vit_shapes(FORWARD_VIT, learned_positions=True))))
    arrays["dino/faint/pooled"] = official.numpy(model(view(32)))
    return arrays


def dino_positions(vits) -> dict[str, np.ndarray]:
    """The learned 14 x 14 positions of 224 pixels at patch 16, resized to other images."""
    vit = ViTShape(image_size=224, patch_size=16, width=12, depth=1, heads=3)
    model = vits.VisionTransformer(img_size=[224], **official_arguments(vit))
    official.load(model, weights(vit_shapes(vit, learned_positions=True)))
    arrays = {}
    for height, width in ((96, 96), (112, 112), (256, 256), (96, 160)):
        tokens = torch.zeros(1, 1 + height * width // 256, 12)
        # The official argument order is (w, h) = (image.shape[2], image.shape[3]).
        positions = model.interpolate_pos_encoding(tokens, height, width)
        arrays[f"positions/dino/224_to_{height}x{width}"] = official.numpy(positions)
    return arrays


def moco_v3_outputs(vits) -> dict[str, np.ndarray]:
    """Forward with fixed sin-cos positions, and those positions."""
    arguments = official_arguments(FORWARD_VIT)
    model = vits.VisionTransformerMoCo(
        img_size=FORWARD_VIT.image_size, num_classes=0, **arguments
    ).eval()
    official.load(model, weights(vit_shapes(FORWARD_VIT, learned_positions=False)))
    small = vits.vit_small(num_classes=0).pos_embed
    return {
        "moco_v3/tokens": official.numpy(model.forward_features(view(32))),
        "moco_v3/pooled": official.numpy(model(view(32))),
        "positions/moco_v3/8x8x48": official.numpy(model.pos_embed),
        "positions/moco_v3/14x14x384_rows": official.numpy(small[:, list(SINCOS_ROWS)]),
    }


def timm_outputs(timm) -> dict[str, np.ndarray]:
    """Forward of timm's ViT with learned positions."""
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=FORWARD_VIT.image_size, num_classes=0, **official_arguments(FORWARD_VIT)
    ).eval()
    official.load(model, weights(vit_shapes(FORWARD_VIT, learned_positions=True)))
    return {
        "timm/tokens": official.numpy(model.forward_features(view(32))),
        "timm/pooled": official.numpy(model(view(32))),
    }


def count(module: torch.nn.Module, trainable: bool = False) -> int:
    """Number of parameters; frozen ones included unless only the trainable are asked for."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def parameter_counts(dino_vits, moco_vits, builder, timm) -> dict[str, np.ndarray]:
    """Of the official sizes at 224 pixels."""
    counts = {}
    for size in ("tiny", "small", "base"):
        for patch in (16, 8):
            model = getattr(dino_vits, f"vit_{size}")(patch_size=patch)
            counts[f"dino/vit_{size}_{patch}"] = count(model)
    for name in (
        "tiny_patch16",
        "small_patch32",
        "small_patch16",
        "small_patch8",
        "base_patch32",
        "base_patch16",
        "base_patch8",
        "large_patch32",
        "large_patch16",
        "large_patch14",
    ):
        model = timm.create_model(f"vit_{name}_224", num_classes=0)
        counts["timm/vit_" + name.replace("patch", "")] = count(model)
    for width in (384, 768):
        for frozen in (True, False):
            head = dino_vits.DINOHead(width, 65536, norm_last_layer=frozen)
            counts[f"dino/head_{width}"] = count(head)
            name = "frozen_gain" if frozen else "trained_gain"
            counts[f"dino/head_{width}/{name}"] = count(head, trainable=True)
    for size in ("small", "base"):
        encoder = partial(getattr(moco_vits, f"vit_{size}"), stop_grad_conv1=True)
        model = builder.MoCo_ViT(encoder, 256, 4096, 0.2)
        counts[f"moco_v3/vit_{size}/base_encoder"] = count(model.base_encoder)
        counts[f"moco_v3/vit_{size}/projector"] = count(model.base_encoder.head)
        counts[f"moco_v3/vit_{size}/predictor"] = count(model.predictor)
        counts[f"moco_v3/vit_{size}/trainable"] = count(model, trainable=True)
    return {f"parameters/{name}": np.int64(value) for name, value in counts.items()}


def main() -> None:
    for folder in sys.argv[1:3]:
        official.use_checkout(folder)
    timm = official.import_timm()
    import moco.builder
    import vision_transformer
    import vits

    with torch.no_grad():
        arrays = dino_outputs(vision_transformer) | dino_positions(vision_transformer)
        arrays |= moco_v3_outputs(vits) | timm_outputs(timm)
        arrays |= parameter_counts(vision_transformer, vits, moco.builder, timm)
    official.save("vit.npz", arrays)


if __name__ == "__main__":
    main()

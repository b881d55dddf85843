"""Official state dicts (names and numpy arrays) to the trees of repre_jax. No torch.

Layouts: torch's Linear weight [out, in] is our kernel [in, out]; its convolution weight OIHW is our
HWIO; LayerNorm's and BatchNorm's weight is our scale. The rows of the fused query-key-value weight
are ordered (q, k, v), head, channel in both.
"""

from collections.abc import Mapping, Sequence

import numpy as np

Arrays = Mapping[str, np.ndarray]
# Names of each linear layer and of the norm after it, if there is one.
Layers = Sequence[tuple[str, str | None]]

# DINO's head with ``use_bn``: Linear, BatchNorm, GELU, three indices each.
DINO_BATCH_NORM_LAYERS: Layers = (
    ("head.mlp.0", "head.mlp.1"),
    ("head.mlp.3", "head.mlp.4"),
    ("head.mlp.6", None),
)

_BLOCK_PARTS = {
    "attn.qkv": ("attention", "qkv"),
    "attn.proj": ("attention", "out"),
    "mlp.fc1": ("mlp", "up"),
    "mlp.fc2": ("mlp", "down"),
}


def encoder(state: Arrays) -> dict:
    """Parameters of a ViT from the names of DINO, MoCo v3, timm or LoMaR; others are left alone.

    Positions appear only if ``state`` has ``pos_embed``; give no fixed ones. LoMaR's tables
    [1, D / H, buckets] are kernels of ours.
    """
    linear = "patch_embed.proj.weight" in state
    tree = {
        "patch_embed": _conv(state, "patch_embed.proj") if linear else conv_stem(state),
        "class_token": state["cls_token"],
        "norm": _norm(state, "norm"),
    }
    if "pos_embed" in state:
        tree["position_embedding"] = state["pos_embed"]
    return tree | _blocks(state)


def conv_stem(state: Arrays) -> dict:
    """Parameters of MoCo v3's ConvStem from the names ``patch_embed.proj.*``."""
    tree = {"project": _conv(state, "patch_embed.proj.12")}
    for k in range(4):
        tree[f"conv_{k}"] = _conv(state, f"patch_embed.proj.{3 * k}")
        tree[f"norm_{k}"] = _norm(state, f"patch_embed.proj.{3 * k + 1}")
    return tree


def conv_stem_statistics(state: Arrays) -> dict:
    """Its running statistics, with torch's variance."""
    return {
        f"norm_{k}": {
            "mean": state[f"patch_embed.proj.{3 * k + 1}.running_mean"],
            "var": state[f"patch_embed.proj.{3 * k + 1}.running_var"],
        }
        for k in range(4)
    }


def mae(state: Arrays) -> dict:
    """{"encoder", "heads"} of MAE's pre-training."""
    return {
        "encoder": encoder(state),
        "heads": {
            "decoder": _blocks(with_prefix(state, "decoder_"))
            | {
                "embed": _dense(state, "decoder_embed"),
                "mask_token": state["mask_token"],
                "norm": _norm(state, "decoder_norm"),
                "pixels": _dense(state, "decoder_pred"),
            }
        },
    }


def lomar(state: Arrays) -> dict:
    """{"encoder", "tokens", "heads"} of LoMaR's pre-training."""
    return {
        "encoder": encoder(state),
        "tokens": {"mask": state["mask_token"]},
        "heads": {"pixels": _dense(state, "encoder_pred")},
    }


def dino_heads(state: Arrays) -> dict:
    """{"projector": ...} from the names ``head.mlp.*`` and ``head.last_layer.*``."""
    plain = [(f"head.mlp.{2 * k}", None) for k in range(3)]
    layers = DINO_BATCH_NORM_LAYERS if "head.mlp.1.weight" in state else plain
    prototypes = {
        "direction": state["head.last_layer.weight_v"],
        "scale": state["head.last_layer.weight_g"],
    }
    return {"projector": head(state, layers) | {"prototypes": prototypes}}


def batch_norm_mlp(state: Arrays, prefix: str, layers: int) -> dict:
    """Parameters of MoCo v3's projector (``head``) or predictor; the last norm has none."""
    tree = {}
    for k in range(layers):
        tree[f"dense_{k}"] = _dense(state, f"{prefix}.{3 * k}")
        if k < layers - 1:
            tree[f"norm_{k}"] = _norm(state, f"{prefix}.{3 * k + 1}")
    return tree


def batch_norm_statistics(state: Arrays, prefix: str, layers: int) -> dict:
    """Running statistics of MoCo v3's projector (``head``) or predictor.

    torch averages the unbiased variance, Flax the biased one: see ``biased_running_variance``.
    """
    return {
        f"norm_{k}": {
            "mean": state[f"{prefix}.{3 * k + 1}.running_mean"],
            "var": state[f"{prefix}.{3 * k + 1}.running_var"],
        }
        for k in range(layers)
    }


def head(state: Arrays, layers: Layers) -> dict:
    """Parameters of a ``ProjectionMLP``; a norm without any has none here, too."""
    tree = {}
    for k, (dense, norm) in enumerate(layers):
        tree[f"dense_{k}"] = _dense(state, dense)
        if norm and f"{norm}.weight" in state:
            tree[f"norm_{k}"] = _norm(state, norm)
    return tree


def head_statistics(state: Arrays, layers: Layers, *, examples: int, updates: int) -> dict:
    """Running statistics of a ``ProjectionMLP``, torch's variance brought to the biased one."""
    return {
        f"norm_{k}": {
            "mean": state[f"{norm}.running_mean"],
            "var": biased_running_variance(
                state[f"{norm}.running_var"], examples=examples, updates=updates
            ),
        }
        for k, (_, norm) in enumerate(layers)
        if norm
    }


def classifier(state: Arrays) -> dict:
    """{"head"} and, with global pooling, {"norm"}: what stands on a fine-tuned encoder."""
    norm = {"norm": _norm(state, "fc_norm")} if "fc_norm.weight" in state else {}
    return norm | {"head": _dense(state, "head")}


def linear_encoder(state: Arrays) -> dict:
    """Parameters of ``linear_encoder.LinearEncoder`` from ``encoder.*``."""
    return {"dense": _dense(state, "encoder")}


def biased_running_variance(unbiased: np.ndarray, *, examples: int, updates: int) -> np.ndarray:
    """The running variance that averages biased variances, from one that averages unbiased ones.

    Both start at 1 and keep 0.9 of it at every update; what they add differs by (n - 1) / n.
    """
    start = 0.9**updates
    return (start + (unbiased - start) * (examples - 1) / examples).astype(np.float32)


def with_prefix(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose name begins with ``prefix``, without it."""
    return {n.removeprefix(prefix): value for n, value in arrays.items() if n.startswith(prefix)}


def _dense(state: Arrays, prefix: str) -> dict[str, np.ndarray]:
    layer = {"kernel": state[f"{prefix}.weight"].T}
    if f"{prefix}.bias" in state:
        layer["bias"] = state[f"{prefix}.bias"]
    return layer


def _conv(state: Arrays, prefix: str) -> dict[str, np.ndarray]:
    layer = {"kernel": state[f"{prefix}.weight"].transpose(2, 3, 1, 0)}
    if f"{prefix}.bias" in state:
        layer["bias"] = state[f"{prefix}.bias"]
    return layer


def _norm(state: Arrays, prefix: str) -> dict[str, np.ndarray]:
    norm = {"scale": state[f"{prefix}.weight"]}
    if f"{prefix}.bias" in state:
        norm["bias"] = state[f"{prefix}.bias"]
    return norm


def _blocks(state: Arrays) -> dict:
    """{"block_0", ...} from the names ``blocks.0.*``."""
    tree = {}
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for k in range(depth):
        block = {f"norm_{i}": _norm(state, f"blocks.{k}.norm{i}") for i in (1, 2)}
        for torch_name, (part, name) in _BLOCK_PARTS.items():
            block.setdefault(part, {})[name] = _dense(state, f"blocks.{k}.{torch_name}")
        table = f"blocks.{k}.attn.rpe_k.lookup_table_weight"
        if table in state:
            block["attention"]["relative_position"] = {"kernel": state[table][0]}
        tree[f"block_{k}"] = block
    return tree

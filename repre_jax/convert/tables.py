"""Where other libraries keep the tensors of an encoder: one table a format.

Sources of the names: vision_transformer.py of facebookresearch/dino and facebookresearch/dinov2,
vits.py of facebookresearch/moco-v3, models_mae.py of facebookresearch/mae and
vision_transformer_irpe.py of junchen14/LoMaR, which agree with timm's vision_transformer.py;
models/swin_transformer.py of SwinTransformer/Transformer-SSL, and of timm, which keeps the merging
with the stage after it; transformers' files of the models "vit", "dinov2" and "swin", which its
version 5 still reads and writes though its modules have other names (conversion_mapping.py);
google-research/big_vision, models/vit.py.
"""

import dataclasses
from collections.abc import Mapping

from repre_jax.convert.names import Names


def _block_layers(prefix: str, own: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {f"block/{path}": tuple(prefix + name for name in names) for path, names in own.items()}


_TIMM_BLOCK = {
    "norm_1": ("norm1",),
    "attention/qkv": ("attn.qkv",),
    "attention/out": ("attn.proj",),
    "norm_2": ("norm2",),
    "mlp/up": ("mlp.fc1",),
    "mlp/down": ("mlp.fc2",),
}

VIT = Names(
    title="ViT by the names of timm, DeiT, DINO, MoCo v3, MAE, LoMaR and DINOv2",
    kind="vit",
    anchor="patch_embed.proj.weight",
    tensors={
        "class_token": "cls_token",
        "position_embedding": "pos_embed",
        "block/attention/relative_position/kernel": (
            "blocks.{block}.attn.rpe_k.lookup_table_weight"
        ),
    },
    layers={"patch_embed": ("patch_embed.proj",), "norm": ("norm",)}
    | _block_layers("blocks.{block}.", _TIMM_BLOCK),
    leftovers=(
        r"head\.",
        r"pre_logits\.",
        r"mask_token$",
        r"decoder_(pos_embed$|embed\.|blocks\.|norm\.|pred\.)",  # MAE's
        r"encoder_pred\.",  # LoMaR's
    ),
)

SWIN = Names(
    title="Swin by the names of Microsoft, MoBY, EsViT and timm before 0.9",
    kind="swin",
    anchor="patch_embed.proj.weight",
    tensors={
        "block/attention/relative_position_bias": (
            "layers.{stage}.blocks.{block}.attn.relative_position_bias_table"
        )
    },
    layers={
        "patch_embed": ("patch_embed.proj",),
        "patch_norm": ("patch_embed.norm",),
        "norm": ("norm",),
        "merging/norm": ("layers.{before}.downsample.norm",),
        "merging/reduction": ("layers.{before}.downsample.reduction",),
    }
    | _block_layers("layers.{stage}.blocks.{block}.", _TIMM_BLOCK),
    leftovers=(r"head\.", r".*\.relative_position_index$", r".*\.attn_mask$"),
)

TIMM_SWIN = dataclasses.replace(
    SWIN,
    title="Swin by the names of timm",
    layers=dict(SWIN.layers)
    | {
        "merging/norm": ("layers.{stage}.downsample.norm",),
        "merging/reduction": ("layers.{stage}.downsample.reduction",),
    },
)

HUGGING_FACE_VIT = Names(
    title="ViT by the names of transformers",
    kind="vit",
    anchor="embeddings.patch_embeddings.projection.weight",
    tensors={
        "class_token": "embeddings.cls_token",
        "position_embedding": "embeddings.position_embeddings",
    },
    layers={
        "patch_embed": ("embeddings.patch_embeddings.projection",),
        "norm": ("layernorm",),
    }
    | _block_layers(
        "encoder.layer.{block}.",
        {
            "norm_1": ("layernorm_before",),
            "attention/qkv": tuple(f"attention.attention.{x}" for x in ("query", "key", "value")),
            "attention/out": ("attention.output.dense",),
            "norm_2": ("layernorm_after",),
            "mlp/up": ("intermediate.dense",),
            "mlp/down": ("output.dense",),
        },
    ),
    leftovers=(r"pooler\.", r"embeddings\.mask_token$", r"classifier\.", r"decoder\."),
)

HUGGING_FACE_DINOV2 = dataclasses.replace(
    HUGGING_FACE_VIT,
    title="DINOv2 by the names of transformers",
    layers={path: HUGGING_FACE_VIT.layers[path] for path in ("patch_embed", "norm")}
    | _block_layers(
        "encoder.layer.{block}.",
        {
            "norm_1": ("norm1",),
            "attention/qkv": tuple(f"attention.attention.{x}" for x in ("query", "key", "value")),
            "attention/out": ("attention.output.dense",),
            "norm_2": ("norm2",),
            "mlp/up": ("mlp.fc1",),
            "mlp/down": ("mlp.fc2",),
        },
    ),
)

HUGGING_FACE_SWIN = Names(
    title="Swin by the names of transformers",
    kind="swin",
    anchor="embeddings.patch_embeddings.projection.weight",
    tensors={
        "block/attention/relative_position_bias": (
            "encoder.layers.{stage}.blocks.{block}.attention.self.relative_position_bias_table"
        )
    },
    layers={
        "patch_embed": ("embeddings.patch_embeddings.projection",),
        "patch_norm": ("embeddings.norm",),
        "norm": ("layernorm",),
        "merging/norm": ("encoder.layers.{before}.downsample.norm",),
        "merging/reduction": ("encoder.layers.{before}.downsample.reduction",),
    }
    | _block_layers(
        "encoder.layers.{stage}.blocks.{block}.",
        {
            "norm_1": ("layernorm_before",),
            "attention/qkv": tuple(f"attention.self.{x}" for x in ("query", "key", "value")),
            "attention/out": ("attention.output.dense",),
            "norm_2": ("layernorm_after",),
            "mlp/up": ("intermediate.dense",),
            "mlp/down": ("output.dense",),
        },
    ),
    leftovers=(r"embeddings\.mask_token$", r".*\.relative_position_index$", r"classifier\."),
)

_ATTENTION = "MultiHeadDotProductAttention_0/"
BIG_VISION = Names(
    title="ViT by the names of big_vision",
    kind="vit",
    anchor="embedding/kernel",
    tensors={"class_token": "cls", "position_embedding": "pos_embedding"},
    layers={"patch_embed": ("embedding",), "norm": ("Transformer/encoder_norm",)}
    | _block_layers(
        "Transformer/encoderblock_{block}/",
        {
            "norm_1": ("LayerNorm_0",),
            "attention/qkv": tuple(_ATTENTION + x for x in ("query", "key", "value")),
            "attention/out": (_ATTENTION + "out",),
            "norm_2": ("LayerNorm_1",),
            "mlp/up": ("MlpBlock_0/Dense_0",),
            "mlp/down": ("MlpBlock_0/Dense_1",),
        },
    ),
    leftovers=(r"head/", r"pre_logits/", r"MAPHead_0/"),
    flax=True,
)

FORMATS = (
    VIT,
    SWIN,
    TIMM_SWIN,
    HUGGING_FACE_VIT,
    HUGGING_FACE_DINOV2,
    HUGGING_FACE_SWIN,
    BIG_VISION,
)

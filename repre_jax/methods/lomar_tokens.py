"""Token targets inside LoMaR's windows (arXiv 2206.00790, "LoMaR + BEiT").

As LoMaR, but a masked patch is predicted as one of a vocabulary of visual tokens, by cross-entropy,
as in BEiT (arXiv 2106.08254). Neither the paper's script nor its masking is public: windows, ratio
and encoder are LoMaR's here, and the tokenizer is one of ``models/tokenizers.py``.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from repre_jax.data.recipes import ONE_PLAIN_VIEW, ViewRecipe
from repre_jax.errors import UserError
from repre_jax.losses.masked import masked_cross_entropy, masked_mean
from repre_jax.methods import windows
from repre_jax.methods.method import (
    Encoded,
    EvaluationDefaults,
    Memory,
    Method,
    with_overrides,
)
from repre_jax.models.dense import Dense
from repre_jax.models.layers import normal_002
from repre_jax.models.tokenizers import (
    TOKENIZERS,
    random_codes,
    read_centroids,
    read_ids,
    tokenize,
)
from repre_jax.ranges import Range
from repre_jax.schedules import Clock

VIEWS = ViewRecipe(crop_scale=(0.2, 1.0), interpolation="bicubic", **ONE_PLAIN_VIEW)
# How LoMaR's encoder is made, under config.model.
MODEL = {"position": "relative", "initialisation": "mae"}
RANGES = windows.RANGES | {"vocabulary": Range(2)}
SMOKE = {"windows": 2, "side": 3, "vocabulary": 32}


def default_config() -> ConfigDict:
    """``config.method``: LoMaR's windows, BEiT's number of tokens."""
    return ConfigDict(
        {
            "name": "lomar_tokens",
            "windows": 4,  # of each image
            "side": 7,  # of a window, in patches
            "mask_ratio": 0.8,
            "pairing": "independent",  # or "released"; see windows.py
            "tokenizer": "random_projection",  # or "k_means", "ids"; see models/tokenizers.py
            "vocabulary": 8192,
            "tokens_path": "",  # .npz file of the centroids or ids
        }
    )


class Seen(NamedTuple):
    """Encoded windows, and where they come from.

    Attributes:
      windows: [B, M, ...].
      index: int32 [B], of the image in its source.
      places: int32 [B, M, k * k], of the patches in the image.
    """

    windows: windows.Encoded
    index: jax.Array
    places: jax.Array


class Predicted(NamedTuple):
    """Scores [B, M, k * k, K] of what was seen."""

    logits: jax.Array
    seen: Seen


class TokenHeads(nn.Module):
    """One linear layer from tokens to scores of the vocabulary."""

    vocabulary: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, seen: Seen, train: bool) -> Predicted:
        """``Seen`` -> ``Predicted``."""
        options = {"kernel_init": normal_002, "dtype": self.dtype, "name": "vocabulary"}
        return Predicted(Dense(self.vocabulary, **options)(seen.windows.tokens), seen)


def build(config: ConfigDict, views: ConfigDict, clock: Clock, encoder: nn.Module) -> Method:
    """Token targets for a run of any length; see ``default_config`` for ``config``.

    Raises:
      UserError: windows that the image has no room for, an encoder without tokens to mask, or a
        tokenizer that is none, or has nothing to read.
    """
    windows.check_windows(config, encoder, "method.name=lomar_tokens")
    recipe = with_overrides(VIEWS, views)
    init_tokenizer = tokenizer_of(config, recipe, encoder)

    def check_images(count):
        if config.tokenizer == "random_projection":
            return
        read = init_tokenizer(None)  # now, for a file that does not fit is to be told of at once
        if config.tokenizer == "ids" and len(read["ids"]) != count:
            raise UserError(
                f"{config.tokens_path} has ids of {len(read['ids']):,} images, and the training "
                f"set has {count:,}."
            )

    def encode(encoder, params, views, keys, taps):
        del taps
        token, view_1 = params["tokens"]["mask"], views["global"][:, 0]
        options = {"train": True, "rngs": {"drop_path": keys.step}}
        encoded, drawn = windows.see(encoder, params, token, view_1, keys, config, **options)
        places = windows.places(drawn, view_1.shape[2] // encoder.patch_size, config.side)
        feature = encoded.tokens.mean(axis=(1, 2))
        return Encoded(Seen(encoded, views["index"], places), feature, [])

    def loss(predicted, target, tokenizer, step):
        del target, step
        seen, masked = predicted.seen, predicted.seen.windows.masked
        if "ids" in tokenizer:
            of_image = tokenizer["ids"].reshape(len(tokenizer["ids"]), -1)[seen.index]
            ids = jax.vmap(lambda row, places: row[places])(of_image, seen.places)
        else:
            ids = tokenize(tokenizer, seen.windows.patches)
        right = jnp.argmax(predicted.logits, axis=-1) == ids
        per_example = masked_cross_entropy(predicted.logits, ids, masked)
        return per_example, {"token_accuracy": jnp.mean(masked_mean(right, masked))}

    return Method(
        views=recipe,
        encode=encode,
        heads=TokenHeads(config.vocabulary, encoder.dtype),
        loss=loss,
        loss_name="tokens",
        evaluated="online",
        evaluation=EvaluationDefaults(feature="mean", linear="mae", finetune="mae"),
        memory=Memory(init=init_tokenizer, update=lambda tokenizer, target: tokenizer),
        tokens=lambda key: {"mask": normal_002(key, (1, 1, encoder.width))},
        sees_view_1=False,
        check_images=check_images,
        separable=True,
        collapses=False,
    )


def tokenizer_of(config: ConfigDict, recipe: ViewRecipe, encoder: nn.Module):
    """Function key -> what the tokenizer of ``config`` knows.

    Raises:
      UserError: no such tokenizer, nothing to read, or views that given ids are not of.
    """
    values = encoder.channels * encoder.patch_size**2
    if config.tokenizer not in TOKENIZERS:
        raise UserError(
            f"method.tokenizer={config.tokenizer!r} must be one of {', '.join(TOKENIZERS)}."
        )
    if config.tokenizer == "random_projection":
        return lambda key: random_codes(key, values, config.vocabulary)
    if config.tokenizer == "k_means":
        return lambda key: read_centroids(config.tokens_path, values, config.vocabulary)
    if recipe.crop_scale != (1.0, 1.0) or recipe.flip_probability:
        raise UserError(
            "method.tokenizer=ids needs the same view of an image every time: set "
            "views.crop_scale=(1.0,1.0) and views.flip_probability=0."
        )
    return lambda key: read_ids(config.tokens_path, encoder.grid, config.vocabulary)

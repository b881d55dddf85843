"""A file of another library -> parameters of an encoder of this one, and the config of a run.

Nothing passes in silence: every tensor of the encoder is used, or listed as dropped because it is a
known head, decoder or buffer, or else it is an error that names it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FieldReference

from repre_jax.convert.architecture import IMPORTED, Told, describe, known_methods, method_of
from repre_jax.convert.files import read_tensors, run_name
from repre_jax.convert.forms import usual_form
from repre_jax.convert.names import Names, Tensors, to_ours
from repre_jax.convert.search import Found, choose, find_encoders, grouped, outside
from repre_jax.convert.tables import BIG_VISION
from repre_jax.errors import UserError
from repre_jax.image_size import ImageSize, height_and_width, size_in_words
from repre_jax.methods import METHODS
from repre_jax.methods.method import Method
from repre_jax.models import BACKBONES, build_encoder
from repre_jax.models.pixels import IMAGENET
from repre_jax.models.positions import resize_learned_positions, resize_relative_table
from repre_jax.runs.fingerprints import params_sha256
from repre_jax.training import defaults
from repre_jax.training.learner import build_method, init_encoder

FOREIGN_WEIGHTS = ("auto", "online", "target")
# How pixels in [0, 1] are normalised: mean and deviation of the three colours.
PIXELS = {
    "imagenet": tuple(IMAGENET),
    "half": ((0.5,) * 3, (0.5,) * 3),
    "unit": ((0.0,) * 3, (1.0,) * 3),
}


class Foreign(NamedTuple):
    """An encoder that another library has saved.

    Attributes:
      config: of the run that it is made into: ``task`` is "import".
      params: of the encoder, float32 arrays on the host.
      weights: "online" or "target".
      said: lines on what was found, assumed, dropped.
    """

    config: ConfigDict
    params: Any
    weights: str
    said: list[str]


def read_foreign(path: Path, *, weights: str = "auto", told: Told | None = None) -> Foreign:
    """Reads the encoder of a file or folder of another library.

    Args:
      path: of it.
      weights: "online", "target", or "auto": what the method's paper evaluates.
      told: what its tensors do not tell.

    Raises:
      UserError: no encoder, another kind of one, a damaged file, or something that has to be told.
    """
    told = told or Told()
    _check_told(told, weights)
    tensors, about, preprocessor = read_tensors(path)
    try:
        return _converted(path, tensors, _facts(about, preprocessor), weights, told)
    except UserError as error:
        raise UserError(f"{path} cannot be imported: {error}") from error


def imported_config(method: str) -> ConfigDict:
    """The keys that an imported encoder's config has, with their defaults."""
    usual = defaults.get_config(method if method in METHODS else "dino")
    config = ConfigDict({"task": "import", "seed": 0, "workdir": "", "method": {"name": method}})
    config.model, config.data = usual.model, usual.data
    return config


def method_as_published(name: str, encoder: Any) -> Method:
    """A method with the numbers of its paper."""
    return build_method(defaults.get_config(name), encoder)


def _converted(
    path: Path, tensors: Tensors, about: Mapping[str, Any], weights: str, told: Told
) -> Foreign:
    found = find_encoders(tensors)
    called = f"{run_name(path)} {about.get('origin', '')}"
    method = told.method or method_of(list(tensors), found[0].tensors, called)
    evaluated = "online"
    if method in METHODS:
        tiny = defaults.get_config(method)
        encoder = build_encoder(tiny, jnp.float32)
        evaluated = method_as_published(method, encoder).evaluated
    chosen = choose(found, weights, evaluated)
    names = chosen.names
    own, said = usual_form(names, chosen.tensors, about.get("image_size"))
    config = imported_config(method)
    model = config.model.to_dict() | {"position": None}
    model |= describe(names, own, method, about, told)
    model["image_size"] = FieldReference(model["image_size"], field_type=object)  # or a pair
    config.model = ConfigDict(model)
    own, resized = _resize(names, own, config.model, told)
    params, used = _params(names, own, config.model)
    dropped = _dropped(names, own, used)
    pixels, assumed = _pixels(names, method, called, about, told, config.model.channels)
    config.model.normalise = not _same(pixels, PIXELS["unit"])
    normalised: list[str] = []
    if config.model.channels == 3:
        params, normalised = _fold_pixels(params, pixels)
    elif config.model.normalise:
        config.data.mean, config.data.std = map(tuple, pixels)
    config.source = {
        "file": str(path.absolute()),
        "format": names.title,
        "prefix": chosen.prefix,
        "weights": chosen.weights,
        "sha256": params_sha256(params),  # the same name may stand for another file tomorrow
    }
    said = [
        *_in_words(path, chosen, method, config.model),
        *_counted(used, dropped, outside(tensors, chosen.prefix)),
        *said,
        *resized,
        *assumed,
        *normalised,
    ]
    return Foreign(config, params, chosen.weights, said)


def _check_told(told: Told, weights: str) -> None:
    if weights not in FOREIGN_WEIGHTS:
        raise UserError(f"weights={weights!r} must be one of {', '.join(FOREIGN_WEIGHTS)}.")
    if told.method not in (None, *known_methods()):
        raise UserError(f"method={told.method!r} must be one of {', '.join(known_methods())}.")
    if told.pixels not in (None, *PIXELS):
        raise UserError(f"pixels={told.pixels!r} must be one of {', '.join(PIXELS)}.")


def _facts(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """What the JSON files of a folder of transformers or timm say, under one name each.

    Raises:
      UserError: of an activation that is not ours.
    """
    activation = config.get("hidden_act", "gelu")
    if activation != "gelu":
        raise UserError(f"config.json says hidden_act={activation!r}, and ours is the exact GELU.")
    architecture = str(config.get("architecture") or "")
    of_timm = config.get("pretrained_cfg", config) if architecture else {}
    arguments = config.get("model_args") or {}
    heads, size = arguments.get("num_heads"), arguments.get("img_size")
    facts = {
        "heads": config.get("num_attention_heads") or heads,
        # A Swin of timm has this one, whoever trained it.
        "norm_epsilon": config.get("layer_norm_eps") or 1e-5 * architecture.startswith("swin"),
        "image_size": _size(
            config.get("image_size") or size or (of_timm.get("input_size") or [0])[1:]
        ),
        "mean": preprocessor.get("image_mean") or of_timm.get("mean"),
        "std": preprocessor.get("image_std") or of_timm.get("std"),
        "origin": f"{config.get('_name_or_path', '')} {architecture} "
        f"{of_timm.get('tag', '')}".strip(),
    }
    return {key: value for key, value in facts.items() if value and not isinstance(value, bool)}


def _size(size: Any) -> ImageSize | None:
    """One side of a square, or (height, width)."""
    if not isinstance(size, (list, tuple)):
        return size
    return tuple(size) if len(set(size)) > 1 else next(iter(size), None)


def _resize(
    names: Names, own: Tensors, model: ConfigDict, told: Told
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Positions for another grid, or tables for other windows, where the user asks for them."""
    own, said = dict(own), []
    if told.window and names.kind == "vit":
        raise UserError(f"window={told.window} was given, and a ViT has no windows: leave it out.")
    if told.heads and names.kind == "swin":
        raise UserError(f"heads={told.heads} was given, and a Swin's tables tell: leave it out.")
    if told.image_size and names.kind == "vit" and told.image_size != model.image_size:
        sides = height_and_width(told.image_size)
        if any(side % model.patch_size for side in sides):
            raise UserError(
                f"image_size={size_in_words(sides)} is no multiple of its patch {model.patch_size}."
            )
        if model.position == "learned":
            (name,) = names.of("position_embedding", (1,))
            old, new = (
                tuple(side // model.patch_size for side in height_and_width(size))
                for size in (model.image_size, told.image_size)
            )
            # As the encoder itself does for images of that size.
            positions = np.asarray(own[name], np.float32)
            own[name] = resize_learned_positions(positions, old, new, guard=0.1).astype(np.float32)
            sizes = (size_in_words(size) for size in (model.image_size, told.image_size))
            said.append("Positions are resized from {} to {}.".format(*sizes))
        model.image_size = told.image_size
    if names.kind == "swin" and (told.window or told.image_size):
        model.window = told.window or model.window
        model.image_size = told.image_size or model.image_size
        said += _resize_tables(names, own, model)
    return own, said


def _resize_tables(names: Names, own: dict[str, np.ndarray], model: ConfigDict) -> list[str]:
    swin = BACKBONES[model.name](model, jnp.float32)
    resized = 0
    for k, stage in enumerate(np.repeat(np.arange(len(swin.depths)), swin.depths)):
        (name,) = names.of(f"block_{k}/attention/relative_position_bias", swin.depths)
        if name in own:
            side = 2 * swin.stage_window(int(stage)) - 1
            resized += len(own[name]) != side**2
            own[name] = resize_relative_table(np.asarray(own[name], np.float32), side)
    return [f"{resized} tables of relative positions are resized."] if resized else []


def _params(names: Names, own: Tensors, model: ConfigDict) -> tuple[Any, set[str]]:
    encoder = BACKBONES[model.name](model, jnp.float32)
    shapes, _ = jax.eval_shape(lambda: init_encoder(encoder, seed=0))
    depths = getattr(encoder, "depths", (encoder.depth,))
    return to_ours(names, own, shapes, depths)


def _dropped(names: Names, own: Tensors, used: set[str]) -> list[str]:
    """What is not used; UserError for what is neither a known head nor a buffer."""
    unused = sorted(set(own) - used)
    fixed = names.tensors.get("position_embedding")  # made anew, or of no use to LoMaR
    unexpected = [
        name
        for name in unused
        if name != fixed and not any(re.match(pattern, name) for pattern in names.leftovers)
    ]
    if unexpected:
        more = f" and {len(unexpected) - 3} more" if len(unexpected) > 3 else ""
        raise UserError(
            f"{', '.join(unexpected[:3])}{more} belong to no encoder of this library, and are no "
            "head that is known: it is another architecture."
        )
    return unused


def _pixels(
    names: Names, method: str, called: str, about: Mapping[str, Any], told: Told, channels: int
) -> tuple[tuple, list[str]]:
    """(mean, deviation) that the encoder wants, and what was assumed.

    Raises:
      UserError: nobody says it.
    """
    if "mean" in about and "std" in about and not told.pixels:
        return (about["mean"], about["std"]), []
    if told.pixels == "unit":
        return PIXELS["unit"], []
    if channels != 3:
        raise UserError(
            f"it takes images of {channels} channel(s), and nothing tells their mean and "
            "deviation: set pixels=unit where it wants them in [0, 1], or import a folder of timm."
        )
    if told.pixels:
        return PIXELS[told.pixels], []
    if names is BIG_VISION:
        return PIXELS["half"], []  # value_range(-1, 1) in its configs
    if method != IMPORTED or names.kind == "swin" or "deit" in called.lower():
        assumed = (
            "Its pixels are taken to be less ImageNet's mean, over its deviation, as published."
        )
        return PIXELS["imagenet"], [assumed]
    raise UserError(
        "nothing tells how it takes pixels: set pixels=imagenet (ImageNet's mean and deviation, as "
        "DeiT and Swin), half (0.5, as Google's ViT) or unit (none), or method=<which trained it>, "
        "with --config=configs/import.py; a folder with its config.json tells, too."
    )


def _same(left: tuple, right: tuple) -> bool:
    alike = np.shape(left) == np.shape(right)  # of as many channels
    return alike and np.allclose(left, right, rtol=0, atol=1e-6)


def _fold_pixels(params: Any, pixels: tuple) -> tuple[Any, list[str]]:
    """An encoder of pixels normalised in another way takes ours: patches are mapped linearly."""
    if _same(pixels, PIXELS["imagenet"]) or _same(pixels, PIXELS["unit"]):
        return params, []  # an encoder here has them either way
    mean, std = (np.asarray(x, np.float64) for x in pixels)
    ours_mean, ours_std = (np.asarray(x) for x in PIXELS["imagenet"])
    kernel = params["patch_embed"]["kernel"].astype(np.float64)
    shift = np.einsum("yxcd,c->d", kernel, (ours_mean - mean) / std)
    patch_embed = {
        "kernel": (kernel * (ours_std / std)[:, None]).astype(np.float32),
        "bias": (params["patch_embed"]["bias"] + shift).astype(np.float32),
    }
    told = ", ".join(f"{x:g}" for x in (*mean, *std))
    said = f"It takes pixels of mean and deviation {told}; that is folded into its patches."
    return params | {"patch_embed": patch_embed}, [said]


def _in_words(path: Path, chosen: Found, method: str, model: ConfigDict) -> list[str]:
    """What was found and inferred."""
    encoder = BACKBONES[model.name](model, jnp.float32)
    sizes = f"width {encoder.width}, {encoder.depth} blocks, heads {encoder.heads}"
    if chosen.names.kind == "swin":
        sizes = f"{sizes}, windows of {encoder.window}"
    position = f", positions {model.position}" if model.position else ""
    where = f", under {chosen.prefix!r}" if chosen.prefix else ""
    return [
        f"{path.name}: {chosen.names.title}{where}; {chosen.weights} weights, method {method}.",
        f"{model.name}: {sizes}, patch {model.patch_size}, images of "
        f"{size_in_words(model.image_size)}{_channels(model)}{position}, "
        f"norm epsilon {model.norm_epsilon:g}.",
    ]


def _channels(model: ConfigDict) -> str:
    return "" if model.channels == 3 else f" and {model.channels} channel(s)"


def _counted(used: set[str], dropped: list[str], beside: list[str]) -> list[str]:
    """What became of every tensor; one that is missing or unexpected would have been an error."""
    listed = f" ({', '.join(grouped(dropped))})" if dropped else ""
    counts = (
        f"{len(used)} tensors matched, 0 missing, {len(dropped)} dropped{listed}, 0 unexpected."
    )
    return [counts, f"Beside the encoder: {', '.join(beside)}."] if beside else [counts]

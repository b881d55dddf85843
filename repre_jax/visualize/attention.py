"""Where an encoder looks: the attention of its class token, or which tokens are like the mean."""

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from repre_jax.errors import UserError
from repre_jax.evaluation.encoder import Encoder
from repre_jax.models.vit import ViT
from repre_jax.visualize.figure import Panel, as_colours, image_panels, save_grid
from repre_jax.visualize.scene import Scene, Subject

MOST_HEADS_A_LINE = 6


def draw_attention(scene: Scene) -> Iterator[Path]:
    """Attention maps, or similarity to the mean token, of the blocks; then head by head."""
    shown = [
        (subject, block, looked_at(subject.encoder, subject.views, block))
        for subject in scene.subjects
        for block in subject.blocks
    ]
    path = scene.path("attention")
    title = f"{scene.told}. {_kind(scene.subjects)}; each map from its least to its greatest."
    _save_maps(scene, path, title, shown)
    yield path
    attending = [subject for subject in scene.subjects if has_attention(subject.encoder)]
    mass = scene.config.mass
    if mass and attending:
        path = scene.path("attention_mass")
        title = (
            f"{'; '.join(subject.told for subject in attending)}. The fewest patches that hold "
            f"{mass:.0%} of the attention of the class token, mean over the heads."
        )
        _save_maps(scene, path, title, [x for x in shown if x[0] in attending], mass)
        yield path
    for subject in attending:
        for block in subject.blocks:
            yield from _heads(scene, subject, block)
    others = [subject.name for subject in scene.subjects if subject not in attending]
    if mass and others:
        raise UserError(
            f"mass is a share of the class token's attention, and {', '.join(others)} has none "
            "that a loss has formed."
        )


def _kind(subjects: list[Subject]) -> str:
    """What the maps of subjects are, in words."""
    kinds = {
        subject.name: (
            "Attention of the class token, mean over the heads"
            if has_attention(subject.encoder)
            else "Cosine similarity of each token to the mean token"
        )
        for subject in subjects
    }
    if len(set(kinds.values())) == 1:
        return kinds[subjects[0].name]
    return "; ".join(f"{kind} ({name})" for name, kind in kinds.items())


def _save_maps(
    scene: Scene,
    path: Path,
    title: str,
    shown: list[tuple[Subject, int, np.ndarray]],
    mass: float | None = None,
) -> None:
    """The images, then a row of maps [n, gh, gw] for every subject and block."""
    names = ["", *(scene.row_name(subject, f"block {block}") for subject, block, _ in shown)]
    rows = [map_panels(subject.views, maps, mass) for subject, _, maps in shown]
    save_grid(path, title, [image_panels(scene.subjects[0].views), *rows], names)


def _heads(scene: Scene, subject: Subject, block: int) -> Iterator[Path]:
    weights = np.asarray(subject.encoder.attention(subject.views, block))
    told = f"{subject.told}. Attention of the class token in block {block}, head by head"
    path = scene.path(f"attention_heads_block_{block}", subject)
    title = f"{told}; each map from 0 to its greatest value."
    save_grid(path, title, head_panels(subject.views, weights))
    yield path
    if scene.config.mass:
        path = scene.path(f"attention_heads_mass_block_{block}", subject)
        title = f"{told}: the fewest patches that hold {scene.config.mass:.0%} of it."
        save_grid(path, title, head_panels(subject.views, weights, scene.config.mass))
        yield path


def has_attention(encoder: Encoder) -> bool:
    """Whether the class token's attention says anything: there is one, and a loss has formed it.

    Swin has none; of a method that is evaluated by the mean of the tokens, such as LoMaR, no loss
    has seen it.
    """
    pretrained = encoder.pretrained
    return isinstance(pretrained.encoder, ViT) and pretrained.defaults.feature != "mean"


def similarity_to_mean(feature_map: np.ndarray) -> np.ndarray:
    """Cosine of every token with the mean of all tokens: [B, gh, gw, D] -> float32 [B, gh, gw]."""
    mean = feature_map.mean(axis=(1, 2), keepdims=True)
    lengths = np.linalg.norm(feature_map, axis=-1) * np.linalg.norm(mean, axis=-1)
    return (feature_map * mean).sum(axis=-1) / np.maximum(lengths, 1e-12)


def heaviest(attention: np.ndarray, mass: float) -> np.ndarray:
    """The smallest set of patches that holds a share of each map's attention.

    Args:
      attention: [..., gh, gw], not negative.
      mass: the share, in (0, 1) (``--threshold`` of facebookresearch/dino, visualize_attention.py).

    Returns:
      bool [..., gh, gw].
    """
    flat = attention.reshape(*attention.shape[:-2], -1)
    order = np.argsort(-flat, axis=-1, kind="stable")
    shares = np.take_along_axis(flat, order, axis=-1) / flat.sum(axis=-1, keepdims=True)
    # Those that come before the share is reached, the one that reaches it included.
    needed = np.cumsum(shares, axis=-1) - shares < mass
    chosen = np.zeros(flat.shape, bool)
    np.put_along_axis(chosen, order, needed, axis=-1)
    return chosen.reshape(attention.shape)


def looked_at(encoder: Encoder, views: np.ndarray, block: int) -> np.ndarray:
    """What a picture of a block shows of each view: [n, gh, gw].

    The attention's mean over the heads, or ``similarity_to_mean``, as ``has_attention`` says.
    """
    if has_attention(encoder):
        return np.asarray(encoder.attention(views, block)).mean(axis=1)
    return similarity_to_mean(np.asarray(encoder.maps(views, [block])[0]))


def only(image: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """An image [H, W, C] of which all but some patches, bool [gh, gw], are paled.

    It is uint8, or of floats in [0, 1].
    """
    image = as_colours(image)
    height, width = image.shape[:2]
    kept = cv2.resize(
        patches.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
    ).astype(bool)
    white = 255 if image.dtype == np.uint8 else 1
    pale = (image.astype(np.float32) * 0.2 + white * 0.8).astype(image.dtype)
    return np.where(kept[..., None], image, pale)


def head_panels(
    views: np.ndarray, attention: np.ndarray, mass: float | None = None
) -> list[list[Panel | None]]:
    """Rows image | mean | head 0 | head 1 ..., with several lines an image for many heads.

    Args:
      views: [n, H, W, C], levels or floats in [0, 1].
      attention: [n, H, gh, gw].
      mass: None for the maps themselves; else ``heaviest`` patches that hold that share.
    """
    heads = attention.shape[1]
    lines = math.ceil(heads / MOST_HEADS_A_LINE)
    rows: list[list[Panel | None]] = []
    for k, (view, of_heads) in enumerate(zip(views, attention, strict=True)):
        named = [("mean", of_heads.mean(axis=0))]
        named += [(f"head {h}", weights) for h, weights in enumerate(of_heads)]
        titled = k == 0 or lines > 1
        panels = [
            Panel(
                _shown(view, weights, mass), title=name if titled else "", limits=_limits(weights)
            )
            for name, weights in named
        ]
        image = Panel(view, title="image" if k == 0 else "")
        a_line = math.ceil(heads / lines)
        for line in range(lines):
            of_line = panels[1 + line * a_line : 1 + (line + 1) * a_line]
            rows.append([*([image, panels[0]] if line == 0 else [None, None]), *of_line])
    return rows


def map_panels(views: np.ndarray, maps: np.ndarray, mass: float | None = None) -> list[Panel]:
    """A row of maps [n, gh, gw] of views [n, H, W, C], or of their ``heaviest`` patches."""
    return [Panel(_shown(*both, mass)) for both in zip(views, maps, strict=True)]


def _shown(view: np.ndarray, weights: np.ndarray, mass: float | None) -> np.ndarray:
    return weights if mass is None else only(view, heaviest(weights, mass))


def _limits(weights: np.ndarray) -> tuple[float, float]:
    return 0.0, float(weights.max())

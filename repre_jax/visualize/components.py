"""Patch tokens as colours: their first three principal components."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from repre_jax.visualize.figure import image_panels, save_grid
from repre_jax.visualize.scene import Scene

_SHARE_AT_THE_ENDS = 0.01  # of the tokens, whose colours are cut off at black and at full


def draw_features(scene: Scene) -> Iterator[Path]:
    """Patch tokens of the blocks as colours."""
    rows, names = [image_panels(scene.subjects[0].views)], [""]
    remove = scene.config.remove_background
    for subject in scene.subjects:
        maps = subject.encoder.maps(subject.views, subject.blocks)
        for block, feature_map in zip(subject.blocks, maps, strict=True):
            colours = token_colours(np.asarray(feature_map), remove_background=remove)
            rows.append(image_panels(colours))
            names.append(scene.row_name(subject, f"block {block}"))
    background = "; white is what the first one takes for background" * remove
    title = (
        f"{scene.told}. First three principal components of the patch tokens as red, green and "
        f"blue{background}; of one encoder and block, equal colours mean equal features."
    )
    save_grid(scene.path("features"), title, rows, names)
    yield scene.path("features")


def token_colours(feature_map: np.ndarray, *, remove_background: bool = False) -> np.ndarray:
    """Principal components of all tokens of all images as red, green and blue.

    Each is scaled by the same numbers in every image, so that equal colours mean equal features.

    Args:
      feature_map: [n, gh, gw, D].
      remove_background: whether the tokens on one side of the first component, that of more of the
        tokens at the borders of the images, become white, and the components are found again among
        the others (after the foreground of DINOv2, arXiv 2304.07193, figure 1).

    Returns:
      float32 [n, gh, gw, 3] in [0, 1].
    """
    from sklearn.decomposition import PCA  # a second to import

    tokens = feature_map.reshape(-1, feature_map.shape[-1]).astype(np.float64)
    shown = np.ones(len(tokens), bool)
    if remove_background:
        shown = _foreground(tokens, feature_map.shape[:3])
    components = min(3, tokens.shape[1], int(shown.sum()))
    with np.errstate(invalid="ignore"):  # tokens that are all the same have no variance to share
        values = PCA(components, svd_solver="full").fit_transform(tokens[shown])
    ends = (_SHARE_AT_THE_ENDS, 1 - _SHARE_AT_THE_ENDS)
    low, high = np.quantile(values, ends, axis=0)
    scaled = np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1)
    colours = np.ones((len(tokens), 3), np.float32)
    colours[shown] = 0.5
    colours[shown, :components] = scaled
    return colours.reshape(*feature_map.shape[:3], 3)


def _foreground(tokens: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """bool [n * gh * gw]: the side of the first component that has less of the borders."""
    from sklearn.decomposition import PCA

    with np.errstate(invalid="ignore"):
        first = PCA(1, svd_solver="full").fit_transform(tokens)[:, 0]
    border = np.ones(shape, bool)
    border[:, 1:-1, 1:-1] = False
    positive_at_border = (first > 0)[border.reshape(-1)].mean()
    inside = first < 0 if positive_at_border > 0.5 else first > 0
    return inside if inside.any() else np.ones_like(inside)

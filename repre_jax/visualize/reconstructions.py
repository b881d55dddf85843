"""What a run reconstructs: its pictures, and reconstructions beside their inputs."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from matplotlib.figure import Figure

from repre_jax.data.samples import centre_views
from repre_jax.errors import UserError
from repre_jax.evaluation.online_network import load_online_network
from repre_jax.methods.branch import Branch
from repre_jax.methods.method import Method
from repre_jax.methods.picture import Painter, Picture
from repre_jax.models.conv_stem import frozen
from repre_jax.training.learner import forward_keys
from repre_jax.visualize.figure import Panel, image_panels, save, save_grid, wrapped
from repre_jax.visualize.scene import Scene


def draw_reconstructions(scene: Scene) -> Iterator[Path]:
    """Of every kind that one of the checkpoints has: all side by side; then without each tap."""
    networks = {subject.name: load_online_network(subject.pretrained) for subject in scene.subjects}
    kinds: dict[str, list] = {}
    for subject in scene.subjects:
        network, run = networks[subject.name], subject.pretrained.config
        views = centre_views(scene.samples, run.model.image_size)
        images = views.astype(np.float32) / 255
        for kind, painter in painters(network.method, network.branch).items():
            draw = functools.partial(
                painted, network.encoder, params=network.params, images=images, seed=run.seed
            )
            kinds.setdefault(kind, []).append((subject, painter, images, draw))
    if not kinds:
        raise UserError(f"{scene.told} reconstructs nothing: it has no branch that does.")
    for kind, entries in kinds.items():
        yield from _of_a_kind(scene, kind, entries)
    silent = [
        s.name for s in scene.subjects if not any(e[0] is s for x in kinds.values() for e in x)
    ]
    if silent:
        raise UserError(f"{', '.join(silent)} reconstructs nothing: it has no branch that does.")


def _of_a_kind(scene: Scene, kind: str, entries: list) -> Iterator[Path]:
    path, rows, names = scene.path(f"{kind}s"), [], []
    for subject, painter, images, draw in entries:
        picture = draw(painter.paint)
        if scene.alone:
            title = f"{subject.told}. Target: {painter.space}; online weights"
            save_reconstructions(images, picture, title, path)
        rows = rows or [image_panels(images)]
        names = names or [""]
        if not np.array_equal(picture.seen, images):
            rows.append(image_panels(picture.seen))
            names.append(scene.row_name(subject, "seen"))
        rows.append(error_panels(images, picture.painted, picture.hidden))
        names.append(scene.row_name(subject))
    if not scene.alone:
        told = f"{scene.told}. What the online weights reconstruct, and its mean absolute error."
        save_grid(path, told, rows, names)
    yield path
    for subject, painter, images, draw in entries:
        if painter.without is None:
            continue
        picture, without = draw(painter.paint), draw(painter.without)
        rows = [image_panels(images), error_panels(images, picture.painted, picture.hidden)]
        rows += [error_panels(images, shown, picture.hidden) for shown in without.values()]
        names = ["", "all taps", *(f"without\nblock {block}" for block in without)]
        path = scene.path(f"{kind}s_by_tap", subject)
        title = (
            f"{subject.told}. Reconstruction by the online weights from all tapped blocks, and "
            "with the map of one replaced by its mean over these images: the greater the error, "
            "the more the decoder draws from that block."
        )
        save_grid(path, title, rows, names)
        yield path


def painters(method: Method, branch: Branch | None) -> dict[str, Painter]:
    """What a run reconstructs: "reconstruction" of RePre, "masked_reconstruction" of a method."""
    found = {"masked_reconstruction": method.painter, "reconstruction": branch and branch.painter}
    return {name: painter for name, painter in found.items() if painter}


def painted(
    encoder: nn.Module, paint: Callable[..., Any], params: Any, images: np.ndarray, seed: int
) -> Picture | dict[int, np.ndarray]:
    """What a ``Painter`` makes of images float32 [n, S, S, 3] in [0, 1], as numpy arrays.

    Args:
      encoder: of the run.
      paint: the painter's ``paint``, or its ``without``.
      params: of the run, the encoder's for its ``frozen`` form.
      images: as above.
      seed: of the run, for what is hidden.
    """
    rows = np.arange(len(images), dtype=np.int32)
    keys = forward_keys(seed, {"index": rows, "epoch": np.zeros_like(rows)}, np.int32(0))
    jitted = jax.jit(functools.partial(paint, frozen(encoder)))
    return jax.device_get(jitted(params, images, keys))


def save_reconstructions(images: np.ndarray, picture: Picture, title: str, path: Path) -> None:
    """Draws a row an image and saves a PNG.

    Its columns are input | what the encoder saw, where something was hidden from it |
    reconstruction | mean absolute error where something was reconstructed.

    Args:
      images: float32 [n, H, W, 3] in [0, 1].
      picture: of them; what is reconstructed is clipped to [0, 1] for display only.
      title: above everything.
      path: where to write it.

    Raises:
      UserError: disk full or no permission.
    """
    errors = np.abs(picture.painted - images).mean(axis=-1)  # [n, H, W]
    scale = max(float(np.quantile(errors[picture.hidden], 0.99)), 1e-6)
    columns = {"input": images}
    if not np.array_equal(picture.seen, images):
        columns["seen by the encoder"] = picture.seen
    columns["reconstruction"] = np.clip(picture.painted, 0, 1)
    rows, count = len(images), len(columns) + 1
    width = 2.07 * count
    title = wrapped(title, width)
    height = 1.75 * rows + 0.6 + 0.15 * title.count("\n")
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, count, squeeze=False)
    figure.suptitle(title, fontsize=9)
    for row in range(rows):
        for axis, (title, shown) in zip(axes[row], columns.items(), strict=False):
            axis.imshow(shown[row])
            axis.set_title(title if row == 0 else "", fontsize=10)
        last, hidden = axes[row, -1], picture.hidden[row]
        error = np.ma.masked_where(~hidden, errors[row])
        drawn = last.imshow(error, cmap="magma", vmin=0, vmax=scale)
        last.set_title("absolute error" if row == 0 else "", fontsize=10)
        last.set_ylabel(f"mean {errors[row][hidden].mean():.3f}", fontsize=8)
        last.yaxis.set_label_position("right")
        for axis in axes[row]:
            axis.set_xticks([])
            axis.set_yticks([])
    figure.colorbar(drawn, ax=axes[:, -1], shrink=0.6, label="of the pixel range")
    save(figure, path)


def error_panels(images: np.ndarray, shown: np.ndarray, hidden: np.ndarray) -> list[Panel]:
    """A row of reconstructions, each with its mean absolute error where something was hidden.

    Args:
      images, shown: float32 [n, S, S, 3]; what is shown is clipped to [0, 1] for display only.
      hidden: bool [n, S, S].
    """
    errors = np.abs(shown - images).mean(axis=-1)
    return [
        Panel(np.clip(picture, 0, 1), caption=f"error {error[where].mean():.3f}")
        for picture, error, where in zip(shown, errors, hidden, strict=True)
    ]

"""What a run reconstructs: its pictures, and reconstructions beside their inputs."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from matplotlib.figure import Figure

from repre_jax.data.pixel_format import as_shares
from repre_jax.data.samples import centre_views
from repre_jax.errors import UserError
from repre_jax.evaluation.online_network import load_online_network
from repre_jax.methods.branch import Branch
from repre_jax.methods.method import Method
from repre_jax.methods.picture import Painter, Picture
from repre_jax.models.conv_stem import frozen
from repre_jax.training.learner import forward_keys
from repre_jax.visualize.figure import Panel, as_colours, image_panels, save, save_grid, wrapped
from repre_jax.visualize.scene import Scene, Subject


class Reconstructed(NamedTuple):
    """What the online network of a checkpoint makes of the images of a scene.

    Attributes:
      subject: the checkpoint.
      space: of the targets, for the title.
      images: float32 [n, H, W, C] in [0, 1], of the size that the run was trained at.
      picture: of them.
      without: block -> float32 [n, H, W, C], reconstructed without the map of that block; {} where
        a picture is not made of several maps.
    """

    subject: Subject
    space: str
    images: np.ndarray
    picture: Picture
    without: dict[int, np.ndarray]


def draw_reconstructions(scene: Scene) -> Iterator[Path]:
    """Of every kind that one of the checkpoints has: all side by side; then without each tap.

    RePre's decoder paints from all tapped maps at once, so there is no picture of one tap alone:
    what it adds is seen by what is lost when its map is the same everywhere.
    """
    kinds: dict[str, list[Reconstructed]] = {}
    silent = []
    for subject in scene.subjects:
        found = _reconstructed(scene, subject)
        for kind, reconstructed in found.items():
            kinds.setdefault(kind, []).append(reconstructed)
        if not found:
            silent.append(subject.told)
    for kind, of_subjects in kinds.items():
        path = scene.path(f"{kind}s")
        if scene.alone:
            (x,) = of_subjects
            title = f"{x.subject.with_weights('online')}. Target: {x.space}"
            save_reconstructions(x.images, x.picture, title, path)
        else:
            _save_side_by_side(scene, of_subjects, path)
        yield path
        for x in of_subjects:
            if x.without:
                path = scene.path(f"{kind}s_by_tap", x.subject)
                _save_by_tap(x, path)
                yield path
    if silent:
        raise UserError(f"{'; '.join(silent)} reconstructs nothing: it has no branch that does.")


def _reconstructed(scene: Scene, subject: Subject) -> dict[str, Reconstructed]:
    """Kind -> what the subject makes of the images."""
    network, run = load_online_network(subject.pretrained), subject.pretrained.config
    images = as_shares(centre_views(scene.samples, run.model.image_size))
    found = {}
    for kind, painter in painters(network.method, network.branch).items():
        picture, without = (
            paint and painted(network.encoder, paint, network.params, images, run.seed)
            for paint in (painter.paint, painter.without)
        )
        found[kind] = Reconstructed(subject, painter.space, images, picture, without or {})
    return found


def _save_side_by_side(scene: Scene, of_subjects: list[Reconstructed], path: Path) -> None:
    rows, names = [image_panels(of_subjects[0].images)], [""]
    for x in of_subjects:
        if not np.array_equal(x.picture.seen, x.images):
            rows.append(image_panels(x.picture.seen))
            names.append(scene.row_name(x.subject, "seen"))
        rows.append(error_panels(x.images, x.picture.painted, x.picture.hidden))
        names.append(scene.row_name(x.subject))
    told = "; ".join(x.subject.with_weights("online") for x in of_subjects)
    title = f"{told}. What is reconstructed, and its mean absolute error."
    save_grid(path, title, rows, names)


def _save_by_tap(x: Reconstructed, path: Path) -> None:
    shown = {"all taps": x.picture.painted}
    shown |= {f"without\nblock {block}": pixels for block, pixels in x.without.items()}
    rows = [error_panels(x.images, pixels, x.picture.hidden) for pixels in shown.values()]
    title = (
        f"{x.subject.with_weights('online')}. Reconstruction from all tapped blocks, and with the "
        "map of one replaced by its mean over these images: the greater the error, the more the "
        "decoder draws from that block."
    )
    save_grid(path, title, [image_panels(x.images), *rows], ["", *shown])


def painters(method: Method, branch: Branch | None) -> dict[str, Painter]:
    """What a run reconstructs: "reconstruction" of RePre, "masked_reconstruction" of a method."""
    found = {"masked_reconstruction": method.painter, "reconstruction": branch and branch.painter}
    return {name: painter for name, painter in found.items() if painter}


def painted(
    encoder: nn.Module, paint: Callable[..., Any], params: Any, images: np.ndarray, seed: int
) -> Picture | dict[int, np.ndarray]:
    """What a ``Painter`` makes of images float32 [n, H, W, C] in [0, 1], as numpy arrays.

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
      images: float32 [n, H, W, C] in [0, 1].
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
    height = 1.75 * rows * images.shape[1] / images.shape[2] + 0.6 + 0.15 * title.count("\n")
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, count, squeeze=False)
    figure.suptitle(title, fontsize=9)
    for row in range(rows):
        for axis, (title, shown) in zip(axes[row], columns.items(), strict=False):
            axis.imshow(as_colours(shown[row]))
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
      images, shown: float32 [n, H, W, C]; what is shown is clipped to [0, 1] for display only.
      hidden: bool [n, H, W].
    """
    errors = np.abs(shown - images).mean(axis=-1)
    return [
        Panel(np.clip(picture, 0, 1), caption=f"error {error[where].mean():.3f}")
        for picture, error, where in zip(shown, errors, hidden, strict=True)
    ]

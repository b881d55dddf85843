"""A step of a pre-training run once more, to see where it stops being finite."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from repre_jax.data.pipeline import prefetch_to_device, training_batches
from repre_jax.data.sources import open_source
from repre_jax.errors import UserError
from repre_jax.evaluation.checkpoint import checkpoint_steps, run_config
from repre_jax.sharding import by_row, make_mesh, placed
from repre_jax.starting_weights import start_of
from repre_jax.training.compiled import jitted_step
from repre_jax.training.learner import Learner, TrainState, build_learner
from repre_jax.training.placement import Placement
from repre_jax.training.resolution import resolve
from repre_jax.training.step import augmented_views, loss_and_gradients


def replay(config: ConfigDict, workdir: Path | None) -> list[str]:
    """Goes on from the newest checkpoint before the step, up to it, and says what is not finite.

    Every step is a function of state, seed and images, so these are the numbers of the run; its
    folder is only read.

    Args:
      config: of ``configs/replay.py``.
      workdir: not used: nothing is written.

    Returns:
      What is printed: of the step's pixels, features, loss and gradients those not finite.

    Raises:
      UserError: no such file, or its run, checkpoints or images are gone.
    """
    del workdir
    run, step = _run_and_step(config.step_file)
    saved = run_config(run)
    if config.data_path:
        saved.data.path = config.data_path
    mesh = make_mesh(saved.train.devices)
    source = open_source(saved.data, "train", saved.model.channels)
    resolution = resolve(saved, images=len(source), devices=mesh.size)
    learner = build_learner(saved, resolution)
    placement = Placement(mesh, saved.train.shard_state)
    state = _state_before(saved, learner, run, step, placement)
    batches = training_batches(
        source,
        learner.method.views,
        image_size=learner.encoder.image_size,
        batch_size=resolution.batch_size,
        seed=saved.seed,
        start_step=int(state.step),
        total_steps=step,
        workers=saved.data.workers,
    )
    with prefetch_to_device(batches, by_row(mesh)) as batches:
        go = jitted_step(learner, placement)
        for batch in batches:
            batch.pop("replaced")
            if int(state.step) == step - 1:
                break
            state, _ = go(state, batch)
    names = [source.name_of(int(i)) for i in jax.device_get(batch["index"])]
    found = _findings(learner, placement, state, batch, names)
    lines = [f"Step {step:,} of {run}:", *found]
    print("\n".join(lines))
    return lines


def _run_and_step(step_file: str) -> tuple[Path, int]:
    path = Path(step_file).absolute()
    try:
        step = int(json.loads(path.read_text())["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"step_file={step_file!r} cannot be read ({type(error).__name__}): give a "
            "nonfinite/<step>.json of a run folder."
        ) from None
    return path.parents[1], step


def _state_before(
    config: ConfigDict, learner: Learner, run: Path, step: int, placement: Placement
) -> TrainState:
    """The train state of the newest checkpoint before ``step``, or that of the beginning."""
    shapes = placed(learner.shapes, placement.of)
    before = [number for number in checkpoint_steps(run) if number < step]
    if not before:
        start, _ = start_of(config, learner)
        shardings = jax.tree.map(lambda x: x.sharding, shapes)
        return jax.jit(learner.init, out_shardings=shardings)(*start)
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(run / "checkpoints" / str(before[-1]) / "state", shapes)


def _findings(
    learner: Learner,
    placement: Placement,
    state: TrainState,
    batch: dict[str, jax.Array],
    names: list[str],
) -> list[str]:
    @jax.jit
    def look(state, batch):
        state, views = placement.gathered(state), augmented_views(learner, batch)
        gradients, outputs = loss_and_gradients(
            learner, state, views, learner.keys(batch, state.step)
        )
        rows = {"pixels": views["global"], "features": outputs["metrics"]["features"]}
        whole = {"parameters": state.params, "gradients": gradients}
        scalars = {k: x for k, x in outputs["metrics"].items() if k != "features"}
        return (
            {key: ~_finite(x, axes=tuple(range(1, x.ndim))) for key, x in rows.items()},
            {key: jax.tree.map(lambda x: ~_finite(x), tree) for key, tree in whole.items()},
            scalars,
        )

    rows, whole, scalars = jax.device_get(look(state, batch))
    lines = [f"  {key} = {float(value):g}" for key, value in sorted(scalars.items())]
    for what, bad in rows.items():
        which = [names[row] for row in np.flatnonzero(bad)]
        lines.append(f"  {what}: {_counted(which, len(names))}")
    for what, tree in whole.items():
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        paths = [jax.tree_util.keystr(p, simple=True, separator="/") for p, bad in leaves if bad]
        lines.append(f"  {what}: {_counted(paths, len(leaves))}")
    return lines


def _finite(x: Any, axes: tuple[int, ...] | None = None) -> Any:
    return jax.numpy.isfinite(x).all(axis=axes)


def _counted(which: list[str], of: int) -> str:
    if not which:
        return "all finite"
    more = ", ..." if len(which) > 5 else ""
    return f"{len(which)} of {of} not finite ({', '.join(which[:5])}{more})"

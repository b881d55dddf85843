"""One pre-training run from top to bottom: data, parts, state, loop, evaluation, end."""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from repre_jax.checkpoints import Checkpoints, params_sha256
from repre_jax.config_resolution import Resolution, resolve
from repre_jax.data.batches import read_or_next
from repre_jax.data.device_prefetch import DevicePrefetcher
from repre_jax.data.pipeline import prefetch_to_device, training_batches
from repre_jax.data.source import Source
from repre_jax.data.sources import has_split, open_source
from repre_jax.data.views import centre_view
from repre_jax.errors import UserError
from repre_jax.evaluation.health import collapse_verdict, effective_rank
from repre_jax.evaluation.online import OnlineEvaluation
from repre_jax.interruption import on_sigterm
from repre_jax.learner import Learner, build_learner
from repre_jax.models.taps import apply_with_taps
from repre_jax.run_folder import RunFolder
from repre_jax.run_logs import RunLogs
from repre_jax.sharding import by_row, make_mesh, replicated
from repre_jax.train_state import TrainState
from repre_jax.train_step import loss_gradient_norms, train_step
from repre_jax.visualize.reconstructions import save_reconstructions

# Settings that may differ when a run is resumed: none of them changes what is trained.
FREE_TO_CHANGE = (
    "workdir",
    "data.path",
    "data.workers",
    "data.cache_path",
    "checkpoint",
    "logging",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run consists of, apart from its state."""

    config: ConfigDict
    resolution: Resolution
    learner: Learner
    source: Source
    evaluation: OnlineEvaluation | None  # None without labels or validation images
    mesh: Mesh
    folder: RunFolder
    checkpoints: Checkpoints
    logs: RunLogs


def pretrain(config: ConfigDict, workdir: Path) -> None:
    """Trains what ``config`` describes in the run folder ``workdir``, or goes on with it.

    Running it again resumes from the newest checkpoint and ends, bit for bit, where the
    uninterrupted run would have ended; SIGTERM saves and returns within one step.

    Raises:
      UserError: whatever the user can mend.
    """
    mesh = make_mesh(config.train.devices)
    source = open_source(config.data, "train")
    resolution = resolve(config, images=len(source), devices=mesh.size)
    learner = build_learner(config, resolution)
    evaluation = _open_evaluation(config, learner, source, mesh)
    primary = jax.process_index() == 0

    with contextlib.ExitStack() as stack:
        folder = RunFolder(workdir, config.to_dict(), ignore=FREE_TO_CHANGE, primary=primary)
        stack.callback(folder.close)
        if folder.summary:
            print(f"{workdir} is finished: its numbers are in {folder.summary_path}.")
            return
        checkpoints = Checkpoints(
            folder.checkpoints,
            keep=config.checkpoint.keep,
            best_metric="knn/top1" if evaluation else None,
        )
        stack.callback(checkpoints.close)
        state, messages = checkpoints.restore_or_init(learner.init, replicated(mesh))
        start_step = int(state.step)
        logs = RunLogs(
            folder,
            start_step=start_step,
            total_steps=resolution.clock.total_steps,
            batch_size=resolution.batch_size,
            primary=primary,
        )
        stack.callback(logs.close)
        for message in messages:
            logs.say(message)
        run = Run(config, resolution, learner, source, evaluation, mesh, folder, checkpoints, logs)
        stop_requested = stack.enter_context(on_sigterm())
        batches = stack.enter_context(_open_batches(run, start_step))

        state, metrics = train(run, state, batches, stop_requested)
        if int(state.step) < resolution.clock.total_steps:
            logs.say(f"Stopped and saved at step {int(state.step):,}; the same command goes on.")
            return
        summary = finish(run, state, metrics)
    print(closing_words(config, folder, summary))


def train(
    run: Run, state: TrainState, batches: DevicePrefetcher, stop_requested: Callable[[], bool]
) -> tuple[TrainState, dict[str, float]]:
    """Steps until the end of the run or until asked to stop; either way the state is saved.

    Returns:
      (state, numbers of the last step).
    """
    config, logs, total_steps = run.config, run.logs, run.resolution.clock.total_steps
    step_function = jax.jit(functools.partial(train_step, run.learner), donate_argnums=0)
    diagnose = jax.jit(functools.partial(loss_gradient_norms, run.learner))
    evaluate_every = config.evaluation.knn_every_epochs * run.resolution.clock.steps_per_epoch
    previous, numbers = None, logs.numbers_before
    for step in range(int(state.step) + 1, total_steps + 1):
        batch = next(batches)
        _note_bad_files(run, batch.pop("replaced"))
        last = step == total_steps
        log_now = last or _due(step, config.logging.every_steps)
        norms = {}
        if log_now and config.logging.loss_gradients and run.learner.repre:
            norms = diagnose(state, batch)
        state, metrics = step_function(state, batch)
        if previous is not None:
            # Waiting for the step before keeps the device one step ahead of the host, no more.
            _check_finite(run, step - 1, previous)
        previous = metrics["nonfinite_in_a_row"]

        stop = stop_requested() or run.checkpoints.preempted(step)
        evaluate_now = run.evaluation and (last or _due(step, evaluate_every)) and not stop
        if log_now or evaluate_now or stop:
            numbers = _to_host(run, step, metrics | norms)
            if evaluate_now:
                with logs.paused():
                    numbers |= run.evaluation.measure(evaluated_encoder(run.learner, state))
            logs.log(step, numbers, waited_seconds=batches.waited_seconds)
        if last or stop or evaluate_now or _due(step, config.checkpoint.every_steps):
            run.checkpoints.save(state, numbers if evaluate_now else None)
        if stop:
            break
    if previous is not None:
        _check_finite(run, int(state.step), previous)
    run.checkpoints.wait()
    return state, numbers


def finish(run: Run, state: TrainState, numbers: dict[str, float]) -> dict[str, Any]:
    """Final numbers and the picture of a run whose steps are all taken; returns the summary."""
    summary = dict(numbers)
    encoder = evaluated_encoder(run.learner, state)
    if run.evaluation:
        if "knn/top1" not in numbers:  # told to stop in the last step
            summary |= run.evaluation.measure(encoder)
        if run.config.evaluation.few_label:
            random = jax.jit(run.learner.init)().params["encoder"]
            summary |= run.evaluation.few_label(encoder, random)
    if run.learner.repre:
        images = sample_images(run.source, run.learner.image_size)
        pictures = reconstruct(run.learner, state, images)
        path = run.folder.figures / "reconstructions.png"
        summary["reconstruction_error"] = save_reconstructions(images, pictures, path)
    summary["params_sha256"] = params_sha256(state.params)
    summary["steps"] = int(state.step)
    run.logs.write_summary(summary)
    return run.folder.summary or summary


def evaluated_encoder(learner: Learner, state: TrainState) -> Any:
    """Parameters of the encoder that the method's paper evaluates."""
    params = state.target_params if learner.method.evaluated == "target" else state.params
    return params["encoder"]


def sample_images(source: Source, image_size: int, count: int = 6) -> np.ndarray:
    """Centre views of images spread evenly over the source: float32 [count, S, S, 3] in [0, 1]."""
    views = []
    for index in np.linspace(0, len(source) - 1, count).astype(int):
        _, image, _ = read_or_next(source, int(index))
        views.append(centre_view(image, image_size))
    return np.stack(views).astype(np.float32) / 255


def reconstruct(learner: Learner, state: TrainState, images: np.ndarray) -> np.ndarray:
    """RePre's reconstruction of images float32 [n, S, S, 3] in [0, 1]."""

    @jax.jit
    def pixels(params, images):
        variables = {"params": params["encoder"]}
        inputs, taps = learner.encoder_input(images), learner.repre.taps
        _, maps = apply_with_taps(learner.encoder, variables, inputs, taps)
        return learner.repre.reconstruct(params["repre"], maps)

    return np.asarray(pixels(state.params, images))


def closing_words(config: ConfigDict, folder: RunFolder, summary: dict[str, Any]) -> str:
    """What a run ends with on the screen: results, where things are, what to do next."""
    lines = [f"Done: {summary['steps']:,} steps in {summary['wall_seconds']:,.0f} s."]
    if "few_label/trained" in summary:
        lines.append(f"Few-label accuracy ({summary['few_label/protocol']}):")
        for name in ("pixels", "random", "trained"):
            accuracy, spread = summary[f"few_label/{name}"], summary[f"few_label/{name}_std"]
            label = {"pixels": "raw pixels", "random": "random encoder"}.get(name, "after training")
            lines.append(f"  {label:<16}{accuracy:7.1%}  +- {spread:.1%}")
    if "knn/top1" in summary:
        lines.append(
            f"k-NN top-1 ({config.evaluation.neighbours} neighbours): {summary['knn/top1']:.1%}"
        )
    lines.append(f"Run folder       {folder.path}")
    if config.repre.enabled:
        picture = folder.figures / "reconstructions.png"
        lines.append(f"Reconstructions  {picture} (input | reconstruction | error)")
    if "knn/top1" in summary:
        python = sys.orig_argv[0]  # as the user typed it
        lines.append("Next")
        lines += [
            f"  {python} main.py --config=configs/eval/{name} --config.checkpoint={folder.path}"
            for name in ("linear.py:sweep", "finetune.py", "health.py")
        ]
    return "\n".join(lines)


def _open_evaluation(config, learner, source, mesh) -> OnlineEvaluation | None:
    """None without labels in both splits: training needs neither."""
    if source.labels is None or not has_split(config.data, "val"):
        return None
    val = open_source(config.data, "val")
    if val.labels is None:
        return None
    return OnlineEvaluation(learner.encoder, source, val, config, mesh)


def _open_batches(run: Run, start_step: int) -> DevicePrefetcher:
    batches = training_batches(
        run.source,
        run.learner.method.views,
        image_size=run.learner.image_size,
        batch_size=run.resolution.batch_size,
        seed=run.config.seed,
        start_step=start_step,
        total_steps=run.resolution.clock.total_steps,
        workers=run.config.data.workers,
    )
    return prefetch_to_device(batches, by_row(run.mesh))


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _note_bad_files(run: Run, replaced: np.ndarray) -> None:
    for index in replaced[replaced >= 0]:
        run.logs.bad_file(run.source.name_of(int(index)))


def _to_host(run: Run, step: int, metrics: dict[str, jax.Array]) -> dict[str, float]:
    """Scalars of a step, with the effective rank of its features; says so when they collapse."""
    features = metrics.pop("features")
    metrics["effective_rank"] = _effective_rank(features)
    numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
    entropy = numbers.get("teacher_entropy")
    verdict = collapse_verdict(
        numbers["feature_std"],
        features.shape[1],
        numbers["effective_rank"],
        teacher_entropy=entropy,
        teacher_divergence=None if entropy is None else numbers["loss/contrast"] - entropy,
        prototypes=run.config.method.get("prototypes"),
    )
    if verdict:
        run.logs.say(f"Step {step:,}: {verdict}")
    return numbers


_effective_rank = jax.jit(effective_rank)


def _check_finite(run: Run, step: int, nonfinite_in_a_row: jax.Array) -> None:
    count = int(nonfinite_in_a_row)
    if count >= run.config.train.max_nonfinite_steps:
        raise UserError(
            f"Loss or gradient was not finite {count} steps in a row, up to step {step:,}; those "
            f"steps were skipped and the checkpoints in {run.folder.checkpoints} are sound. Lower "
            "optimizer.learning_rate, or set train.compute_dtype=float32, in a new --workdir."
        )

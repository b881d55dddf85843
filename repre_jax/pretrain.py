"""One pre-training run from top to bottom: data, parts, state, loop, evaluation, end."""

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from repre_jax.data.device.prefetch import DevicePrefetcher
from repre_jax.data.pipeline import prefetch_to_device, training_batches
from repre_jax.data.pixel_format import as_shares
from repre_jax.data.samples import centre_views, sample_images
from repre_jax.data.sources import has_split, open_source
from repre_jax.data.sources.source import Source
from repre_jax.data.sources.survey import check_normalised, in_words
from repre_jax.evaluation.checkpoint import checkpoint_steps
from repre_jax.evaluation.online import OnlineEvaluation
from repre_jax.losses.meters import collapse_verdict, effective_rank
from repre_jax.models.conv_stem import fold, frozen
from repre_jax.runs.checkpoints import Checkpoints
from repre_jax.runs.closing_words import closing_words
from repre_jax.runs.fingerprints import params_sha256
from repre_jax.runs.folder import Change, RunFolder, saved_config
from repre_jax.runs.images import check_same_images, write_images
from repre_jax.runs.interruption import Interruption
from repre_jax.runs.logs import RunLogs
from repre_jax.runs.loop import TrainingLoop, open_training, scalars
from repre_jax.runs.memory_errors import memory_shortage_told
from repre_jax.runs.profile import Profile
from repre_jax.runs.starts import devices_told, note_start, read_starts
from repre_jax.runs.trackers import chosen_trackers
from repre_jax.sharding import by_row, make_mesh, whole
from repre_jax.starting_weights import start_of
from repre_jax.training import defaults
from repre_jax.training.compiled import jitted_gradient_norms, jitted_step
from repre_jax.training.learner import (
    Learner,
    TrainState,
    build_learner,
    init_encoder,
    remarks,
)
from repre_jax.training.placement import Placement
from repre_jax.training.resolution import Resolution
from repre_jax.training.resuming import (
    FREE_TO_CHANGE,
    TOLD_WHEN_CHANGED,
    changes_told,
    check_changes,
    ways_to_less_memory,
)
from repre_jax.training.sizes import settle
from repre_jax.visualize.reconstructions import painted, painters, save_reconstructions
from repre_jax.visualize.report.page import write_report

PICTURES = 6  # images of which the end of a run shows reconstructions


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run consists of, apart from its state."""

    config: ConfigDict
    resolution: Resolution
    learner: Learner
    source: Source
    evaluation: OnlineEvaluation | None  # None without labels or validation images
    placement: Placement
    folder: RunFolder
    checkpoints: Checkpoints
    logs: RunLogs
    profile: Profile | None  # None where no steps are traced


def pretrain(config: ConfigDict, workdir: Path) -> None:
    """Trains what ``config`` describes in the run folder ``workdir``, or goes on with it.

    Running it again resumes from the newest checkpoint and ends, bit for bit, where the
    uninterrupted run would have ended; on other devices, or with the sums of a step in another
    order (``training.resuming``), where it would have ended up to rounding.

    Raises:
      Stopped: Ctrl-C, SIGTERM or SIGHUP came; the step, or the k-NN, under way is done and saved.
      UserError: whatever the user can mend.
    """
    trackers = chosen_trackers(config.logging)
    profile = Profile.of(config.logging.profile, workdir.absolute() / "profile")
    mesh = make_mesh(config.train.devices)
    source = open_source(config.data, "train", config.model.channels)
    check_normalised(config, source)
    val = _open_val(config, source)
    resolution, _ = settle(
        config,
        images=len(source),
        devices=mesh.size,
        on_cpu=jax.default_backend() == "cpu",
        before=saved_config(workdir),
    )
    learner = build_learner(config, resolution)
    placement = Placement(mesh, config.train.shard_state)
    evaluation = _open_evaluation(config, learner, source, val, mesh)
    primary = jax.process_index() == 0
    start, start_told = ([], "") if checkpoint_steps(workdir) else start_of(config, learner)

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(contextlib.closing(_open_folder(config, workdir)))
        images = {"train": source} | ({"val": evaluation.val} if evaluation else {})
        if primary:
            check_same_images(folder, images)
        if folder.summary:
            print(f"{workdir} is finished: its metrics are in {folder.summary_path}.")
            return
        changes = _changes(config, folder, mesh) if primary else []
        if primary:
            told = [in_words(source, val), start_told, *remarks(resolution, learner)]
            print(*filter(None, told), sep="\n")
        if changes and checkpoint_steps(workdir):
            print(changes_told(changes))
        stack.enter_context(memory_shortage_told(_less_memory(config, folder)))
        opened = open_training(
            folder,
            learner.init,
            *start,
            shardings=placement.of,
            total_steps=resolution.clock.total_steps,
            batch_size=resolution.batch_size,
            keep=config.checkpoint.keep,
            best_metric="knn/top1" if evaluation else None,
            trackers=trackers,
        )
        state, checkpoints, logs, interruption = stack.enter_context(opened)
        if primary:
            write_images(folder, images)
            note_start(folder, step=int(state.step), devices=mesh.size, changes=changes)
        run = Run(
            config=config,
            resolution=resolution,
            learner=learner,
            source=source,
            evaluation=evaluation,
            placement=placement,
            folder=folder,
            checkpoints=checkpoints,
            logs=logs,
            profile=profile,
        )
        batches = stack.enter_context(_open_batches(run, int(state.step)))

        state, metrics = train(run, state, batches, interruption)
        summary = finish(run, state, metrics)
    if primary:
        report_on(folder)
        print(closing_words(config, folder, summary))


def _open_folder(config: ConfigDict, workdir: Path) -> RunFolder:
    return RunFolder(
        workdir,
        config.to_dict(),
        ignore=FREE_TO_CHANGE,
        told=TOLD_WHEN_CHANGED,
        defaults=defaults.get_config(config.method.name).to_dict(),
        primary=jax.process_index() == 0,
    )


def _open_val(config: ConfigDict, train: Source) -> Source | None:
    """The validation images if any; without labels nothing is measured, and no cache is made."""
    if not has_split(config.data, "val"):
        return None
    data = config.data.copy_and_resolve_references()
    if not train.has_labels:
        data.cache_size = 0
    return open_source(data, "val", config.model.channels, train)


def _changes(config: ConfigDict, folder: RunFolder, mesh: Mesh) -> list[Change]:
    """What may be another way than at the start before, and is.

    Raises:
      UserError: the run that goes on would be another one.
    """
    changes, now = list(folder.changes), devices_told(mesh.size)
    if checkpoint_steps(folder.path):
        check_changes(config, changes)
    before = [start.get("devices", now) for start in read_starts(folder.path)]
    if before and before[-1] != now:
        changes.append(Change("devices", before[-1], now))
    return changes


def _less_memory(config: ConfigDict, folder: RunFolder) -> str:
    """What to do when the devices have too little memory."""
    return f"Checkpoints in {folder.checkpoints} are intact. Set {ways_to_less_memory(config)}"


def train(
    run: Run, state: TrainState, batches: DevicePrefetcher, interruption: Interruption
) -> tuple[TrainState, dict[str, float]]:
    """Steps until the end of the run; returns the state and the metrics of the last step."""
    config, learner, clock = run.config, run.learner, run.resolution.clock
    diagnose = config.logging.loss_gradients and learner.repre
    if run.profile and not run.profile.lies_within(int(state.step) + 1, clock.total_steps):
        run.logs.say("logging.profile names steps that this process does not take: no trace.")
    loop = TrainingLoop(
        step=jitted_step(learner, run.placement),
        total_steps=clock.total_steps,
        log_every=config.logging.every_steps,
        save_every=config.checkpoint.every_steps,
        checkpoints=run.checkpoints,
        logs=run.logs,
        source=run.source,
        measure=run.evaluation and functools.partial(measure, run),
        measure_every=config.evaluation.knn_every_epochs * clock.steps_per_epoch,
        diagnose=diagnose and jitted_gradient_norms(learner, run.placement),
        to_host=functools.partial(_to_host, run),
        max_nonfinite_steps=config.train.max_nonfinite_steps,
        advice="Lower optimizer.learning_rate, or set train.compute_dtype=float32, in a new "
        "--workdir; or raise train.max_nonfinite_steps, which may change when a run is resumed.",
        profile=run.profile,
    )
    return loop.run(state, batches, interruption)


def measure(run: Run, state: TrainState) -> dict[str, float]:
    """What the encoder is worth now; images that could not be read are noted."""
    with memory_shortage_told("Lower evaluation.batch_size; it may change when a run is resumed."):
        encoder = evaluated_encoder(run.learner, _with_whole_networks(run, state))
        metrics = run.evaluation.measure(encoder)
    for name, reason in run.evaluation.unreadable.items():
        run.logs.bad_file(name, reason)
    return metrics


def finish(run: Run, state: TrainState, metrics: dict[str, float]) -> dict[str, Any]:
    """Final metrics and the picture of a run whose steps are all taken; returns the summary."""
    summary, state = dict(metrics), _with_whole_networks(run, state)
    encoder = evaluated_encoder(run.learner, state)
    if run.evaluation and run.config.evaluation.few_label:
        init = functools.partial(init_encoder, run.learner.encoder, seed=run.learner.seed)
        random = fold(*jax.jit(init)())
        summary |= run.evaluation.few_label(encoder, random)
    summary |= _draw(run, state)
    summary["params_sha256"] = params_sha256(state.params)
    summary["steps"] = int(state.step)
    run.logs.write_summary(summary)
    return run.folder.summary or summary


def _draw(run: Run, state: TrainState) -> dict[str, float]:
    """Draws what the run reconstructs of some images; returns the mean error of each kind."""
    learner, errors = run.learner, {}
    kinds = painters(learner.method, learner.repre)
    if not kinds:
        return {}
    views = centre_views(sample_images(run.source, PICTURES), learner.encoder.image_size)
    images = as_shares(views)
    encoder = fold(state.params["encoder"], state.batch_stats.get("encoder"))
    online = state.params | {"encoder": encoder}
    for name, painter in kinds.items():
        picture = painted(learner.encoder, painter.paint, online, images, learner.seed)
        error = np.abs(picture.painted - images).mean(axis=-1)
        errors[f"{name}_error"] = float(error.mean(where=picture.hidden))
        if jax.process_index() == 0:
            path = run.folder.figures / f"{name}s.png"
            save_reconstructions(images, picture, f"Target: {painter.space}", path)
    return errors


def _with_whole_networks(run: Run, state: TrainState) -> TrainState:
    """The state whose networks lie on every device, to be read outside of the step."""
    mesh = run.placement.mesh
    return state.replace(
        params=whole(state.params, mesh), target_params=whole(state.target_params, mesh)
    )


def report_on(folder: RunFolder) -> None:
    """Writes the page about a run that is finished and saved, which no mistake in it can change."""
    try:
        write_report([folder.path], folder.path)
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"The report of this run could not be written ({told}); the run itself is whole.")


def evaluated_encoder(learner: Learner, state: TrainState) -> Any:
    """Parameters of the encoder that the method's paper evaluates, for its ``frozen`` form."""
    if learner.method.evaluated == "target":
        return fold(state.target_params["encoder"], state.target_batch_stats.get("encoder"))
    return fold(state.params["encoder"], state.batch_stats.get("encoder"))


def _open_evaluation(config, learner, source, val, mesh) -> OnlineEvaluation | None:
    """None without labels in both splits: training needs neither."""
    if val is None or not (source.has_labels and val.has_labels):
        return None
    feature = learner.method.evaluation.feature
    return OnlineEvaluation(frozen(learner.encoder), source, val, config, mesh, feature)


def _open_batches(run: Run, start_step: int) -> DevicePrefetcher:
    batches = training_batches(
        run.source,
        run.learner.method.views,
        image_size=run.learner.encoder.image_size,
        batch_size=run.resolution.batch_size,
        seed=run.config.seed,
        start_step=start_step,
        total_steps=run.resolution.clock.total_steps,
        workers=run.config.data.workers,
    )
    return prefetch_to_device(batches, by_row(run.placement.mesh))


def _to_host(run: Run, step: int, metrics: dict[str, jax.Array]) -> dict[str, float]:
    """Scalars of a step, with the effective rank of its features; says so when they collapse."""
    features = metrics.pop("features")
    fetched = scalars(step, metrics | {"effective_rank": _effective_rank(features)})
    verdict = run.learner.method.collapses and collapse_verdict(
        fetched["feature_std"],
        features.shape[1],
        fetched["effective_rank"],
        teacher_entropy=fetched.get("teacher_entropy"),
        teacher_divergence=fetched.get("teacher_divergence"),
        prototypes=run.config.method.get("prototypes"),
    )
    if verdict:
        run.logs.say(f"Step {step:,}: {verdict}")
    return fetched


_effective_rank = jax.jit(effective_rank)

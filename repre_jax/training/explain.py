"""``--explain``: what a run would be, number by number, and where each number came from."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from clu.parameter_overview import get_parameter_overview
from ml_collections import ConfigDict

from repre_jax import rematerialisation
from repre_jax.config_files import read_config
from repre_jax.data.pixel_format import pixel_format
from repre_jax.data.sources import has_split, open_source
from repre_jax.data.sources.survey import check_normalised, in_words
from repre_jax.data.sources.tfds import NotPrepared
from repre_jax.errors import UserError
from repre_jax.runs.folder import saved_config
from repre_jax.runs.profile import Profile
from repre_jax.runs.trackers import chosen_trackers
from repre_jax.sharding import make_mesh
from repre_jax.training import ahead_of_time, defaults
from repre_jax.training.accelerators import Topology
from repre_jax.training.learner import Learner, TrainState, build_learner, remarks
from repre_jax.training.memory import device_memory, step_memory
from repre_jax.training.operations import forward_multiply_adds, step_multiply_adds
from repre_jax.training.placement import Placement
from repre_jax.training.resolution import Resolution
from repre_jax.training.resuming import differences, undoes_remat, ways_to_less_memory
from repre_jax.training.sizes import Choice, settle

# Sizes of well-known training sets, so that a recipe can be explained without its data.
_KNOWN_IMAGES = {"imagenet2012": 1_281_167}


def flat_keys(config: ConfigDict) -> dict[str, Any]:
    """{"train.batch_size": 1024, ...}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= {f"{key}.{inner}": x for inner, x in flat_keys(value).items()}
        else:
            flat[key] = value
    return flat


def explain(config: ConfigDict, config_filename: str, absent: Topology | None = None) -> str:
    """The resolved run as text.

    Args:
      config: after the command line.
      config_filename: as given, "configs/dino_vits.py:baseline", to tell the layers apart.
      absent: devices that are not here, for which to explain and to compile the step.

    Raises:
      UserError: whatever the run itself would refuse, but for a run folder that is another run's,
        which a note tells of.
    """
    mesh = absent.mesh if absent else make_mesh(config.train.devices)
    if config.train.devices not in (0, mesh.size):
        raise UserError(
            f"train.devices={config.train.devices}, but --target={absent.name} has {mesh.size}: "
            "leave it at 0."
        )
    chosen_trackers(config.logging)
    Profile.of(config.logging.profile, Path(config.workdir))
    images, images_told = _images(config)
    on_cpu = absent is None and jax.default_backend() == "cpu"
    before = saved_config(Path(config.workdir))
    resolution, choices = settle(
        config, images=images, devices=mesh.size, on_cpu=on_cpu, before=before
    )
    pixel_format(config.data, config.model.channels)  # is told without images, too
    learner = build_learner(config, resolution)
    state = learner.shapes
    placement = Placement(mesh, config.train.shard_state)
    memory = ("as compiled, below", [])
    if absent is None:
        memory = _memory(config, resolution, learner, placement)
    sections = [
        ("tensors", get_parameter_overview(state.params, include_stats=False).splitlines()),
        ("the run", _run_lines(config, resolution, learner, images_told, memory, before)),
        ("parameters", _parameter_lines(state, placement)),
        ("multiply-adds of an image", _operation_lines(learner)),
        ("values that differ from the defaults", _provenance(config, config_filename, choices)),
    ]
    if absent:
        title = f"compiled for {absent.name}, one of {mesh.size} devices"
        sections.append((title, _program_lines(config, absent, images)))
    return "\n\n".join("\n".join([title, *("  " + x for x in lines)]) for title, lines in sections)


def _images(config: ConfigDict) -> tuple[int, str]:
    """(how many there are to train on, what is read in words)."""
    data = config.data.copy_and_resolve_references()
    data.cache_size = 0  # counting needs no cache, and making one takes long
    channels = config.model.channels
    try:
        train = open_source(data, "train", channels)
        check_normalised(config, train)
        val = open_source(data, "val", channels, train) if has_split(data, "val") else None
        return len(train), in_words(train, val)
    except NotPrepared:
        if config.data.name in _KNOWN_IMAGES:
            count = _KNOWN_IMAGES[config.data.name]
            return count, f"Images: {count:,} of {config.data.name} as published; not found here."
        raise


def _run_lines(
    config: ConfigDict,
    r: Resolution,
    learner: Learner,
    images_told: str,
    memory: tuple[str, list[str]],
    before: Mapping[str, Any] | None,
) -> list[str]:
    steps, per_epoch = r.clock.total_steps, r.clock.steps_per_epoch
    optimizer = config.optimizer
    taken, shortage = memory
    standing = []
    if before is not None and (other := differences(config, before)):
        standing.append(f"That folder holds a run of another config ({other[0]}): choose another.")
    decay = f"{optimizer.weight_decay:g} -> {optimizer.end_weight_decay:g} (cosine)"
    return [
        f"method          {config.method.name}, RePre {'on' if config.repre.enabled else 'off'}",
        f"images          {images_told.removeprefix('Images: ')}",
        f"batch           {r.batch_size} = {r.devices} device(s) x {config.train.accumulate} "
        f"micro-batch(es) x {r.rows_per_device}",
        f"steps           {steps:,} = {r.epochs:g} epochs x {per_epoch:,}",
        f"learning rate   {r.learning_rate:.6g} = {optimizer.learning_rate:g} x {r.batch_size} / "
        f"256, warm-up {r.warm_up.steps:,} steps, {optimizer.schedule} cosine to {r.warm_up.end:g}",
        f"optimizer       {optimizer.name}",
        f"weight decay    {decay} on {optimizer.decay}",
        f"compute dtype   {r.compute_dtype.name}",
        f"memory          {taken}",
        f"run folder      {config.workdir}",
        *(f"note            {note}" for note in [*remarks(r, learner), *shortage, *standing]),
    ]


def _memory(
    config: ConfigDict, r: Resolution, learner: Learner, placement: Placement
) -> tuple[str, list[str]]:
    """(what a step takes and a device has, what to do where that is too little)."""
    if rematerialisation.level_of(config.model.remat) != rematerialisation.NONE and undoes_remat():
        config = config.copy_and_resolve_references()
        config.model.remat = rematerialisation.NONE
        learner = build_learner(config, r)
    taken = step_memory(learner, r.batch_size // r.devices, placement) / 2**30
    there = device_memory(r.devices) / 2**30
    told = f"about {taken:,.2f} GiB in a step, of {there:,.2f} GiB on each device"
    if taken <= there:
        return told, []
    return told, [
        f"A step takes about {taken:,.1f} GiB and each device has {there:,.1f}: set "
        f"{ways_to_less_memory(config)}"
    ]


def _parameter_lines(state: TrainState, placement: Placement) -> list[str]:
    parts = {"encoder": state.params["encoder"]}
    parts |= {f"head {name}": tree for name, tree in state.params["heads"].items()}
    parts |= {f"token {name}": x for name, x in state.params.get("tokens", {}).items()}
    branch = {f"RePre {name}": tree for name, tree in state.params.get("repre", {}).items()}
    branch.pop("RePre log_variance", None)
    parts |= branch
    parts |= {"trained": state.params, "target copy": state.target_params}
    counts = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in parts.items()}
    lines = [f"{name:<16}{count:>14,}" for name, count in counts.items()]
    sizes = placement.bytes_on_device(state)
    where = "of each device" if placement.shard_state else "on every device"
    sizes = {"train state": sum(sizes.values())} | {f"- {name}": x for name, x in sizes.items()}
    return lines + [f"{name:<16}{x / 2**20:>11,.1f} MiB {where}" for name, x in sizes.items()]


def _operation_lines(learner: Learner) -> list[str]:
    """Counted on two images, for BatchNorm wants more than one, and shared by both."""
    forward = forward_multiply_adds(learner, 2) / 2
    step = step_multiply_adds(learner, 2) / 2
    return [
        f"forward pass    {forward / 1e9:>14,.2f} G, all networks and losses",
        f"step            {step / 1e9:>14,.2f} G",
    ]


def _program_lines(config: ConfigDict, absent: Topology, images: int) -> list[str]:
    program = ahead_of_time.compile_for(config, absent, images=images)
    lines = ahead_of_time.lines(program)
    if not program.fits:
        fitting = ahead_of_time.ways_that_fit(config, absent, images=images)
        lines += [f"with {line}" for line in fitting] or ["nothing that was tried makes it fit"]
    return lines


def _provenance(config: ConfigDict, config_filename: str, choices: list[Choice]) -> list[str]:
    by_rule = {choice.key: f"by rule: {choice.why}" for choice in choices}
    file, _, variants = config_filename.partition(":")
    default = defaults.get_config(config.method.name)
    layers = [("default", default), (Path(file).name, read_config(file))]
    named = list(filter(None, variants.split(",")))
    for k, name in enumerate(named):
        layers.append((f"variant {name}", read_config(f"{file}:{','.join(named[: k + 1])}")))
    layers.append(("command line", config))
    flats = [(name, flat_keys(layer)) for name, layer in layers]
    lines = []
    for key, value in flats[-1][1].items():
        origin = "default"
        for (_, before), (name, after) in itertools.pairwise(flats):
            if before.get(key) != after.get(key):
                origin = by_rule.get(key, name)
        if origin != "default" and key != "workdir":
            lines.append(f"{key} = {value}   [{origin}; default {flats[0][1].get(key)}]")
    return lines or ["none"]

"""What of a config may differ when a run goes on, and what a person is told of the difference."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from repre_jax.errors import UserError
from repre_jax.methods import METHODS
from repre_jax.rematerialisation import level_of, levels_above
from repre_jax.runs.folder import Change, config_differences, filled
from repre_jax.training import defaults

# Nothing is said of these: none of them changes what is trained or measured.
FREE_TO_CHANGE = (
    "workdir",
    "stopped_is_success",
    "data.path",
    "data.labels",  # what they come to is in the fingerprint of the images
    "data.workers",
    "data.cache_path",
    "train.max_nonfinite_steps",
    "checkpoint",
    "logging",
)
# The ways out of too little memory: the same step, its sums taken in another order ...
_SAME_STEP = ("train.devices", "train.shard_state", "train.accumulate", "model.remat")
# ... and what measures the encoder without a trace in it.
_MEASURING = "evaluation"
TOLD_WHEN_CHANGED = (*_SAME_STEP, _MEASURING)


def differences(config: ConfigDict, before: Mapping[str, Any]) -> list[Change]:
    """What makes ``config`` another run than that of ``before``."""
    usual = defaults.get_config(config.method.name).to_dict()
    may_differ = (*FREE_TO_CHANGE, *TOLD_WHEN_CHANGED)
    return config_differences(filled(before, usual), config.to_dict(), may_differ)


def check_changes(config: ConfigDict, changes: Sequence[Change]) -> None:
    """Raises UserError for a change of ``TOLD_WHEN_CHANGED`` that would train something else.

    Args:
      config: of the run that goes on.
      changes: since the last start.
    """
    shared = drawn_by_micro_batch(config)
    changed = [change for change in changes if change.key == "train.accumulate"]
    if shared and changed:
        raise UserError(
            f"{changed[0]} is refused, for {shared[0]} draws anew for each micro-batch, and "
            "another number of them would train another run: repeat the old train.accumulate; "
            "more train.devices or, but on CPUs, model.remat=block save memory, too."
        )


def drawn_by_micro_batch(config: ConfigDict) -> list[str]:
    """The settings that make a run draw what the images of a micro-batch share."""
    repre = config.repre
    windows = repre.enabled and repre.branch == "windows"
    settings = {
        "model.drop_path": config.model.drop_path > 0,
        "method.pairing=released": config.method.get("pairing") == "released",
        "repre.windows.pairing=released": windows and repre.windows.pairing == "released",
    }
    return [name for name, drawn in settings.items() if drawn]


def changes_told(changes: Sequence[Change]) -> str:
    """One or two sentences on what changed, and what that means for the numbers to come.

    Args:
      changes: of ``TOLD_WHEN_CHANGED`` and of the devices.
    """
    told = [f"Changed since the last start: {'; '.join(map(str, changes))}."]
    measuring = [change.key.startswith(_MEASURING + ".") for change in changes]
    if not all(measuring):
        told.append(
            "Images, views and draws of every step stay the same; sums are taken in another "
            "order, so from here on numbers agree with those of the uninterrupted run to "
            "rounding, no longer bit for bit."
        )
    if any(measuring):
        told.append("evaluation.* changes no weight, only what is measured and when.")
    return " ".join(told)


def undoes_remat() -> bool:
    """Whether the compiler finds again what ``model.remat`` computes twice, and keeps it.

    XLA for CPU does: DINO's step on vit_nano (configs/imagenette_dino.py, batch 64) takes 271 MiB
    with model.remat and 251 without (``memory_analysis`` of jaxlib 0.10.2).
    """
    return jax.default_backend() == "cpu"


def ways_to_less_memory(config: ConfigDict) -> str:
    """Which keys help a run that needs more memory than its devices have; follows "set"."""
    resumable = ["more train.devices"]
    if not config.train.shard_state and jax.device_count() > 1:
        resumable.append("train.shard_state=True")
    levels = levels_above(level_of(config.model.remat))
    if levels and not undoes_remat():
        resumable.insert(0, f"model.remat={' or '.join(levels)}")
    if not drawn_by_micro_batch(config):
        resumable.insert(0, "a larger train.accumulate")
    others = ["a smaller train.batch_size", "a smaller model"]
    crops = config.views.local_crops
    if METHODS[config.method.name].VIEWS.local_crops if crops is None else crops:
        others.insert(1, "fewer views.local_crops")
    return (
        f"{' or '.join(resumable)}, which may change when a run is resumed; or, in a new "
        f"--workdir, {' or '.join(others)}."
    )

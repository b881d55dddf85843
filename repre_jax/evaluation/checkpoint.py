"""What was learnt, by a run or elsewhere, opened without touching it: an encoder and its config."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from repre_jax.convert.files import SUFFIXES, is_foreign, run_name
from repre_jax.convert.foreign import (
    FOREIGN_WEIGHTS,
    imported_config,
    method_as_published,
    read_foreign,
)
from repre_jax.data.recipes import ViewRecipe
from repre_jax.errors import UserError
from repre_jax.evaluation.stored import read_about, read_chosen, read_parts
from repre_jax.methods import METHODS
from repre_jax.methods.method import EvaluationDefaults, Method
from repre_jax.models import build_encoder
from repre_jax.models.conv_stem import fold, frozen
from repre_jax.runs.fingerprints import params_sha256
from repre_jax.runs.folder import filled, of_today
from repre_jax.training import defaults
from repre_jax.training.learner import build_method, init_encoder

_NETWORKS = ("params", "target_params", "batch_stats", "target_batch_stats")
WEIGHTS = (*FOREIGN_WEIGHTS, "random")
# Traced once for all runs of one architecture: those of a table, say.
_init_encoder = jax.jit(init_encoder, static_argnums=0, static_argnames="seed")
# Fields of an encoder that change no result; the dtype is a setting of every evaluation.
NO_MATTER = {"dtype", "remat", "drop_path", "parent", "name"}


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """An encoder of a run.

    Attributes:
      run: folder of the run.
      step: of the checkpoint; 0 for the encoder before training.
      weights: "online", "target" (the moving average) or "random" (before training).
      config: of the run; keys that are newer than the run have their defaults.
      encoder: the module in its ``frozen`` form, in the compute type asked for.
      views: how the run augmented its images.
      defaults: how the method's encoders are evaluated where nobody asks for something else.
      fingerprint: 16 hexadecimal digits, the same only for the same parameters of an encoder that
        computes the same with them.
      params: the parameters, where they came from a file of another library; else None.
    """

    run: Path
    step: int
    weights: str
    config: ConfigDict
    encoder: nn.Module
    views: ViewRecipe
    defaults: EvaluationDefaults
    fingerprint: str
    params: Any = None

    @property
    def method(self) -> str:
        """Name of the method that trained it."""
        return self.config.method.name

    def load_params(self) -> Any:
        """Reads the encoder's parameters, float32 arrays on the host.

        Raises:
          UserError: the checkpoint is damaged, or holds another encoder than the config says.
        """
        if self.params is not None:
            return self.params
        trained, seed = build_encoder(self.config, self.encoder.dtype), self.config.seed
        if self.weights == "random":
            return jax.device_get(fold(*_init_encoder(trained, seed=seed)))
        params, statistics = _init_encoder.eval_shape(trained, seed=seed)
        prefix = "" if self.weights == "online" else "target_"
        expected = {f"{prefix}params": {"encoder": params}}
        if statistics:
            expected[f"{prefix}batch_stats"] = {"encoder": statistics}
        found = read_parts(self.run / "checkpoints" / str(self.step), expected)
        statistics = found.get(f"{prefix}batch_stats", {}).get("encoder")
        return jax.device_get(fold(found[f"{prefix}params"]["encoder"], statistics))


def open_pretrained(
    checkpoint: str | Path,
    *,
    step: int | None = None,
    weights: str = "auto",
    compute_dtype: jnp.dtype = jnp.float32,
) -> Pretrained:
    """Opens a run for reading; parameters are read when they are asked for.

    Keys that the run's config lacks, because they are newer than the run, take today's defaults: a
    new key's default must mean what the code did before it.

    Args:
      checkpoint: the run's folder, or one of the folders in its ``checkpoints/``; or a file, or
        folder, of another library, which is converted in memory (``convert.foreign``).
      step: of the checkpoint; None for the newest.
      weights: of ``WEIGHTS``; "auto" for those that the method's paper evaluates.
      compute_dtype: of the encoder's activations.

    Raises:
      UserError: no such run, checkpoint or weights, not a pre-training run, or "random" weights of
        one that began with those of ``model.init_from``.
    """
    if weights not in WEIGHTS:
        raise UserError(f"weights={weights!r} must be one of {', '.join(WEIGHTS)}.")
    path = Path(checkpoint).expanduser().absolute()
    if str(checkpoint) and is_foreign(path):
        return _open_foreign(path, step=step, weights=weights, compute_dtype=compute_dtype)
    run, named_step = _run_and_step(checkpoint)
    config = run_config(run)
    opened, usual, there = _opened(run, config, compute_dtype)
    weights = usual if weights == "auto" else weights
    if weights == "random":
        if config.model.init_from:  # whose weights were those of step 0
            raise UserError(
                f"weights=random is an encoder before training, and {run} began as "
                f"{config.model.init_from} (model.init_from): give that as the checkpoint."
            )
        return _random(opened, config)
    if weights not in there:
        made = "was imported and" if config.task == "import" else "was trained by"
        raise UserError(
            f"{run} {made} {config.method.name}, which has no {weights} network: set "
            f"weights={usual}."
        )
    step = _checkpoint_step(run, named_step if step is None else step)
    sha256 = read_about(run / "checkpoints" / str(step))["sha256"]
    return opened(sha256, weights=weights, step=step)


def _opened(
    run: Path, config: ConfigDict, compute_dtype: jnp.dtype
) -> tuple[Callable[..., Pretrained], str, tuple[str, ...]]:
    """(makes a ``Pretrained`` of what tells its parameters, the usual weights, those there are)."""
    try:
        encoder = build_encoder(config, compute_dtype)
        if config.task == "import":
            method = _of_an_import(config.method.name, encoder)
            usual, there = config.source.weights, (config.source.weights,)
        else:
            method = build_method(config, encoder)
            usual, there = method.evaluated, ("online", "target") if method.target else ("online",)
    except (KeyError, AttributeError, TypeError, ArithmeticError) as error:
        raise UserError(
            f"{run / 'config.json'} names what this version does not know ({error}): use the "
            "version that made the run."
        ) from error

    def opened(identity: Any, *, weights: str, step: int, params: Any = None) -> Pretrained:
        return Pretrained(
            run=run,
            step=step,
            weights=weights,
            config=config,
            encoder=frozen(encoder),
            views=method.views,
            defaults=method.evaluation,
            fingerprint=_short_hash([_computes(encoder), weights, identity]),
            params=params,
        )

    return opened, usual, there


def _computes(encoder: nn.Module) -> dict[str, Any]:
    """What an encoder makes of parameters: of the same ones, another makes something else."""
    fields = {field.name: getattr(encoder, field.name) for field in dataclasses.fields(encoder)}
    return {"kind": type(encoder).__name__} | {
        name: value for name, value in fields.items() if name not in NO_MATTER
    }


def _of_an_import(name: str, encoder: nn.Module) -> Method:
    """The method that trained an imported encoder; of an unknown one, MoCo v3 for its protocols."""
    return method_as_published(name if name in METHODS else "moco_v3", encoder)


def _random(opened: Callable[..., Pretrained], config: ConfigDict) -> Pretrained:
    return opened(config.seed, weights="random", step=0)


def _open_foreign(
    path: Path, *, step: int | None, weights: str, compute_dtype: jnp.dtype
) -> Pretrained:
    """An encoder that another library saved, converted in memory; ``run`` is where a run would be.

    Evaluations write there, into ``runs/<name of the file or folder>``.
    """
    if step:
        raise UserError(f"step={step} was given, and {path} is a file of one step: leave it out.")
    found = read_foreign(path, weights="auto" if weights == "random" else weights)
    if jax.process_index() == 0:
        print("\n".join(found.said))  # nobody has been asked what was inferred
    run = Path("runs", run_name(path)).absolute()
    opened, _, _ = _opened(run, found.config, compute_dtype)
    if weights == "random":
        return _random(opened, found.config)
    sha256 = params_sha256(found.params)
    return opened(sha256, weights=found.weights, step=0, params=found.params)


def _run_and_step(checkpoint: str | Path) -> tuple[Path, int | None]:
    if not str(checkpoint):
        raise UserError("checkpoint is empty: set --config.checkpoint=runs/<name of a run>.")
    path = Path(checkpoint).expanduser().absolute()
    if not path.is_dir():
        state = "is not a folder" if path.exists() else "does not exist"
        raise UserError(
            f"The checkpoint {path} {state}: give the folder of a run, or weights of another "
            f"library ({', '.join(SUFFIXES)}, or a folder of timm or transformers)."
        )
    if path.parent.name == "checkpoints" and path.name.isdigit():
        return path.parents[1], int(path.name)
    return (path.parent if path.name == "checkpoints" else path), None


def run_config(run: Path) -> ConfigDict:
    """The config of a pre-training run, or import, with today's defaults for keys that it lacks.

    Raises:
      UserError: it is none.
    """
    path = run / "config.json"
    if not path.exists():
        raise UserError(f"{run} is not the folder of a run: it has no config.json.")
    try:
        saved = json.loads(path.read_text())
        task = saved["task"]
        name = saved["method"]["name"] if task in ("pretrain", "import") else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as the config of a run ({error!r}).") from error
    if name is None:
        raise UserError(f"{run} is a run of task {task}: give the folder of a pre-training run.")
    saved = of_today(saved, run)
    if task == "import":
        return ConfigDict(filled(saved, imported_config(name).to_dict()))
    if name not in METHODS:
        raise UserError(f"{path} names the method {name!r}; known are {', '.join(METHODS)}.")
    return ConfigDict(filled(saved, defaults.get_config(name).to_dict()))


def checkpoint_steps(run: Path) -> list[int]:
    """Steps of the whole checkpoints of a run, ascending."""
    folders = (run / "checkpoints").glob("[0-9]*")
    # Orbax names what it is still writing otherwise, so a number means a whole checkpoint.
    return sorted(int(folder.name) for folder in folders if folder.name.isdigit())


def _checkpoint_step(run: Path, step: int | None) -> int:
    steps = checkpoint_steps(run)
    if not steps:
        raise UserError(f"{run} has no checkpoint yet.")
    if step is None:
        return steps[-1]
    if step not in steps:
        there = ", ".join(map(str, steps))
        raise UserError(f"{run} has no checkpoint of step {step}; there are {there}.")
    return step


def load_networks(pretrained: Pretrained) -> tuple[Any, Any]:
    """(params, batch_stats) of a whole network, with its heads, as a pre-training has them.

    Of the moving average, what it has; heads that it lacks are the online network's. Of an import
    only the encoder is there.

    Raises:
      UserError: the checkpoint is damaged.
    """
    if pretrained.params is not None:
        return {"encoder": pretrained.params}, {}

    def everything(tree):
        return {part: tree[part] for part in _NETWORKS if part in tree}

    found = read_chosen(pretrained.run / "checkpoints" / str(pretrained.step), everything)
    prefixes = ("", "target_") if pretrained.weights == "target" else ("",)
    params, batch_stats = (
        functools.reduce(_over, [found.get(prefix + part) or {} for prefix in prefixes])
        for part in ("params", "batch_stats")
    )
    return params, batch_stats


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = flatten_dict(below, sep="/") | flatten_dict(above, sep="/")
    return unflatten_dict(merged, sep="/")


def _short_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]

"""Records byol.npz: three optimiser steps of BYOL with a linear encoder, its loss, its schedules.

Command (from the repository's root, with the official repository checked out, in an environment of
the recording's own, and JAX_PLATFORMS=cpu):
    PYTHONPATH=tests python -m golden.record_byol DEEPMIND_RESEARCH_CHECKOUT

Source: google-deepmind/deepmind-research f5de0ede8430809180254ee957abf36ed62579ef:
byol/byol_experiment.py (ByolExperiment: forward, loss_fn, _update_fn), byol/utils/networks.py
(MLP), helpers.py (regression_loss), optimizers.py (lars), schedules.py.
Versions: Python 3.11, jax 0.10.2 (CPU), dm-haiku 0.0.17, optax 0.2.8, dm-tree, numpy; float32.

What is official here: heads, loss, optimizer, schedules, moving average and the order of all these.
The encoder is not: instead of a ResNet it is one linear layer on colours averaged over patches,
given to ``encoder_class`` by name. The experiment's data pipeline, augmentations, checkpoints and
acme are stubs; views arrive normalised. ``jax.tree_map`` is put back for the official code. The
classifier on detached features is trained along, as in the official code, and not recorded. Both
networks start equal, which the official code leaves to chance.

Runs (golden/cases_contrastive.py): keys ``<case>/...`` with one row for each of the three steps of
``loss`` (``repr_loss``), ``learning_rate`` and ``momentum``. ``<case>/online/<name>`` and
``<case>/target/<name>`` are parameters after the three steps, ``<case>/online_state/<name>`` and
``<case>/target_state/<name>`` Haiku's averages of the (biased) statistics, which start at zero, and
``.../hidden`` of them is not debiased. Names and layouts are Haiku's.

Loss: ``loss/value`` [rows] and ``loss/prediction_gradient`` of regression_loss on random features.
Schedules: ``table/...`` for every step.
"""

import sys
import types
from collections import defaultdict
from pathlib import Path

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from golden.cases import BATCH, STEPS
from golden.cases_contrastive import (
    BYOL_CASES,
    HIDDEN,
    LINEAR_PATCH,
    LINEAR_WIDTH,
    OUTPUT,
    WARMUP_TABLE,
    Case,
    byol_weights,
    features,
    global_views,
)
from golden.weights import normalised

GOLDEN = Path(__file__).parent


class LinearEncoder(hk.Module):
    """[B, S, S, 3] -> [B, LINEAR_WIDTH]."""

    def __init__(self, num_classes, bn_config):
        super().__init__(name="linear_encoder")

    def __call__(self, images, is_training):
        batch, size = images.shape[:2]
        grid = size // LINEAR_PATCH
        patches = images.reshape(batch, grid, LINEAR_PATCH, grid, LINEAR_PATCH, 3)
        return hk.Linear(LINEAR_WIDTH)(patches.mean((2, 4)).reshape(batch, -1))


def experiment(byol_experiment, case: Case):
    """The official experiment; its learning rate scales with the batch, ours here does not."""
    return byol_experiment.ByolExperiment(
        random_seed=0,
        num_classes=5,  # it reports the accuracy of the best 5
        batch_size=BATCH,
        max_steps=case.epochs * case.steps_per_epoch,
        enable_double_transpose=False,
        base_target_ema=case.momentum,
        network_config={
            "projector_hidden_size": HIDDEN,
            "projector_output_size": OUTPUT,
            "predictor_hidden_size": HIDDEN,
            "encoder_class": "LinearEncoder",
            "encoder_config": {},
            "bn_config": {
                "decay_rate": 0.9,
                "eps": 1e-5,
                "cross_replica_axis": "i",
                "create_scale": True,
                "create_offset": True,
            },
        },
        optimizer_config={"weight_decay": case.decay, "eta": 1e-3, "momentum": 0.9},
        lr_schedule_config={
            "base_learning_rate": case.peak * 256 / BATCH,
            "warmup_steps": case.warmup_epochs * case.steps_per_epoch,
        },
        evaluation_config={},
        checkpointing_config={},
    )


def haiku_params(initial):
    """``byol_weights`` under Haiku's names; the classifier keeps its initial weights."""
    values = byol_weights()
    params = {name: dict(module) for name, module in initial.items()}
    params["linear_encoder/linear"] = linear(values, "encoder")
    for head in ("projector", "predictor"):
        params[f"{head}/linear"] = linear(values, f"{head}.linear")
        params[f"{head}/linear_1"] = linear(values, f"{head}.linear_1")
        params[f"{head}/batch_norm"] = {
            "scale": values[f"{head}.batch_norm.weight"][None],
            "offset": values[f"{head}.batch_norm.bias"][None],
        }
    shapes = [jax.tree_util.tree_map(jnp.shape, tree) for tree in (initial, params)]
    if shapes[0] != shapes[1]:
        raise SystemExit(f"parameters differ: {shapes}")
    return params


def linear(values, prefix: str) -> dict[str, np.ndarray]:
    """Haiku's layer from torch's layout."""
    layer = {"w": values[f"{prefix}.weight"].T}
    if f"{prefix}.bias" in values:
        layer["b"] = values[f"{prefix}.bias"]
    return layer


def inputs(step: int) -> dict[str, np.ndarray]:
    """What the data pipeline would give one device."""
    first, second = normalised(global_views("byol", step)["global"]).swapaxes(0, 1)
    return {"view1": first, "view2": second, "labels": np.zeros(BATCH, np.int32)}


def on_one_device(tree):
    """A leading axis of one device."""
    return jax.tree_util.tree_map(lambda x: jnp.asarray(x)[None], tree)


def run(byol_experiment, case: Case) -> dict[str, np.ndarray]:
    """Three steps through the official update."""
    official = experiment(byol_experiment, case)
    keys = on_one_device(jax.random.PRNGKey(0))
    init = jax.pmap(official._make_initial_state, axis_name="i")
    state = init(keys, on_one_device(inputs(0)))
    first = jax.tree_util.tree_map(lambda x: x[0], state)
    params = on_one_device(haiku_params(first.online_params))
    state = state._replace(
        online_params=params,
        target_params=params,
        # Initialisation has averaged a first batch in: back to zero.
        online_state=jax.tree_util.tree_map(jnp.zeros_like, state.online_state),
        target_state=jax.tree_util.tree_map(jnp.zeros_like, state.target_state),
    )
    rows = defaultdict(list)
    for step in range(STEPS):
        state, logs = official.update_pmap(
            state, jnp.full(1, step, jnp.int32), keys, on_one_device(inputs(step))
        )
        for name, key in (
            ("loss", "repr_loss"),
            ("learning_rate", "learning_rate"),
            ("momentum", "tau"),
        ):
            rows[name].append(float(logs[key][0]))
    arrays = {name: np.array(values) for name, values in rows.items()}
    for part in ("online", "target"):
        for kind, suffix in (("params", ""), ("state", "_state")):
            for module, leaves in getattr(state, f"{part}_{kind}").items():
                arrays |= {
                    f"{part}{suffix}/{module}/{name}": np.asarray(leaf[0])
                    for name, leaf in leaves.items()
                    if module != "classifier" and name in ("w", "b", "scale", "offset", "hidden")
                }
    return arrays


def loss_on_random_features(helpers) -> dict[str, np.ndarray]:
    """One direction of the loss, example by example, and the gradient of its mean."""
    predictions, projections = features("byol/predictions"), features("byol/projections")
    gradient = jax.grad(lambda x: jnp.mean(helpers.regression_loss(x, projections)))(predictions)
    return {
        "value": np.asarray(helpers.regression_loss(predictions, projections)),
        "prediction_gradient": np.asarray(gradient),
    }


def tables(schedules) -> dict[str, np.ndarray]:
    """Learning rate and momentum of every step."""
    case, total = WARMUP_TABLE, WARMUP_TABLE.epochs * WARMUP_TABLE.steps_per_epoch
    rates, momenta = [], []
    for step in range(total):
        rates.append(
            schedules.learning_schedule(
                jnp.int32(step),
                batch_size=BATCH,
                base_learning_rate=case.peak * 256 / BATCH,
                total_steps=total,
                warmup_steps=case.warmup_epochs * case.steps_per_epoch,
            )
        )
        momenta.append(schedules.target_ema(jnp.int32(step), case.momentum, total))
    return {"learning_rate": np.array(rates), "momentum": np.array(momenta)}


def stub_imports() -> None:
    """Modules that the experiment imports and that a run without data does not need."""

    def stub(name: str, **attributes) -> None:
        module = types.ModuleType(name)
        vars(module).update(attributes)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], child, module)

    import byol.utils  # noqa: F401

    stub("acme")
    stub("acme.jax", utils=None)
    stub("byol.utils.augmentations", postprocess=lambda inputs, rng: inputs)
    stub("byol.utils.checkpointing", Checkpointer=lambda **_: None)
    stub("byol.utils.dataset", Batch=dict, normalize_images=lambda images: images)


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    jax.tree_map = jax.tree_util.tree_map
    stub_imports()
    from byol import byol_experiment

    byol_experiment.networks.LinearEncoder = LinearEncoder
    groups = {name: run(byol_experiment, case) for name, case in BYOL_CASES.items()}
    groups |= {
        "loss": loss_on_random_features(byol_experiment.helpers),
        "table": tables(byol_experiment.schedules),
    }
    path = GOLDEN / "byol.npz"
    np.savez_compressed(
        path, **{f"{g}/{n}": value for g, arrays in groups.items() for n, value in arrays.items()}
    )
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()

"""Records simclr.npz: three optimiser steps of SimCLR with a linear encoder, its loss and schedule.

Command (from the repository's root, with the official repository checked out, in an environment of
the recording's own, and TF_USE_LEGACY_KERAS=1):
    PYTHONPATH=tests python -m golden.record_simclr SIMCLR_CHECKOUT/tf2

Source: google-research/simclr 383d4143fd8cf7879ae10f1046a9baeb753ff438: tf2/model.py (Model,
ProjectionHead, build_optimizer, WarmUpAndCosineDecay), tf2/objective.py (add_contrastive_loss),
tf2/lars_optimizer.py; a step does what single_step of tf2/run.py does.
Versions: Python 3.11, tensorflow-cpu 2.21.0, tf_keras 2.21.0, numpy; float32.

What is official here: model around the encoder, projection head, loss, optimizer, schedule. The
encoder is not: instead of a ResNet it is one linear layer on colours averaged over patches. Pixels
are in [0, 1]. Flags have the defaults of tf2/run.py but for sizes, temperature and the optimizer's
numbers; --train_steps is given (officially it is one step more than whole epochs have).

Runs (golden/cases_contrastive.py): keys ``<case>/...`` with one row for each of the three steps of
``loss`` and ``learning_rate``. ``<case>/final/<name>`` are the encoder's and the projector's
parameters and running statistics (biased variance) after the three steps, under the names of
``cases_contrastive.simclr_weights`` and in Keras's layouts.

Loss: ``loss/value`` and ``loss/gradient`` of both views' random features. Schedule:
``table/learning_rate`` for every step.
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import flags
from golden.cases import BATCH, STEPS
from golden.cases_contrastive import (
    LINEAR_PATCH,
    LINEAR_WIDTH,
    OUTPUT,
    SIMCLR_CASES,
    SIMCLR_TEMPERATURE,
    WARMUP_TABLE,
    Case,
    features,
    global_views,
    simclr_weights,
)

GOLDEN = Path(__file__).parent
# What the official files read of the flags that tf2/run.py defines.
FLAGS = {
    "optimizer": "lars",
    "momentum": 0.9,
    "weight_decay": 0.0,
    "warmup_epochs": 0,
    "train_batch_size": BATCH,
    "train_epochs": 0,
    "train_steps": 0,
    "learning_rate_scaling": "linear",
    "batch_norm_decay": 0.9,
    "global_bn": True,
    "proj_head_mode": "nonlinear",
    "proj_out_dim": OUTPUT,
    "num_proj_layers": 3,
    "ft_proj_selector": 0,
    "fine_tune_after_block": -1,
    "train_mode": "pretrain",
    "lineareval_while_pretraining": False,
    "use_blur": False,
    "image_size": 32,
    "resnet_depth": 50,
    "width_multiplier": 1,
}


class LinearEncoder(tf.keras.layers.Layer):
    """[B, S, S, 3] -> [B, LINEAR_WIDTH]."""

    def __init__(self):
        super().__init__(name="linear_encoder")
        self.dense = tf.keras.layers.Dense(LINEAR_WIDTH, name="dense")

    def call(self, images, training):
        size = images.shape[1]
        grid = size // LINEAR_PATCH
        patches = tf.reshape(images, (-1, grid, LINEAR_PATCH, grid, LINEAR_PATCH, 3))
        return self.dense(tf.reshape(tf.reduce_mean(patches, (2, 4)), (-1, 3 * grid**2)))


def use_case(case: Case) -> None:
    """Flags of a run."""
    flags.FLAGS.weight_decay = case.decay
    flags.FLAGS.warmup_epochs = case.warmup_epochs
    flags.FLAGS.train_steps = case.epochs * case.steps_per_epoch


def schedule(model_lib, case: Case):
    """The official learning rate, which scales with the batch; ours here does not."""
    return model_lib.WarmUpAndCosineDecay(case.peak * 256 / BATCH, case.steps_per_epoch * BATCH)


def images(step: int) -> np.ndarray:
    """Both views [B, S, S, 6], as the data pipeline stacks them."""
    pixels = np.float32(global_views("simclr", step)["global"]) / 255
    return np.concatenate([pixels[:, 0], pixels[:, 1]], axis=-1)


def build_model(model_lib):
    """(official model around the linear encoder, its variables by name)."""
    model_lib.resnet.resnet = lambda **_: LinearEncoder()
    model = model_lib.Model(num_classes=2)
    model(tf.constant(images(0)), training=False)
    encoder = model.resnet_model.dense
    variables = {"encoder.weight": encoder.kernel, "encoder.bias": encoder.bias}
    for k, layer in enumerate(model._projection_head.linear_layers):
        norm = layer.bn_relu.bn
        variables[f"projector.dense_{k}.weight"] = layer.dense.kernel
        variables[f"projector.norm_{k}.weight"] = norm.gamma
        if norm.center:
            variables[f"projector.norm_{k}.bias"] = norm.beta
        variables[f"projector.norm_{k}.mean"] = norm.moving_mean
        variables[f"projector.norm_{k}.var"] = norm.moving_variance
    return model, variables


def load(model, variables) -> None:
    """Assigns ``simclr_weights`` to all trainable variables."""
    values = simclr_weights()
    for name, value in values.items():
        variables[name].assign(value.T)
    if len(values) != len(model.trainable_variables):
        raise SystemExit([v.name for v in model.trainable_variables])


def run(model_lib, objective, case: Case) -> dict[str, np.ndarray]:
    """Three steps."""
    use_case(case)
    model, variables = build_model(model_lib)
    load(model, variables)
    rate = schedule(model_lib, case)
    optimizer = model_lib.build_optimizer(rate)
    rows = defaultdict(list)
    for step in range(STEPS):
        with tf.GradientTape() as tape:
            outputs, _ = model(tf.constant(images(step)), training=True)
            loss, _, _ = objective.add_contrastive_loss(
                outputs, hidden_norm=True, temperature=SIMCLR_TEMPERATURE, strategy=None
            )
            loss += model_lib.add_weight_decay(model, adjust_per_optimizer=True)
        rows["learning_rate"].append(float(rate(tf.cast(optimizer.iterations, tf.float32))))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        rows["loss"].append(float(loss))
    arrays = {name: np.array(values) for name, values in rows.items()}
    return arrays | {f"final/{name}": value.numpy() for name, value in variables.items()}


def loss_on_random_features(objective) -> dict[str, np.ndarray]:
    """Rows of the first view, then those of the second; gradient flows into both."""
    both = tf.Variable(np.concatenate([features("simclr/first"), features("simclr/second")]))
    with tf.GradientTape() as tape:
        value, _, _ = objective.add_contrastive_loss(
            both, hidden_norm=True, temperature=SIMCLR_TEMPERATURE
        )
    return {"value": value.numpy(), "gradient": tape.gradient(value, both).numpy()}


def tables(model_lib) -> dict[str, np.ndarray]:
    """Learning rate of every step."""
    use_case(WARMUP_TABLE)
    rate = schedule(model_lib, WARMUP_TABLE)
    steps = range(WARMUP_TABLE.epochs * WARMUP_TABLE.steps_per_epoch)
    return {"learning_rate": np.array([float(rate(tf.constant(float(step)))) for step in steps])}


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    define = {
        str: flags.DEFINE_string,
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
    }
    for name, value in FLAGS.items():
        define[type(value)](name, value, "")
    flags.FLAGS(sys.argv[:1])
    import model as model_lib
    import objective

    groups = {name: run(model_lib, objective, case) for name, case in SIMCLR_CASES.items()}
    groups |= {"loss": loss_on_random_features(objective), "table": tables(model_lib)}
    path = GOLDEN / "simclr.npz"
    np.savez_compressed(
        path, **{f"{g}/{n}": value for g, arrays in groups.items() for n, value in arrays.items()}
    )
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()

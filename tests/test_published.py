"""Configs, linear probes and fine-tuning recipes against the papers' numbers in published.toml.

Each is described whole, from what its config resolves to and what is built of it, so a number that
the file lacks is noticed like one that differs.
"""

import dataclasses
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from tiny import paths

from repre_jax.config_files import carried, read_config
from repre_jax.data.recipes import ViewRecipe
from repre_jax.evaluation.finetune.recipes import mixing_of, published_recipe, views_of
from repre_jax.evaluation.linear.protocols import LINEAR_PROTOCOLS
from repre_jax.methods import METHODS, repre
from repre_jax.methods.method import Method
from repre_jax.models import VIT_SIZES, build_encoder
from repre_jax.models.heads import Projected
from repre_jax.models.swin import SWIN_SIZES
from repre_jax.training.learner import init_params
from repre_jax.training.optimizers import decayed_parameters
from repre_jax.training.resolution import resolve

PUBLISHED = tomllib.loads(Path(__file__).with_name("published.toml").read_text())
STEPS_PER_EPOCH = 10


def pretrained() -> list[str]:
    """Every method's configs on the papers' encoders, and their variants with a recipe."""
    stem = rf"(?:{'|'.join(METHODS)})_(?:vit|swin)\w"
    files = {name: path for name, path in carried().items() if re.fullmatch(stem, name)}
    text = "".join(path.read_text() for path in files.values())
    variants = re.findall(rf"configs/({stem})\.py(:official|:released|:conv_stem)\b", text)
    return sorted({*files, *map("".join, variants)})


NAMES = {
    "pretrain": pretrained(),
    "linear": sorted(LINEAR_PROTOCOLS),
    "finetune": [
        *("mae vit_base", "mae vit_large", "mae vit_huge"),
        *("moco_v3 vit_base", "simmim vit_base", "simmim swin_base"),
    ],
}


def test_every_row_has_a_source_and_somebody_to_speak_of():
    assert set(PUBLISHED) == set(NAMES)
    for kind, rows in PUBLISHED.items():
        for pattern, _, source in rows:
            assert source
            assert any(re.fullmatch(pattern, name) for name in NAMES[kind]), pattern


def assert_published(kind: str, name: str, description: dict[str, Any]) -> None:
    """A description, nested or not, is what the rows say, each number once; 0 goes unsaid."""
    expected = {}
    for pattern, numbers, _ in PUBLISHED[kind]:
        if re.fullmatch(pattern, name):
            flat = flatten_dict(numbers, sep=".")
            assert not expected.keys() & flat.keys(), pattern
            expected |= {key: pytest.approx(number) for key, number in flat.items()}
    found = flatten_dict(description, sep=".")
    assert {key: x for key, x in found.items() if np.any(x)} == expected


def views(recipe: ViewRecipe) -> dict[str, Any]:
    """What never happens has no numbers."""
    never = () if recipe.local_crops else ("local_",)
    if not recipe.jitter_probability and not any(recipe.blur_probability):
        never += ("jitter", "blur", "photometric")
    numbers = dataclasses.asdict(recipe)
    return {key: number for key, number in numbers.items() if not key.startswith(never)}


# ---------------------------------------------------------------------------------- pre-training

# Of config.method: what is seen in heads, target, memory, loss and parameters held still.
SEEN = {
    *("name", "heads", "layers", "hidden", "output", "predictor_hidden"),
    *("prototypes", "bottleneck", "normalise_last_layer", "freeze_last_layer_epochs"),
    *("momentum", "end_momentum", "queue", "temperature", "student_temperature"),
    *("freeze_patch_embedding", "constant_predictor_rate", "tokens_path"),
}


@pytest.mark.parametrize("name", NAMES["pretrain"])
def test_pre_training(name):
    config = read_config(name)
    run = resolve(config, images=STEPS_PER_EPOCH * config.train.batch_size, devices=8)
    encoder = build_encoder(config, jnp.float32)
    method = METHODS[config.method.name].build(config.method, config.views, run.clock, encoder)
    description = recipe_of(config, run) | {
        "views": views(method.views),
        "encoder": {
            field.name: getattr(encoder, field.name)
            for field in dataclasses.fields(encoder)
            if field.name not in ("dtype", "remat", "parent", "name", "normalisation")
        },
        "pixels": encoder.normalisation._asdict() if encoder.normalisation else {},
        "evaluated": method.evaluated,
        "evaluation": vars(method.evaluation),
        "target": target_of(method, run.clock.total_steps),
        "memory": memory_of(method),
        "frozen": {
            part.prefix: part.until_step / STEPS_PER_EPOCH if part.until_step else "for good"
            for part in method.frozen
        },
        "rate.constant": method.constant_rate,
        "temperature": temperature_of(config.method, method),
        "method": {key: x for key, x in config.method.items() if key not in SEEN},
    }
    # All blocks have the same parameters: those of a few tell the heads and what decays.
    few = {"depths": (1, 1, 1, 1)} if hasattr(encoder, "depths") else {"depth": 2}
    shallow = encoder.clone(**few)
    params, statistics = jax.eval_shape(lambda: init_params(shallow, method, None, seed=0))
    description["decay.of"] = decayed(config.optimizer.decay, params)
    description["heads"] = {
        head: written(layers, statistics.get(head, {}), encoder.width)
        for head, layers in params["heads"].items()
    }
    if config.repre.enabled:
        branch = repre.build(config.repre, encoder, config.model, method.loss_name)
        description["repre"] = {
            "taps": branch.taps,
            "operator": branch.decoder.operator,
            "layers": branch.decoder.layers,
            "width": branch.decoder.width,
            "weights": branch.weighting.fixed or "learned",
        }
    assert_published("pretrain", name, description)


def recipe_of(config: ConfigDict, run) -> dict[str, Any]:
    """What is resolved: lengths, optimizer, precision."""
    optimizer, dtype = config.optimizer, config.train.compute_dtype
    adam = optimizer.name == "adamw"
    return {
        "batch": run.batch_size,
        "epochs": round(run.epochs),
        "optimizer": optimizer.name,
        "betas": (optimizer.beta_1, optimizer.beta_2) if adam else None,
        "momentum": None if adam else optimizer.momentum,
        "rate.schedule": optimizer.schedule,
        "rate.peak": run.learning_rate,
        "rate.first": run.warm_up.start,
        "rate.last": run.warm_up.end,
        "rate.warm_up": run.warm_up.steps / STEPS_PER_EPOCH,
        "decay.first": optimizer.weight_decay,
        "decay.last": optimizer.end_weight_decay,
        "clip.tensor": optimizer.clip_per_tensor,
        "clip.all": optimizer.clip_global,
        "compute_dtype": dtype if dtype != "auto" else None,
    }


def decayed(rule: str, params: Any) -> str | list[str]:
    """What weight decay acts on, in words, or else what it leaves out, path by path."""
    decays = jax.tree.leaves(decayed_parameters(rule, params))
    left_out = [path for path, does in zip(paths(params), decays, strict=True) if not does]
    vectors = [path for path in paths(params) if re.search(r"/bias$|norm\w*/scale$", path)]
    return {(): "all", tuple(vectors): "all but biases and norms"}.get(tuple(left_out), left_out)


def written(params: dict, statistics: dict, width: int) -> str | None:
    """A head's layers as published.toml writes them; None for a decoder, which is in ``method``."""
    params = {"dense_0": params} if "kernel" in params else params
    layers, previous = [], None
    for k in range(sum(name.startswith("dense_") for name in params)):
        dense, norm = params[f"dense_{k}"], params.get(f"norm_{k}", {})
        kind = {("bias", "scale"): " norm", ("scale",): " scale", (): " plain"}[tuple(sorted(norm))]
        rows, columns = dense["kernel"].shape
        assert previous in (None, rows)
        previous = columns
        last = "dense_" + str(k + 1) not in params
        shown = "D" if columns == width and not last else columns
        bias = "+" if "bias" in dense else ""
        layers.append(f"{shown}{bias}{kind if f'norm_{k}' in statistics else ''}")
    if "prototypes" in params:
        layers.append(f"{params['prototypes']['direction'].shape[0]} prototypes")
    return ", ".join(layers)


def target_of(method: Method, steps: int) -> dict[str, Any]:
    """Half a cosine between two momenta, and whether a step averages before it looks."""
    if method.target is None:
        return {}
    momenta = np.asarray(method.target.momentum(jnp.arange(-1, steps + 1)))
    start, end = momenta[[0, -1]].tolist()
    cosine = end - (end - start) * (np.cos(np.linspace(0, np.pi, steps + 1)) + 1) / 2
    # An average before the forward pass is that at the end of the step before.
    orders = {"after": momenta[1:], "before": momenta[:-1]}
    averaged = [when for when, x in orders.items() if np.allclose(x, cosine, rtol=0, atol=2e-7)]
    return {"momentum": (start, end), "averaged": " or ".join(averaged)}


def memory_of(method: Method) -> dict[str, tuple[int, ...]]:
    """Shapes."""
    init = method.memory.init if method.memory else lambda key: {}
    return {name: x.shape for name, x in jax.eval_shape(init, jax.random.key(0)).items()}


def temperature_of(config: ConfigDict, method: Method) -> float | None:
    """Of a softmax over n similarities, from two losses.

    That where all are the same is c log n, that where the right one is 0 and one of the others 1,
    the rest 0, is c log(n - 1 + exp(1 / temperature)).
    """
    if not {"temperature", "student_temperature"} & set(config):
        return None
    one, other = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[::-1]
    memory = {"queue": one, "queue_1": one, "queue_2": one, "centre": np.zeros(2, np.float32)}
    simclr = config.name == "simclr"

    def loss(first, second):
        online = np.stack([first, second], axis=1)
        online = online if simclr or config.name == "dino" else Projected(online, online)
        keys = np.stack([other, other], axis=1) * 1000  # DINO's are logits
        return float(method.loss(online, keys, memory, 0)[0][0])

    same, confused = loss(one + other, one + other), loss(one, other if simclr else one)
    count = 2 if config.name in ("moco_v3", "dino") else 3
    return round(1 / math.log(count ** (confused / same) - (count - 1)), 5)


# ----------------------------------------------------------------------------------- evaluations

FAN_IN = 400


@pytest.mark.parametrize("name", NAMES["linear"])
def test_linear_probe(name):
    """A probe learns with almost any numbers, so nothing else would notice others."""
    protocol = LINEAR_PROTOCOLS[name]
    kernel = np.asarray(protocol.initialiser(jax.random.key(0), (FAN_IN, 200), jnp.float32))
    deviation = float(kernel.std())
    assert kernel.mean() == pytest.approx(0, abs=0.03 * deviation)
    description = vars(protocol) | {
        "learning_rate": protocol.learning_rate * protocol.batch_size / 256,
        "views": views(protocol.views),
        "deviation": round(deviation, 3),
        "cut": np.abs(kernel).max() < 3 * deviation,
    }
    for key in ("source", "initialiser", "crop_interpolation", "clamp_crop"):
        del description[key]
    assert_published("linear", name, description)


# Of a recipe: what is seen in the views and in how they are mixed.
MIXED = {
    *("crop_scale", "flip_probability"),
    *("rand_augment", "rand_augment_magnitude", "rand_augment_deviation"),
    *("mixup", "cutmix", "mix_probability", "mix_switch", "label_smoothing"),
}


@pytest.mark.parametrize("name", NAMES["finetune"])
def test_fine_tuning(name):
    protocol, model = name.split()
    recipe = published_recipe(protocol, model)
    scale = recipe.batch_size / 256
    ends = scale if recipe.scale_ends else 1
    size = (VIT_SIZES | SWIN_SIZES)[model]
    description = {key: x for key, x in vars(recipe).items() if key not in MIXED} | {
        "encoder": dict(zip(("width", "depth", "heads"), size, strict=True)),
        "learning_rate": recipe.learning_rate * scale,
        "start_learning_rate": recipe.start_learning_rate * ends,
        "end_learning_rate": recipe.end_learning_rate * ends,
        "views": views(views_of(recipe)),
        "mixing": dataclasses.asdict(mixing_of(recipe)),
    }
    assert_published("finetune", name, description)

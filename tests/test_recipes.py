"""Optimizers of the configs against the papers' numbers, written out here once more."""

import importlib
import re
from typing import NamedTuple

import jax
import pytest
from tiny import RECIPES, paths, tiny_config, tiny_learner, tiny_swin_config
from whole_runs import ROOT

from repre_jax.config_resolution import resolve
from repre_jax.learner import build_learner
from repre_jax.optimizers import decayed_parameters


class Recipe(NamedTuple):
    """Peak rate at the whole batch, and the rest as config.optimizer has it."""

    optimizer: str
    peak: float
    batch: int
    epochs: int
    schedule: str
    warmup: float
    decay: tuple[float, float]
    decayed: str
    clip_tensor: float = 0.0
    clip_global: float = 0.0


MOCO_V3 = Recipe("adamw", 1.5e-4 * 16, 4096, 300, "moco_v3", 40, (0.1, 0.1), "all")
MOBY = Recipe("adamw", 1e-3, 512, 300, "moby", 5, (0.05, 0.05), "matrices", clip_global=5.0)
DINO = Recipe("adamw", 2e-3, 1024, 300, "dino", 10, (0.04, 0.4), "matrices", clip_tensor=3.0)
SIMCLR = Recipe("lars_simclr", 4.8, 4096, 100, "moco_v3", 10, (1e-6, 1e-6), "matrices")
BYOL = Recipe("lars", 4.8, 4096, 300, "moco_v3", 10, (1e-6, 1e-6), "matrices")
SIMSIAM = Recipe("sgd", 0.1, 512, 100, "moco_v2", 0, (1e-4, 1e-4), "all")
MOCO_V2 = Recipe("sgd", 0.03, 256, 200, "moco_v2", 0, (1e-4, 1e-4), "all")

# contrastive papers' own numbers (":official", MoCo v3, MoBY, DINO) and what stands in for them on
# a transformer (the others).
PUBLISHED = {
    "simclr_vits": MOCO_V3,
    "byol_vits": MOCO_V3,
    "simsiam_vits": MOCO_V3,
    "moco_v2_vits": Recipe("adamw", 2e-3, 1024, 300, "dino", 10, (0.05, 0.05), "matrices"),
    "moco_v3_vits": MOCO_V3,
    "moco_v3_vitb": MOCO_V3,
    "moco_v3_swint": MOCO_V3,
    "moby_vits": MOBY,
    "moby_swint": MOBY,
    "dino_vits": DINO,
    "dino_vitb": DINO,
    "dino_swint": DINO._replace(peak=1e-3, batch=512),
    "dino_vits:released": DINO._replace(epochs=800, clip_tensor=0.0),
    "dino_vitb:released": DINO._replace(epochs=400, peak=3e-3, clip_tensor=0.3),
    "simclr_vits:official": SIMCLR,
    "simclr_vitb:official": SIMCLR,
    "simclr_swint:official": SIMCLR,
    "byol_vits:official": BYOL,
    "byol_swint:official": BYOL,
    "simsiam_vits:official": SIMSIAM,
    "simsiam_vitb:official": SIMSIAM,
    "moco_v2_vits:official": MOCO_V2,
    "moco_v2_swint:official": MOCO_V2,
    "moco_v2_vits:epochs=800,official": MOCO_V2._replace(epochs=800),
}


def config_of(name):
    file, _, variants = name.partition(":")
    return importlib.import_module(f"configs.{file}").get_config(variants)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_optimizer_is_the_published_one(name):
    config = config_of(name)
    found = resolve(config, images=1_281_167, devices=8)
    optimizer = config.optimizer
    ours = Recipe(
        optimizer.name,
        pytest.approx(found.learning_rate),
        found.batch_size,
        round(found.epochs),
        optimizer.schedule,
        optimizer.warmup_epochs,
        (optimizer.weight_decay, optimizer.end_weight_decay),
        optimizer.decay,
        optimizer.clip_per_tensor,
        optimizer.clip_global,
    )
    assert ours == PUBLISHED[name]


@pytest.mark.parametrize("config_of_method", [tiny_config, tiny_swin_config])
@pytest.mark.parametrize("method", RECIPES)
def test_what_is_decayed(method, config_of_method):
    """Everything, or all but biases and the scales of norms; never the loss weights."""
    config = config_of_method(method)
    shapes = jax.eval_shape(tiny_learner(config).init).params
    decayed = decayed_parameters(config.optimizer.decay, shapes)
    tree = dict(zip(paths(shapes), jax.tree.leaves(decayed), strict=True))
    loss_weights = {path for path in tree if "log_variance" in path}
    assert len(loss_weights) == 2
    vectors = {path for path in tree if re.search(r"/bias$|norm\w*/scale$", path)}
    left_out = vectors if method in ("moby", "moco_v2", "dino") else set()
    assert {path for path in tree if not tree[path]} == loss_weights | left_out
    if config_of_method is tiny_swin_config:
        assert tree["encoder/block_0/attention/relative_position_bias"]


def test_official_heads_are_as_wide_as_the_encoder():
    def kernels(name):
        config = config_of(name)
        learner = build_learner(config, resolve(config, images=1_281_167, devices=8))
        heads = jax.eval_shape(learner.init).params["heads"]["projector"]
        return [layer["kernel"].shape for _, layer in sorted(heads.items()) if "kernel" in layer]

    assert kernels("simclr_vitb:official") == [(768, 768), (768, 768), (768, 128)]
    assert kernels("moco_v2_vits:official") == [(384, 384), (384, 128)]
    assert kernels("simsiam_vits:official") == [(384, 384), (384, 384), (384, 2048)]
    assert kernels("simsiam_vits") == [(384, 2048), (2048, 2048), (2048, 2048)]


README = (ROOT / "configs" / "README.md").read_text()
# First column of the tables.
COMMANDS = re.findall(r"^\| `(\w+\.py(?::[\w=,]+)?)` \|", README, flags=re.MULTILINE)


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_config_that_the_readme_names_can_be_built(command):
    config = config_of(command.replace(".py", "", 1))
    learner = build_learner(config, resolve(config, images=1_281_167, devices=8))
    without = command.endswith((":baseline", ":no_decoder"))
    assert (learner.repre is None) == without


def test_the_readme_has_every_row_of_the_papers_tables():
    assert len(COMMANDS) == 17 + 12 + 14

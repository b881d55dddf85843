"""Optimizers of the configs, and the README's tables of runs, against the papers' numbers."""

import re
from typing import NamedTuple

import jax
import pytest
from published import NAMES, config_of, method_of, rows
from tiny import CONTRASTIVE as RECIPES
from tiny import paths, tiny_config, tiny_learner, tiny_swin_config
from whole_runs import ROOT

from repre_jax.training.learner import build_learner
from repre_jax.training.optimizers import decayed_parameters
from repre_jax.training.resolution import resolve


class Recipe(NamedTuple):
    """Rates at the whole batch, and the rest as config.optimizer has it."""

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
    start: float = 0.0  # of the warm-up
    end: float = 0.0


MOCO_V3 = Recipe("adamw", 1.5e-4 * 16, 4096, 300, "moco_v3", 40, (0.1, 0.1), "all")
MOBY = Recipe("adamw", 1e-3, 512, 300, "moby", 5, (0.05, 0.05), "matrices", 0.0, 5.0, 5e-7, 5e-6)
DINO = Recipe("adamw", 2e-3, 1024, 300, "dino", 10, (0.04, 0.4), "matrices", 3.0, end=1e-6)
SIMCLR = Recipe("lars_simclr", 4.8, 4096, 100, "moco_v3", 10, (1e-6, 1e-6), "matrices")
BYOL = Recipe("lars", 4.8, 4096, 300, "moco_v3", 10, (1e-6, 1e-6), "matrices")
SIMSIAM = Recipe("sgd", 0.1, 512, 100, "moco_v2", 0, (1e-4, 1e-4), "all")
MOCO_V2 = Recipe("sgd", 0.03, 256, 200, "moco_v2", 0, (1e-4, 1e-4), "all")

# Contrastive papers' own numbers (":official", MoCo v3, MoBY, DINO) and what stands in for them on
# a transformer (the others).
PUBLISHED = (
    rows(MOCO_V3, "simclr", "byol", "simsiam", "moco_v3")
    | rows(DINO._replace(decay=(0.05, 0.05), clip_tensor=0.0), "moco_v2")
    | rows(MOBY, "moby")
    | rows(DINO, "dino")
    | {
        "dino_swint": DINO._replace(peak=1e-3, batch=512),
        "dino_vits:released": DINO._replace(epochs=800, clip_tensor=0.0, end=1e-5),
        "dino_vitb:released": DINO._replace(epochs=400, peak=3e-3, clip_tensor=0.3, end=2e-6),
        "moby_swint:epochs=100": MOBY._replace(epochs=100),
        "moco_v2_vits:epochs=800,official": MOCO_V2._replace(epochs=800),
    }
    | rows(SIMCLR, "simclr:official")
    | rows(BYOL, "byol:official")
    | rows(SIMSIAM, "simsiam:official")
    | rows(MOCO_V2, "moco_v2:official")
)


@pytest.mark.parametrize("name", sorted({*NAMES, *PUBLISHED}))
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
        pytest.approx(found.warm_up.start),
        pytest.approx(found.warm_up.end),
    )
    assert ours == PUBLISHED[name]
    assert optimizer.momentum == 0.9  # of SGD and LARS


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


README = (ROOT / "configs" / "README.md").read_text()


def readme_rows(table: int) -> list[list[str]]:
    """Cells of every row of a table of configs/README.md, the command first."""
    section = README.split(f"### Table {table}")[1].split("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def named(command: str) -> str:
    """The config of a command of the tables: "moby_swint.py:single" is moby_swint:single."""
    return command.replace(".py", "", 1)


def baseline_of(row: list[str]) -> str:
    """The config of the second column of table 1, which leaves out the file."""
    return named(row[0]).partition(":")[0] + row[1]


COMMANDS = {named(row[0]) for table in (1, 4, 5) for row in readme_rows(table)}
COMMANDS |= {baseline_of(row) for row in readme_rows(1)}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_config_that_the_readme_names_can_be_built(name):
    config = config_of(name)
    learner = build_learner(config, resolve(config, images=1_281_167, devices=8))
    assert learner.method.views == method_of(config).views
    assert learner.normalise == config.model.normalise
    variants = name.partition(":")[2].split(",")
    assert (learner.repre is None) == ("baseline" in variants or "no_decoder" in variants)


# Method, encoder and epochs; linear accuracy in percent without RePre and with it.
TABLE_1 = {
    ("simclr", "vit_small", 300): (69.0, 69.7),
    ("byol", "vit_small", 300): (71.4, 72.2),
    ("moco_v2", "vit_small", 300): (71.6, 72.1),
    ("moco_v2", "vit_small", 800): (72.7, 73.4),
    ("moco_v3", "vit_small", 300): (72.5, 73.2),
    ("moco_v3", "vit_small", 600): (73.4, 73.9),
    ("moby", "vit_small", 300): (72.8, 73.9),
    ("dino", "vit_small", 300): (75.9, 76.7),
    ("dino", "vit_small", 800): (77.0, 77.9),
    ("simclr", "vit_base", 300): (73.9, 74.4),
    ("byol", "vit_base", 300): (73.9, 74.8),
    ("moco_v3", "vit_base", 300): (76.5, 77.2),
    ("moco_v3", "vit_base", 600): (76.7, 77.5),
    ("dino", "vit_base", 800): (78.2, 79.2),
    ("moco_v3", "swin_tiny", 300): (75.4, 76.4),
    ("moby", "swin_tiny", 100): (70.9, 71.8),
    ("moby", "swin_tiny", 300): (75.0, 76.1),
}

# Features that RePre decodes: none of them, the last block's, those of four blocks.
TABLE_4 = {
    ("moco_v3", "vit_small"): {"none": 72.5, "single": 72.8, "multi": 73.2},
    ("moby", "vit_small"): {"none": 72.8, "single": 73.1, "multi": 73.9},
    ("moco_v3", "swin_tiny"): {"none": 75.4, "single": 75.7, "multi": 76.4},
    ("moby", "swin_tiny"): {"none": 75.0, "single": 75.4, "multi": 76.1},
}

# Without decoder, and by the fusion layers in each of its blocks.
TABLE_5 = {
    ("vit_small", "none"): {0: 72.5},
    ("vit_small", "conv"): {1: 73.0, 2: 73.2, 4: 73.2},
    ("vit_small", "transformer"): {1: 71.8, 2: 72.0, 4: 71.4},
    ("swin_tiny", "none"): {0: 75.4},
    ("swin_tiny", "conv"): {1: 76.1, 2: 76.4, 4: 76.2},
    ("swin_tiny", "transformer"): {1: 74.6, 2: 75.2, 4: 74.5},
}


def test_the_readme_has_every_row_of_table_1():
    found = []
    for row in readme_rows(1):
        config = config_of(named(row[0]))
        percent = tuple(float(cell.split()[0]) for cell in row[2:4])
        found.append(((config.method.name, config.model.name, config.train.epochs), percent))
        config.repre.enabled = False
        assert config_of(baseline_of(row)).to_dict() == config.to_dict()
    assert found == list(TABLE_1.items())


def test_the_readme_has_every_row_of_table_4():
    words = {"none": "none", "single": "the last", "multi": "four"}
    found = []
    for command, features, percent, _ in readme_rows(4):
        config = config_of(named(command))
        taps = config.repre.taps if config.repre.enabled else "none"
        assert (features, config.train.epochs) == (words[taps], 300)
        found.append(((config.method.name, config.model.name), taps, float(percent)))
    assert found == [(run, *pair) for run, line in TABLE_4.items() for pair in line.items()]


def test_the_readme_has_every_row_of_table_5():
    found = []
    for command, percent, _ in readme_rows(5):
        config = config_of(named(command))
        decoder = config.repre.decoder
        fusion = (decoder.operator, decoder.layers) if config.repre.enabled else ("none", 0)
        assert (config.method.name, config.train.epochs) == ("moco_v3", 300)
        found.append(((config.model.name, fusion[0]), fusion[1], float(percent)))
    assert found == [(run, *pair) for run, line in TABLE_5.items() for pair in line.items()]

"""Methods of the configs against the papers' numbers, written out here once more.

Where that is cheap, it is what the method does that is compared, not what its config says.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published import NAMES, STEPS_PER_EPOCH, config_of, method_of, rows

from repre_jax.models import BACKBONES
from repre_jax.models.heads import Projected


class Target(NamedTuple):
    """Momentum of the target network at its first and last average, and when a step averages."""

    momentum: float
    end: float
    when: str  # "before" the forward pass or "after" the update


class Numbers(NamedTuple):
    """What a paper's method consists of.

    Heads are written layer by layer: its width, D for the encoder's, "+" for a bias, and the
    BatchNorm behind it: "norm" with scale and bias, "scale" without the bias, "plain" with neither.
    """

    projector: str
    predictor: str | None = None
    temperature: float | None = None  # DINO's is the student's
    target: Target | None = None
    memory: dict[str, tuple[int, ...]] | None = None  # shapes
    frozen: dict[str, float | None] | None = None  # until this epoch, or for good
    constant_rate: tuple[str, ...] = ()


PATCHES = {"encoder/patch_embed": None}
MOCO_V3_HEADS = ("4096 norm, 4096 norm, 256 plain", "4096 norm, 256 plain")
MOCO_V3 = Numbers(*MOCO_V3_HEADS, 0.2, Target(0.99, 1.0, "before"), frozen=PATCHES)
MOBY = Numbers(
    *("4096+ norm, 256+", "4096+ norm, 256+"),
    temperature=0.2,
    target=Target(0.99, 1.0, "before"),
    memory={"queue_1": (4096, 256), "queue_2": (4096, 256)},
)
SIMSIAM = Numbers(
    "D norm, D norm, 2048 plain", "512 norm, 2048+", constant_rate=("heads/predictor",)
)
MOCO_V2 = Numbers(
    "D+, 128+",
    temperature=0.2,
    target=Target(0.999, 0.999, "before"),
    memory={"queue": (65536, 128)},
)
BYOL = Numbers("4096+ norm, 256", "4096+ norm, 256", target=Target(0.99, 1.0, "after"))
PROTOTYPES = "heads/projector/prototypes"
DINO = Numbers(
    "2048+, 2048+, 256+, 65536 prototypes",
    temperature=0.1,
    target=Target(0.996, 1.0, "after"),
    memory={"centre": (65536,)},
    frozen={PROTOTYPES: 1},
)
# The scale of the prototypes stays 1: the last layer is normalised.
DINO_VITB = DINO._replace(frozen={PROTOTYPES: 1, f"{PROTOTYPES}/scale": None})

# Without a variant, SimCLR, BYOL and SimSiam borrow from MoCo v3, MoCo v2 is DINO's authors' run.
NUMBERS = (
    rows(Numbers(MOCO_V3_HEADS[0], None, 0.1, frozen=PATCHES), "simclr")
    | rows(BYOL._replace(projector=MOCO_V3_HEADS[0], predictor=MOCO_V3_HEADS[1]), "byol")
    | rows(SIMSIAM._replace(projector="2048 norm, 2048 norm, 2048 plain"), "simsiam")
    | rows(
        MOCO_V2._replace(
            projector="2048+, 2048+, 256+",
            temperature=0.1,
            target=Target(0.996, 1.0, "before"),
            memory={"queue": (65536, 256)},
        ),
        "moco_v2",
    )
    | rows(MOCO_V3, "moco_v3")
    | rows(MOBY, "moby")
    | rows(DINO, "dino", "dino:released")
    | {
        "dino_vitb": DINO_VITB,
        "dino_vitb:released": DINO_VITB._replace(frozen=DINO_VITB.frozen | {PROTOTYPES: 3}),
    }
    | rows(Numbers("D norm, D norm, 128 scale", None, 0.1), "simclr:official")
    | rows(BYOL, "byol:official")
    | rows(SIMSIAM, "simsiam:official")
    | rows(MOCO_V2, "moco_v2:official")
)
for borrowed in rows(None, "byol", "simsiam"):
    NUMBERS[borrowed] = NUMBERS[borrowed]._replace(frozen=PATCHES)


def written(variables: dict, head: str, width: int) -> str | None:
    """The layers of a head as ``Numbers`` writes them."""
    params = variables["params"].get(head)
    if params is None:
        return None
    statistics = variables.get("batch_stats", {}).get(head, {})
    layers, previous = [], width
    for k in range(len([name for name in params if name.startswith("dense_")])):
        dense, norm = params[f"dense_{k}"], params.get(f"norm_{k}", {})
        kind = {("bias", "scale"): " norm", ("scale",): " scale", (): " plain"}[tuple(sorted(norm))]
        assert dense["kernel"].shape[0] == previous
        previous = dense["kernel"].shape[1]
        bias = "+" if "bias" in dense else ""
        layers.append(f"{previous}{bias}{kind if f'norm_{k}' in statistics else ''}")
    if "prototypes" in params:
        layers.append(f"{params['prototypes']['direction'].shape[0]} prototypes")
    return ", ".join(layers)


@pytest.mark.parametrize("name", NAMES)
def test_heads(name):
    config = config_of(name)
    width = BACKBONES[config.model.name](config.model, jnp.float32).width
    heads = method_of(config).heads
    pooled = jnp.zeros((2, 2, width))
    variables = jax.eval_shape(lambda key: heads.init(key, pooled, train=True), jax.random.key(0))
    expected = NUMBERS[name]
    assert written(variables, "projector", width) == expected.projector.replace("D", str(width))
    projected = int(expected.projector.rpartition(", ")[2].split()[0].rstrip("+"))
    assert written(variables, "predictor", projected) == expected.predictor


@pytest.mark.parametrize("name", NAMES)
def test_moving_average(name):
    config = config_of(name)
    method, expected = method_of(config), NUMBERS[name].target
    assert (method.target is None) == (expected is None)
    if expected:
        # An average before the forward pass is that at the end of the step before.
        shift = {"before": 1, "after": 0}[expected.when]
        steps = STEPS_PER_EPOCH * config.train.epochs
        for step in (1, steps // 2, steps):
            left = (math.cos(math.pi * step / steps) + 1) / 2
            momentum = expected.end - (expected.end - expected.momentum) * left
            assert float(method.target.momentum(step - shift)) == pytest.approx(momentum, abs=2e-7)


@pytest.mark.parametrize("name", NAMES)
def test_memory_and_what_is_held_still(name):
    method, expected = method_of(config_of(name)), NUMBERS[name]
    init = method.memory.init if method.memory else lambda key: {}
    memory = jax.eval_shape(init, jax.random.key(0))
    shapes = {key: x.shape for key, x in memory.items() if key != "pointer"}
    assert shapes == (expected.memory or {})
    until = {part.prefix: part.until_step for part in method.frozen}
    epochs = (expected.frozen or {}).items()
    assert until == {prefix: epoch and epoch * STEPS_PER_EPOCH for prefix, epoch in epochs}
    assert method.constant_rate == expected.constant_rate


# exp(1 / temperature) and temperature -> the loss of two examples whose views are each the other
# example's: similarity 0 to what should be near, 1 to what should be far.
CONFUSED = {
    "simclr": lambda far, _: 2 * math.log(2 + far),
    "moco_v2": lambda far, _: math.log(2 + far),
    "moco_v3": lambda far, temperature: 4 * temperature * math.log(1 + far),
    "moby": lambda far, _: 2 * math.log(2 + far),
    "dino": lambda far, _: math.log(1 + far),
}


@pytest.mark.parametrize("name", [name for name in NAMES if NUMBERS[name].temperature])
def test_temperature(name):
    config = config_of(name)
    one, other = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[::-1]
    online, target = np.stack([one, one], axis=1), np.stack([other, other], axis=1)
    memory = {"queue": one, "queue_1": one, "queue_2": one, "centre": np.zeros(2, np.float32)}
    outputs = {"simclr": np.stack([one, other], axis=1), "dino": online}
    loss, _ = method_of(config).loss(
        outputs.get(config.method.name, Projected(online, online)), target * 1000, memory, 0
    )
    temperature = NUMBERS[name].temperature
    expected = CONFUSED[config.method.name](math.exp(1 / temperature), temperature)
    assert np.asarray(loss) == pytest.approx(expected, rel=1e-5)


# At the start, at the end, and the epochs between.
TEACHER_TEMPERATURE = rows((0.04, 0.07, 30), "dino", "dino:released") | {
    "dino_vitb:released": (0.04, 0.07, 50)
}


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("dino")])
def test_teacher(name):
    method = method_of(config_of(name))
    start, end, epochs = TEACHER_TEMPERATURE[name]
    logits, memory = np.ones((2, 2, 2), np.float32), {"centre": np.zeros(2, np.float32)}
    last = (epochs - 1) * STEPS_PER_EPOCH
    for step, expected in ((0, start), (last, end), (last + 1000, end)):
        metrics = method.loss(logits, logits, memory, step)[1]
        assert float(metrics["teacher_temperature"]) == pytest.approx(expected)
    before = method.loss(logits, logits, memory, last - 1)[1]
    assert float(before["teacher_temperature"]) < end - 1e-4
    centre = method.memory.update(memory, logits)["centre"]
    assert np.asarray(centre) == pytest.approx(0.1)

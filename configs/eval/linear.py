"""Linear probe by a paper's own protocol.

The default is that of the method that trained the run; SimCLR, BYOL, SimSiam and MoCo v2, whose own
are for a ResNet-50, are probed as MoCo v3 is.

    python main.py --config=configs/eval/linear.py --config.checkpoint=runs/a
    python main.py --config=configs/eval/linear.py:sweep --config.checkpoint=runs/a --config.seeds=3
    python main.py --config=configs/eval/linear.py --config.checkpoint=runs/a \\
        --config.protocol=mae --config.train_batch_size=1024

Protocols: dino, moco_v3, moby, simsiam, mocov2, byol, simclr, mae
(repre_jax/evaluation/linear/protocols.py). ``:sweep`` trains thirteen learning rates around the
protocol's own, all in one training. SIGTERM saves after the step under way; the same command goes
on.
"""

from repre_jax.config_files import apply_variants
from repre_jax.evaluation import defaults

# DINOv2's grid of thirteen (facebookresearch/dinov2, eval/linear.py), a decade up and down.
SWEEP = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


def get_config(variants: str = ""):
    config = defaults.get_config("linear")
    config.protocol = ""  # empty: that of the run's method
    config.rate_factors = (1.0,)  # times the protocol's learning rate; one group of heads each
    config.seeds = 1  # heads a learning rate, which differ in their first kernel
    config.epochs = 0  # 0: the protocol's
    config.train_batch_size = 0  # 0: the protocol's; the learning rate scales with it
    config.save_every_epochs = 5
    config.log_every_steps = 20
    return apply_variants(config, variants.split(","), {"smoke": smoke, "sweep": sweep})


def sweep(config):
    """Thirteen learning rates."""
    config.rate_factors = SWEEP


def smoke(config):
    """Short, but longer than the warm-up of every protocol; MAE's takes ten epochs."""
    config.update({"epochs": 12, "train_batch_size": 64})

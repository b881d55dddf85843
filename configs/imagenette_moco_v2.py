"""MoCo v2 + RePre on a folder of ImageNet-like images, for a small budget.

    python main.py --config=configs/imagenette_moco_v2.py --config.data.path=<imagenette160>
    python main.py --config=configs/imagenette_moco_v2.py:baseline --config.data.path=...
    python main.py --config=configs/imagenette_moco_v2.py:swin --config.data.path=...
    python main.py --config=configs/imagenette_moco_v2.py:gpu --config.data.path=...

Data, encoder, batch and schedule are those of imagenette_moco_v3.py, the rest those of
moco_v2_vits.py but for: a small head, a queue of 4,096 keys and a key network of momentum 0.99.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

imagenette_moco_v3 = beside(__file__, "imagenette_moco_v3")
moco_v2_vits = beside(__file__, "moco_v2_vits")


def get_config(variants: str = ""):
    config = moco_v2_vits.get_config()
    imagenette_moco_v3.small_budget(config)
    config.method.update({"hidden": 512, "output": 128, "queue": 4096, "momentum": 0.99})
    own = {"swin": imagenette_moco_v3.swin, "gpu": gpu}
    return defaults.apply_variants(config, variants, own)


def gpu(config):
    """ViT-S/16, or Swin-T, at 160 px, 200 epochs: for one accelerator."""
    imagenette_moco_v3.on_accelerator(config)
    config.method.update({"hidden": 2048, "output": 256, "queue": 65536, "momentum": 0.996})
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_epochs = 20.0

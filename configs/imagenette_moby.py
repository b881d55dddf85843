"""MoBY + RePre on a folder of ImageNet-like images, for a small budget.

    python main.py --config=configs/imagenette_moby.py --config.data.path=<imagenette160>
    python main.py --config=configs/imagenette_moby.py:baseline --config.data.path=...
    python main.py --config=configs/imagenette_moby.py:swin --config.data.path=...
    python main.py --config=configs/imagenette_moby.py:gpu --config.data.path=...

Data, encoder, batch and schedule are those of imagenette_moco_v3.py, the rest those of
moby_vits.py but for: small heads, no drop path, and no clipping of the smaller network.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

imagenette_moco_v3 = beside(__file__, "imagenette_moco_v3")
moby_vits = beside(__file__, "moby_vits")


def get_config(variants: str = ""):
    config = moby_vits.get_config()
    imagenette_moco_v3.small_budget(config)
    config.method.update({"hidden": 512, "output": 128})
    config.model.drop_path = 0.0
    config.optimizer.clip_global = 0.0
    own = {"swin": imagenette_moco_v3.swin, "gpu": gpu}
    return defaults.apply_variants(config, variants, own)


def gpu(config):
    """ViT-S/16, or Swin-T, at 160 px, 200 epochs: for one accelerator."""
    imagenette_moco_v3.on_accelerator(config)
    config.method.update({"hidden": 4096, "output": 256})
    config.model.drop_path = 0.2
    config.optimizer.clip_global = 5.0
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_epochs = 20.0

"""MoCo v3 + RePre on a folder of ImageNet-like images, for a small budget.

    python main.py --config=configs/imagenette_moco_v3.py --config.data.path=<imagenette160>
    python main.py --config=configs/imagenette_moco_v3.py:baseline --config.data.path=...
    python main.py --config=configs/imagenette_moco_v3.py:swin --config.data.path=...
    python main.py --config=configs/imagenette_moco_v3.py:gpu --config.data.path=...

``root/train/<class>/*.JPEG`` and ``root/val/<class>/*.JPEG``; labels serve the k-NN only. The plain
form is for a CPU: 64 px, a nano encoder (4 blocks, 128 wide, patch 16); ``:swin`` has a nano Swin
in its place (8 blocks, 32 to 256 wide, windows of 4). ``:gpu`` is ViT-S/16, ``:swin,gpu`` Swin-T,
at 160 px for 200 epochs. Measured numbers: benchmarks/results/imagenette_cpu and the README.

Departures from the paper, for the budget: crops of at least 0.2 of the image (an 0.08 crop of a
64-pixel view shows a texture), small heads, batch 128, few epochs, and a higher learning rate.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

moco_v3_vits = beside(__file__, "moco_v3_vits")


def get_config(variants: str = ""):
    config = moco_v3_vits.get_config()
    small_budget(config)
    config.method.update({"hidden": 512, "output": 128})
    return defaults.apply_variants(config, variants, {"swin": swin, "gpu": gpu})


def small_budget(config):
    """Data, encoder, batch and schedule, which the other methods' configs share."""
    config.data.update({"source": "folder", "name": "", "cache_size": 96})
    config.model.update({"name": "vit_nano", "image_size": 64, "heads": None})
    config.model.update({"position": "sincos", "initialisation": "moco_v3"})
    config.views.crop_scale = (0.2, 1.0)
    config.train.update({"batch_size": 128, "epochs": 15})
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_epochs = 2.0
    config.checkpoint.every_steps = 200
    config.evaluation.knn_every_epochs = 5
    config.logging.every_steps = 20


def swin(config):
    """A nano Swin in place of the nano ViT and few epochs, for it takes longer."""
    config.model.update({"name": "swin_nano", "patch_size": 4, "window": 4, "position": None})
    config.train.epochs = 5


def gpu(config):
    """ViT-S/16, or Swin-T, at 160 px, 200 epochs: for one accelerator."""
    on_accelerator(config)
    if config.model.name == "vit_small":
        config.model.heads = 12
    config.method.update({"hidden": 4096, "output": 256})
    config.optimizer.learning_rate = 1.5e-4
    config.optimizer.warmup_epochs = 20.0


def on_accelerator(config):
    """The larger form of ``small_budget``, and of ``swin`` where that came before."""
    config.data.cache_size = 0
    swin_too = config.model.name.startswith("swin")
    config.model.update({"name": "swin_tiny" if swin_too else "vit_small", "image_size": 160})
    config.model.window = None
    config.views.crop_scale = (0.08, 1.0)
    config.train.update({"batch_size": 512, "epochs": 200})
    config.evaluation.knn_every_epochs = 10

"""SimSiam + RePre on a folder of ImageNet-like images, for a small budget.

    python main.py --config=configs/imagenette_simsiam.py --config.data.path=<imagenette160>
    python main.py --config=configs/imagenette_simsiam.py:baseline --config.data.path=...
    python main.py --config=configs/imagenette_simsiam.py:swin --config.data.path=...
    python main.py --config=configs/imagenette_simsiam.py:gpu --config.data.path=...

Data, encoder and schedule are those of imagenette_moco_v3.py, the rest those of simsiam_vits.py
but for: small heads, batch 64, and the official optimizer, SGD, with all of the encoder in
training. (A trial under AdamW, of which no row was kept, collapsed: watch ``feature_std`` in
``:gpu``, which has AdamW and the frozen patches of simsiam_vits.py, and is untried.)
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

imagenette_moco_v3 = beside(__file__, "imagenette_moco_v3")
simsiam_vits = beside(__file__, "simsiam_vits")


def get_config(variants: str = ""):
    config = simsiam_vits.get_config()
    imagenette_moco_v3.small_budget(config)
    config.method.update({"hidden": 512, "output": 512, "predictor_hidden": 128})
    config.method.freeze_patch_embedding = False
    config.train.batch_size = 64
    config.optimizer.update({"name": "sgd", "learning_rate": 0.4})
    config.optimizer.update({"weight_decay": 1e-4, "end_weight_decay": 1e-4})
    own = {"swin": imagenette_moco_v3.swin, "gpu": gpu}
    return defaults.apply_variants(config, variants, own)


def gpu(config):
    """ViT-S/16, or Swin-T, at 160 px, 200 epochs: for one accelerator."""
    imagenette_moco_v3.gpu(config)
    config.method.update({"hidden": 2048, "output": 2048, "predictor_hidden": 512})
    config.method.freeze_patch_embedding = True
    config.optimizer.name = "adamw"
    config.optimizer.update({"weight_decay": 0.1, "end_weight_decay": 0.1})

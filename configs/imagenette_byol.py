"""BYOL + RePre on a folder of ImageNet-like images, for a small budget.

    python main.py --config=configs/imagenette_byol.py --config.data.path=<imagenette160>
    python main.py --config=configs/imagenette_byol.py:baseline --config.data.path=...
    python main.py --config=configs/imagenette_byol.py:swin --config.data.path=...
    python main.py --config=configs/imagenette_byol.py:gpu --config.data.path=...

Data, encoder, batch and schedule are those of imagenette_moco_v3.py, the rest those of
byol_vits.py but for: small heads.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

byol_vits = beside(__file__, "byol_vits")
imagenette_moco_v3 = beside(__file__, "imagenette_moco_v3")


def get_config(variants: str = ""):
    config = byol_vits.get_config()
    imagenette_moco_v3.small_budget(config)
    config.method.update({"hidden": 512, "output": 128})
    own = {"swin": imagenette_moco_v3.swin, "gpu": imagenette_moco_v3.gpu}
    return defaults.apply_variants(config, variants, own)

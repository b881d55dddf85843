"""Token targets in LoMaR's windows, ViT-B/16, ImageNet-1k, 400 epochs.

    python main.py --config=configs/lomar_tokens_vitb.py
    python main.py --config=configs/lomar_tokens_vitb.py:k_means --config.method.tokens_path=...
    python main.py --config=configs/lomar_tokens_vitb.py:ids --config.method.tokens_path=ids.npz

"LoMaR + BEiT" of the paper, whose script is not public: LoMaR's windows and recipe, BEiT's 8,192
tokens. The plain form takes a random projection for the tokenizer, ``:k_means`` the centroids of
configs/patch_clusters.py, ``:ids`` an array "ids" [images, 14, 14] made elsewhere, of the whole
images. The paper's tokens are those of DALL-E's encoder, so no number of it is reproduced by the
first two. Not measured here.
"""

from repre_jax.config_files import beside
from repre_jax.training import defaults

lomar_vitb = beside(__file__, "lomar_vitb")


def get_config(variants: str = ""):
    config = defaults.get_config("lomar_tokens")
    config.repre.enabled = False
    config.model.name = "vit_base"
    lomar_vitb.recipe(config)
    own = {"k_means": k_means, "ids": ids, "epochs": lomar_vitb.epochs}
    return defaults.apply_variants(config, variants, own)


def k_means(config):
    """The nearest of centroids that were found beforehand."""
    config.method.tokenizer = "k_means"


def ids(config):
    """Given ids: every image is seen whole and unflipped, as they were made."""
    config.method.tokenizer = "ids"
    config.views.update({"crop_scale": (1.0, 1.0), "flip_probability": 0.0})

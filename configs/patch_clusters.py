"""Centroids of patches for the k-means tokenizer of lomar_tokens: centroids.npz.

    python main.py --config=configs/patch_clusters.py --config.data.path=/data/tfds
    python main.py --config=configs/patch_clusters.py --config.data.source=folder \\
        --config.data.path=<folder> --workdir=runs/patches

Minutes on a CPU for a few ten thousand images. Then
``--config=configs/lomar_tokens_vitb.py:k_means --config.method.tokens_path=<centroids.npz>``.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from repre_jax.config_files import apply_variants
from repre_jax.training import defaults


def get_config(variants: str = ""):
    config = ConfigDict()
    config.task = "patch_clusters"
    config.seed = 0
    config.workdir = "runs/patch_clusters"
    config.data = defaults.get_config("lomar_tokens").data
    config.patch_size = 16  # pixels, of the encoder
    config.image_size = FieldReference(224, field_type=object)  # pixels, or (height, width)
    config.channels = 3  # of the images
    config.vocabulary = 8192  # centroids
    config.patches_per_image = 16
    config.epochs = 1  # over the images
    config.batch_size = 256  # images at a time
    return apply_variants(config, variants.split(","), {"smoke": smoke})


def smoke(config):
    """Of digits, for ``lomar_tokens_vitb:k_means,smoke``."""
    config.data.source = "digits"
    config.update({"patch_size": 8, "image_size": 32, "vocabulary": 32})

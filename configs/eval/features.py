"""Features for other programs, a row an image; or the nearest images of given ones.

    python main.py --config=configs/eval/features.py --config.checkpoint=runs/a
    python main.py --config=configs/eval/features.py --config.checkpoint=runs/a \\
        --config.data.source=folder --config.data.path=/data/my_images \\
        --config.tokens=2,11 --config.format=parquet
    python main.py --config=configs/eval/features.py --config.checkpoint=runs/a \\
        --config.neighbours_of=a.jpg,b.jpg

Files features-00000-of-00013.npz with "name", "index", "label" where there are labels, "feature"
[n, D] and, for ``tokens``, "block_2" [n, gh, gw, D]: the map after that block, before any norm.
Needs no labels. The same command goes on after an interruption with the files that are there. With
``neighbours_of`` neighbours.csv in their place, which is printed as well: the images of the split
that are nearest by cosine, as in the k-NN evaluation.
"""

from ml_collections.config_dict import placeholder

from repre_jax.config_files import apply_variants
from repre_jax.evaluation import defaults


def get_config(variants: str = ""):
    config = defaults.get_config("features")
    config.feature = placeholder(str)  # "pooled", "mean" (evaluation/frozen.py); None: the method's
    config.split = "train"  # or "val"
    config.tokens = ()  # blocks whose maps are written, too; -1 is the last
    config.format = "npz"  # or "parquet", which needs pyarrow
    config.images_per_file = 4096
    config.neighbours_of = ""  # image files, separated by commas
    config.neighbours = 10  # of each
    return apply_variants(config, variants.split(","), {"smoke": smoke})


def smoke(config):
    """Of the validation images, which are fewer."""
    config.split = "val"

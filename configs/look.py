"""Pictures of what runs have learnt, of the same images, side by side where there are several.

    python main.py --config=configs/look.py --config.checkpoint=runs/a
    python main.py --config=configs/look.py --config.checkpoint=runs/a,runs/b \\
        --config.images=cat.jpg,dog.jpg --config.figures="('attention','features')"

PNGs in <run>/figures/<weights>-<step>/, of the first run, or in --workdir:
attention        of the class token, mean and head by head; where no loss has formed one (Swin,
                 LoMaR) the similarity of every token to the mean token
features         patch tokens as colours, their first three principal components
embedding        PCA and t-SNE of 20 random classes, as in figure 4 of RePre's paper
reconstructions  of the whole view, and without each tapped block (RePre); of what is masked (MAE,
                 LoMaR)
neighbours       the nearest training images
What a run cannot give is said in a sentence. Only these images are encoded, but for "embedding",
some of every class, and "neighbours", all training images, whose features are kept and serve the
k-NN evaluation, too.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from repre_jax.config_files import apply_variants
from repre_jax.evaluation import defaults


def get_config(variants: str = ""):
    config = ConfigDict(defaults.get_config("look"))
    config.checkpoint = ""  # runs, or folders in their checkpoints/, separated by commas
    config.workdir = ""  # empty: <first run>/figures/<weights>-<step>
    del config.stopped_is_success
    config.feature = placeholder(str)  # "pooled", "mean" (evaluation/frozen.py); None: the method's
    config.figures = ("attention", "features", "embedding", "reconstructions", "neighbours")
    config.images = ""  # image files, separated by commas; empty: validation images
    config.count = 8  # of those
    config.blocks = (-1,)  # of attention and features; -1 is the last
    # Also shows the smallest set of patches that holds this share of the attention; 0 does not.
    config.mass = 0.0
    config.remove_background = False  # of features
    config.classes = 20  # of the embedding, fewer where there are fewer
    config.images_per_class = 50  # of the embedding, at most
    config.neighbours = 6  # of each image, at most 7; more of them: eval/features
    return apply_variants(config, variants.split(","), {"smoke": smoke})


def smoke(config):
    """Two images, and as few as the embedding can do with."""
    config.update({"count": 2, "classes": 2, "images_per_class": 5, "neighbours": 2})

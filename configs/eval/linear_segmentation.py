"""Linear segmentation: one linear layer on the patches of a frozen encoder.

    python main.py --config=configs/eval/linear_segmentation.py --config.checkpoint=runs/a \\
        --config.data.path=/data/camvid
    python main.py --config=configs/eval/linear_segmentation.py --config.checkpoint=runs/a \\
        --config.data.path=/data/camvid --config.blocks=1,3 --config.fuse=True --config.seeds=3

Learning rates, seeds and blocks are heads of one training on one frozen forward pass; the best
learning rate on the validation images is reported, at the last epoch. BatchNorm without affine
parameters comes before the layer, as in DINOv2 (facebookresearch/dinov2,
dinov2/eval/segmentation/models/decode_heads/linear_head.py, whose own BatchNorm has them). SIGTERM
saves after the step under way; the same command goes on.
"""

from repre_jax.config_files import apply_variants
from repre_jax.evaluation import defaults


def get_config(variants: str = ""):
    config = defaults.of_an_encoder("linear_segmentation")
    config.data = defaults.segmentation_data()
    config.image_size = (192, 256)  # whole images and their maps are resized to it
    config.batch_size = 8  # validation images at a time
    config.workers = 0  # processes that read images; 0: threads
    config.blocks = (-1,)  # their numbers; the last one is reported; (): all
    config.fuse = False  # judges the unit features of all of them side by side, too
    config.learning_rates = (0.003, 0.01, 0.03, 0.1, 0.3)  # one group of heads each
    config.seeds = 1  # heads a learning rate, which differ in their first kernel
    config.epochs = 10
    config.train_batch_size = 16
    config.pictures = 8  # validation images to draw, by the block that is reported
    config.save_every_epochs = 1
    config.log_every_steps = 20
    return apply_variants(config, variants.split(","), {"smoke": smoke})


def smoke(config):
    """Small images, two rates, one epoch."""
    config.update({"image_size": (64, 64), "learning_rates": (0.03, 0.3), "epochs": 1})

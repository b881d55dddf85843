"""Dense nearest neighbours: classes of pixels from a memory of training patches, nothing trained.

    python main.py --config=configs/eval/dense_knn.py --config.checkpoint=runs/a \\
        --config.data.path=/data/camvid
    python main.py --config=configs/eval/dense_knn.py:voc --config.checkpoint=runs/a \\
        --config.data.path=/data/VOCdevkit/VOC2012

Hummingbird's evaluation (arXiv 2306.01667) with the settings of vpariza/open-hummingbird-eval, for
the features of every block by itself and of all fused. The authors' memories hold 10,240,000
patches; here it is a number of patches that a CPU searches in seconds.
"""

from repre_jax.config_files import apply_variants
from repre_jax.evaluation import defaults


def get_config(variants: str = ""):
    config = defaults.of_an_encoder("dense_knn")
    config.data = defaults.segmentation_data()
    config.image_size = (192, 256)  # whole images and their maps are resized to it
    config.batch_size = 8  # images that are encoded at a time
    config.workers = 0  # processes that read images; 0: threads
    config.blocks = ()  # their numbers; the last one is reported; (): all
    config.fuse = True  # measures the features of all of them side by side, too
    config.memory = 10_000  # patches, shared out evenly among the training images
    config.neighbours = 30
    config.temperature = 0.02
    config.pictures = 8  # validation images to draw, by the block that is reported
    return apply_variants(config, variants.split(","), {"smoke": smoke, "voc": voc})


def voc(config):
    """Pascal VOC 2012 at 512 pixels, the last block, a memory for an accelerator."""
    config.data.layout = "voc"
    config.update({"image_size": 512, "memory": 1_024_000, "blocks": (-1,), "batch_size": 32})


def smoke(config):
    """Small images, a small memory."""
    config.update({"image_size": (64, 64), "memory": 400})

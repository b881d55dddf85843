"""Label propagation in videos: how well features tell which patch of a frame is which of the next.

    python main.py --config=configs/eval/propagation.py --config.checkpoint=runs/a \\
        --config.data.path=/data/camvid
    python main.py --config=configs/eval/propagation.py:davis --config.checkpoint=runs/a \\
        --config.data.path=/data/DAVIS

Nothing is trained: the first frame's labels are carried on by DINO's protocol
(facebookresearch/dino, eval_video_segmentation.py), with the features of every block by itself and
of all fused, beside those of the encoder before training and the first frame's labels as they are.
Frames with labels (CamVid: mean IoU over clips of 20 frames, two apart), or DAVIS 2017 (J and F).
"""

from repre_jax.config_files import apply_variants
from repre_jax.evaluation import defaults


def get_config(variants: str = ""):
    config = defaults.of_an_encoder("propagation")
    config.data = defaults.segmentation_data()  # data.layout: "davis", too
    config.data.split = "val"  # or "train"
    # (height, width); or one number, the short side, the long one being that of each video, in
    # whole multiples of 64 pixels.
    config.image_size = (192, 256)
    config.batch_size = 8  # frames that are encoded at a time
    config.clip_frames = 20  # frames of a clip; 0: whole videos
    config.blocks = ()  # their numbers; the last one is reported; (): all
    config.fuse = True  # measures the features of all of them side by side, too
    # Measures the encoder before training, too, of a run without model.init_from.
    config.beside_random = True
    config.radius = 12  # patches within which neighbours lie; 0: the whole frame
    config.neighbours = 5
    config.temperature = 0.1
    config.context_frames = 7  # the latest frames, beside the first
    config.pictures = 8  # clips whose last frame is drawn, by the block that is reported
    return apply_variants(config, variants.split(","), {"smoke": smoke, "davis": davis})


def davis(config):
    """DAVIS 2017 at 480p, as DINO evaluates: whole videos, features of the last block."""
    config.data.layout = "davis"
    config.update({"image_size": 480, "clip_frames": 0, "blocks": (-1,)})


def smoke(config):
    """Small frames, short clips."""
    config.update({"image_size": (96, 128), "clip_frames": 4, "radius": 4})

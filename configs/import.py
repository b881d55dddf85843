"""An encoder of another library as a run: every evaluation takes it, and Python's load.

    python main.py --config=configs/import.py --config.source=dino_deitsmall16_pretrain.pth
    python main.py --config=configs/import.py --config.source=<folder of timm or transformers>
    python main.py --config=configs/eval/knn.py --config.checkpoint=runs/dino_deitsmall16_pretrain

Takes the weights of DINO, DINOv2 (without registers), MoCo v3, MAE, LoMaR, MoBY, timm and
transformers (ViT, DeiT, Swin) and big_vision (ViT with a class token): .safetensors, .npz, and
.pth, .pt, .tar, .bin, which PyTorch reads without running anything in them. Seconds. What is
inferred is printed; what no tensor tells is asked for. Where a checkpoint is asked for, such a file
can be given as it is, too.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from repre_jax.training import defaults


def get_config():
    config = ConfigDict()
    config.task = "import"
    config.workdir = ""  # run folder; empty: runs/<name of the source>
    config.source = ""  # file, or folder of timm or transformers
    config.weights = "auto"  # of two: what the method's paper evaluates; or "online", "target"
    # What the tensors do not tell; None: what they, a config.json or published encoders say.
    config.method = placeholder(str)  # that trained it, for the protocols, or "imported"
    config.heads = placeholder(int)  # of a ViT
    config.norm_epsilon = placeholder(float)
    config.pixels = placeholder(str)  # mean, deviation: "imagenet", "half", "unit" (none)
    # Resizes learned positions of a ViT and, of a Swin, tables of relative positions.
    config.image_size = placeholder(object)  # pixels: 224, or (height, width)
    config.window = placeholder(int)  # of a Swin, in tokens
    config.data = defaults.get_config("dino").data  # images that evaluations take
    return config

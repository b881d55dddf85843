"""Fine-tuning of the whole network on labels, by MAE's, MoCo v3's (DeiT's) or SimMIM's recipe.

    python main.py --config=configs/eval/finetune.py --config.checkpoint=runs/a
    python main.py --config=configs/eval/finetune.py --config.checkpoint=runs/a \
        --config.protocol=mae --config.recipe.epochs=30 --config.recipe.batch_size=128
    python main.py --config=configs/eval/finetune.py --config.checkpoint=runs/a \
        --config.weights=random

The last one trains from scratch with the same budget. The recipes are those of ImageNet-1k, on 8 to
32 GPUs; a small set of images wants a smaller batch. Published with them, each after the authors'
pre-training: MAE ViT-B/16 83.6 %, MoCo v3 ViT-B/16 83.2 %, SimMIM Swin-B at 192 px (100 + 100
epochs) 82.8 %; none has been run here. Every number and its source:
repre_jax/evaluation/finetune/recipes.py.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from repre_jax.config_files import apply_variants
from repre_jax.evaluation import defaults
from repre_jax.evaluation.finetune.recipes import RECIPES


def get_config(variants: str = ""):
    config = defaults.get_config("finetune")
    config.protocol = ""  # "mae", "moco_v3", "simmim"; empty: the method's, else the backbone's
    # Replaces numbers of the protocol; None keeps the paper's. Meaning and units of the fields:
    # FinetuneRecipe in repre_jax/evaluation/finetune/recipes.py.
    numbers = vars(RECIPES["mae"])
    config.recipe = ConfigDict(
        {name: placeholder(type(value)) for name, value in numbers.items()},
    )
    config.remat = "none"  # or "attention", "block": less memory, as model.remat in pre-training
    config.validate_every_epochs = 1.0  # 0: after the last only
    config.save_every_steps = 500
    config.keep_checkpoints = 1  # newest ones; the best is kept besides
    config.log_every_steps = 20
    return apply_variants(config, variants.split(","), {"smoke": smoke})


def smoke(config):
    """A few steps."""
    config.recipe.update({"batch_size": 16, "epochs": 0.05, "warmup_epochs": 0.01})
    config.validate_every_epochs = 0.0
    config.save_every_steps = 2
    config.log_every_steps = 1

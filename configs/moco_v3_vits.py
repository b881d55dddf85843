"""MoCo v3 + RePre, ViT-S/16, ImageNet-1k, 300 epochs. Table 1 of RePre: 73.2 (baseline 72.5).

    python main.py --config=configs/moco_v3_vits.py            # with RePre
    python main.py --config=configs/moco_v3_vits.py:baseline   # without
    python main.py --config=configs/moco_v3_vits.py:conv_stem  # the authors' vit_conv_small

The official recipe (facebookresearch/moco-v3, CONFIG.md): batch 4096, AdamW at 1.5e-4 per 256,
40 epochs of warm-up, weight decay 0.1 on all parameters; 73.2 linear in the repository without
RePre. Hardware there: 32 GPUs; not measured here. ViT-S has 12 heads in MoCo v3, not 6. The authors
have no numbers of their vit_conv_small, which is the same but for its stem, trained, and 11 blocks.
"""

from repre_jax.training import defaults


def get_config(variants: str = ""):
    config = defaults.get_config("moco_v3")
    recipe(config)
    return defaults.apply_variants(config, variants, {"conv_stem": conv_stem})


def conv_stem(config):
    """vit_conv_small of the official vits.py."""
    use_conv_stem(config, "vit_conv_small")


def use_conv_stem(config, name):
    """An encoder with a convolutional stem, which --stop-grad-conv1 leaves alone."""
    defaults.usual_size(config)
    config.model.name = name
    config.method.freeze_patch_embedding = False


def recipe(config):
    """Encoder, batch and optimizer of MoCo v3 on ViT, which other methods borrow."""
    config.model.update({"heads": 12, "position": "sincos", "initialisation": "moco_v3"})
    config.train.batch_size = 4096
    config.optimizer.learning_rate = 1.5e-4
    config.optimizer.end_learning_rate = 0.0
    config.optimizer.schedule = "moco_v3"
    config.optimizer.warmup_epochs = 40.0
    config.optimizer.weight_decay = 0.1
    config.optimizer.end_weight_decay = 0.1
    config.optimizer.decay = "all"

"""MoBY + RePre, ViT-S/16, ImageNet-1k, 300 epochs. Table 1 of RePre: 73.9 linear (baseline 72.8).

    python main.py --config=configs/moby_vits.py            # with RePre
    python main.py --config=configs/moby_vits.py:baseline   # without

The official DeiT-S recipe (SwinTransformer/Transformer-SSL, configs/moby_deit_small.yaml): batch
512, AdamW at 1e-3 per 512, drop path 0.2 in the online network; 72.8 linear there without RePre.
Not measured here.
"""

from repre_jax.training import defaults


def get_config(variants: str = ""):
    config = defaults.get_config("moby")
    recipe(config)
    return defaults.apply_variants(config, variants)


def recipe(config):
    """Batch and optimizer of both official configs."""
    config.model.drop_path = 0.2
    config.train.batch_size = 512
    config.optimizer.update({"learning_rate": 5e-4, "schedule": "moby", "scale_ends": True})
    config.optimizer.update({"start_learning_rate": 2.5e-7, "end_learning_rate": 2.5e-6})
    config.optimizer.update({"warmup_epochs": 5.0, "clip_global": 5.0})
    config.optimizer.update({"weight_decay": 0.05, "end_weight_decay": 0.05})

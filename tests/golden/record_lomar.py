"""Records lomar.npz: LoMaR's relative positions, and three steps of its fine-tuning.

Command (from the repository's root, with the official repository checked out):
    PYTHONPATH=tests python -m golden.record_lomar LOMAR_CHECKOUT

Source: junchen14/LoMaR d9ca9c8ee8ac0d012128149ed10165ab947ecdaf (irpe.py, models_vit_rp.py,
vision_transformer_irpe.py, util/lr_decay.py, util/lr_sched.py); timm's mixup from the package
index.
Versions: Python 3.11, torch 2.13.0 (CPU), timm 1.0.29, numpy 2.4.6; float32.
Shims: golden/official.py says which and why; besides, a plain namespace stands in for easydict, and
Python's own ``profile`` is imported before the checkout's file of that name could be.

Keys: ``buckets`` int8 [1 + gh * gw, 1 + gh * gw], query by key, of ``LOMAR_GRID``. ``lomar/...``:
see ``record_finetune.three_steps``. ``class_token`` [B, D]: the feature of the form without global
pooling, on the first step's images.
"""

import sys
import types
from importlib import import_module

import numpy as np
import torch
from golden import official
from golden.finetune_cases import LOMAR_GRID, LOMAR_VIT, finetune_batch, lomar_weights
from golden.record_finetune import finetuned_vit, three_steps


def buckets() -> dict[str, np.ndarray]:
    """Bucket of every pair of tokens."""
    from irpe import METHOD, get_bucket_ids_2d

    ids, count = get_bucket_ids_2d(
        METHOD.PRODUCT, *LOMAR_GRID, skip=1, alpha=1.9, beta=1.9 * 2, gamma=1.9 * 8
    )
    assert count == 50
    return {"buckets": ids.numpy().astype(np.int8)}


def main(checkout: str) -> None:
    """Records everything."""
    import_module("profile")
    official.use_checkout(checkout)
    official.stub_module("easydict", EasyDict=types.SimpleNamespace)
    official.import_timm()
    import models_vit_rp

    size = LOMAR_VIT.image_size
    arrays = buckets()
    on_class = finetuned_vit(models_vit_rp, LOMAR_VIT, lomar_weights("norm"), global_pool=False)
    images, _ = finetune_batch(0, size)
    with torch.no_grad():
        feature = on_class.forward_features(official.image_tensor(images))
    arrays["class_token"] = official.numpy(feature)
    pooled = finetuned_vit(models_vit_rp, LOMAR_VIT, lomar_weights())
    official.save("lomar.npz", arrays | three_steps("lomar", pooled, size))


if __name__ == "__main__":
    main(*sys.argv[1:])

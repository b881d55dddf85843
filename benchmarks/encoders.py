"""Encoders that nobody has trained, for benchmarks of what is learnt on top of them."""

import json
from pathlib import Path
from typing import Any

from repre_jax.config_files import read_config
from repre_jax.training import defaults


def untrained_encoder(folder: Path, name: str = "vit_nano", **model: Any) -> Path:
    """Makes the folder of a run that has not begun, for ``weights="random"``.

    Args:
      folder: of the run; one that is there is used again.
      name: of the encoder.
      **model: what else differs in ``config.model``.
    """
    config = read_config(f"moco_v3_{'swint' if name.startswith('swin') else 'vits'}:smoke")
    defaults.usual_size(config)
    config.model.update({"name": name, **model})
    config.repre.taps = "multi"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder

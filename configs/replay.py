"""A step that was not finite, once more: which pixels, features, tensors.

    python main.py --config=configs/replay.py --config.step_file=runs/a/nonfinite/1200.json

Reads the run folder, goes on from its newest checkpoint before the step, and writes nothing.
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.task = "replay"
    config.workdir = ""
    config.step_file = ""
    config.data_path = ""  # where the images are, if no longer where the run found them
    return config

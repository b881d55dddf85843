import pytest
from whole_runs import image_folder

from benchmarks.untrained import measure
from repre_jax.config_files import read_config


@pytest.mark.slow
def test_pixels_and_the_encoder_before_training_are_measured(tmp_path):
    config = read_config("imagenette_dino:smoke")
    config.data.update({"source": "folder", "path": str(image_folder(tmp_path))})
    found = measure(config)
    assert (found["train_images"], found["val_images"]) == (32, 8)
    assert found["pixels"] == {"knn/top1": 1.0}  # one class is bright, the other dark
    assert 0 <= found["random"]["knn/top1"] <= 1
    assert found["random"]["val/effective_rank"] > 1

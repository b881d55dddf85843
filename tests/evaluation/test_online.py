"""What is measured while training goes on; k-NN and health by whole runs, few labels here."""

import jax

from repre_jax.config_files import read_config
from repre_jax.data.sources import open_source
from repre_jax.evaluation.online import OnlineEvaluation
from repre_jax.models import build_encoder
from repre_jax.sharding import make_mesh


def test_few_labels_of_pixels_and_of_two_encoders(monkeypatch):
    config = read_config("quickstart:smoke")
    sources = [open_source(config.data, split, 3) for split in ("train", "val")]
    encoder = build_encoder(config, "float32")
    evaluation = OnlineEvaluation(encoder, *sources, config, make_mesh(1))
    # Rows of each image in place of an encoder, which takes long to compile, and nothing at all.
    rows = jax.jit(lambda params, images: params * images.mean((2, 3)))
    monkeypatch.setattr(evaluation, "_encode", rows)
    found = evaluation.few_label(1.0, 0.0)
    assert found["few_label/pixels"] > found["few_label/trained"] > 0.3
    assert found["few_label/random"] < 0.2, "ten classes"

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from repre_jax.evaluation.features import extract_features, pixel_features
from repre_jax.models.pixels import IMAGENET


def batches(n, batch_size, size=4, seed=0):
    """As data.pipeline.evaluation_batches: the last one padded, its padding masked."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    labels = np.arange(n, dtype=np.int32)
    for start in range(0, n, batch_size):
        rows = np.arange(start, start + batch_size)
        valid = rows < n
        # Padding repeats a real row: only the mask tells it apart.
        chosen = np.where(valid, rows, 0)
        yield {
            "image": images[chosen],
            "label": labels[chosen],
            "index": chosen.astype(np.int32),
            "mask": valid,
        }


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("n", [5, 16, 37])
def test_every_image_once_and_in_order(devices, n):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("batch",))
    sharding = NamedSharding(mesh, PartitionSpec("batch"))

    @jax.jit
    def encode(images):
        assert images.dtype == jnp.uint8
        return images.reshape(len(images), -1)[:, :7].astype(jnp.bfloat16)

    features, labels, index = extract_features(encode, batches(n, 16), sharding)
    images = np.concatenate([b["image"][b["mask"]] for b in batches(n, 16)])
    np.testing.assert_array_equal(features, images.reshape(n, -1)[:, :7])
    np.testing.assert_array_equal(labels, np.arange(n))
    np.testing.assert_array_equal(index, np.arange(n))
    assert features.dtype == np.float32
    assert labels.dtype == np.int32
    assert encode._cache_size() == 1, "the padded batch must not compile again"


def test_pixel_features():
    features, labels, _ = pixel_features(SimpleNamespace(normalisation=IMAGENET), batches(5, 4))
    assert features.shape == (5, 4 * 4 * 3)
    assert features.dtype == np.float32
    first = next(iter(batches(5, 4)))["image"][0]
    as_seen = (first / 255 - IMAGENET.mean) / IMAGENET.std
    np.testing.assert_allclose(features[0], as_seen.reshape(-1), atol=1e-5)
    np.testing.assert_array_equal(labels, np.arange(5))


def test_no_batches():
    with pytest.raises(ValueError, match="no batch"):
        extract_features(lambda x: x, [], jax.sharding.SingleDeviceSharding(jax.devices()[0]))
